"""The checkpoints that an evaluation takes in turn, those still to come included."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from score_sde import checkpoints, parallel
from score_sde.commands.progress import duration
from score_sde.commands.weights import load_with_fingerprint, none_in
from score_sde.config.build import Config
from score_sde.logbook import Logbook

POLL_SEC = 5.0
"""Time between two looks into the folder. Short: all processes come together at each."""

Checkpoint = tuple[Path, dict[str, Any], str]
"""A checkpoint's path, content and fingerprint: a training run may delete the file meanwhile."""


def in_turn(
    config: Config,
    workdir: Path,
    *,
    given: Checkpoint | None,
    wait_sec: float,
    world: parallel.World,
    log: Logbook,
) -> Iterator[Checkpoint]:
    """Checkpoints one after the other: those that exist, and those that come in time.

    Those of steps from `eval.begin_ckpt` to `eval.end_ckpt`, in order; where both are 0 the
    newest, and then whatever is the newest when the next is asked for.

    Args:
        config: with the two fields.
        workdir: whose checkpoints are meant.
        given: one of any format, which is then the only one.
        wait_sec: how long to wait for each that is still to come. Nothing more is waited for after
            the last step of the run, nor after `eval.end_ckpt`.
        world: its main process chooses for all.
        log: names damaged ones that are passed over, and says that it waits.

    Raises:
        ValueError: there is none at all.
        OSError: a file that can't be read.
    """
    if given is not None:
        yield given
        return
    folder = Folder(workdir / "checkpoints", config.eval.begin_ckpt, config.eval.end_ckpt, log)
    first, wait = True, wait_sec
    while checkpoint := _next(folder, wait, world):
        yield checkpoint
        _, state, _ = checkpoint
        first, folder.last = False, state["step"]
        if not (folder.in_order or wait_sec):
            return
        ends = json.loads(state["config"])["training"]["n_iters"]
        wait = wait_sec if folder.last < min(folder.end or ends, ends) else 0.0
    if first:
        raise folder.nothing(wait_sec)
    if wait:
        log.say(f"no checkpoint after step {folder.last} in {duration(wait_sec)}: enough waited")


def read_given(path: Path | None, config: Config) -> Checkpoint | None:
    """The checkpoint that is named, if any; read before anything is written.

    Raises:
        OSError, ValueError: as `load_with_fingerprint`.
    """
    return None if path is None else (path, *load_with_fingerprint(path, config))


def read(path: Path) -> Checkpoint:
    """One of our checkpoints.

    Raises:
        FileNotFoundError: it is gone.
        CheckpointError: it is damaged.
    """
    content, digest = checkpoints.load_with_fingerprint(path)
    return path, checkpoints.checked(content, path), digest


class Folder:
    """Checkpoints of one work directory, as they are there.

    Args:
        path: of the folder.
        begin: first step that is wanted.
        end: last step that is wanted; 0 for no last one. Where both are 0 the newest is wanted.
        log: names damaged ones that are passed over.

    Attributes:
        in_order: whether every one is wanted, and not only the newest.
        last: step of the one taken last.
    """

    def __init__(self, path: Path, begin: int, end: int, log: Logbook) -> None:
        self.path, self.begin, self.end, self.log = path, begin, end, log
        self.in_order, self.last = bool(begin or end), begin - 1
        self._passed = set[int]()

    def look(self) -> Checkpoint | None:
        """The next one that is whole: the first after the last, or the newest."""
        vanished = True
        while vanished:  # a training run deletes the last one as soon as the next one is there
            vanished = False
            steps = [
                step
                for step in checkpoints.steps(self.path)
                if self.last < step <= (self.end or step) and step not in self._passed
            ]
            for step in steps if self.in_order else reversed(steps):
                try:
                    return read(checkpoints.path_of(self.path, step))
                except FileNotFoundError:
                    vanished = True
                except checkpoints.CheckpointError as error:
                    self._passed.add(step)
                    self.log.say(f"passed over: {error}")
        return None

    def nothing(self, wait_sec: float) -> ValueError:
        """What to raise where there is none."""
        came = f" in {duration(wait_sec)}" if wait_sec else ""
        if self._passed:
            return ValueError(f"{self.path} has only damaged checkpoints: restore one from a copy")
        steps = checkpoints.steps(self.path)
        if not (self.in_order and steps):
            return none_in(self.path, came)
        have = ", ".join(map(str, steps))
        return ValueError(
            f"{self.path} has no checkpoint of a step from eval.begin_ckpt={self.begin} to "
            f"eval.end_ckpt={self.end or 'the last'}{came}: choose among its steps, {have}"
        )


def _next(folder: Folder, wait_sec: float, world: parallel.World) -> Checkpoint | None:
    """The next checkpoint, waited for; None if none comes."""
    deadline, announced = time.monotonic() + wait_sec, False
    while True:
        checkpoint = folder.look() if world.is_main else None
        late = time.monotonic() >= deadline
        mine = checkpoint and checkpoint[0], late
        path, late = parallel.gather_objects(mine)[0]  # type: ignore[misc]
        if path is not None:
            with suppress(FileNotFoundError):
                checkpoint = checkpoint or read(path)
            if all(parallel.gather_objects(checkpoint is not None)):
                return checkpoint
            continue  # a training run has deleted it before every process had read it
        if late:
            return None
        if not announced:
            folder.log.say(f"waiting for a checkpoint, {duration(wait_sec)} at most")
            announced = True
        time.sleep(min(POLL_SEC, wait_sec))
