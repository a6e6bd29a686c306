"""Brownian paths that are kept where a step is rejected.

Whether a step is accepted depends on its noise: large noise makes large errors. Were the noise of
a rejected step thrown away, what remains would be too small: of dx = −4w dt + dv, at a tolerance
that rejects one step in five, the variance of w comes out as 0.34 of what it is, and with its path
kept as 0.98 ± 0.02 (`tests/test_adaptive_sde.py`). So the path is kept: once it is known that it
moves by w over the next h, a shorter step sees a Brownian bridge to it, and what lies beyond stays
known for the steps to come (Rackauckas and Nie 2017, "Adaptive methods for stochastic differential
equations via natural embeddings and rejection sampling with memory", RSwM3).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from score_sde.solvers.ode.slots import Sample
from score_sde.tensor_ops import expand_to, sent_to

Draws = Callable[[Tensor, Tensor], Tensor]
"""int64 (B,) indices of samples and int64 (B,) numbers of their draws → (B, ...) normal noise."""


@dataclass
class PathSample(Sample):
    """A sample that follows a path.

    Attributes:
        ahead: times ahead at which its path is known, the nearest first, with the rows of
            `KeptPaths` that hold the values.
        draws: how many draws of noise it has made.
    """

    ahead: list[tuple[float, int]] = field(default_factory=list)
    draws: int = 0


class KeptPaths:
    """The paths of B samples side by side, relative to where each stands.

    Args:
        draws: the source of noise. A sample's own draws are counted, so that its path does not
            depend on its mates.
        like: (B, ...) a batch of states.
    """

    def __init__(self, draws: Draws, like: Tensor) -> None:
        self.draws = draws
        self.values = torch.zeros_like(like)[None]  # row 0: where the samples stand

    def ask(self, samples: list[PathSample], index: Tensor, t_next: list[float]) -> Tensor:
        """How far each path moves to its `t_next`: (B, ...), 0 where that is where it stands."""
        asked = [self._ask(s, t) for s, t in zip(samples, t_next, strict=True)]
        before, after, new, share, std = zip(*asked, strict=True)
        number = torch.tensor([sample.draws for sample in samples])
        z = self.draws(index, number)
        for sample, row in zip(samples, new, strict=True):
            sample.draws += row > 0
        slot = torch.arange(len(samples), device=z.device)
        left, right = self._rows(before, slot), self._rows(after, slot)
        bridge = torch.tensor([share, std], dtype=torch.float64)
        share, std = (expand_to(v, z) for v in sent_to(z.device, bridge, z.dtype))
        w = left + share * (right - left) + std * z
        while len(self.values) <= max(new):
            self.values = torch.cat([self.values, torch.zeros_like(self.values[:1])])
        # Where the path was known, it is row 0 that is written to, and 0 as it was.
        drawn = sent_to(z.device, torch.tensor(new))
        self.values[drawn, slot] = torch.where(expand_to(drawn > 0, w), w, torch.zeros_like(w))
        return w

    def _ask(self, sample: PathSample, t: float) -> tuple[int, int, int, float, float]:
        """Rows of the known points around t and of the new one; the bridge between them.

        The new row is 0 where the path is known at t. At a share of the way between two points
        that are a time d apart, a bridge has the variance share (1 − share) d.
        """
        before, start = 0, sample.t
        if t == start:
            return 0, 0, 0, 0.0, 0.0
        for place, (end, row) in enumerate(sample.ahead):
            if t == end:
                return row, row, 0, 0.0, 0.0
            if abs(t - sample.t) < abs(end - sample.t):
                share = (t - start) / (end - start)
                new = self._remember(sample, place, t)
                return before, row, new, share, (share * abs(end - t)) ** 0.5
            before, start = row, end
        new = self._remember(sample, len(sample.ahead), t)
        return before, before, new, 0.0, abs(t - start) ** 0.5

    def _remember(self, sample: PathSample, place: int, t: float) -> int:
        taken = {row for _, row in sample.ahead}
        new = min(set(range(1, len(taken) + 2)) - taken)
        sample.ahead.insert(place, (t, new))
        return new

    def _rows(self, rows: tuple[int, ...], slot: Tensor) -> Tensor:
        return self.values[sent_to(slot.device, torch.tensor(rows)), slot]

    def advance(self, samples: list[PathSample], moved: list[bool], w: Tensor) -> None:
        """Tells the paths that the samples that `moved` by w (B, ...) stand at their new times."""
        for sample, move in zip(samples, moved, strict=True):
            if move:
                known = [point for point, _ in sample.ahead].index(sample.t)
                sample.ahead = sample.ahead[known + 1 :]
        move = expand_to(sent_to(w.device, torch.tensor(moved)), w)
        step = torch.where(move, w, torch.zeros_like(w))
        self.values[1:] -= step
