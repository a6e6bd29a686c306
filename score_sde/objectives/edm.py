"""EDM's objective: the error of the denoised image, at noise levels where there is most to learn.

    E_σ λ(σ) E ‖D(x_0 + σ z; σ) − x_0‖²,    ln σ ~ N(P_mean, P_std²),    λ = (σ² + s²)/(σ s)²

D is the denoised image that a network stands for, s the standard deviation of the data, and σ the
noise level σ(t)/α(t) of any SDE. With EDM's own prediction F (`score.predictions`) it is the plain
error of the network's output, E ‖F − F*‖².

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
eq. 2 and 8, and table 1.
"""

import math

import torch
from torch import Tensor

from score_sde.objectives.losses import PredictionLoss
from score_sde.objectives.times import StratifiedTimes, TimeSampler
from score_sde.score import Parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to


class LogNormalTimes(StratifiedTimes):
    """Times of noise levels σ/α with ln σ/α ~ N(P_mean, P_std²) (Karras et al. 2022, table 1).

    Most are then those where training has much to gain: at low levels the noise is too little to
    be seen, at high ones the answer is always the mean of the data. As with `LogSNRTimes` their
    density is the choice of a weighting. Levels that the SDE does not reach become the nearest
    one that it does.

    Args:
        sde: the forward process.
        eps: the smallest time.
        mean: P_mean.
        std: P_std, above 0.
        stratified: one level in each of n strata of equal probability, instead of independent
            ones.
    """

    name = "log_normal"
    excludes_likelihood_weighting = True

    def __init__(
        self,
        sde: SDE,
        eps: float = 1e-5,
        mean: float = -1.2,
        std: float = 1.2,
        stratified: bool = False,
    ) -> None:
        super().__init__(sde, eps)
        if not std > 0:
            raise ValueError(f"std={std}: the log-normal law of the levels needs one above 0")
        self.mean, self.std, self.stratified = mean, std, stratified
        ends = sde.noise_level(torch.tensor([eps, sde.T], dtype=torch.float64))
        self.least, self.largest = ends.tolist()

    def draw(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The times of the levels at the quantiles u of the law."""
        if self.stratified:
            return super().draw(n, device, generator)
        return self._at(torch.rand(n, device=device, generator=generator))

    def _at(self, fraction: Tensor) -> Tensor:
        normal = math.sqrt(2) * torch.erfinv(2 * fraction - 1)
        level = (self.mean + self.std * normal).exp().clamp(self.least, self.largest)
        return self.sde.time_of_noise_level(level).clamp(self.eps, self.sde.T)


class EDMLoss(PredictionLoss):
    """λ(σ) ‖D − x_0‖², whose weight makes all levels count alike at the start of the training.

    It goes with any prediction, and is computed from the error of the network's output.

    Args:
        sde: the forward process.
        parameterisation: how the network is told the time, and how its output is read; by default
            the papers' convention for the SDE.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        time_sampler: draws the times; by default of log-normal noise levels.
        sigma_data: s.

    Raises:
        ValueError: the times are made for likelihood weighting.
    """

    def __init__(
        self,
        sde: SDE,
        parameterisation: Parameterisation | None = None,
        reduce_mean: bool = False,
        time_sampler: TimeSampler | None = None,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__(sde, parameterisation, reduce_mean, time_sampler or LogNormalTimes(sde))
        self.sigma_data = sigma_data

    def residual(self, error: Tensor, t: Tensor) -> Tensor:
        """√λ times the error of the denoised image."""
        level = self.sde.noise_level(t)
        root = torch.hypot(level, torch.full_like(level, self.sigma_data))
        factor = self.parameterisation.denoised(t).b * root / (level * self.sigma_data)
        return expand_to(factor, error) * error
