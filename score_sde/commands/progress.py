"""Time and memory: images per second, what is still to come, advice where memory ran out."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

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


def advice_on_batches(batch_size: int) -> AbstractContextManager[None]:
    """`advice_on_memory` where images are drawn, so many at a time."""
    return advice_on_memory(
        f"with {batch_size} images at a time: lower --config.sampling.batch_size"
    )


PARTS = ("data", "step", "logging", "saving")
"""What the time of training goes into: the wait for a batch, the update (and the wait for the
device), metrics and held-out losses, the wait for saves."""


class Clock:
    """Images per second, without the time that snapshots take, and what the time goes into.

    Args:
        batch_size: images in one step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = self._steps_before = 0
        self.elapsed_sec = self._elapsed_before_sec = self._first_sec = 0.0
        self._last = time.perf_counter()
        self._parts_sec: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._parts_before_sec = dict(self._parts_sec)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens within counts for one of `PARTS`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts_sec[name] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        """The shares of the parts since this was last asked; they sum to 1."""
        parts = {name: sec - self._parts_before_sec[name] for name, sec in self._parts_sec.items()}
        self._parts_before_sec = dict(self._parts_sec)
        return _shares(parts)

    def summary(self) -> str:
        """The shares of the parts of the whole training, in words."""
        shares = _shares(self._parts_sec)
        return ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())

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


def _shares(parts_sec: dict[str, float]) -> dict[str, float]:
    total = max(sum(parts_sec.values()), 1e-9)
    return {name: sec / total for name, sec in parts_sec.items()}
