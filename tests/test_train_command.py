"""Runs as a user has them: trained, killed, resumed, sampled, refused in one sentence."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from score_sde import checkpoints
from score_sde.commands import cli

TINY = (
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,2)",
    "--config.model.dropout=0.1",
    "--config.device=cpu",
    "--config.training.batch_size=8",
    "--config.training.log_freq=5",
    "--config.training.eval_freq=5",
    "--config.training.snapshot_freq=10",
    "--config.training.snapshot_freq_for_preemption=5",
    "--config.training.snapshot_images=4",
    "--config.sampling.num_steps=3",
    "--config.optim.warmup=2",
)


def arguments(*words: object, recipe: str = "configs/vp/digits.py") -> list[str]:
    return ["main.py", "--config", recipe, *TINY, *map(str, words)]


def train(workdir: Path, steps: int, *words: object) -> int:
    return cli.main(
        arguments(
            "--mode=train", f"--workdir={workdir}", f"--config.training.n_iters={steps}", *words
        )
    )


def start(workdir: Path, steps: int, *words: object) -> subprocess.Popen:
    command = arguments(
        "--mode=train", f"--workdir={workdir}", f"--config.training.n_iters={steps}", *words
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Waits until a checkpoint of at least this step exists."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(found >= step for found in checkpoints.steps(workdir / "checkpoints")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of step {step}: {process.communicate()[0]}")


def final(workdir: Path, step: int) -> dict:
    return checkpoints.load(checkpoints.path_of(workdir / "checkpoints", step))


def assert_same_bits(one: object, other: object, path: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same_bits(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of 20 steps, never interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert train(workdir, 20) == 0
    torch.set_num_threads(threads)
    return workdir


def test_a_run_leaves_everything_under_its_work_directory(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.json",
        "log.txt",
        "loss.png",
        "metrics.jsonl",
        "samples",
        "tensorboard",
    }
    written = json.loads((trained / "config.json").read_text())
    assert written["config"]["model"]["nf"] == 8
    assert {"torch", "python", "commit"} <= written.keys()
    with Image.open(trained / "samples" / "step_00000020.gif") as film:
        assert film.n_frames > 1
    log = (trained / "log.txt").read_text()
    for said in ("parameters", "steps", "disk", "images/s", "to go", str(trained)):
        assert said in log


def test_the_curves_hold_what_the_issue_of_a_run_needs(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*lines)
    assert {"loss", "loss_per_dimension", "held_out_loss", "learning_rate", "grad_norm"} <= names
    assert "images_per_sec" in names
    assert any(name.startswith("loss_by_level/") for name in names)


def test_resuming_equals_an_uninterrupted_run_bit_for_bit(trained, tmp_path):
    torch.set_num_threads(1)
    assert train(tmp_path, 7) == 0
    assert train(tmp_path, 20) == 0
    assert_same_bits(final(tmp_path, 20)["network"], final(trained, 20)["network"])
    assert_same_bits(final(tmp_path, 20)["ema"], final(trained, 20)["ema"])
    assert_same_bits(final(tmp_path, 20)["optimizer"], final(trained, 20)["optimizer"])
    assert_same_bits(final(tmp_path, 20)["rng"], final(trained, 20)["rng"])


def test_snapshots_and_held_out_losses_do_not_change_training(trained, tmp_path):
    torch.set_num_threads(1)
    words = ("--config.training.snapshot_sampling=false", "--config.training.eval_freq=100")
    assert train(tmp_path, 20, *words) == 0
    assert_same_bits(final(tmp_path, 20)["network"], final(trained, 20)["network"])


def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits(trained, tmp_path):
    process = start(tmp_path, 20, "--config.training.snapshot_freq_for_preemption=1")
    wait_for_step(tmp_path, 1, process)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.3))
    process.kill()
    process.wait()
    torch.set_num_threads(1)
    assert train(tmp_path, 20) == 0
    assert_same_bits(final(tmp_path, 20)["network"], final(trained, 20)["network"])
    assert_same_bits(final(tmp_path, 20)["optimizer"], final(trained, 20)["optimizer"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_cleanly(number, code, tmp_path):
    process = start(tmp_path, 100_000)
    wait_for_step(tmp_path, 5, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert "the same command resumes" in output
    last = checkpoints.steps(tmp_path / "checkpoints")[-1]
    assert f"step {last} is saved" in output


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, capsys):
    assert train(tmp_path, 10) == 0
    newest = checkpoints.path_of(tmp_path / "checkpoints", 10)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert train(tmp_path, 10) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "Using step_00000005.pt" in log
    assert "resumed at step 5" in log
    assert final(tmp_path, 10)["step"] == 10


def test_a_loss_that_is_not_finite_stops_the_run_with_the_reason(tmp_path, capsys):
    assert train(tmp_path, 5) == 0
    code = train(tmp_path / "other", 50, "--config.optim.lr=1e30", "--config.optim.warmup=0")
    shown, said = capsys.readouterr()
    assert code == 1
    assert "diverged in step" not in shown  # it is told once on the terminal
    assert said.count("diverged in step") == 1
    assert "diverged in step" in (tmp_path / "other" / "log.txt").read_text()
    assert "lower rate, such as --config.optim.lr=0.0002" in said


def sentence(capsys, *words: object, recipe: str = "configs/vp/digits.py") -> str:
    """What a refused command says: one sentence, exit code 1, no stack trace."""
    assert cli.main(arguments(*words, recipe=recipe)) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("word", "named", "remedy"),
    [
        ("--config.model.nff=64", "config.model.nff", "--config.model.nf?"),
        ("--config.modle.nf=64", "config.modle.nf", "--config.model.nf?"),
        ("--config.model.nf=wide", "config.model.nf=wide", "int"),
        ("--config.model.fir=maybe", "config.model.fir=maybe", "bool"),
        ("--config.data.dataset=digitz", "digitz", "digits"),
        ("--config.sampling.method=odd", "odd", "ode"),
        ("--config.sampling.method=pc --config.sampling.predictor=nne", "nne", "none"),
        ("--config.training.sde=vp", "'vp'", "vpsde"),
        ("--config.training.accumulation=3", "accumulation=3", "divide"),
        ("--config.model.embedding_type=fourier", "fourier", "positional"),
        ("--config.model.scale_by_sigma=true", "scale_by_sigma", "False"),
        ("--config.model.num_scales=3", "num_scales=3", "beta_max"),
        ("--config.training.time_sampling=importance", "importance", "likelihood_weighting"),
        ("--config.data.image_size=16", "16", "8"),
        ("--config.device=cuda:7", "cuda:7", "cpu"),
        ("--config.optim.optimizer=SGD", "SGD", "Adam"),
        ("--config.model.num_classes=7", "7", "10"),
        (
            "--config.data.dataset=folder --config.data.root=/nowhere",
            "/nowhere",
            "data.root",
        ),
        ("stray", "stray", "--name=value"),
        ("--mode=trian", "trian", "train"),
        ("--worckdir=x", "worckdir", "workdir"),
    ],
)
def test_bad_input_ends_in_one_sentence_with_the_remedy(word, named, remedy, tmp_path, capsys):
    said = sentence(capsys, "--mode=train", f"--workdir={tmp_path}", *word.split())
    assert named in said
    assert remedy in said
    assert not (tmp_path / "checkpoints").exists()


def test_a_missing_recipe_is_named_with_the_nearest(capsys):
    said = sentence(capsys, "--mode=train", recipe="configs/vp/digit.py")
    assert "did you mean configs/vp/digits.py?" in said


def test_a_work_directory_of_another_experiment_is_refused(trained, capsys):
    before = sorted(path.name for path in (trained / "checkpoints").iterdir())
    for word in ("--config.model.nf=16", "--config.optim.lr=0.5", "--config.seed=1"):
        said = sentence(capsys, "--mode=train", f"--workdir={trained}", word)
        assert word.partition("=")[0].removeprefix("--config.") in said
        assert "--workdir" in said
    assert before == sorted(path.name for path in (trained / "checkpoints").iterdir())


def test_an_unwritable_work_directory_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    said = sentence(capsys, "--mode=train", f"--workdir={tmp_path / 'file' / 'run'}")
    assert "--workdir" in said


def test_a_full_disk_loses_nothing_that_was_saved(trained, tmp_path, capsys, monkeypatch):
    assert train(tmp_path, 5) == 0
    kept = checkpoints.path_of(tmp_path / "checkpoints", 5).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("score_sde.checkpoints.files._write", full)
    assert train(tmp_path, 10) == 1
    assert "free some space" in capsys.readouterr().err
    monkeypatch.undo()
    assert checkpoints.path_of(tmp_path / "checkpoints", 5).read_bytes() == kept
    assert train(tmp_path, 20) == 0
    assert_same_bits(final(tmp_path, 20)["network"], final(trained, 20)["network"])


def draw(trained: Path, output: Path, *words: object) -> np.ndarray:
    command = arguments("--mode=sample", f"--workdir={trained}", f"--output={output}", *words)
    assert cli.main(command) == 0
    with np.load(output) as data:
        assert data["index"].tolist() == list(range(len(data["images"])))
        return data["images"]


@pytest.mark.parametrize("method", ["pc", "ode", "ddim", "heun", "dpm_solver++"])
def test_images_do_not_depend_on_the_batch_size(trained, tmp_path, method, capfd):
    # The adaptive ODE agrees within its tolerance, and fills its batches up.
    count, one_size, other_size = (12, 4, 12) if method == "ode" else (100, 10, 64)
    words = (
        f"--num_samples={count}",
        f"--config.sampling.method={method}",
        "--config.sampling.num_steps=5",
        *(["--config.sampling.corrector=langevin"] if method == "pc" else []),
        "--config.sampling.rtol=1e-5",
        "--config.sampling.atol=1e-5",
    )
    few = draw(trained, tmp_path / "a.npz", *words, f"--config.sampling.batch_size={one_size}")
    assert "network calls" in capfd.readouterr().err  # beside the images that are done
    many = draw(trained, tmp_path / "b.npz", *words, f"--config.sampling.batch_size={other_size}")
    assert few.shape == (count, 8, 8, 1)
    # Rounding of floats may move a pixel to the neighbouring one of 256 levels, seldom.
    difference = np.abs(few.astype(int) - many.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_image_k_is_the_same_however_many_are_drawn(trained, tmp_path):
    assert np.array_equal(
        draw(trained, tmp_path / "a.npz", "--num_samples=3", "--config.sampling.batch_size=3"),
        draw(trained, tmp_path / "b.npz", "--num_samples=9", "--config.sampling.batch_size=3")[:3],
    )


def test_png_files_by_index_and_a_grid(trained, tmp_path):
    output = tmp_path / "images"
    command = arguments("--mode=sample", f"--workdir={trained}", "--num_samples=3")
    assert cli.main([*command, f"--output={output}"]) == 0
    assert [path.name for path in sorted(output.iterdir())] == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    assert (tmp_path / "images_grid.png").is_file()


def test_raw_weights_give_other_images(trained, tmp_path):
    averaged = draw(trained, tmp_path / "a.npz", "--num_samples=4")
    assert not np.array_equal(
        averaged, draw(trained, tmp_path / "b.npz", "--num_samples=4", "--raw")
    )


def test_the_checkpoints_own_config_rules_its_network(trained, tmp_path, capsys):
    file = checkpoints.path_of(trained / "checkpoints", 20)
    words = ["--mode=sample", f"--checkpoint={file}", f"--workdir={tmp_path}", "--num_samples=2"]
    bare = ["main.py", "--config", "configs/vp/digits.py", *words, "--config.sampling.num_steps=3"]
    assert cli.main(bare) == 0  # the recipe's own width is 32, the checkpoint's 8
    capsys.readouterr()
    assert cli.main([*bare, "--config.model.nf=16"]) == 1
    said = capsys.readouterr().err
    assert "--config.model.nf=16 contradicts" in said


def test_sampling_without_weights_is_refused(tmp_path, capsys):
    said = sentence(capsys, "--mode=sample", f"--workdir={tmp_path}")
    assert "train first" in said
    said = sentence(capsys, "--mode=sample", f"--checkpoint={tmp_path / 'no.pt'}")
    assert "no.pt" in said


def test_print_config_shows_overrides(capsys):
    assert cli.main(["main.py", "--config", "configs/ve/cifar10.py", "--print_config"]) == 0
    assert "nf: 128" in capsys.readouterr().out


def test_help_names_every_option(capsys):
    assert cli.main(["main.py", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("mode", "workdir", "checkpoint", "num_samples", "output", "[no]smoke"):
        assert f"--{option}" in text


def test_help_beside_a_recipe_names_the_modes_that_it_adds(tmp_path, capsys):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from configs.vp.digits import get_config\n"
        "from score_sde.commands.cli import MODES, Mode\n"
        "MODES['count'] = Mode(print, 'count the weights')\n"
    )
    for words in (["--config", str(recipe), "--help"], ["-h", f"--config={recipe}"]):
        assert cli.main(["main.py", *words]) == 0
        assert "count: count the weights" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["main.py", "--config=no/such.py", "--help"]) == 1
    assert "no/such.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe", ["configs/ve/cifar10.py", "configs/vp/cifar10.py", "configs/subvp/digits.py"]
)
def test_smoke_goes_through_a_recipe(recipe, capfd):
    assert cli.main(["main.py", "--config", recipe, "--smoke", "--config.device=cpu"]) == 0
    said = capfd.readouterr().out
    assert "which is removed at the end" in said
    assert "4 images" in said
    for figure in ("held_out_loss", "bound", "bits_per_dim"):
        assert f"\n{figure} " in said


def test_the_default_work_directory_is_the_recipes_path():
    command = cli.parse(["main.py", "--config", "configs/ve/cifar10.py", "--mode=train"])
    assert command.workdir == Path("runs/ve/cifar10")
