"""Two SDEs that leave nothing of the data at t = 1, where their drift and diffusion diverge.

Both therefore end at T = 1 − 1e-3, where some of the data is left: α(T) is 1e-3 for the straight
path and 1.6e-3 for the cosine. Samplers start there, likelihoods have their prior there, and
training goes no further. The prior N(0, σ(T)² I) takes the place of p_T, whose mean for data x_0
is α(T) x_0: from data with a mean square of 1 in each dimension p_T is away from it by at most
α²/(2σ²) nats per dimension (Kullback–Leibler), 5e-7 and 1.2e-6.

The largest level that a float can hold is no better end. What a network puts out there as noise
says nothing of the data in float32, and a step of the SDE from 1 itself has no finite drift.

Their grids are even in log σ/α, since near T an even step of time would cross most of the levels:
in 100 even steps the first from T takes the straight path's level from 999 to 90, and Euler's step
there multiplies x by −9.

Symbols as in `linear`. Their networks follow the convention of VP: the label is 999 t/T, and the
output the noise.
"""

import math

import torch
from torch import Tensor

from score_sde.sde.linear import SDE

LAST = 1 - 1e-3
"""T: the last time at which the data are still to be told from the noise."""


class StraightSDE(SDE):
    """α = 1 − t, σ = t: x_t moves on a straight line from x_0 to z.

    The path of flow matching with optimal transport (Lipman et al. 2023, with σ_min = 0) and of
    rectified flow (Liu et al. 2023), as an SDE with these marginals; its probability-flow ODE is
    the flow that they learn. σ/α is 999 at T.
    """

    name = "straightsde"
    T = LAST
    grid = "log_snr"
    prior_std = LAST

    def __init__(self, N: int = 1000) -> None:
        """N scales, the number of steps where none is given."""
        super().__init__(N)

    def mean_scale(self, t: Tensor) -> Tensor:
        """α = 1 − t."""
        return 1 - t

    def std(self, t: Tensor) -> Tensor:
        """σ = t."""
        return t

    def mean_rate(self, t: Tensor) -> Tensor:
        """−1/(1 − t)."""
        return -1 / (1 - t)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = 2 t/(1 − t)."""
        return 2 * t / (1 - t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r = (1 − t)/(1 − s), G² = t² − r² s² = (t − s) (t (1 − s) + s (1 − t)) / (1 − s)²."""
        squared = (t - s) * (t * (1 - s) + s * (1 - t))
        return (1 - t) / (1 - s), squared.clamp_min(0).sqrt() / (1 - s)

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """t = level/(1 + level)."""
        return level / (1 + level)


class CosineVPSDE(SDE):
    """The cosine schedule (Nichol & Dhariwal 2021, eq. 17) in continuous time; α² + σ² = 1.

    With the paper's offset s = 0.008, ω = π/(2(1 + s)) and φ = ω s, α(t) = cos(ω t + φ) / cos φ.
    The offset keeps the noise from vanishing too fast: σ(t)² ≈ 2 ω tan(φ) t near t = 0, where
    without it σ(t) would be ω t. σ/α is 642 at T.
    """

    name = "cosinevpsde"
    T = LAST
    grid = "log_snr"
    offset = 0.008

    def __init__(self, N: int = 1000) -> None:
        """N scales, the number of steps where none is given."""
        super().__init__(N)
        self._omega = math.pi / (2 * (1 + self.offset))
        self._phi = self._omega * self.offset
        self.prior_std = float(self.std(torch.tensor(self.T, dtype=torch.float64)))

    def mean_scale(self, t: Tensor) -> Tensor:
        """α = cos(ω t + φ) / cos φ."""
        return self._cosine(t) / math.cos(self._phi)

    def std(self, t: Tensor) -> Tensor:
        """σ² = 1 − α² = sin(ω t) sin(ω t + 2φ) / cos² φ."""
        angle = self._omega * t
        squared = torch.sin(angle) * torch.sin(angle + 2 * self._phi)
        return squared.clamp_min(0).sqrt() / math.cos(self._phi)

    def mean_rate(self, t: Tensor) -> Tensor:
        """−ω tan(ω t + φ)."""
        # From whichever end is nearer, lest a small tangent be that of a rounded angle.
        near_0 = torch.tan(self._omega * t + self._phi)
        near_1 = 1 / torch.tan(self._omega * (1 - t))
        return -self._omega * torch.where(t < 0.5, near_0, near_1)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = β(t) = 2 ω tan(ω t + φ)."""
        return -2 * self.mean_rate(t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r = α(t)/α(s), G² = 1 − r² = sin(ω (t − s)) sin(ω (t + s) + 2φ) / cos²(ω s + φ)."""
        # The second sine vanishes towards 0 and towards 1, in one form without rounding each.
        total = torch.where(
            t + s < 1,
            torch.sin(self._omega * (t + s) + 2 * self._phi),
            torch.sin(self._omega * ((1 - t) + (1 - s))),
        )
        squared = (torch.sin(self._omega * (t - s)) * total).clamp_min(0)
        at_s = self._cosine(s)
        return self._cosine(t) / at_s, squared.sqrt() / at_s

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """tan²(ω t + φ) = tan² φ + level²/cos² φ, solved for tan(ω t) without cancellation."""
        tangent = math.tan(self._phi)
        raised = (level / math.cos(self._phi)) ** 2
        whole = (tangent**2 + raised).sqrt()
        return torch.atan(raised / ((whole + tangent) * (1 + whole * tangent))) / self._omega

    def _cosine(self, t: Tensor) -> Tensor:
        # cos(ω t + φ), which vanishes at t = 1, from there: 1 − t is exact in floats above ½.
        return torch.sin(self._omega * (1 - t))
