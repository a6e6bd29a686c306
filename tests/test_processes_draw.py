"""Images drawn by several processes are those that one draws."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from forked import Processes

from score_sde import parallel
from score_sde.commands import cli
from score_sde.commands.shared import draw_together
from score_sde.samplers import Samples

pytestmark = pytest.mark.processes

SMALL = (*TINY, "--config.sampling.batch_size=3")
COMMON = ("--config=configs/vp/digits.py", *SMALL)
ROUGH = ("--config.sampling.rtol=0.1", "--config.sampling.atol=0.1")
DRAWN = {
    "sample": ("--num_samples=11", "--config.sampling.method=ddim"),
    "adaptive": ("--num_samples=8", "--config.sampling.method=ode", *ROUGH),
    "edit": ("--num_samples=3", "--completions=3", "--strength=0.5"),
    "inpaint": ("--num_samples=3", "--completions=3", "--mask=left"),
    "restore": ("--num_samples=2", "--completions=4", "--task=super_resolution", "--factor=2"),
    "encode": ("--num_samples=20", "--config.sampling.batch_size=1", *ROUGH),
    "interpolate": ("--num_samples=2", "--frames=4", *ROUGH),
    "cascade": ("--num_samples=8", "--config.sampling.method=ddim"),
}


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with contextlib.closing(Processes()) as them:
        yield them


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("drawn") / "run"
    assert cli.main(["main.py", *COMMON, "--mode=train", f"--workdir={workdir}"]) == 0
    return workdir


def cascaded(folder: Path) -> tuple[str, ...]:
    """Trains a base model and an upsampler; the words that draw with both."""
    begun = dict[str, tuple[str, ...]]()
    for name in ("digits_4x4", "digits_upsampler"):
        begun[name] = (f"--config=configs/vp/{name}.py", *SMALL, f"--workdir={folder / name}")
        assert cli.main(["main.py", *begun[name], "--mode=train"]) == 0
    upsampler = folder / "digits_upsampler" / "checkpoints" / "step_00000004.pt"
    return *begun["digits_4x4"], f"--upsampler={upsampler}"


def contents(folder: Path) -> dict[str, bytes]:
    """Of each file beside the log, by its name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize(
    "what",
    [
        *("sample", "encode"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("adaptive", "edit", "inpaint", "restore", "interpolate", "cascade")
        ),
    ],
)
def test_two_processes_draw_the_images_of_one(processes, trained, tmp_path, what):
    mode = "sample" if what == "adaptive" else what
    words = (*COMMON, f"--workdir={trained}") if what != "cascade" else cascaded(tmp_path)
    words += (f"--mode={mode}", *DRAWN[what])
    words += ("--config.sampling.num_steps=4",) if what not in ("encode", "interpolate") else ()
    for size in (1, 2):
        given = (*words, f"--output={tmp_path / str(size) / 'images'}")
        (tmp_path / str(size)).mkdir()
        started = processes.start_several(size, *given, out=tmp_path / f"said{size}")
        ends = [processes.wait(process, 100) for process in started]
        said = "".join(path.read_text() for path in tmp_path.glob("said*"))
        assert ends == [0] * size, said
    one, two = contents(tmp_path / "1" / "images"), contents(tmp_path / "2" / "images")
    assert one.keys() == two.keys()
    assert len(one) >= 8
    for name in one:
        if name.endswith(".npz"):
            with (
                np.load(tmp_path / "1/images" / name) as a,
                np.load(tmp_path / "2/images" / name) as b,
            ):
                assert all(np.array_equal(a[key], b[key]) for key in a.files)
        else:
            assert one[name] == two[name], name
    beside = contents(tmp_path / "1"), contents(tmp_path / "2")
    pictures = [name for name in beside[0] if name.endswith(".png")]
    assert len(pictures) == (2 if what == "interpolate" else 1)
    assert all(beside[0][name] == beside[1][name] for name in pictures)
    if mode in ("inpaint", "restore"):
        figures = [json.loads(each["images.json"])["figures"] for each in beside]
        assert figures[0] == figures[1]


def test_samples_come_in_the_order_of_their_numbers(monkeypatch):
    """Of three processes that are played one after the other; the last has less to do."""

    def draw(index: torch.Tensor) -> Iterator[Samples]:
        for part in index.split(2):
            yield Samples(part, part[:, None].double(), part, None)

    def parts(rank: int) -> list[list[Samples]]:
        blocks = torch.arange(9).split(2)[rank::3]
        return [*([part] for part in draw(torch.cat(blocks))), [], [], []]

    rounds = iter(zip(*(parts(rank) for rank in range(3)), strict=False))
    monkeypatch.setattr(parallel.world, "gather_objects", lambda own: list(next(rounds)))
    drawn = list(draw_together(parallel.World(0, 3), 9, 2, draw))
    assert torch.equal(torch.cat([part.index for part in drawn]), torch.arange(9))
    assert torch.equal(torch.cat([part.x for part in drawn])[:, 0], torch.arange(9).double())
