"""p_t(y | x) as a Gaussian about A x̂ with one variance for all pixels: DPS and ΠGDM."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.measurements import Measurement
from score_sde.posteriors.scores.posterior import Evaluation, PosteriorScore
from score_sde.tensor_ops import sum_per_sample


class GaussianLikelihood(PosteriorScore):
    """p_t(y | x) as the Gaussian N(y; A x̂, r² A Aᵀ + Σ) with a variance r² for each time.

    Besides its gradient its value is at hand, which twisted sequential Monte Carlo needs.
    """

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """r², what p(x_0 | x_t) is taken to vary by in each pixel: (B,) → (B,)."""

    def guidance(self, at: Evaluation) -> Tensor:
        """See `PosteriorScore.guidance`."""
        weighted = self.measurement.solve(at.residual, self.variance(at.t))
        return at.pull(self.measurement.adjoint(weighted))

    def log_likelihood(self, at: Evaluation) -> Tensor:
        """log p_t(y | x) up to what depends on t and the measurement alone: (B,)."""
        return self.log_density(at.residual, self.variance(at.t))

    def log_density(self, residual: Tensor, r2: Tensor | float) -> Tensor:
        """log N(residual; 0, r² A Aᵀ + Σ), but for its normaliser: (B, ...) → (B,)."""
        return -0.5 * sum_per_sample(residual * self.measurement.solve(residual, r2))


class DPS(GaussianLikelihood):
    """Diffusion posterior sampling (Chung et al. 2023, section 3): p(y | x_0) at x_0 = x̂.

    The weight of the likelihood is its own, Σ⁻¹. Their experiments take ζ/‖y − A x̂‖ at each step
    of a chain instead: that is no score, as it depends on the steps. p(x_0 | x_t) is taken for a
    point, so that y is trusted too much while there is noise: on the example of `scores` the mean
    is off by 0.72 and the variances by 75 %, those of seen pixels being a tenth of the true ones.
    Steps that are long for so steep a score carry samples away: it wants many.

    Raises:
        ValueError: as `PosteriorScore`, or a measurement without noise, whose weight is infinite.
    """

    name = "dps"

    @classmethod
    def accepts(cls, measurement: Measurement) -> str | None:
        """See `PosteriorScore.accepts`."""
        if measurement.has_noise:
            return None
        return (
            "it weighs what is measured by 1/σ_y², and this has no noise: give it some, or take "
            "pigdm"
        )

    def variance(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)


@dataclass(eq=False, repr=False)
class PiGDM(GaussianLikelihood):
    """ΠGDM (Song, J. et al. 2023, eq. 7), in its guidance form: the gradient itself, unweighted.

    r² is that of data N(m, s² I), σ² s²/(α² s² + σ²), which is theirs for α = 1 and s = 1. For
    such data it is exact. On the example of `scores`, whose pixels are correlated, the mean is off
    by 0.085 and the variances by 20 % with s the std of a pixel, by 0.53 and 89 % with s = 1,
    their choice.

    Args:
        data_std: s, the standard deviation of the data, about their mean.

    Raises:
        ValueError: as `PosteriorScore`, or a std that is not above 0.
    """

    name = "pigdm"
    arguments: ClassVar = ("data_std",)

    data_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_std > 0:
            raise ValueError(f"data_std={self.data_std:g}: data have a std above 0")

    def variance(self, t: Tensor) -> Tensor:
        """σ² s²/(α² s² + σ²): (B,) → (B,)."""
        s2, sigma2 = self.data_std**2, self.sde.std(t) ** 2
        return sigma2 * s2 / (self.sde.mean_scale(t) ** 2 * s2 + sigma2)
