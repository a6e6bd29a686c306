"""Networks that lead another's samples: `--classifier`, `--guide`, and what depends on them."""

import os
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY as FOUR_STEPS

import score_sde
from score_sde.commands import cli
from score_sde.commands.origin import origin_of
from score_sde.config.build import build_sde, drawn_classes, guided
from score_sde.config.build.guides import classifier_of
from score_sde.config.check import check_config
from score_sde.config.presets import Row, as_row
from score_sde.config.subject import _draw_facts
from score_sde.score import ClassifierGuidedScore, GuidedScore, NoisyClassifier, evaluations_at

TINY = (*FOUR_STEPS, "--config.classifier.nf=8", "--config.classifier.ch_mult=(1,)")


def command(workdir, *words, mode="sample", recipe="digits"):
    given = ("main.py", f"--config=configs/vp/{recipe}.py", *TINY, f"--mode={mode}")
    return [*given, f"--workdir={workdir}", *map(str, words)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of an unconditional network and, in it, of a classifier."""
    workdir = tmp_path_factory.mktemp("guides") / "run"
    assert cli.main(command(workdir, mode="train")) == 0
    assert cli.main(command(workdir, mode="train_classifier")) == 0
    return workdir


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The work directory of a network of classes."""
    workdir = tmp_path_factory.mktemp("classes") / "run"
    assert cli.main(command(workdir, mode="train", recipe="digits_conditional")) == 0
    return workdir


def file_of(workdir, step=4):
    return workdir / "checkpoints" / f"step_{step:08d}.pt"


def sampled(workdir, output, *words, n=12, recipe="digits"):
    few = (f"--num_samples={n}", f"--output={output}", "--config.sampling.num_steps=3")
    assert cli.main(command(workdir, *few, *words, recipe=recipe)) == 0
    with np.load(output) as file:
        return dict(file)


def opened(workdir, *words, recipe="digits"):
    """The network of a work directory, to draw as a command line says."""
    steps = "--config.sampling.num_steps=3"
    return score_sde.load(
        workdir, cli.parse(command(workdir, steps, *words, recipe=recipe)).config
    )


def states(n=6):
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 0.9, n)


# What is drawn


def test_a_classifier_leads_an_unconditional_network_to_the_class_that_is_named(run, tmp_path):
    classifier = f"--classifier={run / 'classifier'}"
    plain = sampled(run, tmp_path / "plain.npz")
    assert "label" not in plain
    far = "--classifier_scale=300"  # four steps have taught it little
    each = sampled(run, tmp_path / "each.npz", classifier, far)
    assert each["label"].tolist() == [k % 10 for k in range(12)]
    three = sampled(run, tmp_path / "three.npz", classifier, far, "--label=3")
    assert three["label"].tolist() == [3] * 12
    assert np.array_equal(three["images"][3], each["images"][3])
    assert not np.array_equal(three["images"][4], each["images"][4])
    assert not np.array_equal(plain["images"], each["images"])
    off = sampled(run, tmp_path / "off.npz", classifier, "--classifier_scale=0")
    assert np.array_equal(off["images"], plain["images"])


def test_the_score_is_led_by_the_gradient_of_the_classifier(run):
    led = opened(run, f"--classifier={run / 'classifier'}", "--classifier_scale=2.5", "--label=7")
    index, (x, t) = torch.arange(6), states()
    score = guided(led.config, led.network, led.sde)(index)
    logits = NoisyClassifier(classifier_of(led.config).network(), led.sde)
    at = x.clone().requires_grad_()
    chosen = logits(at, t).log_softmax(1)[:, 7].sum()
    (gradient,) = torch.autograd.grad(chosen, at)
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(score(x, t), led.score(x, t) + 2.5 * gradient)
    assert evaluations_at(score, t) == 2


def test_a_weaker_network_is_given_the_same_class(classes):
    early = f"--guide={file_of(classes, 2)}"
    led = opened(classes, early, "--guidance=3", recipe="digits_conditional")
    weak = opened(classes, recipe="digits_conditional")
    weak = score_sde.load(file_of(classes, 2), weak.config)
    index, (x, t) = torch.arange(6), states()
    own, other = led.score_of(index % 10)(x, t), weak.score_of(index % 10)(x, t)
    assert (own - other).abs().max() > 1e-6
    score = guided(led.config, led.network, led.sde)(index)
    torch.testing.assert_close(score(x, t), other + 3.0 * (own - other))


def test_both_together_and_within_an_interval(run, classes):
    words = (f"--guide={run}", f"--classifier={run / 'classifier'}", "--guidance=2")
    interval = "--config.sampling.guidance_interval=(0.5,2.0)"
    led = opened(classes, *words, interval, recipe="digits_conditional")
    score = guided(led.config, led.network, led.sde)(torch.arange(2))
    assert isinstance(score, ClassifierGuidedScore)
    assert isinstance(score.score, GuidedScore)
    t = torch.tensor([0.2, 0.9])  # levels of about 0.6 and 60
    assert evaluations_at(score, t).tolist() == [3, 2]


def test_an_unconditional_network_is_led_by_a_weaker_one(run, tmp_path, capsys):
    guide = f"--guide={file_of(run, 2)}"
    led = sampled(run, tmp_path / "led.npz", guide, "--guidance=50")
    assert "6.0 network evaluations each" in capsys.readouterr().out
    assert not np.array_equal(led["images"], sampled(run, tmp_path / "plain.npz")["images"])


def test_a_scale_alone_takes_the_classifier_of_the_work_directory(run, classes, tmp_path, capsys):
    named = f"--classifier={file_of(run / 'classifier')}"
    one = sampled(run, tmp_path / "one.npz", "--classifier_scale=2")
    other = sampled(run, tmp_path / "other.npz", named, "--classifier_scale=2")
    assert np.array_equal(one["images"], other["images"])
    words = ("--classifier_scale=2", "--num_samples=2")
    assert cli.main(command(classes, *words, recipe="digits_conditional")) == 1
    assert "train one first (--mode train_classifier)" in capsys.readouterr().err


def test_completions_of_an_unconditional_network_are_led_to_the_classes_of_the_images(
    run, tmp_path, capsys
):
    few = ("--num_samples=2", "--completions=1", "--config.sampling.num_steps=3")
    for name, words in (("led", ("--classifier_scale=300",)), ("plain", ())):
        given = (*few, *words, f"--output={tmp_path / name}.npz")
        assert cli.main(command(run, *given, mode="inpaint")) == 0
    assert "2 completions, 6.0 network evaluations each" in capsys.readouterr().out
    led, plain = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("led", "plain"))
    assert not np.array_equal(led, plain)


# Digests, budgets


def test_digests_know_the_files_by_their_content_and_not_their_place(run, tmp_path):
    moved = shutil.copy(file_of(run / "classifier"), tmp_path / "mine.pt")
    places = (run / "classifier", moved, file_of(run / "classifier", 2))
    configs = [opened(run, f"--classifier={place}").config for place in places]
    origins = [origin_of(config, {}) for config in configs]
    facts = [_draw_facts(config, build_sde(config)) for config in configs]
    for digests in (origins, facts):
        assert digests[0] == digests[1] != digests[2]
    plain = opened(run).config
    assert (
        not {"classifier", "guide", "classifier_scale"}
        & _draw_facts(plain, build_sde(plain))["sampling"].keys()
    )
    for word in ("--classifier_scale=2", "--label=3"):
        other = opened(run, f"--classifier={places[0]}", word).config
        assert origin_of(other, {}) != origins[0]
    led = opened(run, f"--guide={file_of(run, 2)}", "--guidance=2").config
    assert origin_of(led, {}) not in origins


def test_a_file_that_has_changed_is_read_again(run, tmp_path):
    place, like = tmp_path / "mine.pt", (1e9, 1e9)
    digests = []
    for step in (2, 4):
        shutil.copyfile(file_of(run / "classifier", step), place)
        os.utime(place, like)  # as copies that keep the time may be
        digests.append(classifier_of(opened(run, f"--classifier={place}").config).digest)
    assert digests[0] != digests[1]


def test_a_network_that_leads_is_changed_by_nobody_else(run):
    """In a notebook one process holds many of them."""
    config = opened(run, f"--classifier={run / 'classifier'}").config
    guide, (x, t) = classifier_of(config), states()
    mine, before = guide.network(), guide.network()(x, t)
    with torch.no_grad():
        for weight in mine.parameters():
            weight.mul_(2)
    assert not mine.training
    assert not mine(x, t).equal(before)
    assert classifier_of(config).network()(x, t).equal(before)


def test_a_budget_counts_the_classifier(run):
    row = Row("ddim", "12", {"sampling.method": "ddim"}, 12)
    config = opened(run, f"--classifier={run / 'classifier'}").config
    assert as_row(config, row).sampling.num_steps == 5  # and Tweedie's formula, each of them two
    assert as_row(opened(run).config, row).sampling.num_steps == 11


def test_shards_of_an_evaluation_are_of_what_leads_them(run, tmp_path):
    few = ("--config.eval.num_samples=12", "--config.eval.enable_bpd=False")
    few += ("--config.eval.enable_loss=False", "--config.sampling.num_steps=2")
    folder = f"--eval_folder={tmp_path / 'eval'}"
    stats = f"--config.eval.stats_folder={tmp_path / 'stats'}"
    for words in ((), ("--classifier_scale=2",), ("--classifier_scale=2",)):
        assert cli.main(command(run, *few, folder, stats, *words, mode="eval")) == 0
    assert len([*(tmp_path / "eval" / "shards").glob("samples_*")]) == 2
    report = next((tmp_path / "eval").glob("*.json")).read_text()
    assert '"classifier_scale": 2.0' in report
    assert '"nfe": 4.0' in report


# Misuse


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--guide={run}",), "has no say at sampling.guidance=1: give --guidance 2"),
        (("--guide={classes}", "--guidance=2"), "takes 10 classes, and the network"),
        (("--classifier={run}",), "is a score network: name a checkpoint that --mode train_cl"),
        (("--guide={run}/classifier", "--guidance=2"), "is a classifier: name a checkpoint"),
        (("--classifier={run}/nothing",), "there is no checkpoint; train one first (--mode"),
        (("--guide={run}/samples", "--guidance=2"), "there is no checkpoint; train one first, "),
        (("--classifier={run}/config.json",), "config.json"),
        (("--label=10", "--classifier_scale=1"), "knows the classes 0 to 9"),
        (("--label=3",), "or lead it by a classifier (--classifier FILE)"),
        (("--guidance=2",), "or name a weaker network to lead it (--guide FILE)"),
        (("--classifier_scale=-1",), "may not be negative"),
        (("--classifier=", "--label=3"), "it is empty"),
    ],
)
def test_what_can_not_lead_is_refused_in_one_sentence(run, classes, words, said, capsys):
    words = [word.format(run=run, classes=classes) for word in words]
    assert cli.main(command(run, "--num_samples=2", *words)) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config.model.beta_max=10.0",), "was trained with another SDE"),
        (("--config.data.image_size=9",), "is of images of (1, 8, 8)"),
    ],
)
def test_a_classifier_of_other_images_or_another_sde_does_not_fit(run, words, said):
    config = cli.parse(command(run, "--classifier_scale=1", *words)).config
    with pytest.raises(ValueError, match=re.escape(said)):
        guided(config, None, build_sde(config))
    with pytest.raises(ValueError, match=re.escape(said)):
        check_config(config)


OTHER_SDE = "--config.model.beta_max=10.0"
DRAWING = [name for name, mode in cli.MODES.items() if "classifier" in mode.options]
OF_TWO = [name for name in DRAWING if "upsampler" in cli.MODES[name].options]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The checkpoint of a network of another SDE."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    assert cli.main(command(workdir, OTHER_SDE, mode="train")) == 0
    return file_of(workdir)


@pytest.mark.parametrize("mode", sorted(set(DRAWING) - set(OF_TWO)))
@pytest.mark.parametrize("what", ["classifier", "guide"])
def test_what_does_not_fit_is_refused_before_anything_is_made(
    run, other, tmp_path, mode, what, capsys
):
    led = {"classifier": [f"--classifier={run / 'classifier'}"], "guide": [f"--guide={run}"]}[what]
    led += ["--guidance=2"] * (what == "guide")
    places = {"eval": "eval_folder", "compare": "workdir"}
    words = (f"--{places.get(mode, 'output')}={tmp_path / 'a' / 'b'}", f"--checkpoint={other}")
    capsys.readouterr()
    assert cli.main(command(tmp_path / "run", *words, OTHER_SDE, *led, mode=mode)) == 1
    error = capsys.readouterr().err
    assert "was trained with another SDE" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["sample", "eval", "compare"])
def test_a_refusal_leaves_a_work_directory_as_it_was(run, other, mode):
    workdir = other.parent.parent
    before = sorted(workdir.rglob("*"))
    led = f"--classifier={run / 'classifier'}"
    assert cli.main(command(workdir, OTHER_SDE, led, mode=mode)) == 1
    assert sorted(workdir.rglob("*")) == before


def test_a_guide_of_the_chain_does_not_lead_a_network_of_all_times(run):
    chain = ("--config.training.continuous=False", "--config.training.time_sampling=uniform")
    words = (f"--guide={run}", "--guidance=2", *chain)
    config = cli.parse(command(run, *words)).config
    with pytest.raises(ValueError, match="name one that knows the same times"):
        guided(config, None, build_sde(config))
    # A classifier of continuous time knows the steps of the chain, too.
    config = cli.parse(command(run, "--classifier_scale=1", *chain)).config
    assert drawn_classes(config) == 10
    guided(config, None, build_sde(config))
