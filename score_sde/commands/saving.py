"""What a training run saves, and when: by its schedule, at a signal, and where something fails.

A state that is divided among processes is put together by all of them. So it is saved where all
come together anyway, by the schedule and at a signal, and not where one of them fails.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor

from score_sde import checkpoints, parallel
from score_sde.commands import advice
from score_sde.commands.run import Run
from score_sde.commands.weights import provenance
from score_sde.config import changes, history
from score_sde.config.build import Config, field
from score_sde.training import check_finite


def save_averages(run: Run) -> None:
    """Begins a snapshot of the averages of several lengths. Every process must call it."""
    step, averages = run.state.step, checkpoints.snapshot_of(run.state.averages)

    def write(content: dict[str, dict[str, Tensor]]) -> None:
        checkpoints.save_snapshot(run.averages, step, content)

    if run.world.is_main:
        run.saves.save("averages", averages, write)
    elif run.divided:
        parallel.take_part(averages)


def save(run: Run, *, alone: bool = False, **more: str) -> None:
    """Begins a checkpoint, which `run.saves` writes while the run goes on.

    A folder of shards is written at once.

    Args:
        run: at the end of a step.
        alone: whether the main process can't count on the others, as something has failed; it
            writes one file then. Otherwise every process must call it.
        more: entries of `data`.
    """
    shards = _in_shards(run) and not (alone and run.world.size > 1)
    if not (run.world.is_main or run.divided or shards):  # it has the same state
        run.saved_step = run.state.step
        return
    info = run.train_source.info
    position = {
        "images_seen": run.images_seen,
        "fingerprint": info.fingerprint,
        "num_images": info.num_images,
    }
    state: dict[str, Any] = {
        **run.state.state_dict(),
        "rng": checkpoints.rng_state(),
        "data": position | more,
        "config": history.to_json(run.config),
        "versions": provenance(run.origin, changes.as_line(run.changes)),
    }

    if shards:
        checkpoints.save_shards(run.checkpoints, state, **kept(run.config))
        run.saved_step = run.state.step
        return
    if not run.world.is_main:
        parallel.take_part(state)
        run.saved_step = run.state.step
        return

    def write(content: dict[str, Any]) -> None:
        checkpoints.save(run.checkpoints, content, **kept(run.config))
        run.saved_step = content["step"]

    run.saves.save("checkpoint", state, write)


def _in_shards(run: Run) -> bool:
    return field(run.config, "training.checkpoint_format") == "shards"


def kept(config: Config) -> dict[str, int]:
    """Which checkpoints are kept."""
    training = config.training
    return {"keep": training.keep_checkpoints, "milestone_every": training.snapshot_freq}


def _save_what_was_made(run: Run, *, alone: bool) -> None:
    """Saves where anything was made since the last save; `alone` as for `save`."""
    if alone and run.divided:
        return
    with suppress(Exception):  # a save that failed is made again
        run.saves.wait()
    missing = run.saved_step != run.state.step and run.state.whole
    if not alone and (run.divided or _in_shards(run)):  # what one of them misses all save
        missing = parallel.largest(missing) > 0
    if missing:
        check_finite(run.records)
        save(run, alone=alone)
        run.saves.wait()


@contextmanager
def saving_what_was_made(run: Run, generators: dict[str, Any] | None = None) -> Iterator[None]:
    """Whatever fails here, such as a data worker or a user's network, what was made is saved.

    It is not where the state is divided: the others may be anywhere.

    Args:
        run: at the end of a step.
        generators: before the step that is made here, which draws from them.
    """
    try:
        yield
    except Exception:
        with suppress(Exception):  # of two errors the first says what happened
            if generators:
                checkpoints.restore_rng(generators)
            _save_what_was_made(run, alone=True)
            if run.saved_step == run.state.step > 0:
                run.log.say(f"step {run.state.step} is saved, the same command resumes")
        raise


@contextmanager
def reading(run: Run) -> Iterator[None]:
    """Where images are read within: one that can't be ends the run, after a save.

    The checkpoint then says so, by which repaired images are known (`changes.of_images`).
    """
    try:
        yield
    except (ValueError, OSError) as error:
        words = str(error)
        if run.divided:
            words = advice.unreadable(error, run.saved_step, known=False)
        elif run.state.step:
            check_finite(run.records)
            save(run, alone=True, unreadable=words)
            run.saves.wait()
            words = advice.unreadable(error, run.state.step)
        run.log.say(words, shown=False)
        raise ValueError(words) from error


def stopped(run: Run, number: int) -> SystemExit:
    """Answers a signal: saves, says so, and gives what ends the run."""
    run.stop.final = run.world.size > 1
    _save_what_was_made(run, alone=False)
    saved = f"step {run.state.step} is saved, " if run.state.step else ""
    run.log.say(f"stopped by {signal.Signals(number).name}; {saved}the same command resumes")
    return SystemExit(128 + number)
