"""Moment matching: the covariance of p(x_0 | x_t) by the score's Jacobian."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.conjugate_gradients import conjugate_gradients
from score_sde.posteriors.scores.posterior import Evaluation, PosteriorScore
from score_sde.tensor_ops import expand_to


@dataclass(eq=False, repr=False)
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

    tolerance: float = 1e-4
    max_iterations: int = 100
    residual: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.residual = torch.zeros(len(self.y))

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
