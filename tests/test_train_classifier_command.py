"""`--mode train_classifier` as a user has it: trained, resumed, stopped, refused."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from conftest import TINY as FOUR_STEPS
from PIL import Image

from score_sde import checkpoints
from score_sde.commands import cli
from score_sde.config.build import build_classification, build_classifier, build_sde
from score_sde.networks.half_unet import HalfUNet
from score_sde.score import NoisyClassifier
from score_sde.sde import VESDE, VPSDE

TINY = (
    *FOUR_STEPS,
    "--config.training.snapshot_freq_for_preemption=1",
    "--config.classifier.nf=8",
    "--config.classifier.ch_mult=(1,2)",
)


def command(workdir, *words, steps=4, recipe="configs/vp/digits.py"):
    given = ("main.py", f"--config={recipe}", *TINY, "--mode=train_classifier")
    return [*given, f"--workdir={workdir}", f"--config.training.n_iters={steps}", *words]


def saved(workdir, step):
    return checkpoints.load(checkpoints.path_of(workdir / "classifier" / "checkpoints", step))


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert one == other


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work directory of a classifier of four steps, never interrupted."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    assert cli.main(command(workdir, "--config.training.snapshot_sampling=True")) == 0
    return workdir


def test_everything_goes_to_a_folder_of_its_own(trained):
    assert [path.name for path in trained.iterdir()] == ["classifier"]
    assert {path.name for path in (trained / "classifier").iterdir()} == {
        "accuracy.json",
        "accuracy.png",
        "checkpoints",
        "config.json",
        "log.txt",
        "loss.png",
        "metrics.jsonl",
        "tensorboard",
    }
    metrics = (trained / "classifier" / "metrics.jsonl").read_text().splitlines()
    names = set().union(*map(json.loads, metrics))
    assert {"held_out_loss", "held_out_accuracy", "loss", "loss_by_level/0"} <= names
    assert "loss_per_dimension" not in names
    config = json.loads((trained / "classifier" / "config.json").read_text())["config"]
    assert config["classifier"]["num_classes"] == 10


def test_the_accuracy_is_told_at_levels_even_in_their_logarithm(trained):
    told = json.loads((trained / "classifier" / "accuracy.json").read_text())
    assert (told["step"], told["n"], told["classes"]) == (4, 300, 10)
    levels = torch.tensor([row["noise_level"] for row in told["by_level"]], dtype=torch.float64)
    sde = VPSDE()
    ends = sde.noise_level(torch.tensor([sde.eps, 1.0], dtype=torch.float64))
    torch.testing.assert_close(levels[[0, -1]], ends)
    torch.testing.assert_close(levels.log().diff(), (levels[-1] / levels[0]).log().repeat(19) / 19)
    assert all(0 <= row["accuracy"] <= 1 for row in told["by_level"])


def test_resuming_equals_an_uninterrupted_run_bit_for_bit(trained, tmp_path):
    assert cli.main(command(tmp_path, steps=2)) == 0
    assert cli.main(command(tmp_path)) == 0
    one, other = saved(trained, 4), saved(tmp_path, 4)
    for entry in ("network", "ema", "optimizer", "rng"):
        assert_equal(one[entry], other[entry])


def test_a_signal_ends_it_after_a_save_and_the_same_command_goes_on(trained, tmp_path):
    process = subprocess.Popen(
        [sys.executable, *command(tmp_path, steps=100000)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder, deadline = tmp_path / "classifier" / "checkpoints", time.monotonic() + 120
    while not checkpoints.steps(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said
    step = checkpoints.steps(folder)[-1]
    assert f"step {step} is saved" in said
    if step < 4:
        assert cli.main(command(tmp_path)) == 0
        assert_equal(saved(trained, 4)["network"], saved(tmp_path, 4)["network"])


def test_beside_a_score_network_it_touches_nothing_of_it(trained, tmp_path):
    from score_sde.commands.train import train

    config = cli.parse(command(tmp_path)).config
    train(config, tmp_path, quiet=True)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert cli.main(command(tmp_path, "--config.optim.lr=0.001")) == 0  # its own learning rate
    assert {p: p.read_bytes() for p in before} == before
    # And the score network resumes whatever the classifier is made of.
    with config.unlocked():
        config.classifier.nf, config.training.n_iters = 16, 5
    train(config, tmp_path, quiet=True)
    assert checkpoints.steps(tmp_path / "checkpoints")[-1] == 5


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("configs/vp/digits_conditional.py", ()),
        ("configs/ve/digits.py", ("--config.training.time_sampling=stratified",)),
        ("configs/edm/digits.py", ("--config.training.augment=0.2",)),
        ("configs/vp/digits.py", ("--config.training.continuous=False",)),
    ],
)
def test_it_learns_at_the_times_of_every_recipe(recipe, words, tmp_path):
    chain = ("--config.training.time_sampling=uniform",) if "continuous" in str(words) else ()
    given = (*words, *chain)
    assert cli.main(command(tmp_path, *given, steps=1, recipe=recipe)) == 0
    config = cli.parse(command(tmp_path, *given, recipe=recipe)).config
    sde = build_sde(config)
    t = build_classification(config, sde).times(1000)
    assert 0 < t.min() < t.max() <= sde.T


def test_images_without_labels_are_refused(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for k in range(3):
            pixels = np.full((8, 8), 40 * k, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{k}.png")
    words = ("--config.data.dataset=folder", f"--config.data.root={tmp_path / 'images'}")
    assert cli.main(command(tmp_path / "run", *words)) == 1
    said = capsys.readouterr().err
    assert "have no labels that a classifier could learn" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_network_than_the_checkpoints_is_refused(trained, capsys):
    assert cli.main(command(trained, "--config.classifier.nf=16", steps=6)) == 1
    assert "give --config.classifier.nf=8 to go on with it" in capsys.readouterr().err
    assert cli.main(command(trained, "--config.model.beta_max=10.0", steps=6)) == 1
    assert "model.beta_max is 20.0 there and 10.0 here" in capsys.readouterr().err
    assert cli.main(command(trained, "--config.classifier.name=whole_unet", steps=6)) == 1
    assert "did you mean 'half_unet'?" in capsys.readouterr().err
    assert cli.main(command(trained, "--init_from=x.pt")) == 1
    assert "--init_from has no use in --mode train_classifier" in capsys.readouterr().err


# The network and what it learns


def test_a_classifier_of_two_gaussians_learns_their_posterior():
    # p(c = 1 | x_t) of N(±m, s²) at noise is the logistic function of 2 α m x / (α² s² + σ²).
    torch.manual_seed(0)
    config = cli.parse(command("unused")).config
    sde, m, s = VESDE(0.1, 10.0), 1.0, 0.5
    with config.unlocked():
        config.training.time_sampling = "uniform"
        config.data.image_size, config.classifier.num_classes = 2, 2
    objective = build_classification(config, sde)
    net = build_classifier(config).double()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(150):
        label = torch.randint(2, (128,))
        x_0 = (2.0 * label - 1) * m + s * torch.randn(128)
        x_0 = x_0.double()[:, None, None, None].expand(-1, 1, 2, 2)
        z = torch.randn(128, 1, 1, 1, dtype=torch.float64).expand(-1, 1, 2, 2)
        loss = objective(net, x_0, objective.times(128).double(), z, label).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for t in (0.2, 0.5, 0.7):
        sigma = sde.std(torch.tensor([t], dtype=torch.float64))
        x = torch.linspace(-2, 2, 9, dtype=torch.float64) * (m + sigma)
        state = x[:, None, None, None].expand(-1, 1, 2, 2)
        found = NoisyClassifier(net.eval(), sde)(state, t).softmax(1)[:, 1]
        expected = (2 * m * x / (s**2 + sigma**2)).sigmoid()
        assert (found - expected).abs().max() < 0.1, t


def test_images_of_other_sizes_are_taken_and_attention_stands_where_it_is_asked_for():
    options = {"num_channels": 3, "nf": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 1}
    net = HalfUNet(image_size=(8, 8), num_classes=4, attn_resolutions=(4,), **options)
    assert [type(block).__name__ for block in net.blocks] == [
        *("BigGANBlock", "BigGANBlock", "Attended", "BigGANBlock", "BigGANBlock")
    ]
    assert net(torch.randn(2, 3, 9, 14), torch.zeros(2)).shape == (2, 4)
    with pytest.raises(ValueError, match="1 classes can't be told apart"):
        HalfUNet(image_size=(8, 8), num_classes=1, **options)


def test_the_network_is_given_states_of_unit_size_and_the_logarithm_of_the_level():
    given = []
    sde = VESDE(0.01, 50.0)
    classifier = NoisyClassifier(lambda x, cond: given.append((x, cond)), sde)
    x = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    classifier(x, torch.tensor([0.2, 1.0], dtype=torch.float64))
    ((inside, cond),) = given
    assert inside[1].flatten()[0].item() == pytest.approx(1 / (1 + 50.0**2) ** 0.5)
    assert cond[1].item() == pytest.approx(100 * np.log(50.0))
