"""What the deterministic solvers for few evaluations share: one ODE for every linear SDE.

In y = x/α, as a function of the noise level ℓ = σ/α, the probability-flow ODE of every linear SDE
is the same (Song, J. et al. 2021, eq. 14; Karras et al. 2022, eq. 4):

    dy/dℓ = n(y, ℓ),        n = −σ ∇ log p_t(x)    the noise estimate.

A step from t to s with noise estimate n is y_s = y_t + (ℓ_s − ℓ_t) n. Written for x, with r and G
of the transition p(x_t | x_s) = N(r x_s, G² I), it has neither large numbers nor close
differences:

    x_s = (x_t − c n) / r,        c = σ_t − r σ_s = G² / (σ_t + r σ_s).

These solvers step between two times of a grid, never on the chain's own scales.
"""

from abc import abstractmethod

from torch import Tensor

from score_sde.noise import Noise
from score_sde.sde import Score
from score_sde.solvers.step import Step
from score_sde.tensor_ops import expand_to


def grid_time(step: Step, t_next: Tensor | None) -> Tensor:
    """`t_next`, which a step between the times of a grid must be given.

    Raises:
        ValueError: where it is None, a step of the chain's own scales.
    """
    if t_next is None:
        raise ValueError(
            f"{step.name} steps between the times of a grid, not on the chain's own scales: "
            "give it times from solvers.grids, or take a predictor"
        )
    return t_next


class FewStepSolver(Step):
    """What the solvers of this file share."""

    grid = "edm"

    @abstractmethod
    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """Carries x from time t to time s."""

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`. No noise is added last, so both results are the same.

        Raises:
            ValueError: where `t_next` is None.
        """
        x = self.advance(x, t, grid_time(self, t_next), score, noise)
        return x, x

    def _along(self, n: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The step from t to s along the noise estimate n."""
        r, G = self.sde.transition(t, s)
        c = G**2 / (self.sde.std(t) + r * self.sde.std(s))
        return (x - expand_to(c, x) * n) / expand_to(r, x)
