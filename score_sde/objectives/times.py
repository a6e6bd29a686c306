"""The times at which an objective is evaluated in training, with what corrects for their density.

Source: Song, Durkan, Murray & Ermon 2021, "Maximum Likelihood Training of Score-Based Diffusion
Models" (NeurIPS), cited below as (Song 2021 b).
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from score_sde.sde import SDE


class TimeSampler(ABC):
    """Draws training times from [eps, T] with a density p, and corrects for it.

    Attributes:
        name: what configs call it.
        needs_likelihood_weighting: whether it is made for that weighting alone.
    """

    name: ClassVar[str]
    needs_likelihood_weighting: ClassVar[bool] = False

    def __init__(self, sde: SDE, eps: float = 1e-5) -> None:
        """Times run from `eps`, below which the score is too steep to be learnt, to `sde.T`."""
        if not 0 <= eps < sde.T:
            raise ValueError(
                f"eps={eps}: training times start at eps, which must lie in [0, {sde.T})"
            )
        self.sde, self.eps = sde, eps

    @abstractmethod
    def draw(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Times (n,), float32, from torch's global generator where none is given."""

    def weight(self, t: Tensor) -> Tensor:
        """1/(p(t) (T − eps)): times it, a mean is what uniform times give: (B,) → (B,)."""
        return torch.ones_like(t)

    def _at(self, fraction: Tensor) -> Tensor:
        return fraction * (self.sde.T - self.eps) + self.eps


class UniformTimes(TimeSampler):
    """Independent times, each uniform on [eps, T]."""

    name = "uniform"

    def draw(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """u (T − eps) + eps with u = torch.rand(n)."""
        return self._at(torch.rand(n, device=device, generator=generator))


class StratifiedTimes(TimeSampler):
    """One uniform time in each of n equal strata: a lower variance of the batch's mean loss.

    The strata are dealt to the samples in a random order. So each sample's own time is uniform,
    whatever the order of the data, even if a batch repeats.
    """

    name = "stratified"

    def draw(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(k + u_k)/n of the way from eps to T, with k = 0 … n − 1 shuffled."""
        order = torch.rand(n, device=device, generator=generator).argsort()
        return self._at((order + torch.rand(n, device=device, generator=generator)) / n)


class ImportanceTimes(TimeSampler):
    """Times with p ∝ g²/σ²: their weight makes the likelihood weighting constant (Song 2021 b).

    For VE g²/σ² is constant, and the times are uniform. For the others it grows as 1/t towards 0,
    where uniform times have few samples with large weights.

    t = Q(u) with u uniform and Q the inverse of the cumulative density, from a table of log Q at
    equal steps of u, integrated in double precision for any SDE.
    """

    name = "importance"
    needs_likelihood_weighting = True
    knots: ClassVar[int] = 4096

    def __init__(self, sde: SDE, eps: float = 1e-5) -> None:
        super().__init__(sde, eps)
        if eps == 0:
            raise ValueError(
                "eps=0: importance times need eps > 0, since g²/σ² cannot be integrated from 0"
            )
        start, end = math.log(eps), math.log(sde.T)
        log_t = torch.linspace(start, end, self.knots + 1, dtype=torch.float64)
        rate = self._rate(log_t.exp()) * log_t.exp()
        mass = torch.cumulative_trapezoid(rate, log_t)
        mass = torch.cat([mass.new_zeros(1), mass]).numpy()
        self.mass = float(mass[-1])
        levels = np.linspace(0, self.mass, self.knots + 1)
        self.log_times = torch.from_numpy(np.interp(levels, mass, log_t.numpy())).float()

    def draw(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Q(u) with u = torch.rand(n)."""
        position = torch.rand(n, device=device, generator=generator) * self.knots
        self.log_times = self.log_times.to(position.device)  # copied once, not in every step
        below = position.long()
        low, high = self.log_times[below], self.log_times[below + 1]
        return torch.lerp(low, high, position - below).exp().clamp(self.eps, self.sde.T)

    def weight(self, t: Tensor) -> Tensor:
        """Z σ²/(g² (T − eps)), with Z the integral of g²/σ²: (B,) → (B,)."""
        return self.mass / (self.sde.T - self.eps) / self._rate(t)

    def _rate(self, t: Tensor) -> Tensor:
        return self.sde.diffusion_squared(t) / self.sde.std(t) ** 2


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    sampler.name: sampler for sampler in (UniformTimes, StratifiedTimes, ImportanceTimes)
}
