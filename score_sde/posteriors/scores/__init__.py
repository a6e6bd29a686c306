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

`posterior`: what a posterior score is; `gaussian_likelihood`: DPS and ΠGDM, whose estimate of
log p_t(y | x) has a value, too; `diffpir`; `moment_matching`.

Symbols as in `sde` and `measurements`: x (B, C, H, W), t (B,) or a number for all, α and σ of
p(x_t | x_0), y (B, ...).
"""

from score_sde.posteriors.scores.diffpir import DiffPIR
from score_sde.posteriors.scores.gaussian_likelihood import DPS, GaussianLikelihood, PiGDM
from score_sde.posteriors.scores.moment_matching import MomentMatching
from score_sde.posteriors.scores.posterior import Evaluation, PosteriorScore

POSTERIORS: dict[str, type[PosteriorScore]] = {
    DPS.name: DPS,
    PiGDM.name: PiGDM,
    DiffPIR.name: DiffPIR,
    MomentMatching.name: MomentMatching,
}
"""Name → posterior score, called as row(score, sde, measurement, y, **arguments)."""

__all__ = [
    "DPS",
    "POSTERIORS",
    "DiffPIR",
    "Evaluation",
    "GaussianLikelihood",
    "MomentMatching",
    "PiGDM",
    "PosteriorScore",
]
