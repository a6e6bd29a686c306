"""What the deterministic solvers for few evaluations share: one ODE for every linear SDE.

In y = x/α, as a function of the noise level ℓ = σ/α, the probability-flow ODE of every linear SDE
is the same (Song, J. et al. 2021, eq. 14; Karras et al. 2022, eq. 4):

    dy/dℓ = n(y, ℓ),        n = −σ ∇ log p_t(x)    the noise estimate.

A step from t to s with noise estimate n is y_s = y_t + (ℓ_s − ℓ_t) n. Written for x, with r and G
of the transition p(x_t | x_s) = N(r x_s, G² I), it has neither large numbers nor close
differences:

    x_s = (x_t − c n) / r,        c = σ_t − r σ_s = G² / (σ_t + r σ_s).

With the denoised sample D = y − ℓ n instead, it is

    x_s = (σ_s/σ_t) x_t + α_s (1 − e^(−h)) D,        h = log(ℓ_t/ℓ_s).

These solvers step between two times of a grid, never on the chain's own scales.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.sde import Score
from score_sde.solvers.step import Step
from score_sde.tensor_ops import added, expand_to


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
    """What the solvers share that step by noise levels, as this module says."""

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
        return along(n, x, *self._slope(t, s))

    def _slope(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """c and r of the step from t to s, both (B,)."""
        r, G = self.sde.transition(t, s)
        return G**2 / (self.sde.std(t) + r * self.sde.std(s)), r

    def _towards(self, denoised: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The step from t to s with this denoised sample."""
        kept = (self.sde.std(exact(s)) / self.sde.std(exact(t))).to(x)
        return added(expand_to(kept, x) * x, self._gain(x, t, s) * denoised)

    def _gain(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """α_s (1 − e^(−h)), the factor of the denoised sample, for a product with x."""
        (h,) = self._lengths(t, [s])
        return expand_to((-self.sde.mean_scale(exact(s)) * torch.expm1(-h)).to(x), x)

    def _lengths(self, t: Tensor, times: Sequence[Tensor]) -> list[Tensor]:
        """h = log(ℓ_t/ℓ_s) for each s of `times`, infinite where ℓ_s = 0: (B,) float64 each."""
        levels = self.sde.noise_level(exact(torch.cat([t, *times]))).log().chunk(len(times) + 1)
        return [levels[0] - level for level in levels[1:]]


def along(n: Tensor, x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    """(x − c n) / r, of a noise estimate n and a state x, c and r (B,)."""
    # In one place: a step is bound by how often it goes over memory.
    return added(expand_to(-c, x) * n, x).div_(expand_to(r, x))


def exact(t: Tensor) -> Tensor:
    """Times in float64, in which coefficients of a step are computed: their differences cancel.

    On the CPU where the device knows no float64.
    """
    return (t.cpu() if t.device.type == "mps" else t).double()
