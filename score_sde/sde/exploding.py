"""SDEs whose noise grows while the data stay as they are: α = 1, f = 0, g² = (σ²)'.

`ExplodingSDE` is what they share, the paper's VE too. The two here differ from that in how σ grows
with time, and so in what an even grid of times and uniform training times stand for. Their
networks follow the convention of VE: the label is σ(t), and the output the score.

Symbols as in `linear`.
"""

import math

import torch
from torch import Tensor

from score_sde.sde.linear import SDE


class ExplodingSDE(SDE):
    """What they share."""

    network_output = "score"

    def mean_scale(self, t: Tensor) -> Tensor:
        """α = 1."""
        return torch.ones_like(t)

    def mean_rate(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)


def check_levels(sigma_min: float, sigma_max: float) -> None:
    """Refuses noise levels that are no range.

    Raises:
        ValueError: they do not satisfy 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}: noise levels must satisfy "
            "0 < sigma_min < sigma_max"
        )


class PowerVESDE(ExplodingSDE):
    """g(t) = σ^t on [0, 1], without noise at t = 0: dx = σ^t dw.

    It is the SDE of the tutorial "Generative Modeling by Estimating Gradients of the Data
    Distribution" (Song 2021), with σ = 25 for MNIST. Near t = 0 it is Brownian motion, σ(t) ≈ √t;
    for large t its noise level grows by the factor σ in a unit of time. Its grids are even in the
    logarithm of the noise level: even steps of time are too coarse for the smallest ones.
    """

    name = "powervesde"
    grid = "log_snr"

    def __init__(self, sigma: float = 25.0, N: int = 1000) -> None:
        """`sigma` is g(1), above 1; the noise level at t = 1 is √((sigma² − 1)/(2 log sigma))."""
        super().__init__(N)
        if not sigma > 1:
            raise ValueError(
                f"sigma={sigma}: g(t) = sigma^t grows from 1 to sigma, which must be above 1"
            )
        self.sigma = sigma
        self.log_sigma = math.log(sigma)
        self.prior_std = math.sqrt(math.expm1(2 * self.log_sigma) / (2 * self.log_sigma))

    def std(self, t: Tensor) -> Tensor:
        """σ(t)² = (σ^(2t) − 1) / (2 log σ), the integral of σ^(2t)."""
        return (torch.expm1(2 * self.log_sigma * t) / (2 * self.log_sigma)).sqrt()

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = σ^(2t)."""
        return torch.exp(2 * self.log_sigma * t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r = 1, G² = σ^(2s) (σ^(2(t − s)) − 1) / (2 log σ)."""
        grown = torch.expm1(2 * self.log_sigma * (t - s)).clamp_min(0) / (2 * self.log_sigma)
        return torch.ones_like(t), torch.exp(self.log_sigma * s) * grown.sqrt()

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """t = log(1 + 2 log σ level²) / (2 log σ)."""
        return torch.log1p(2 * self.log_sigma * level**2) / (2 * self.log_sigma)


class KarrasVESDE(ExplodingSDE):
    """σ(t) = t: time is the noise level itself (Karras et al. 2022, table 1), T = σ_max.

    Even steps of time are then even steps of σ, of which nearly all lie at levels where the data
    are lost in noise. So its grids are even in a power of σ, and it wants training times that are
    spread over the levels (`training.time_sampling="log_snr"`).
    """

    name = "karrasvesde"
    grid = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, N: int = 1000) -> None:
        """`sigma_min` is where sampling and training end, `sigma_max` the prior's noise level."""
        super().__init__(N)
        check_levels(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.T = self.prior_std = sigma_max
        self.eps = self.train_eps = sigma_min

    def std(self, t: Tensor) -> Tensor:
        """σ(t) = t."""
        return t

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = 2 t."""
        return 2 * t

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r = 1, G² = (t − s) (t + s)."""
        return torch.ones_like(t), ((t - s) * (t + s)).clamp_min(0).sqrt()

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """t = level."""
        return level
