"""Signals: what Ctrl-C, SIGTERM and SIGHUP do to a run, from its first line to its last save.

While the program is imported, Ctrl-C ends it at once. In a mode it raises KeyboardInterrupt, as
Python has it, and the others end the process. While training, all of them are a request, which
the run answers after its step and a save. It imports nothing of ours, and no torch: it must be
there before them.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any] | int | None

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask a run to stop. Windows has no SIGHUP."""


def is_one_of_several() -> bool:
    """Whether a launcher says that this process has others beside it; needs no torch."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


class Interrupted(Exception):  # noqa: N818, it says what happened
    """Something long was left off, as the run is to stop."""


class Stop:
    """Whether somebody asked the run to stop.

    Attributes:
        signal: the number of the first signal that asked; None while nobody has.
        final: whether further ones are ignored until the process ends: those that ask several
            processes come at different moments.
    """

    signal: int | None = None
    final: bool = False

    def check(self) -> None:
        """Raises Interrupted where somebody did."""
        if self.signal is not None:
            raise Interrupted


def end_at_once() -> None:
    """From here on Ctrl-C ends the process at once: there is nothing to save, nor to show."""
    _set({signal.SIGINT: lambda number, frame: os._exit(128 + number)})


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this Ctrl-C raises KeyboardInterrupt."""
    before = _set({signal.SIGINT: _interrupt})
    try:
        yield
    finally:
        _set(before)


@contextlib.contextmanager
def stop_signals(*, quiet: bool = False) -> Iterator[Stop]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a request that the run answers after its current step.

    Further ones change nothing: the save that the first asked for is not left off. SIGHUP stays
    ignored where it was (`nohup`). Outside the main thread, where Python delivers no signals,
    nothing changes.

    Args:
        quiet: say nothing on the screen when the first one comes.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        _let_go_of_stalled_outputs()
        if stop.signal is not None:
            return
        stop.signal = number
        if not quiet:
            _write_now(
                f"{signal.Signals(number).name}: the run ends after this step and its save; "
                "further signals change nothing until then, SIGKILL ends it at once"
            )

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    ignored = {
        number
        for number in numbers
        if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN
    }
    before = _set({number: request for number in numbers if number not in ignored})
    try:
        yield stop
    finally:
        _set(dict.fromkeys(before, signal.SIG_IGN) if stop.final else before)


def to_nowhere(number: int) -> None:
    """Points the number of an open file to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _let_go_of_stalled_outputs()
    raise KeyboardInterrupt


def _let_go_of_stalled_outputs() -> None:
    """Keeps a reader that stands still, such as a pager, from holding a run that is to stop.

    A write that waits for the reader is what the signal has interrupted, and goes on to nowhere.
    """
    for number in (1, 2):
        with contextlib.suppress(OSError):  # it is closed; Windows can ask sockets alone
            if not select.select([], [number], [], 0)[1]:
                to_nowhere(number)


def _set(handlers: dict[int, _Handler]) -> dict[int, _Handler]:
    """Sets handlers, and returns those before; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    # None is a handler that was not set from Python, and can't be set again from here.
    return {
        number: signal.signal(number, handler)  # type: ignore[arg-type]
        for number, handler in handlers.items()
        if handler is not None
    }


def _write_now(line: str) -> None:
    # Python's own streams may be in the middle of a line, and can't be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
