"""Networks of classes: training that leaves labels out, and what is drawn of which class."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, assert_close
from PIL import Image
from problems import Gaussian

import score_sde
from configs.vp import digits, digits_conditional
from score_sde import checkpoints
from score_sde.commands import cli
from score_sde.commands.drawing import draw_with_film
from score_sde.config import history, parts
from score_sde.config.build import (
    build_score_for,
    build_sde,
    draw,
    open_split,
    optimise_grid,
    proportional_labels,
    sampling,
)
from score_sde.config.check import check_config
from score_sde.config.presets import Row, as_row
from score_sde.evaluation import LeftOut, quality
from score_sde.evaluation.report import lines
from score_sde.score import GuidedScore, NetworkScore, evaluations_at
from score_sde.tensor_ops import expand_to

CLASSES = ("--config.model.num_classes=10", "--config.model.label_dropout=0.3")


def command(workdir, *words, steps=4, mode="train", classes=CLASSES):
    given = ("main.py", "--config=configs/vp/digits.py", *TINY, *classes)
    more = (f"--mode={mode}", f"--workdir={workdir}", f"--config.training.n_iters={steps}")
    return [*given, *more, *map(str, words)]


def saved(workdir, step):
    return checkpoints.load(checkpoints.path_of(workdir / "checkpoints", step))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work directory of a run of four steps that leaves labels out."""
    workdir = tmp_path_factory.mktemp("labels") / "run"
    assert cli.main(command(workdir)) == 0
    return workdir


def test_a_run_that_leaves_labels_out_resumes_bit_for_bit(trained, tmp_path):
    assert cli.main(command(tmp_path, steps=2)) == 0
    assert cli.main(command(tmp_path)) == 0
    one, other = (saved(workdir, 4) for workdir in (trained, tmp_path))
    for entry in ("network", "ema", "optimizer", "rng"):
        assert_equal(one[entry], other[entry])


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict | list):
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_equal(one[key], other[key])
    else:
        assert one == other


def test_labels_are_left_out_by_noise_of_their_own_and_teach_the_null_class(trained, tmp_path):
    assert cli.main(command(tmp_path, classes=CLASSES[:1])) == 0
    left_out, given = (saved(workdir, 4) for workdir in (trained, tmp_path))
    # Times, noise and order of the images are drawn from the same generators as before.
    assert_equal(left_out["rng"], given["rng"])
    first = saved(tmp_path, 2)
    name = "conditioning.classes.weight"
    rows = [state["network"][name] for state in (left_out, given)]
    assert rows[0].shape == rows[1].shape == (11, 32)
    assert torch.equal(rows[1][10], first["network"][name][10])  # which training never meets
    assert not torch.equal(rows[0][10], rows[1][10])


def test_leaving_labels_out_is_refused_without_labels(tmp_path, capsys):
    assert cli.main(command(tmp_path, classes=CLASSES[1:])) == 1
    said = capsys.readouterr().err
    assert "config.model.label_dropout=0.3: this network is given no labels" in said
    assert "set config.model.num_classes" in said


def test_a_run_may_not_begin_to_leave_labels_out(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert cli.main(command(workdir, classes=CLASSES[:1], steps=6)) == 1
    assert "model.label_dropout is 0.3 there and 0.0 here" in capsys.readouterr().err


def test_the_recipe_is_that_of_the_digits_with_labels_of_which_some_are_left_out():
    ours, theirs = (history.leaves(one.get_config()) for one in (digits_conditional, digits))
    changed = {name: value for name, value in ours.items() if value != theirs[name]}
    assert changed == {"model.num_classes": 10, "model.label_dropout": 0.1}


# What is drawn


DATA_STD, OFFSETS = 0.4, torch.tensor([-1.0, 0.0, 1.0, 0.25])
"""Of pixels: of each of three classes, and of no class."""


def config_with(**fields):
    named = {"model.num_classes": 3, "model.label_dropout": 0.1, "sampling.num_steps": 8}
    named |= {
        "device": "cpu",
        "sampling.batch_size": 5,
        "sampling.rtol": 1e-6,
        "sampling.sde_rtol": 0.1,
    }
    named |= {f"sampling.{name}": value for name, value in fields.items()}
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, named)


def gaussian(sde, label):
    return Gaussian(sde, OFFSETS[label].reshape(-1, 1, 1, 1), DATA_STD**2)


class Exact:
    """The noise of each class, by the label that it is given; counts the samples."""

    def __init__(self, sde):
        self.sde, self.asked = sde, 0

    def __call__(self, x, cond, label):
        assert label.shape == x.shape[:1]
        self.asked += len(x)
        t = cond / 999
        score = gaussian(self.sde, label).score(x, t)
        return -expand_to(self.sde.std(t), x) * score


def drawn(config, n=7):
    sde = build_sde(config)
    network = Exact(sde)
    found = list(draw(config, network, sde, torch.arange(n), torch.device("cpu")))
    nfe = torch.cat([part.nfe for part in found])
    return torch.cat([part.x for part in found]), nfe, network.asked


@pytest.mark.parametrize("method", ["pc", "ode", "adaptive_sde", "heun", "dpm_solver++"])
@pytest.mark.parametrize("label", [-1, 2])
def test_samples_have_their_classes_whatever_draws_them(method, label):
    x, _, _ = drawn(config_with(method=method, label=label, num_steps=50), 14)
    expected = OFFSETS[:3].repeat(5)[:14] if label < 0 else OFFSETS[2].repeat(14)
    # 64 pixels each; four standard errors, and what steps and the end leave.
    assert (x.flatten(1).mean(1) - expected).abs().max() < 4 * DATA_STD / 8 + 0.1


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(
    ("method", "interval"),
    [("pc", ()), ("pc", (0.2, 1.5)), ("ddim", (0.2, 1.5)), ("heun", ()), ("ode", ())],
)
def test_the_fields_of_a_config_guide_what_is_drawn(method, scale, interval):
    config = config_with(method=method, guidance=scale, guidance_interval=interval)
    sde = build_sde(config)

    def guided_score(index):
        null, levels = gaussian(sde, torch.full_like(index, 3)), interval or (0, math.inf)
        return GuidedScore(gaussian(sde, index % 3).score, null.score, sde, scale, levels)

    x, nfe, _ = drawn(config)
    by_hand = draw(config, None, sde, torch.arange(7), torch.device("cpu"), score_for=guided_score)
    parts_of = list(by_hand)
    assert_close(x, torch.cat([part.x for part in parts_of]), 1e-3)
    assert not torch.allclose(x, drawn(config_with(method=method))[0], atol=0.02)
    if method != "ode":
        assert torch.equal(nfe, torch.cat([part.nfe for part in parts_of]))


@pytest.mark.parametrize("method", ["pc", "heun"])
def test_what_is_counted_is_what_the_network_was_asked(method):
    counts = {}
    for scale, interval in ((1.0, ()), (0.0, ()), (2.0, ()), (2.0, (0.2, 1.5))):
        config = config_with(method=method, guidance=scale, guidance_interval=interval)
        _, nfe, asked = drawn(config)
        assert nfe.sum() == asked
        counts[scale, interval] = nfe[0].item()
    plain = counts[1.0, ()]
    assert counts[0.0, ()] == plain
    assert plain < counts[2.0, (0.2, 1.5)] < counts[2.0, ()] == 2 * plain


def test_without_guidance_nothing_is_drawn_otherwise_than_before():
    config = config_with(method="pc")
    sde = build_sde(config)
    before = build_score_for(config, Exact(sde), sde, lambda index: index % 3)
    old = draw(config, None, sde, torch.arange(7), torch.device("cpu"), score_for=before)
    assert torch.equal(drawn(config)[0], torch.cat([part.x for part in old]))


def test_an_optimised_grid_is_fitted_to_the_guided_score(monkeypatch):
    config = config_with(method="unipc", num_steps=4, grid="optimised", guidance=2.0)
    sde, given = build_sde(config), []
    kept = lambda step, *rest, **options: given.append(rest)  # noqa: E731
    monkeypatch.setattr(sampling, "optimised_grid", kept)
    optimise_grid(config, Exact(sde), sde, torch.device("cpu"))
    ((score_for, *_),) = given
    assert evaluations_at(score_for(torch.arange(2)), torch.tensor([0.5, 0.5])) == 2


def test_digests_name_these_fields_only_where_they_are_set():
    plain = history.of_group(config_with(), "sampling")
    assert not plain.keys() & {"label", "guidance", "guidance_interval"}
    assert "model.label_dropout" not in history.of_checkpoint(
        parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP)
    )
    for name, value in (("label", 2), ("guidance", 2.0), ("guidance_interval", (0.2, 5.0))):
        given = history.of_group(config_with(**{name: value}), "sampling")
        assert given == plain | {name: [*value] if isinstance(value, tuple) else value}


@pytest.mark.parametrize(
    ("model", "sampling", "said"),
    [
        ({}, {"label": 3}, "knows the classes 0 to 2: give one of them, or -1"),
        ({}, {"label": -2}, "it must be -1 or a class"),
        ({"num_classes": 0, "label_dropout": 0.0}, {"label": 0}, "knows no classes: set -1"),
        ({"num_classes": 0, "label_dropout": 0.0}, {"guidance": 2.0}, "no classes to be led to"),
        ({"label_dropout": 0.0}, {"guidance": 2.0}, "--config.model.label_dropout=0.1"),
        ({"label_dropout": 0.0}, {"guidance": 0.0}, "not learnt the score of no class"),
        ({}, {"guidance": -1.0}, "may not be negative"),
        ({}, {"guidance": math.nan}, "must be at least 0"),
        ({}, {"guidance_interval": (2.0, 1.0)}, "the lower one first"),
        ({}, {"guidance_interval": (1.0,)}, "the lower one first"),
        ({}, {"guidance_interval": (0.0, math.inf)}, "give two numbers"),
    ],
)
def test_classes_and_guidance_that_a_network_does_not_know_are_refused(model, sampling, said):
    config = config_with(**sampling)
    for name, value in model.items():
        config.model[name] = value
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        check_config(config)
    assert "\n" not in str(error.value)


# Commands


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def sampled(trained, output, *words, n=23):
    given = ("--num_samples", n, f"--output={output}", "--config.sampling.num_steps=3")
    assert cli.main(command(trained, *given, *words, mode="sample")) == 0
    return arrays(output)


def test_an_npz_holds_the_classes_and_the_grid_has_a_row_for_each(trained, tmp_path):
    all_of_them = sampled(trained, tmp_path / "all.npz", "--label", "all")
    assert all_of_them["label"].tolist() == [k % 10 for k in range(23)]
    assert all_of_them["label"].dtype == np.int64
    grid = np.asarray(Image.open(tmp_path / "all_grid.png"))
    assert grid.shape == (10 * 66 + 2, 3 * 66 + 2)  # images of 64 pixels, 2 between
    first = Image.fromarray(all_of_them["images"][12, :, :, 0]).resize((64, 64), Image.BICUBIC)
    assert np.array_equal(grid[2 * 66 + 2 : 3 * 66, 66 + 2 : 2 * 66], first)  # the second of 2
    assert (grid[3 * 66 + 2 : 4 * 66, 2 * 66 + 2 : 3 * 66] == 255).all()  # there are two of 3
    plain = sampled(trained, tmp_path / "plain.npz")
    assert np.array_equal(plain["images"], all_of_them["images"])
    one = sampled(trained, tmp_path / "one.npz", "--label=7", n=5)
    assert one["label"].tolist() == [7] * 5
    assert np.asarray(Image.open(tmp_path / "one_grid.png")).shape == (2 * 66 + 2, 3 * 66 + 2)
    assert np.array_equal(
        sampled(trained, tmp_path / "field.npz", "--config.sampling.label=7", n=5)["images"],
        one["images"],
    )


def test_images_of_other_guidance_are_images_of_another_origin(trained, tmp_path):
    words = ("--num_samples=3", f"--output={tmp_path / 'images'}", "--config.sampling.num_steps=3")
    for more in ((), ("--guidance=2",), ("--guidance=2", "--label=1")):
        assert cli.main(command(trained, *words, *more, mode="sample")) == 0
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(folders) == 3


def test_the_short_options_set_the_fields_and_belong_to_sample(tmp_path):
    words = ("--label=3", "--guidance", "2", "--num_samples=4")
    asked = cli.parse(command(tmp_path, *words, "--guidance_interval=0.2,5", mode="sample"))
    assert (asked.config.sampling.label, asked.config.sampling.guidance) == (3, 2.0)
    assert asked.config.sampling.guidance_interval == (0.2, 5.0)
    with pytest.raises(ValueError, match=r"give two numbers with a comma between them, as 0\.2,5"):
        cli.parse(command(tmp_path, "--guidance_interval=0.2", mode="sample"))
    assert asked.overrides["sampling.label"] == 3
    for word in ("--label=-3", "--label=three", "--label="):
        with pytest.raises(ValueError, match="label"):
            cli.parse(command(tmp_path, word, mode="sample"))
    with pytest.raises(ValueError, match="which is given as well: leave one out"):
        cli.parse(command(tmp_path, "--label=3", "--config.sampling.label=2", mode="sample"))
    with pytest.raises(ValueError, match="--guidance has no use in --mode stats"):
        cli.parse(command(tmp_path, "--guidance=3", mode="stats"))


def test_python_snapshots_and_completions_draw_as_the_fields_say(trained, tmp_path, capsys):
    fields = ("--config.sampling.guidance=2.0", "--config.sampling.num_steps=3")
    drawn = sampled(trained, tmp_path / "led.npz", *fields, n=4)
    loaded = score_sde.load(trained, cli.parse(command(trained, *fields)).config)
    images = (loaded.draw(4) * 255).round().byte().permute(0, 2, 3, 1)
    assert np.array_equal(images, drawn["images"])
    snapshot = draw_with_film(
        loaded.config, loaded.network, loaded.sde, torch.arange(4), torch.device("cpu"), list
    )
    assert np.array_equal(snapshot[0].permute(0, 2, 3, 1), drawn["images"])
    few = ("--num_samples=2", "--completions=1", f"--output={tmp_path / 'completed'}")
    assert cli.main(command(trained, *fields, *few, mode="inpaint")) == 0
    assert "2 completions, 6.0 network evaluations each" in capsys.readouterr().out


def test_images_of_ones_own_are_completed_as_the_class_that_is_named(
    trained, tmp_path, capsys, monkeypatch
):
    Image.fromarray(np.full((8, 8), 99, dtype=np.uint8)).save(tmp_path / "mine.png")
    own = (f"--input={tmp_path / 'mine.png'}", "--config.sampling.num_steps=3")
    assert cli.main(command(trained, *own, mode="inpaint")) == 1
    assert "name one for all with --label" in capsys.readouterr().err
    asked, call = [], NetworkScore.__call__

    def noted(self, x, t):
        asked.append(self.label.tolist())
        return call(self, x, t)

    monkeypatch.setattr(NetworkScore, "__call__", noted)
    assert cli.main(command(trained, *own, "--label=3", mode="inpaint")) == 0
    assert asked == [[3, 3, 3, 3]] * 3  # four completions, three steps


@pytest.mark.parametrize(
    ("mode", "words", "place"),
    [
        ("inpaint", ["--completions=2"], [0, 0, 1, 1]),
        ("restore", ["--completions=2", "--posterior=pigdm"], [0, 0, 1, 1]),
        ("edit", ["--completions=2"], [0, 0, 1, 1]),
        ("interpolate", ["--frames=3", "--config.sampling.method=ode"], [0, 0, 1, 2, 2, 3]),
    ],
)
def test_an_npz_holds_the_classes_of_the_images_that_it_began_with(
    trained, tmp_path, mode, words, place
):
    loose = [f"--config.sampling.{name}=0.1" for name in ("rtol", "atol")]
    words = [*words, *loose, "--num_samples=2", "--config.sampling.num_steps=3"]
    classes = open_split(digits.get_config(), "test").labels(torch.arange(4))
    for name, more, expected in (
        ("own", [], classes[place].tolist()),
        ("named", ["--label=7"], [7] * len(place)),
    ):
        out = tmp_path / f"{name}.npz"
        assert cli.main(command(trained, *words, *more, f"--output={out}", mode=mode)) == 0
        assert np.load(out)["label"].tolist() == expected


def test_a_budget_of_evaluations_counts_both(tmp_path):
    config = config_with(guidance=2.0)
    row = Row("ddim", "10", {"sampling.method": "ddim"}, 10)
    assert as_row(config, row).sampling.num_steps == 4  # and Tweedie's formula, each of them two
    assert as_row(config_with(), row).sampling.num_steps == 9


def test_an_exact_score_has_no_classes_to_be_led_to(tmp_path, capsys):
    words = ("--exact=points", "--config.sampling.guidance=2")
    assert cli.main(command(tmp_path, *words, mode="compare")) == 1
    assert "--exact takes no network, and so draws of all classes" in capsys.readouterr().err


# Evaluation


def test_labels_in_proportion_are_a_function_of_seed_and_index():
    counts = torch.tensor([100, 0, 300, 1200])
    labels = proportional_labels(counts, seed=3)
    index = torch.arange(8000)
    drawn = labels(index)
    shares = drawn.bincount(minlength=4) / len(drawn)
    expected = counts / counts.sum()
    assert shares[1] == 0
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()
    some = torch.tensor([7999, 5, 4096])
    assert torch.equal(labels(some), drawn[some])
    assert not torch.equal(proportional_labels(counts, seed=4)(index), drawn)


def test_samples_are_evaluated_in_the_proportions_of_the_training_images(trained, tmp_path):
    few = ("--config.eval.num_samples=40", "--config.eval.enable_bpd=False")
    few += ("--config.eval.enable_loss=False", "--config.sampling.num_steps=2")
    few += (f"--config.eval.stats_folder={tmp_path / 'stats'}",)
    folder = tmp_path / "eval"
    reports = []
    for words in ((), ("--config.eval.labels=proportional",)):
        given = (*few, *words, f"--eval_folder={folder}")
        assert cli.main(command(trained, *given, mode="eval")) == 0
        reports.append(json.loads((folder / "step_00000004.json").read_text()))
    assert len([*(folder / "shards").glob("samples_*")]) == 2
    equal, proportional = (report["fd_by_class"] for report in reports)
    assert equal["labels"] == "each class equally often"
    assert proportional["labels"] == "in the proportions of the training images"
    assert [row["n"] for row in equal["by_class"]] == [4] * 10
    # Of the training images the digits are about equally many, but not exactly.
    train = open_split(digits.get_config(), "train")
    counts = train.labels(torch.arange(len(train))).bincount(minlength=10)
    expected = proportional_labels(counts, seed=42)(torch.arange(40)).bincount(minlength=10)
    assert [row["n"] for row in proportional["by_class"]] == expected.tolist()
    assert sum(row["against"] for row in equal["by_class"]) == 300  # against the test images
    values = [row["value"] for row in equal["by_class"]]
    assert equal["value"] == pytest.approx(sum(values) / 10)


def test_the_distance_of_a_class_is_that_of_its_samples_to_its_own_images(monkeypatch):
    # Features of class c are N(c, 1) and of its samples N(c + 1, 4): a distance of 1 + 1 each.
    n, generator = 4000, torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    real = label[:, None] + torch.randn(n, 3, generator=generator)
    fake = label[:, None] + 1 + 2 * torch.randn(n, 3, generator=generator)
    info = SimpleNamespace(name="two", num_classes=3, split="test")
    source = type("Two", (), {"info": info, "__len__": lambda _: n})()
    source.labels = lambda index: label
    samples = SimpleNamespace(features=fake, index=torch.arange(n), how={})
    network = SimpleNamespace(label="two", name="two", fingerprint="", dimensions=3)
    reference = SimpleNamespace(facts=SimpleNamespace(split="test", n=n), features=real)
    compared = quality._Comparison(samples, network, reference)
    monkeypatch.setattr(quality, "_compared", lambda subject: compared)
    options = {"reference_split": "test", "reference": ""}
    subject = SimpleNamespace(
        labels=lambda index: index % 2, sources={"test": source}, options=options, seed=0
    )
    figure = quality.frechet_by_class(subject)
    rows = figure["by_class"]
    assert [(row["n"], row["against"]) for row in rows] == [(2000, 2000)] * 2 + [(0, 0)]
    assert rows[2]["value"] is None
    for row in rows[:2]:
        assert row["value"] == pytest.approx(3 * (1 + 1), rel=0.05)
    assert (figure["key"], figure["n"], figure["classes"]) == ("fd_by_class", n, 2)
    figure |= {"nfe": 5.0}
    assert ", 2 of 3 classes)" in lines({"fd_by_class": figure}, {})
    for changed, why in (
        ({"reference": "x.npz"}, "does not say which class"),
        ({"reference_split": "none"}, "have no classes"),
    ):
        bare = type("Bare", (), {"info": SimpleNamespace(name="bare", num_classes=0)})()
        subject.options, subject.sources["none"] = options | changed, bare
        with pytest.raises(LeftOut, match=why):
            quality.frechet_by_class(subject)
    subject.labels = None
    with pytest.raises(LeftOut) as silent:
        quality.frechet_by_class(subject)
    assert not silent.value.why
