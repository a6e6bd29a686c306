"""Samples of their own time and step, in batches of one fixed size.

All samples pass through a fixed number of slots, which step together, each from its own time by
its own size. A sample that has ended gives its slot to the next that waits, or keeps it as
padding. So a network sees batches of one size only, and what it gives for a sample, and so the
sample itself, is the same bit for bit whatever its mates, where the network's rows are so.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from score_sde.solvers.ode.problem import Cost, ODEResult, OnFinish, Status
from score_sde.tensor_ops import sent_to


@dataclass
class Sample:
    """What the host knows of one sample. `status` is None while it runs.

    Times and step sizes are Python floats: double precision whatever the device, and the same
    wherever in a batch a sample stands (a vectorised power may round otherwise in the last rows).
    """

    index: int
    t: float
    t_next: float = 0.0
    h: float = 0.0  # size of the step to try next, unsigned
    after_rejection: bool = False
    last_error: float = 1.0  # of the last accepted step
    nfe: int = 0
    accepted: int = 0
    rejected: int = 0
    status: Status | None = None


AnySample = TypeVar("AnySample", bound=Sample)


@dataclass
class Slots(Generic[AnySample]):
    """B samples side by side: `state` are tensors (B, ...), the first the state itself."""

    samples: list[AnySample]
    index: Tensor
    state: tuple[Tensor, ...]

    def running(self) -> list[int]:
        """The slots whose samples run."""
        return [slot for slot, sample in enumerate(self.samples) if sample.status is None]

    def idle(self) -> list[int]:
        """The slots whose samples have ended."""
        return [slot for slot, sample in enumerate(self.samples) if sample.status is not None]

    def times(self) -> Tensor:
        """float64 (B,) on the CPU, where the samples stand."""
        return torch.tensor([sample.t for sample in self.samples], dtype=torch.float64)

    def load(self, slots: list[int], source: "Slots[AnySample]", rows: list[int]) -> None:
        """Puts the samples in `rows` of `source` into `slots`."""
        for slot, row in zip(slots, rows, strict=True):
            self.samples[slot] = source.samples[row]
        # Empty lists, where none of the new samples can run, have no dtype of their own.
        places = torch.tensor([slots, rows], dtype=torch.int64)
        to, of = sent_to(self.index.device, places)
        self.index = self.index.index_copy(0, to, source.index[of])
        pairs = zip(self.state, source.state, strict=True)
        self.state = tuple(mine.index_copy(0, to, theirs[of]) for mine, theirs in pairs)


class SlotLoop(ABC, Generic[AnySample]):
    """Drives all samples through slots of one fixed number.

    Args:
        y0: (N, ...) the states at the start, which are not written to.
        samples: of each of them.
        batch_size: how many slots there are.
        on_finish: is called with index, y, nfe and status of samples as they end.
        cost: of a call of f; one evaluation by default.
    """

    def __init__(
        self,
        y0: Tensor,
        samples: list[AnySample],
        batch_size: int,
        on_finish: OnFinish | None,
        cost: Cost | None = None,
    ) -> None:
        self.y = y0.clone()  # a row holds its start until its sample ends
        self.samples = samples
        self.batch_size = batch_size
        self.on_finish = on_finish
        self.cost = cost
        self.n_prepared = 0
        self.calls = 0

    @abstractmethod
    def prepare(self, samples: list[AnySample], index: Tensor) -> Slots[AnySample]:
        """Slots of the next B samples, ready for their first step. Padding comes as DONE."""

    @abstractmethod
    def step(self, slots: Slots[AnySample]) -> None:
        """One step of every slot; idle ones stand still."""

    @abstractmethod
    def padding(self, index: int) -> AnySample:
        """A sample that is DONE, beside which others run."""

    def run(self) -> ODEResult:
        """Steps until all samples have ended; what has become of them."""
        self._loop()
        counts = {name: self.gather(name) for name in ("nfe", "status", "accepted", "rejected")}
        t = torch.tensor([sample.t for sample in self.samples], dtype=torch.float64)
        t = sent_to(self.y.device, t, self.y.dtype)
        return ODEResult(y=self.y, t=t, calls=self.calls, **counts)

    def _loop(self) -> None:
        slots = self._prepare()
        ready, rows = slots, deque[int]()
        while True:
            idle = slots.idle()
            while idle and (rows or self.n_prepared < len(self.samples)):
                if not rows:
                    ready = self._prepare()
                    rows.extend(ready.running())
                n = min(len(idle), len(rows))
                slots.load(idle[:n], ready, [rows.popleft() for _ in range(n)])
                idle = idle[n:]
            if not slots.running():
                return
            self.step(slots)

    def _prepare(self) -> Slots[AnySample]:
        start, stop = self.n_prepared, min(self.n_prepared + self.batch_size, len(self.samples))
        self.n_prepared = stop
        padding = [self.padding(stop - 1) for _ in range(self.batch_size - (stop - start))]
        samples = self.samples[start:stop] + padding
        index = torch.tensor([sample.index for sample in samples])
        return self.prepare(samples, sent_to(self.y.device, index))

    def finish(self, slots: Slots[AnySample], among: list[int]) -> None:
        """Keeps the states of the samples that have ended, of those in the slots `among`."""
        ended = [slot for slot in among if slots.samples[slot].status is not None]
        if not ended:
            return
        places = sent_to(self.y.device, torch.tensor(ended))
        index, y = slots.index[places], slots.state[0][places]
        self.y[index] = y
        if self.on_finish is not None:
            samples = [slots.samples[slot] for slot in ended]
            self.on_finish(index, y, self.gather("nfe", samples), self.gather("status", samples))

    def charge(self, slots: Slots[AnySample], t: Tensor) -> None:
        """Counts what a call of f at times t (B,) costs those that run beyond one evaluation."""
        if self.cost is not None:
            each = torch.as_tensor(self.cost(t)).expand(len(t)).tolist()
            for slot in slots.running():
                slots.samples[slot].nfe += each[slot] - 1

    def gather(self, name: str, samples: Sequence[Sample] | None = None) -> Tensor:
        """int64 (k,) a number of each of some samples, of all by default."""
        values = [int(getattr(s, name)) for s in (self.samples if samples is None else samples)]
        return sent_to(self.y.device, torch.tensor(values, dtype=torch.int64))
