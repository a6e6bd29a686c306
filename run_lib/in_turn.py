"""The checkpoints that an evaluation takes in turn, those still to come included."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import parallel
from assembly import Config
from logbook import Logbook
from run_lib.progress import duration
from run_lib.weights import load_any

POLL_SEC = 5.0
"""Time between two looks into the folder. Short: all processes come together at each."""

Found = tuple[Path, dict[str, Any]]
"""A checkpoint's path and content."""


def in_turn(
    config: Config,
    workdir: Path,
    *,
    given: Path | None,
    wait_sec: float,
    world: parallel.World,
    log: Logbook,
) -> Iterator[Found]:
    """Checkpoints one after the other, as far as they are there or come in time.

    Those of steps from `eval.begin_ckpt` to `eval.end_ckpt`, in order; where both are 0 the
    newest, and then whatever is the newest when it is asked for.

    Args:
        config: with the two fields.
        workdir: whose checkpoints are meant.
        given: a file of any format, which is then the only one.
        wait_sec: how long to wait for each that is still to come. Nothing more is waited for after
            the last step of the run, or `eval.end_ckpt`.
        world: its main process chooses for all.
        log: told of damaged ones that are passed over, and of the waiting.

    Raises:
        ValueError: there is none at all, or one is damaged.
        OSError: a file that can't be read.
    """
    if given is not None:
        yield given, load_any(given, config)
        return
    begin, end = config.eval.begin_ckpt, config.eval.end_ckpt
    folder, chosen, last = workdir / "checkpoints", bool(begin or end), begin - 1
    first, wait = True, wait_sec
    while found := _next(folder, last, end, chosen, wait, world, log):
        yield found
        first, last = False, found[1]["step"]
        if not (chosen or wait_sec):
            return
        ends = json.loads(found[1]["config"])["training"]["n_iters"]
        wait = wait_sec if last < (end or ends) else 0.0
    if first:
        raise ValueError(_nothing(folder, begin, end, wait_sec))
    if wait:
        log.say(f"no checkpoint after step {last} within {duration(wait_sec)}: enough waited")


def _next(
    folder: Path,
    last: int,
    end: int,
    in_order: bool,
    wait_sec: float,
    world: parallel.World,
    log: Logbook,
) -> Found | None:
    """The next checkpoint after a step, waited for; None if none comes."""
    deadline, told = time.monotonic() + wait_sec, False
    while True:
        found = _look(folder, last, end, in_order, log) if world.is_main else None
        late = time.monotonic() >= deadline
        path, late = parallel.gather_objects((found and found[0], late))[0]  # type: ignore[misc]
        if path is not None:
            return found or (path, checkpoints.load(path))
        if late:
            return None
        if not told:
            log.say(f"waiting for a checkpoint in {folder}, {duration(wait_sec)} at most")
            told = True
        time.sleep(min(POLL_SEC, wait_sec))


def _look(folder: Path, last: int, end: int, in_order: bool, log: Logbook) -> Found | None:
    """The next checkpoint that is there: the first after a step, or the newest that is whole."""
    there = [step for step in checkpoints.steps(folder) if step > last and step <= (end or step)]
    try:
        if in_order and there:
            path = checkpoints.path_of(folder, there[0])
            return path, checkpoints.load(path)
        found = checkpoints.newest(folder, log.say) if there else None
    except FileNotFoundError:  # a training run has just deleted it
        return _look(folder, last, end, in_order, log)
    return found if found and found[1]["step"] > last else None


def _nothing(folder: Path, begin: int, end: int, wait_sec: float) -> str:
    came = f" within {duration(wait_sec)}" if wait_sec else ""
    if not (begin or end):
        return (
            f"{folder} holds no checkpoint{came}: train first (--mode train), "
            "or name one with --checkpoint"
        )
    have = ", ".join(map(str, checkpoints.steps(folder))) or "none"
    return (
        f"{folder} has no checkpoint of a step from eval.begin_ckpt={begin} to "
        f"eval.end_ckpt={end or 'the last'}{came}; it has those of steps {have}"
    )
