"""Time and interruption: images per second, what is still to come, a clean stop, no memory."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch


def duration(seconds: float) -> str:
    """A length of time in words: "45 s", "3 min 20 s", "5 h 10 min", "2 days 3 h"."""
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    left, words = round(seconds), []
    for size, name in units:
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {name}")
    return " ".join(words[:2]) or "0 s"


@contextmanager
def advice_on_memory(advice: str) -> Iterator[None]:
    """Turns torch's RuntimeError for memory that ran out into a ValueError with advice."""
    try:
        yield
    except RuntimeError as error:
        # On the CPU only the text of the error shows it; Windows and Linux have one each.
        words = ("not enough memory", "can't allocate memory")
        if isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words):
            raise ValueError(f"out of memory {advice}") from error
        raise


class Clock:
    """Images per second, without the time that snapshots take.

    Args:
        batch_size: images in one step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = self._steps_before = 0
        self.elapsed_sec = self._elapsed_before_sec = self._first_sec = 0.0
        self._last = time.perf_counter()

    def tick(self) -> None:
        """A step was made."""
        now = time.perf_counter()
        self.elapsed_sec += now - self._last
        self._last = now
        self.steps += 1
        if self.steps == 1:
            self._first_sec = self.elapsed_sec

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within does not count."""
        yield
        self._last = time.perf_counter()

    def images_per_sec(self) -> float:
        """The rate since this was last asked."""
        steps = self.steps - self._steps_before
        elapsed = self.elapsed_sec - self._elapsed_before_sec
        self._steps_before, self._elapsed_before_sec = self.steps, self.elapsed_sec
        return steps * self.batch_size / max(elapsed, 1e-9)

    def to_come(self, steps: int) -> str:
        """How long that many further steps take, at the mean rate so far.

        The first step, in which much is compiled and allocated, does not count if there are more.
        """
        first = self._first_sec if self.steps > 1 else 0.0
        made = self.steps - 1 if self.steps > 1 else max(self.steps, 1)
        return duration(steps * (self.elapsed_sec - first) / made)


class Interrupted(Exception):  # noqa: N818, it says what happened
    """Something long was left off, as the run is to stop."""


class Stop:
    """Whether somebody asked the run to stop.

    Attributes:
        signal: the number of the signal that asked; None while nobody has.
    """

    signal: int | None = None

    def check(self) -> None:
        """Raises Interrupted where somebody did."""
        if self.signal is not None:
            raise Interrupted


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns Ctrl-C and SIGTERM into a request that the run answers after its current step.

    A second one ends the process at once, as it would have without this. Outside the main thread,
    where Python delivers no signals, nothing changes.
    """
    stop = Stop()
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def request(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, before[number])

    for number in numbers:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
