"""Posterior scores: from ∇ log p_t(x) to ∇ log p_t(x | y), given a measurement y = A x_0 + n.

    ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x),
    p_t(y | x) = ∫ p(y | x_0) p(x_0 | x) dx_0.

The score says the mean of p(x_0 | x), x̂(x) (Tweedie's formula), and the methods differ in what
they take for its covariance V. With a Gaussian of these moments, V held fixed as x moves,

    ∇ log p_t(y | x) = Jᵀ Aᵀ (A V Aᵀ + Σ)⁻¹ (y − A x̂),    J = ∂x̂/∂x,

where Σ is the covariance of n:

    dps               V = 0                             (Chung et al. 2023, section 3)
    pigdm             V = r² I, r² of data N(m, s² I)   (Song, J. et al. 2023, eq. 7)
    moment_matching   V = (σ²/α) J, its true value      (Rozet et al. 2024, section 4.2)
    diffpir           V = r² I, and (α/σ²) V for J      (Zhu et al. 2023, algorithm 1)

Each is a score like any other, so that every sampler runs on it. On Gaussian data moment matching
is exact, ΠGDM where the data's covariance is s² I, the others never. The docstrings say by how
much they are off on one example: eight pixels in a row of variance 0.25, whose covariance falls
off as a Gaussian of 1.5 pixels (its eigenvalues lie between 0.003 and 0.84), every second of them
seen with a std of 0.2, at y from 1 to −1. Errors are root mean squares over the pixels of what the
converged ODE draws: of the posterior's mean in units of the data's std, and of its variances
relative to the true ones (`tests/test_posterior_scores.py`).

Of a network neither x̂ nor J is right at noise levels far above the data: its errors come back in
them times σ/α, where J of the exact score is near 0. Guidance by J, which all but DiffPIR take,
can then carry samples away, to infinity on the digits' VP recipe. So give a network's score
wrapped in a `samplers.thresholding.ThresholdedScore`, whose x̂ is bounded, and whose J is 0 where
it is.

Symbols as in `sde` and `measurements`: x (B, C, H, W), t (B,) or a number for all, α and σ of
p(x_t | x_0), y (B, ...).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.conjugate_gradients import conjugate_gradients
from score_sde.posteriors.measurements import Measurement
from score_sde.score import denoised_from_score, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import expand_to, sum_per_sample, times_for


@dataclass(frozen=True)
class Evaluation:
    """A score evaluated once, with what a measurement makes of it.

    Attributes:
        x: (B, ...) where; a leaf that gradients lead back to.
        t: (B,) when.
        score: ∇ log p_t(x), as x.
        denoised: x̂ = E[x_0 | x], as x.
        residual: y − A x̂, as y.
    """

    x: Tensor
    t: Tensor
    score: Tensor
    denoised: Tensor
    residual: Tensor

    def pull(self, v: Tensor) -> Tensor:
        """Jᵀ v, with J = ∂x̂/∂x: as x → as x."""
        return torch.autograd.grad(self.denoised, self.x, v, retain_graph=True)[0]


class PosteriorScore(ABC):
    """An estimate of ∇ log p_t(x | y): (x, t) → the shape of x, as any score.

    Args:
        score: (x, t) → ∇ log p_t(x), differentiable in x, each sample by itself.
        sde: the forward SDE of the score.
        measurement: what y is of x_0.
        y: (B, ...) the measurements of the samples in their order; (1, ...) one for all.

    Attributes:
        name: what recipes and messages call it.
        arguments: what its constructor takes besides, by name.

    Raises:
        ValueError: a measurement that it does not run on, or y of another shape; where it is
            called, x of another number of samples than y.
    """

    name: ClassVar[str]
    arguments: ClassVar[Sequence[str]] = ()

    def __init__(self, score: Score, sde: SDE, measurement: Measurement, y: Tensor) -> None:
        refusal = self.accepts(measurement)
        if refusal is not None:
            raise ValueError(f"{self.name} does not run on {measurement.name}: {refusal}")
        self.score, self.sde, self.measurement = score, sde, measurement
        one = measurement.forward(torch.zeros(1, *measurement.shape).to(y))
        if y.shape[1:] != one.shape[1:]:
            raise ValueError(
                f"measurements of shape {tuple(y.shape)}: {measurement.name} of images of shape "
                f"{measurement.shape} gives {('B', *one.shape[1:])}"
            )
        with torch.inference_mode(False):
            self.y = measurement.measured(y.detach().clone())

    @classmethod
    def accepts(cls, measurement: Measurement) -> str | None:
        """None where it runs on this measurement, else the reason why it does not."""
        return None

    @abstractmethod
    def guidance(self, at: Evaluation) -> Tensor:
        """∇ log p_t(y | x), as x; called where gradients are on."""

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The posterior score at (x, t); gradients are switched on inside, and end here."""
        # Also where a caller has switched gradients off, or is in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            at = self.evaluate(x, t)
            return (at.score + self.guidance(at)).detach()

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """How many evaluations a call makes of each sample: those of the score inside."""
        return evaluations_at(self.score, t)

    def residual_of(self, denoised: Tensor) -> Tensor:
        """y − A x̂, in the dtype of x̂ (B, C, H, W) and on its device.

        Raises:
            ValueError: images of another number of samples than y.
        """
        if len(self.y) not in (1, len(denoised)):
            raise ValueError(
                f"{len(denoised)} samples with measurements of {len(self.y)}: give one for each "
                "of them, in their order, or one for all"
            )
        return self.y.to(denoised) - self.measurement.forward(denoised)

    def evaluate(self, x: Tensor, t: Tensor | float) -> Evaluation:
        """One evaluation of the score; to be called where gradients are on.

        Raises:
            ValueError: a score that gradients do not pass through.
        """
        t = times_for(x, t).clone()
        x = x.detach().clone().requires_grad_()
        score = self.score(x, t)
        if not score.requires_grad:
            raise ValueError(
                f"{self.name} differentiates the score, and the one that it was given is computed "
                "without gradients: take away what switches them off, such as torch.no_grad"
            )
        denoised = denoised_from_score(self.sde, x, score, t)
        residual = self.residual_of(denoised.detach())
        return Evaluation(x, t, score, denoised, residual)


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
    point, so that y is trusted too much while there is noise: on the module's example the mean is
    off by 0.72 and the variances by 75 %, those of seen pixels being a tenth of the true ones.

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


class PiGDM(GaussianLikelihood):
    """ΠGDM (Song, J. et al. 2023, eq. 7), in its guidance form: the gradient itself, unweighted.

    r² is that of data N(m, s² I), σ² s²/(α² s² + σ²), which is theirs for α = 1 and s = 1. For
    such data it is exact. On the module's example, whose pixels are correlated, the mean is off by
    0.085 and the variances by 20 % with s the std of a pixel, by 0.53 and 89 % with s = 1, their
    choice.

    Args:
        data_std: s, the standard deviation of the data, about their mean.

    Raises:
        ValueError: as `PosteriorScore`, or a std that is not above 0.
    """

    name = "pigdm"
    arguments: ClassVar = ("data_std",)

    def __init__(
        self,
        score: Score,
        sde: SDE,
        measurement: Measurement,
        y: Tensor,
        data_std: float = 1.0,
    ) -> None:
        super().__init__(score, sde, measurement, y)
        if not data_std > 0:
            raise ValueError(f"data_std={data_std:g}: data have a std above 0")
        self.data_std = data_std

    def variance(self, t: Tensor) -> Tensor:
        """σ² s²/(α² s² + σ²): (B,) → (B,)."""
        s2, sigma2 = self.data_std**2, self.sde.std(t) ** 2
        return sigma2 * s2 / (self.sde.mean_scale(t) ** 2 * s2 + sigma2)


class DiffPIR(PosteriorScore):
    """DiffPIR (Zhu et al. 2023, algorithm 1): the denoised image is moved to fit y.

    The moved image is argmin ‖y − A x‖²_Σ + λ (α²/σ²) ‖x − x̂‖² (‖·‖²_Σ weighted by Σ⁻¹), and the
    posterior score is what Tweedie's formula makes of it. Nothing is differentiated. Where data
    are N(m, s² I) the right λ is 1 + σ²/(α² s²), so that λ = 1 is right at small noise only. On
    the module's example the mean is off by 0.45 and the variances by 72 %.

    Args:
        strength: λ > 0, of the tie to the denoised image.

    Raises:
        ValueError: as `PosteriorScore`, or a strength that is not above 0.
    """

    name = "diffpir"
    arguments: ClassVar = ("strength",)

    def __init__(
        self,
        score: Score,
        sde: SDE,
        measurement: Measurement,
        y: Tensor,
        strength: float = 1.0,
    ) -> None:
        super().__init__(score, sde, measurement, y)
        if not strength > 0:
            raise ValueError(f"strength={strength:g}: DiffPIR ties by a strength above 0")
        self.strength = strength

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The posterior score at (x, t)."""
        t = times_for(x, t)
        score = self.score(x, t)
        denoised = denoised_from_score(self.sde, x, score, t)
        residual = self.residual_of(denoised)
        return score + self.guidance(Evaluation(x, t, score, denoised, residual))

    def guidance(self, at: Evaluation) -> Tensor:
        """See `PosteriorScore.guidance`: α/σ² times what the image is moved by."""
        alpha = self.sde.mean_scale(at.t)
        r2 = (self.sde.std(at.t) / alpha) ** 2 / self.strength
        pulled = self.measurement.adjoint(self.measurement.solve(at.residual, r2))
        return pulled / expand_to(alpha * self.strength, pulled)


class MomentMatching(PosteriorScore):
    """Both moments of p(x_0 | x_t) from the score (Rozet et al. 2024, section 4.2).

    Its covariance is (σ²/α) J, of which products with vectors are at hand (J is symmetric where
    the score is a gradient), and A V Aᵀ + Σ is inverted by conjugate gradients. For every Gaussian
    the posterior score is exact, to the tolerance of the solver.

    Args:
        tolerance: relative residual of the linear equations.
        max_iterations: of conjugate gradients, one backward pass of the score each.

    Attributes:
        residual: (B,) relative residual that the last call reached; above the tolerance where it
            was stopped before, also by a network whose J is not positive.
    """

    name = "moment_matching"
    arguments: ClassVar = ("tolerance", "max_iterations")

    def __init__(
        self,
        score: Score,
        sde: SDE,
        measurement: Measurement,
        y: Tensor,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
    ) -> None:
        super().__init__(score, sde, measurement, y)
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.residual = torch.zeros(len(y))

    def guidance(self, at: Evaluation) -> Tensor:
        """See `PosteriorScore.guidance`."""
        per_J = self.sde.std(at.t) ** 2 / self.sde.mean_scale(at.t)

        def covariance(v: Tensor) -> Tensor:
            spread = self.measurement.forward(at.pull(self.measurement.adjoint(v)))
            return expand_to(per_J, v) * spread + self.measurement.covariance(v)

        v, self.residual = conjugate_gradients(
            covariance,
            at.residual,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        return at.pull(self.measurement.adjoint(v))


POSTERIORS: dict[str, type[PosteriorScore]] = {
    DPS.name: DPS,
    PiGDM.name: PiGDM,
    DiffPIR.name: DiffPIR,
    MomentMatching.name: MomentMatching,
}
"""Name → posterior score, called as row(score, sde, measurement, y, **arguments)."""
