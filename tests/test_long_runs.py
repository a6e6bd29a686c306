"""Runs that are long or often killed: memory stays flat, and what they make is the same.

The long versions are marked `slow`: `pytest -m slow -n0 tests/test_long_runs.py`.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import LITTLE_BPD, TINY
from forked import Processes, group
from PIL import Image
from test_train_command import assert_same_bits

from score_sde import checkpoints
from score_sde.commands import cli

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs /proc to see processes and their memory"
)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with contextlib.closing(Processes()) as them:
        yield them


def command(
    mode: str, workdir: Path, *words: object, recipe: object = "configs/vp/digits.py"
) -> list[str]:
    few = "--config.sampling.num_steps=3"
    given = (*TINY, few, f"--mode={mode}", f"--workdir={workdir}", *words)
    return ["--config", str(recipe), *map(str, given)]


# Memory


def resident_bytes(process: int) -> int:
    """Memory that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def steps_logged(workdir: Path) -> int:
    with contextlib.suppress(OSError):
        lines = (workdir / "metrics.jsonl").read_bytes().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    return 0


def memory_by_step(processes: Processes, workdir: Path, steps: int) -> list[tuple[int, int]]:
    """Steps and the memory that a run of so many held when it had logged them."""
    every = steps // 20
    words = command(
        "train",
        workdir,
        f"--config.training.n_iters={steps}",
        f"--config.training.log_freq={every}",
        f"--config.training.eval_freq={every}",
        f"--config.training.snapshot_freq={5 * every}",
        f"--config.training.snapshot_freq_for_preemption={every}",
    )
    process = processes.start(*words, out=workdir.parent / "said.txt")
    seen: list[tuple[int, int]] = []
    while group(process):
        step = steps_logged(workdir)
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            if step and (not seen or seen[-1][0] < step):
                seen.append((step, resident_bytes(process)))
        time.sleep(0.1)
    said = (workdir.parent / "said.txt").read_text()
    assert processes.wait(process) == 0, said[-2000:]
    assert len(seen) > 10, said[-2000:]
    return seen


def growth_bytes(seen: list[tuple[int, int]]) -> float:
    """How much more memory the last quarter of a run held than its second quarter."""
    quarter = len(seen) // 4
    second, last = seen[quarter : 2 * quarter], seen[-quarter:]
    return sum(b for _, b in last) / len(last) - sum(b for _, b in second) / len(second)


@pytest.mark.parametrize(
    ("steps", "most"), [(120, 2**22), pytest.param(5000, 2**22, marks=pytest.mark.slow)]
)
def test_memory_stays_flat_however_long_a_run_is(steps, most, processes, tmp_path):
    seen = memory_by_step(processes, tmp_path / "run", steps)
    assert growth_bytes(seen) < most, [(step, bytes_ // 2**10) for step, bytes_ in seen]


# Kills

STEPS, IMAGES = 12, 30
WORDS = {
    "train": (
        f"--config.training.n_iters={STEPS}",
        "--config.model.dropout=0.1",
        "--config.training.log_freq=2",
        "--config.training.snapshot_freq=6",
        "--config.training.snapshot_freq_for_preemption=1",
        "--config.training.snapshot_sampling=True",
        "--config.training.snapshot_images=4",
    ),
    "sample": (f"--num_samples={IMAGES}", "--config.sampling.batch_size=4"),
    "eval": (
        *LITTLE_BPD,
        "--config.eval.num_samples=40",
        "--config.sampling.batch_size=5",
    ),
}
TRAINS = ("train", "from shards")
"""Both train, the second from 20 images in shards, whose epochs end within its steps."""

STREAMED = """
from configs.vp.digits import get_config
from score_sde.data import sources

sources.MEMORY_LIMIT_BYTES = 0  # workers decode what each step asks for
"""


def write_shards(folder: Path) -> None:
    """20 images prepared, and a recipe that has them decoded as they are needed."""
    (folder / "images").mkdir(parents=True)
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
    words = [f"--input={folder / 'images'}", f"--output={folder / 'prepared'}", "--size=8"]
    assert cli.main(["main.py", "--mode=prepare", *words]) == 0
    (folder / "streamed.py").write_text(STREAMED)


def words_of(mode: str, trained: Path, place: Path) -> list[str]:
    """A command that writes all of its results below `place`."""
    if mode == "from shards":
        folder = trained.parent / "corpus"
        words = (*WORDS["train"], "--config.data.dataset=shards", "--config.data.image_size=8")
        words += (f"--config.data.root={folder / 'prepared'}", "--config.data.num_channels=1")
        return command("train", place, *words, recipe=folder / "streamed.py")
    if mode == "train":
        return command(mode, place, *WORDS[mode])
    where = {
        "sample": [f"--output={place / 'images'}"],
        "eval": [f"--eval_folder={place}", f"--config.eval.stats_folder={place / 'stats'}"],
    }
    log = place.parent / f"{place.name} log"  # a work directory of its own, as several write there
    checkpoint = checkpoints.path_of(trained / "checkpoints", STEPS)
    return command(mode, log, f"--checkpoint={checkpoint}", *where[mode], *WORDS[mode])


def content(mode: str, place: Path) -> object:
    """What a command has made, but for what tells the time."""
    if mode in TRAINS:
        state = checkpoints.load(checkpoints.path_of(place / "checkpoints", STEPS))
        entries = {name: state[name] for name in ("step", "network", "ema", "optimizer", "rng")}
        # Pictures of a step are drawn after its save: a kill between them leaves them off.
        return entries | {"files": files(place / "checkpoints")}
    if mode == "sample":
        images = sorted((place / "images").glob("*.png"))
        assert len(images) == IMAGES
        return {path.name: path.read_bytes() for path in images} | {"files": files(place)}
    report = json.loads((place / f"step_{STEPS:08d}.json").read_text())
    figures = {name: value for name, value in report.items() if isinstance(value, dict)}
    return {
        name: {key: one for key, one in figure.items() if key != "sec"}
        for name, figure in figures.items()
        if "value" in figure
    } | {"files": files(place)}


def files(*folders: Path) -> list[str]:
    """The names of all files below, so that a temporary one would show."""
    return sorted(str(path.relative_to(f)) for f in folders for path in f.rglob("*.*"))


@dataclass
class Started:
    """A command in processes of its own, as torchrun starts them where there are several."""

    processes: Processes
    leaders: list[int]

    def alive(self) -> list[int]:
        """They, and those that they have started."""
        return [process for leader in self.leaders for process in group(leader)]

    def code(self) -> int | None:
        """The exit code of the one that came to the worst end; None where one has none yet."""
        codes = [self.processes.wait(leader, 300) for leader in self.leaders]
        return None if None in codes else max(codes, key=abs)  # type: ignore[type-var]

    def kill(self) -> None:
        """SIGKILL to all of them, until none is left."""
        while left := self.alive():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        self.code()


def start(processes: Processes, words: list[str], size: int, said: Path) -> Started:
    if size == 1:
        return Started(processes, [processes.start(*words, out=said)])
    return Started(processes, processes.start_several(size, *words, out=said))


def told(said: Path) -> str:
    """The end of what the processes have printed."""
    return "\n".join(path.read_text()[-2000:] for path in said.parent.glob(f"{said.name}*"))


Made = tuple[Path, object, float]
"""The folder of the training run, what a mode makes of it, and how long that took."""


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory) -> Callable[[str, int], Made]:
    """mode, processes → what is made where nothing disturbs it."""
    folder, made = tmp_path_factory.mktemp("undisturbed"), {}

    def run(mode: str, size: int) -> Made:
        trained = folder / "train 1"
        if mode == "from shards" and not trained.with_name("corpus").exists():
            write_shards(trained.with_name("corpus"))
        if (
            mode not in TRAINS
        ):  # weights differ by rounding from those of one process, images don't
            size = 1
            run("train", 1)
        if (mode, size) not in made:
            place, said = folder / f"{mode} {size}", folder / f"{mode} {size}.txt"
            begin = time.monotonic()
            one = start(processes, words_of(mode, trained, place), size, said)
            assert one.code() == 0, told(said)
            made[mode, size] = content(mode, place), time.monotonic() - begin
        return trained, *made[mode, size]

    return run


def disturb(
    processes: Processes, words: list[str], place: Path, size: int, seconds: float, kills: int
) -> None:
    """Kills a command at so many random moments, and then lets it come to its end.

    One that comes to its end before its moment is begun anew: each kill meets a run at work.
    """
    moments, said = random.Random(f"{place.name} {size}"), place.parent / f"{place.name}.txt"
    while kills:
        one = start(processes, words, size, said)
        time.sleep(moments.uniform(0, seconds))
        if one.alive():
            kills -= 1
            one.kill()
        else:
            assert one.code() == 0, told(said)
            shutil.rmtree(place)
    assert start(processes, words, size, said).code() == 0, told(said)


@pytest.mark.parametrize(
    ("mode", "size", "kills"),
    [
        ("train", 1, 1),
        ("from shards", 1, 1),
        *(
            pytest.param(mode, size, kills, marks=pytest.mark.slow)
            for mode, size, kills in (
                ("train", 1, 20),
                ("train", 2, 8),
                ("from shards", 1, 8),
                ("from shards", 2, 4),
                ("sample", 1, 6),
                ("sample", 2, 4),
                ("eval", 1, 8),
                ("eval", 2, 4),
            )
        ),
    ],
)
def test_kills_at_random_moments_change_nothing_of_what_is_made(
    mode, size, kills, processes, undisturbed, tmp_path
):
    trained, expected, seconds = undisturbed(mode, size)
    kills = int(os.environ.get("SCORE_SDE_KILLS", kills))
    place = tmp_path / mode
    disturb(processes, words_of(mode, trained, place), place, size, seconds, kills)
    assert not list(tmp_path.rglob("*.tmp"))
    assert_same(content(mode, place), expected)


def assert_same(made: object, expected: object) -> None:
    assert isinstance(made, dict)
    assert isinstance(expected, dict)
    assert made["files"] == expected["files"]
    assert_same_bits(made, expected)
