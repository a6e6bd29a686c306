"""Work directories that are read-only, shared or strangely named, and samples beside samples."""

import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde import checkpoints, pictures
from score_sde.commands import cli, in_turn, options
from score_sde.commands.sample import write_images
from score_sde.commands.train import train
from score_sde.config import history
from score_sde.config.build import data_root
from score_sde.config.holds import PATH
from score_sde.config.schema import FIELDS
from score_sde.config.subject import build_references
from score_sde.data import DatasetInfo, MemorySource
from score_sde.logbook import Logbook
from score_sde.samplers import Samples

TINY = (
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,)",
    "--config.model.num_res_blocks=1",
    "--config.model.attn_resolutions=()",
    "--config.device=cpu",
    "--config.training.batch_size=4",
    "--config.training.n_iters=1",
    "--config.training.snapshot_images=2",
    "--config.training.log_freq=1",
    "--config.sampling.num_steps=2",
    "--config.eval.enable_sampling=False",
    "--config.eval.enable_bpd=False",
)


def words(workdir: Path, *more: str) -> list[str]:
    # Images are encoded by the adaptive ODE, which takes no grid.
    tiny = [word for word in TINY if "num_steps" not in word or "--mode=encode" not in more]
    return ["main.py", "--config=configs/vp/digits.py", *tiny, f"--workdir={workdir}", *more]


def run(workdir: Path, *more: str) -> int:
    return cli.main(words(workdir, *more))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of one step."""
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert run(workdir, "--mode=train", "--config.training.snapshot_sampling=False") == 0
    return workdir


@pytest.fixture
def workdir(trained, tmp_path) -> Path:
    """A copy of it, to write into."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


# Read-only, beside a run


ELSEWHERE = {
    name: next(option for option in mode.options if option in ("output", "eval_folder"))
    for name, mode in cli.MODES.items()
    if mode.needs_recipe
    and {"num_samples", "eval_folder"} & {*mode.options}
    and {"output", "eval_folder"} & {*mode.options}
}
"""Modes that draw or evaluate, and write where an option says."""


# Without colorize, which needs colours, and cascade, which needs a second network.
@pytest.mark.parametrize("mode", sorted(ELSEWHERE.keys() - {"colorize", "cascade"}))
def test_a_work_directory_that_cannot_be_written_to_is_enough_to_read_from(
    workdir, tmp_path, mode
):
    # Nothing is read-only for a superuser, but even that one cannot write to a folder.
    (workdir / "log.txt").unlink()
    (workdir / "log.txt").mkdir()
    before = sorted(workdir.rglob("*"))
    more = () if mode == "eval" else ("--num_samples=1",)
    place = tmp_path / "out" / "here"
    assert run(workdir, f"--mode={mode}", f"--{ELSEWHERE[mode]}={place}", *more) == 0
    assert sorted(workdir.rglob("*")) == before
    log = place / "log.txt" if mode == "eval" else place.parent / "log.txt"
    assert f"the log goes to {log.parent}" in log.read_text()


def test_a_folder_for_reports_that_cannot_be_made_is_refused_first(trained, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(trained, "--mode=eval", f"--eval_folder={tmp_path}/file/in") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "choose another --eval_folder" in said[0]


def test_an_evaluation_takes_the_next_where_a_checkpoint_vanishes(workdir, monkeypatch):
    folder = workdir / "checkpoints"
    load, looks = checkpoints.load_with_fingerprint, []

    def vanishing(path):
        looks.append(path.name)
        if len(looks) == 1:  # the run saves its next one and deletes this one
            checkpoints.save(folder, load(path)[0] | {"step": 2}, keep=1)
        return load(path)

    monkeypatch.setattr(checkpoints, "load_with_fingerprint", vanishing)
    assert run(workdir, "--mode=eval") == 0
    assert looks == ["step_00000001.pt", "step_00000002.pt"]
    assert [path.name for path in (workdir / "eval").glob("*.json")] == ["step_00000002.json"]


def test_an_evaluation_no_more_needs_a_file_that_it_has_read(workdir, monkeypatch):
    read = in_turn.read

    def deleted(path):
        checkpoint = read(path)
        path.unlink()
        return checkpoint

    monkeypatch.setattr(in_turn, "read", deleted)
    assert run(workdir, "--mode=eval") == 0
    assert (workdir / "eval" / "step_00000001.json").is_file()


def test_a_checkpoint_too_many_goes_when_the_run_is_started_again(workdir):
    folder = workdir / "checkpoints"
    state = checkpoints.load(checkpoints.path_of(folder, 1))
    checkpoints.save(folder, state | {"step": 3}, keep=9)  # a kill came before 1 was deleted
    assert run(workdir, "--mode=train", "--config.training.keep_checkpoints=1") == 0
    assert checkpoints.steps(folder) == [3]


@pytest.mark.parametrize(
    "entries",
    [
        {"rng": {}},
        {"config": ""},
        {"config": "[]"},
        {"config": "{}"},
        {"config": '{"model": 3}'},
        {"config": "[" * 100_000},
        {"config": {"seed": {"a": 1}}},
        {"config": {"data": {"root": 3}}},
        {"config": {"model": {"nf": float("nan")}}},
        {"config": {"data": {"image_size": [8]}}},
    ],
    ids=lambda entries: str(entries)[:40],
)
def test_a_damaged_entry_is_one_sentence(workdir, capsys, entries):
    path = checkpoints.path_of(workdir / "checkpoints", 1)
    state = checkpoints.load(path)
    if isinstance(changed := entries.get("config"), dict):
        tree = json.loads(state["config"])
        for group, value in changed.items():
            tree[group] = {**tree[group], **value} if isinstance(tree[group], dict) else value
        entries = {"config": json.dumps(tree)}
    checkpoints.save_as(path, state | entries)
    capsys.readouterr()
    words = ("train", "--config.training.n_iters=2") if "rng" in entries else ("sample",)
    assert run(workdir, f"--mode={words[0]}", *words[1:]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said[-1]) < 500
    assert not any("Traceback" in line for line in said)


def test_describing_the_commit_takes_no_lock_of_the_users(monkeypatch):
    commands = []
    monkeypatch.setattr(history.subprocess, "run", lambda words, **_: commands.append(words))
    with pytest.raises(AttributeError):  # where the answer is read
        history._commit.__wrapped__()  # beneath its cache
    assert commands[0][:2] == ["git", "--no-optional-locks"]


# Samples beside samples


def pixels(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("[0-9]*.png"))]


def test_samples_of_another_seed_or_setting_go_elsewhere(workdir, tmp_path, capsys):
    def drawn(*more: str) -> set[str]:
        assert run(workdir, "--mode=sample", "--num_samples=2", *more) == 0
        return {path.name for path in (workdir / "samples").iterdir() if path.is_dir()}

    first = "step_00000001_pc"
    assert drawn() == {first}
    images = pixels(workdir / "samples" / first)
    assert drawn("--config.sampling.batch_size=1", "--num_samples=3") == {first}
    assert pixels(workdir / "samples" / first)[:2] == images
    folders = {first}
    for change in ("--config.seed=2", "--config.sampling.num_steps=3"):
        capsys.readouterr()
        after = drawn(change)
        assert "these go to" in capsys.readouterr().out
        assert len(after - folders) == 1
        assert drawn(change) == after  # the same command finds its own again
        folders = after
    assert pixels(workdir / "samples" / first)[:2] == images


def test_an_output_that_holds_other_samples_is_left_alone(trained, tmp_path):
    out = f"--output={tmp_path / 'out'}"
    assert run(trained, "--mode=sample", "--num_samples=2", out) == 0
    images = pixels(tmp_path / "out")
    assert run(trained, "--mode=sample", "--num_samples=2", out, "--config.seed=2") == 0
    assert pixels(tmp_path / "out") == images
    (other,) = tmp_path.glob("out_*/")
    assert len(pixels(other)) == 2
    mine = tmp_path / "mine" / "000000.png"
    mine.parent.mkdir()
    pictures.save_png(mine, np.zeros((2, 2, 1), np.uint8))
    kept = mine.read_bytes()
    assert run(trained, "--mode=sample", "--num_samples=2", f"--output={mine.parent}") == 0
    assert [path.read_bytes() for path in mine.parent.iterdir()] == [kept]


@pytest.mark.parametrize("name", ["samples.npz", "samples.NPZ", "samples"])
def test_only_one_part_of_the_samples_is_in_memory(tmp_path, monkeypatch, name):
    config = cli.parse(words(tmp_path, "--mode=sample")).config
    made = []
    to_uint8 = pictures.to_uint8

    def noted(x):
        made.append(weakref.ref(result := to_uint8(x)))
        return result

    monkeypatch.setattr(pictures, "to_uint8", noted)

    def parts():
        for k in range(10):
            assert sum(image() is not None for image in made) <= 2
            x = torch.full((5, 1, 8, 8), k / 10)
            yield Samples(torch.arange(5 * k, 5 * k + 5), x, torch.full((5,), k))

    with Logbook(tmp_path, tensorboard=False, quiet=True) as log:
        first, nfe = write_images(log, config, parts(), 50, tmp_path / name, keep=12)
    assert (first.shape, nfe) == ((12, 1, 8, 8), 4.5)
    if name == "samples":
        assert len(pixels(tmp_path / name)) == 50
    else:
        with np.load(tmp_path / name) as data:
            assert data["images"].shape == (50, 8, 8, 1)
            assert data["index"].tolist() == list(range(50))


@pytest.mark.parametrize("channels", [2, 5])
def test_images_of_any_number_of_channels_are_trained_on_and_drawn(tmp_path, channels):
    more = (f"--config.data.num_channels={channels}", "--mode=train")
    config = cli.parse(words(tmp_path, *more)).config
    pixels = torch.randint(0, 256, (8, channels, 8, 8), dtype=torch.uint8)
    shape = tuple(pixels.shape[1:])
    info = DatasetInfo("bands", "train", 8, shape, 256, 0, (), "bands", "drawn")
    source = MemorySource(info, pixels)
    train(config, tmp_path / "run", sources=(source, source), quiet=True)
    assert (tmp_path / "run" / "samples" / "step_00000001.gif").is_file()
    for name in ("out", "x.npz"):
        more = ("--mode=sample", "--num_samples=2", f"--output={tmp_path / name}")
        assert run(tmp_path / "run", *more) == 0
    with np.load(tmp_path / "x.npz") as data:
        assert data["images"].shape == (2, 8, 8, channels)
        drawn = np.concatenate(list(data["images"][0].transpose(2, 0, 1)), axis=1)
    with pictures.images.Image.open(tmp_path / "out" / "000000.png") as image:
        assert np.array_equal(np.asarray(image), drawn)


# Names in odd shapes


@pytest.mark.parametrize(
    "name",
    ["with spaces", os.fsdecode(b"not text \xff"), "missing/parents", "x.npz", "x" * 240, "link"],
    ids=ascii,
)
def test_outputs_in_odd_shapes_are_written(trained, tmp_path, name):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert run(trained, "--mode=sample", "--num_samples=1", f"--output={tmp_path / name}") == 0
    assert list(tmp_path.rglob("*_grid.png"))


@pytest.mark.parametrize("name", ["loop", "loop/in", "x" * 250, "x" * 300, "pipe", "/"])
def test_outputs_that_cannot_be_are_one_sentence(trained, tmp_path, name, capsys, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("score_sde.pictures.save_images", None)  # nothing is drawn
    assert run(trained, "--mode=sample", "--num_samples=1", f"--output={tmp_path / name}") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "--output" in said[0]


def path_options() -> list[str]:
    defined = options.define({name: "" for name in cli.MODES}).flags_by_module_dict()["options"]
    return [flag.name for flag in defined if isinstance(flag.parser, options._Path)]


def test_the_home_folder_is_meant_by_its_sign_in_every_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(path_options()) >= 6
    for name in path_options():
        mode = next((m for m in cli.MODES if name in cli.MODES[m].options), "train")
        bare = ["main.py", "--config=configs/vp/digits.py", f"--mode={mode}"]
        command = cli.parse([*bare, f"--{name}=~/x y"])
        given = command.workdir if name == "workdir" else command.options[name]
        assert given == tmp_path / "x y"
        assert cli.main([*bare, f"--{name}=~nobody-of-this-name/x"]) == 1
        said = capsys.readouterr().err
        assert "there is no home folder ~nobody-of-this-name" in said
        assert said.count("\n") == 1
    fields = [name for name, row in FIELDS.items() if row.holds is PATH]
    assert {"data.root", "eval.stats_folder"} <= {*fields}
    for name in fields:
        config = cli.parse(words(tmp_path, "--mode=eval", f"--config.{name}=~/x")).config
        group, _, leaf = name.partition(".")
        assert config[group][leaf] == "~/x"  # as it was written, for runs that are resumed
        if group in ("data", "eval"):
            options = build_references(config).options
            used = data_root(config) if name == "data.root" else options[leaf]
            assert used == str(tmp_path / "x")
        assert run(tmp_path, "--mode=eval", f"--config.{name}=~nobody-of-this-name") == 1
        assert "there is no home folder ~nobody" in capsys.readouterr().err
    shutil.copy("configs/vp/digits.py", tmp_path / "mine.py")
    assert cli.parse(["main.py", "--config=~/mine.py", "--mode=train"]).workdir == Path(
        "runs/mine"
    )
