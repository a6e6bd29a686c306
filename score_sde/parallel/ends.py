"""How processes end: together, and with one sentence where something fails."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from score_sde.parallel import watch
from score_sde.parallel.world import World, init, leave

_MEETING = timedelta(seconds=45)  # of processes that fail before they have met


class LostProcess(RuntimeError):  # noqa: N818, it says what happened
    """Another process has ended, and this one can't go on without it."""


@contextlib.contextmanager
def together() -> Iterator[World]:
    """Within this the processes know of one another; they part at its end.

    Yields:
        The place of this one.

    Raises:
        LostProcess: instead of the words of a connection that broke.
    """
    world = init()
    try:
        yield world
    except SystemExit:
        _ignore_signals()
        with contextlib.suppress(RuntimeError):  # its code says more
            leave()
        raise
    except RuntimeError as error:
        if not is_loss(error):
            raise
        first = str(error).strip().splitlines()[0][:200]
        raise LostProcess(
            f"a process of this run has ended, and process {world.rank} of {world.size} can't go "
            f"on without it ({first}): the same command goes on from what is saved"
        ) from error
    leave()


def _ignore_signals() -> None:
    """From here on only the end is left, which one of these signals has asked for."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def is_loss(error: BaseException) -> bool:
    """Whether it says that another process was lost."""
    named = isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )
    return isinstance(error, LostProcess) or (dist.is_initialized() and named)


def fail(words: str, code: int) -> int:
    """Ends this process, one of several, which failed; one of them tells why.

    Where none has met another, the exit code comes back.

    Args:
        words: a sentence, which the main process tells where it fails too; it may be empty.
        code: the exit code.
    """
    met = watch.current()
    if _tells(words) and words:
        sys.stderr.write(f"{words}\n")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if (found := watch.current()) is None:
        return code
    found.wait_for_others(3 if met else _MEETING.total_seconds())
    os._exit(code)  # gloo's threads, which still stand, would abort the process now and then


def _tells(words: str) -> bool:
    found = watch.current()
    if watch.has_left():
        return os.environ.get("RANK", "0") == "0"
    if found is None:
        try:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store, *_ = next(rendezvous("env://", rank, size, timeout=_MEETING))
            found = watch.begin(store, rank, size)
        except (KeyError, ValueError, RuntimeError):
            return os.environ.get("RANK", "0") == "0"
    return found.fail(words)
