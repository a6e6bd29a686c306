"""What users and systems do to a run: bad values, signals at bad moments, two at once, no room."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_train_command import arguments, final, sentence, start, train, wait_for_step

from score_sde import checkpoints
from score_sde.commands import cli, first_screen, options
from score_sde.commands import sample as sampling_run
from score_sde.commands import train as training_run
from score_sde.commands.first_screen import activation_bytes
from score_sde.commands.progress import Clock, advice_on_memory
from score_sde.config import schema
from score_sde.config.build import build_network, image_shape
from score_sde.config.holds import PATH


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert train(workdir, 6, "--config.training.snapshot_sampling=false") == 0
    return workdir


def images(folder: Path, seed: int) -> Path:
    folder.mkdir()
    for k, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (12, 8, 8))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{seed}{k}.png")
    return folder


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("model.nf=0", "from 1 to 65,536"),
        ("model.nf=10000000000000000000000000", "64 bits"),
        ("model.nf=65536", "take a smaller network"),
        ("model.num_res_blocks=-1", "from 1 to 64"),
        ("model.num_res_blocks=1000000000", "from 1 to 64"),
        ("model.num_scales=1000000000000", "from 1 to 10,000,000"),
        ("model.ch_mult=()", "at most 16 levels"),
        (f"model.ch_mult={(1,) * 300}", "at most 16 levels"),
        ("data.image_size=100000000000000", "from 1 to 65,536"),
        ("training.batch_size=100000000000000", "lower config.training.batch_size"),
        ("training.snapshot_images=100000000000000", "lower config.training.snapshot_images"),
        ("sampling.num_steps=1000000000000", "from 0 to 10,000,000"),
        ("training.n_iters=1000000000000000000000000000000", "64 bits"),
        ("eval.num_samples=9223372036854775807", "from 1 to 10,000,000"),
        ("eval.bpd_draws=9223372036854775807", "from 1 to 10,000,000"),
        ("eval.bpd_probes=9223372036854775807", "from 1 to 10,000,000"),
        ("model.ch_mult=(1,-2)", "whole numbers"),
        ("model.ch_mult=(1.5,2)", "whole numbers"),
        ("model.ch_mult=('a','b')", "whole numbers"),
        ("model.attn_resolutions=(3,)", "8, 4"),
        ("model.fir_kernel=()", "(1, 3, 3, 1)"),
        ("model.dropout=nan", "below 1"),
        ("model.init_scale=-1.0", "negative"),
        ("model.num_classes=-1", "from 0 to 10,000,000"),
        ("optim.lr=inf", "above 0"),
        ("optim.beta1=1.0", "below 1"),
        ("optim.eps=-1.0", "above 0"),
        ("optim.weight_decay=-1.0", "negative"),
        ("optim.warmup=-1", "negative"),
        ("optim.grad_clip=nan", "finite"),
        ("sampling.rtol=-1.0", "above 0"),
        ("sampling.max_steps=0", "at least 1"),
        ("sampling.s_churn=-1.0", "negative"),
        ("data.test_fraction=1.5", "below 1"),
        ("data.image_width=-3", "from 0 to 65,536"),
        ("seed=99999999999999999999999", "64 bits"),
        ("device=meta", "cpu, cuda, mps"),
        ("device=mps", "auto or cpu"),
        ("training.continuous=false", "'uniform'"),
    ],
)
def test_a_bad_value_is_refused_before_data_are_read(word, remedy, tmp_path, capsys, monkeypatch):
    if word == "device=mps" and torch.backends.mps.is_available():
        pytest.skip("there is one here")
    monkeypatch.setattr("score_sde.commands.train.build_sources", None)
    said = sentence(capsys, "--mode=train", f"--workdir={tmp_path / 'run'}", f"--config.{word}")
    assert "config." + word.partition("=")[0].replace("continuous", "time_sampling") in said
    assert remedy in said
    assert not (tmp_path / "run").exists()


def test_of_a_tuple_given_twice_the_last_counts():
    words = ("--config.model.ch_mult=(1,2)", "--config.model.ch_mult=(3,)", "--mode=train")
    command = cli.parse(["main.py", "--config", "configs/vp/digits.py", *words])
    assert command.config.model.ch_mult == (3,)


RECIPES = {
    "no function": ("x = 1", "no attribute 'get_config'"),
    "another type": ("def get_config():\n    return {'a': 1}", "it gives dict, not a ConfigDict"),
    "nothing": ("def get_config():\n    pass", "it gives NoneType, not a ConfigDict"),
    "an error": ("def get_config():\n    return 1 / 0", "ZeroDivisionError in line 2"),
    "a wrong signature": ("def get_config(size):\n    pass", "missing 1 required positional"),
    "an exit": ("import sys\nsys.exit(3)", "SystemExit in line 2"),
    "no Python": ("def (", "SyntaxError"),
    "no text": ("\0", "SyntaxError"),
    "an error of no Exception": (
        "class Mine(BaseException):\n    pass\nraise Mine('odd')",
        "Mine in line 3: odd",
    ),
    "an error that fails to speak": (
        "class Mine(Exception):\n    def __str__(self):\n        return 3\nraise Mine",
        "Mine in line 4",
    ),
    "an error that paints": ("raise ValueError('\\x1b[31mred')", r"line 1: \x1b[31mred"),
    "endless calls": ("def get_config():\n    return get_config()", "RecursionError in line 2"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_is_none_is_told_with_its_line(kind, tmp_path, capsys):
    text, reason = RECIPES[kind]
    (tmp_path / "mine.py").write_text(text)
    assert cli.main(["main.py", f"--config={tmp_path / 'mine.py'}", "--mode=train"]) == 1
    heard = capsys.readouterr()
    assert "gives no recipe" in heard.err
    assert reason in heard.err
    assert heard.err[:-1].isprintable()


def test_a_flagfile_stands_for_its_lines(tmp_path, capsys):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_text("# a comment\n\n--config.optim.lr=0.125\n")
    outer.write_text(f"--config=vp/digits\n--mode=train\n--flagfile={inner}\n")
    command = cli.parse(["main.py", f"--flagfile={outer}", "--config.seed=7"])
    assert (command.mode, command.config.optim.lr, command.config.seed) == ("train", 0.125, 7)
    inner.write_text(f"--flagfile={outer}\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for words in (
        ["--flagfile"],
        ["--flagfile="],
        [f"--flagfile={tmp_path}"],
        ["--flagfile=/dev/zero"],
        ["--flagfile", str(tmp_path / "none")],
        [f"--flagfile={outer}"],
        [f"--flagfile={binary}"],
    ):
        assert cli.main(["main.py", *words]) == 1
        assert capsys.readouterr().err.startswith("--flagfile=")


def test_an_error_of_no_exception_is_a_sentence_too(capsys, monkeypatch):
    class Mine(BaseException):
        pass

    def fail(command: object) -> None:
        raise Mine("odd\x1b[31m")

    monkeypatch.setitem(cli.MODES, "recipes", cli.Mode(fail, "fails", needs_recipe=False))
    assert cli.main(["main.py", "--mode=recipes"]) == 1
    heard = capsys.readouterr().err
    assert heard.startswith(f"Mine in {__file__}, line")
    assert r": odd\x1b[31m" in heard
    assert heard[:-1].isprintable()


DEFINED = options.define({"train": ""})
PATHS = [name for name in DEFINED if DEFINED[name].parser.syntactic_help == "a path"]
PATHS += [f"config.{name}" for name, row in schema.FIELDS.items() if row.holds is PATH]


@pytest.mark.parametrize("option", ["config", "flagfile", *PATHS])
def test_a_path_with_the_character_0_is_refused(option, tmp_path, capsys):
    # No shell passes it on, but a file of options may.
    (tmp_path / "options").write_text(f"--{option}=a\0b\n")
    recipe = [] if option == "config" else ["--config=vp/digits"]
    assert (
        cli.main(["main.py", f"--flagfile={tmp_path / 'options'}", *recipe, "--mode=train"]) == 1
    )
    heard = capsys.readouterr().err
    assert "no name of a file holds the character 0" in heard
    assert heard[:-1].isprintable()


def test_a_flagfile_of_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").write_text("--config=vp/digits\n--mode=train\n")
    assert cli.parse(["main.py", "--flagfile=~/mine"]).mode == "train"


def test_a_long_value_may_stand_behind_a_space():
    words = ["main.py", "--config=vp/digits", "--mode=sample", "--output", "x" * 210]
    assert cli.parse(words).options["output"].name == "x" * 210


@pytest.mark.parametrize(
    "words",
    [["--num_samples=4611686018427387904"], ["--num_samples=9999", "--completions=9999"]],
)
def test_more_images_than_can_be_counted_are_refused(words, capsys):
    assert cli.main(["main.py", "--config=vp/digits", "--mode=inpaint", *words]) == 1
    assert "one command draws at most 10,000,000, so ask for fewer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["--config", "x" * 9999, "--mode=train"], "name too long"),
        (["--config=vp/digits", "--mode=train", f"--config.optim.lr={'x' * 9999}"], "as 0.002"),
        (["--config=vp/digits", "--mode=train", f"--{'x' * 9999}"], "written --name=value"),
        (["--config=vp/digits", f"--mode={'x' * 9999}"], f"{'|'.join([*cli.MODES][-2:])}>"),
    ],
)
def test_what_is_quoted_is_cut_to_a_line(words, end, capsys):
    assert cli.main(["main.py", *words]) == 1
    heard = capsys.readouterr().err.strip()
    assert len(heard) < 1000
    assert heard.endswith(end)


def test_a_corrector_beside_a_method_without_one_is_refused(capsys):
    words = ["main.py", "--config=ve/digits", "--mode=sample", "--config.sampling.method=ode"]
    assert cli.main([*words, "--config.sampling.corrector=langevin"]) == 1
    assert "leave it out, or set --config.sampling.method=pc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "words", "said"),
    [
        ("sample", ["strength=0.3"], "leave it out, or take --mode edit"),
        ("restore", ["strength=0.5"], "leave it out, or take --mode edit"),
        ("restore", ["image_noise=0.1"], "leave it out, or take --mode eval or cascade"),
        ("edit", ["image_noise=0.0"], "leave it out, or take --mode eval or cascade"),
        ("edit", ["resample=5"], "leave it out, or take --mode inpaint or colorize or restore"),
        ("cascade", ["resample=5"], "or take --mode inpaint or colorize or restore"),
        ("eval", ["fit=tile"], "has no use in --mode eval: leave it out"),
        ("compare", ["tile_overlap=0.1"], "or take --mode inpaint or colorize or restore or edit"),
        ("inpaint", ["tile_overlap=0.1"], "has no use without tiles: give --fit tile as well"),
        ("edit", ["fit=tile"], "none are given: name them with --input"),
        ("encode", ["corrector=langevin"], "beside sampling.method='ode'"),
        ("encode", ["strength=0.3"], "leave it out, or take --mode edit"),
        ("interpolate", ["corrector=langevin"], "which takes no corrector: leave it out\n"),
    ],
)
def test_what_is_typed_and_has_no_effect_is_answered(mode, words, said, tmp_path, capsys):
    given = [f"--config.sampling.{word}" for word in words]
    more = [f"--workdir={tmp_path}", "--config=vp/digits", f"--mode={mode}"]
    assert cli.main(["main.py", *more, *given]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_a_recipe_sets_and_a_mode_does_not_heed_is_passed_over(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from configs.vp import digits\n\n\ndef get_config():\n"
        "    config = digits.get_config()\n    config.sampling.strength = 0.3\n"
        "    config.sampling.num_steps = 5\n    return config\n"
    )
    for mode in ("sample", "encode", "restore"):
        assert cli.parse(["main.py", f"--config={recipe}", f"--mode={mode}"]).mode == mode


@pytest.mark.parametrize("method", ["ode", "ddim", "pc"])
@pytest.mark.parametrize("mode", ["sample", "eval", "interpolate"])
def test_one_command_line_serves_for_every_method(mode, method):
    fields = (f"method={method}", "predictor=ancestral_sampling", "corrector=none", "num_steps=5")
    words = [f"--config.sampling.{field}" for field in (*fields, "eta=0.5", "rtol=1e-3")]
    assert cli.parse(["main.py", "--config=vp/digits", f"--mode={mode}", *words]).mode == mode


def test_every_mode_that_draws_says_which_fields_it_heeds():
    own = {name for name, mode in cli.MODES.items() if "classifier" in mode.options}
    assert own == {name for name, mode in cli.MODES.items() if mode.heeds is not None}
    heeded = frozenset().union(*(cli.MODES[name].heeds for name in own))
    assert heeded == {name for name in schema.FIELDS if name.startswith("sampling.")}


def test_a_signal_during_the_held_out_loss_is_answered_by_a_save(tmp_path, monkeypatch, capfd):
    def interrupted(run: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr(training_run, "held_out_loss", interrupted)
    assert train(tmp_path, 20, "--config.training.eval_freq=2") == 143
    assert "step 2 is saved" in capfd.readouterr().out
    assert final(tmp_path, 2)["step"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--config.sampling.num_steps=100000",),
        ("--config.sampling.method=ode", "--config.sampling.rtol=1e-9"),
    ],
    ids=["grid", "ode"],
)
def test_a_snapshot_gives_way_to_a_signal(words, tmp_path, capfd):
    def interrupt() -> None:
        while not checkpoints.path_of(tmp_path / "checkpoints", 10).exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt, daemon=True)
    watcher.start()
    assert train(tmp_path, 20, *words) == 130
    said = capfd.readouterr().out
    assert ("(ode, slow at first)" in said) == (len(words) == 2)
    assert "the samples of step 10 were left off" in said
    assert "step 10 is saved" in said
    assert final(tmp_path, 10)["step"] == 10


def test_two_runs_in_one_work_directory_are_refused(tmp_path, capsys):
    first = start(tmp_path, 100_000)
    try:
        wait_for_step(tmp_path, 5, first)
        said = sentence(
            capsys, "--mode=train", f"--workdir={tmp_path}", "--config.training.n_iters=100000"
        )
        assert "another process is training" in said
        assert "--workdir" in said
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    # The lock has gone with the process.
    last = checkpoints.steps(tmp_path / "checkpoints")[-1]
    assert train(tmp_path, last + 1, "--config.training.snapshot_sampling=false") == 0


def test_other_images_in_the_same_work_directory_are_refused(tmp_path, capsys):
    words = ["--config.data.dataset=folder", "--config.training.snapshot_sampling=false"]
    one, other = images(tmp_path / "one", 1), images(tmp_path / "other", 2)
    assert train(tmp_path / "run", 2, *words, f"--config.data.root={one}") == 0
    words += ["--mode=train", f"--workdir={tmp_path / 'run'}", f"--config.data.root={other}"]
    capsys.readouterr()
    assert "other images" in sentence(capsys, *words)
    # The same images elsewhere are the same data.
    one.rename(tmp_path / "moved")
    words = [*words[:2], f"--config.data.root={tmp_path / 'moved'}"]
    assert train(tmp_path / "run", 3, *words) == 0


def test_fewer_steps_than_were_made_change_nothing(trained, capfd):
    files = {path: path.read_bytes() for path in trained.rglob("*.*") if path.name != "log.txt"}
    assert train(trained, 3, "--config.training.snapshot_sampling=false") == 0
    assert "nothing to do: 6 steps are made and 3 asked for" in capfd.readouterr().out
    after = {path: path.read_bytes() for path in trained.rglob("*.*") if path.name != "log.txt"}
    assert after == files


def test_memory_that_runs_out_ends_in_advice():
    with (
        pytest.raises(ValueError, match=r"out of memory with 3 images: take two"),
        advice_on_memory("with 3 images: take two"),
    ):
        torch.empty(2**52)
    with pytest.raises(RuntimeError, match="something else"), advice_on_memory("unused"):
        raise RuntimeError("something else")


def test_a_missing_compiler_is_named_with_the_remedy(tmp_path, capsys, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    class Failing(torch.nn.Module):
        def forward(self, *_: object) -> None:
            raise TorchDynamoException("no compiler found\nmany more lines")

    monkeypatch.setattr("score_sde.commands.loop.compiled", lambda *_: Failing())
    assert train(tmp_path, 2) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no compiler found" in said
    assert "--config.training.compile=off" in said


@pytest.mark.parametrize("name", ["file", "file/inside.npz", "folder.npz", "grid.png"])
def test_an_output_that_cannot_be_is_refused_before_drawing(
    name, trained, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr(sampling_run, "draw", None)
    said = sentence(capsys, "--mode=sample", f"--workdir={trained}", f"--output={tmp_path / name}")
    assert f"--output {tmp_path / name}" in said


@pytest.mark.parametrize(
    "option",
    ["workdir", "checkpoint", "eval_folder", "init_from", "input", "mask", "output"],
)
def test_an_option_left_empty_is_not_taken_for_its_default(option, trained, capsys):
    said = sentence(capsys, "--mode=eval", f"--workdir={trained}", f"--{option}=")
    assert said == f"--{option}=: it is empty; give it a value, or leave it out"


def test_a_python_without_the_packages_is_told_in_a_sentence():
    words = [sys.executable, "-S", "main.py", "--mode", "recipes"]  # -S: no packages
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not installed for" in done.stderr
    assert "(pip install -r requirements.txt in the checkout)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_images_left_by_an_earlier_command_are_told(trained, tmp_path, capfd):
    command = arguments("--mode=sample", f"--workdir={trained}", f"--output={tmp_path / 'out'}")
    assert cli.main([*command, "--num_samples=5"]) == 0
    assert "earlier command" not in capfd.readouterr().out
    assert cli.main([*command, "--num_samples=2"]) == 0
    assert "also holds 3 images of an earlier command" in capfd.readouterr().out


@pytest.mark.parametrize("recipe", ["configs/vp/digits.py", "configs/ve/digits.py"])
def test_the_memory_to_expect_is_what_autograd_keeps(recipe):
    config = cli.parse(["main.py", "--config", recipe, "--mode=train"]).config
    network = build_network(config).train()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(saved: torch.Tensor) -> torch.Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage()
        return saved

    n = 8
    with torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        network(torch.randn(n, *image_shape(config)), torch.rand(n))
    measured = sum(s.nbytes() for at, s in kept.items() if at not in weights)
    assert n * activation_bytes(config) == pytest.approx(measured, rel=0.02)


def test_a_batch_whose_activations_exceed_the_memory_is_refused(monkeypatch, tmp_path, capsys):
    words = ("--mode=train", f"--workdir={tmp_path / 'run'}", "--config.training.batch_size=8")
    taken = 8 * activation_bytes(cli.parse(arguments(*words)).config)
    monkeypatch.setattr(first_screen, "memory_of", lambda device: taken - 1)
    said = sentence(capsys, *words)
    assert said.startswith("the activations of 8 images take ")
    assert "set --config.training.accumulation=2" in said
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(first_screen, "memory_of", lambda device: taken)
    assert cli.main(arguments(*words, "--config.training.n_iters=1")) == 0
    monkeypatch.setattr(first_screen, "memory_of", lambda device: 0.46 * taken)
    more = "--config.training.n_iters=1"  # nothing is left to do
    assert cli.main(arguments(*words, more)) == 0
    bf16 = ("--config.training.precision=bf16", f"--workdir={tmp_path / 'bf16'}", more)
    assert cli.main(arguments(*words, *bf16)) == 0
    monkeypatch.setattr(first_screen, "memory_of", lambda device: taken / 2)
    parts = ("--config.training.accumulation=2", "--config.training.n_iters=2")
    assert cli.main(arguments(*words, *parts, "--allow=training.accumulation")) == 0


def test_the_first_step_does_not_count_in_the_time_to_come(monkeypatch):
    now = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(batch_size=4)
    clock.tick()
    assert clock.to_come(1) == "1 min 40 s"
    clock.tick()
    clock.tick()
    assert clock.to_come(10) == "20 s"
