"""The times at which an objective is evaluated in training, with what corrects for their density.

Source: Song, Durkan, Murray & Ermon 2021, "Maximum Likelihood Training of Score-Based Diffusion
Models" (NeurIPS), cited below as (Song 2021 b).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.sde import SDE


class TimeSampler(ABC):
    """Draws training times from [eps, T] with a density p, and corrects for it.

    Attributes:
        name: what configs call it.
        needs_likelihood_weighting: whether it is made for that weighting alone.
        excludes_likelihood_weighting: whether its density is a weighting of its own.
    """

    name: ClassVar[str]
    needs_likelihood_weighting: ClassVar[bool] = False
    excludes_likelihood_weighting: ClassVar[bool] = False

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


class LogSNRTimes(StratifiedTimes):
    """Times that are even in the logarithm of the noise level, one in each of n equal strata.

    Unlike the others' it is not a density that the loss corrects for, but the choice of how much
    each noise level counts: the paper's weighting then sees every level alike, whatever the SDE
    calls time. (Karras et al. 2022, section 5: the density of the levels is what matters.)
    """

    name = "log_snr"
    excludes_likelihood_weighting = True

    def __init__(self, sde: SDE, eps: float = 1e-5) -> None:
        super().__init__(sde, eps)
        self.quantile = _EvenLevels(self)

    def _at(self, fraction: Tensor) -> Tensor:
        return self.quantile(fraction)


class ImportanceTimes(UniformTimes):
    """Times with p ∝ g²/σ²: their weight makes the likelihood weighting constant (Song 2021 b).

    For every linear SDE g²/σ² = 2 d log(σ/α)/dt, so that these times are even in the logarithm of
    the noise level. For VE they are uniform; for the others g²/σ² grows as 1/t towards 0 (and as
    1/(1 − t) towards 1, where α vanishes), and uniform times have few samples with large weights.
    """

    name = "importance"
    needs_likelihood_weighting = True

    def __init__(self, sde: SDE, eps: float = 1e-5) -> None:
        super().__init__(sde, eps)
        self.quantile = _EvenLevels(self)
        self.mass = 2 * self.quantile.log_ratio

    def weight(self, t: Tensor) -> Tensor:
        """Z σ²/(g² (T − eps)), with Z the integral of g²/σ²: (B,) → (B,)."""
        rate = self.sde.diffusion_squared(t) / self.sde.std(t) ** 2
        return self.mass / (self.sde.T - self.eps) / rate

    def _at(self, fraction: Tensor) -> Tensor:
        return self.quantile(fraction)


class _EvenLevels:
    """u → t with u of the way from log σ/α at eps to that at T, for any SDE.

    It interpolates a table of log t, as the inverse of a user's noise level is a bisection.
    """

    knots: ClassVar[int] = 4096

    def __init__(self, times: TimeSampler) -> None:
        sde, self.eps, self.T = times.sde, times.eps, times.sde.T
        if self.eps == 0:
            raise ValueError(
                f"eps=0: {times.name} times need eps > 0, since the logarithm of the noise level, "
                "of which g²/σ² is twice the derivative, is not finite at 0"
            )
        ends = torch.tensor([self.eps, self.T], dtype=torch.float64)
        first, last = sde.noise_level(ends).log()
        self.log_ratio = float(last - first)
        fraction = torch.linspace(0, 1, self.knots + 1, dtype=torch.float64)
        inner = sde.time_of_noise_level(torch.lerp(first, last, fraction)[1:-1].exp())
        self.log_times = torch.cat([ends[:1], inner, ends[1:]]).log().float()

    def __call__(self, fraction: Tensor) -> Tensor:
        position = fraction * self.knots
        self.log_times = self.log_times.to(position.device)  # copied once, not in every step
        below = position.long().clamp_max(self.knots - 1)
        low, high = self.log_times[below], self.log_times[below + 1]
        return torch.lerp(low, high, position - below).exp().clamp(self.eps, self.T)


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    sampler.name: sampler
    for sampler in (UniformTimes, StratifiedTimes, LogSNRTimes, ImportanceTimes)
}
