"""Deterministic solvers of the probability-flow ODE for few evaluations, on every linear SDE.

In y = x/α, as a function of the noise level ℓ = σ/α, the ODE of every linear SDE is the same
(Song, J. et al. 2021, eq. 14; Karras et al. 2022, eq. 4):

    dy/dℓ = n(y, ℓ),        n = −σ ∇ log p_t(x)    the noise estimate.

A step from t to s with noise estimate n is y_s = y_t + (ℓ_s − ℓ_t) n. Written for x, with r and G
of the transition p(x_t | x_s) = N(r x_s, G² I), it has neither large numbers nor close
differences:

    x_s = (x_t − c n) / r,        c = σ_t − r σ_s = G² / (σ_t + r σ_s).

These solvers step between two times of a grid, never on the chain's own scales.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.score import denoised_from_score, noise_from_score
from score_sde.sde import SDE, Score
from score_sde.solvers.step import Step
from score_sde.tensor_ops import expand_to


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
        if t_next is None:
            raise ValueError(
                f"{self.name} steps between the times of a grid, not on the chain's own scales: "
                "give it times from solvers.grids, or take a predictor"
            )
        x = self.advance(x, t, t_next, score, noise)
        return x, x

    def _along(self, n: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The step from t to s along the noise estimate n."""
        r, G = self.sde.transition(t, s)
        c = G**2 / (self.sde.std(t) + r * self.sde.std(s))
        return (x - expand_to(c, x) * n) / expand_to(r, x)


class DDIM(FewStepSolver):
    """Euler's method in the noise level (Song, J. et al. 2021, eq. 12 with η = 0)."""

    name = "ddim"
    order = 1

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        return self._along(noise_from_score(self.sde, score(x, t), t), x, t, s)


class Heun(FewStepSolver):
    """Heun's method in the noise level, with the churn of Karras et al. 2022, algorithm 2.

    Churn first carries a sample forward, to the level (1 + γ) ℓ with γ = min(s_churn / num_steps,
    √2 − 1), by adding noise; never beyond T. It needs a network trained in continuous time.

    Args:
        sde: the forward SDE.
        s_churn: how much noise is added in all; 0 makes the solver deterministic.
        s_min: noise is added only where ℓ ≥ s_min …
        s_max: … and ℓ ≤ s_max.
        s_noise: standard deviation of the noise that is added.

    Raises:
        ValueError: where s_churn or s_noise is negative, or s_min exceeds s_max.
    """

    name = "heun"
    order = 2
    evaluations = 2
    arguments: ClassVar = {name: name for name in ("s_churn", "s_min", "s_max", "s_noise")}

    def __init__(
        self,
        sde: SDE,
        s_churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        s_noise: float = 1.0,
    ) -> None:
        super().__init__(sde)
        if s_churn < 0 or s_noise < 0:
            raise ValueError(f"s_churn={s_churn}, s_noise={s_noise}: neither may be negative")
        if s_min > s_max:
            raise ValueError(f"s_min={s_min}, s_max={s_max}: s_min may not exceed s_max")
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise
        self._gamma = 0.0

    def begin(self, num_steps: int) -> None:
        """Shares the churn out over the steps of the run."""
        self._gamma = min(self.s_churn / num_steps, math.sqrt(2) - 1)

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """Two evaluations, at t (after the churn) and at s."""
        if self._gamma > 0:
            x, t = self._churn(x, t, noise)
        n = noise_from_score(self.sde, score(x, t), t)
        x_euler = self._along(n, x, t, s)
        n_next = noise_from_score(self.sde, score(x_euler, s), s)
        # At the level 0 there is no noise to estimate: Euler's step ends there, as in the paper.
        above_zero = expand_to(self.sde.std(s) > 0, x)
        return torch.where(above_zero, self._along((n + n_next) / 2, x, t, s), x_euler)

    def _churn(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        level = self.sde.noise_level(t)
        inside = (level >= self.s_min) & (level <= self.s_max)
        raised = self.sde.time_of_noise_level(level * (1 + self._gamma)).clamp_max(self.sde.T)
        later = torch.where(inside, torch.maximum(raised, t), t)
        r, G = self.sde.transition(later, t)
        return expand_to(r, x) * x + expand_to(G * self.s_noise, x) * noise(x.shape), later


class DPMSolverPP2M(FewStepSolver):
    """DPM-Solver++(2M): multistep, one evaluation a step (Lu et al. 2022b, algorithm 2).

    DDIM's step is corrected by the change of the denoised sample since the step before:

        x_s = ddim + (α_s − σ_s/ℓ_t) (D_t − D_prev) h / (2 h_prev),        h = log(ℓ_t/ℓ_s).

    The first step, which has nothing to remember, is DDIM's.

    Args:
        sde: the forward SDE.
        lower_order_final: the last step is DDIM's too, which is steadier when steps are few.
    """

    name = "dpm_solver++"
    order = 2
    grid = "log_snr"

    def __init__(self, sde: SDE, lower_order_final: bool = True) -> None:
        super().__init__(sde)
        self.lower_order_final = lower_order_final
        self.begin(0)

    def begin(self, num_steps: int) -> None:
        """Forgets the steps of an earlier run."""
        self._left = num_steps
        self._memory: tuple[Tensor, Tensor] | None = None

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        value = score(x, t)
        x_next = self._along(noise_from_score(self.sde, value, t), x, t, s)
        denoised = denoised_from_score(self.sde, x, value, t)
        h = torch.log(self.sde.noise_level(t) / self.sde.noise_level(s))
        self._left -= 1
        if self._memory is not None and not (self.lower_order_final and self._left == 0):
            denoised_before, h_before = self._memory
            weight = -self.sde.mean_scale(s) * torch.expm1(-h) * h / (2 * h_before)
            # A step to the level 0 is infinitely long in h, and Euler's is exact there.
            weight = torch.where(torch.isfinite(h), weight, torch.zeros_like(h))
            x_next = x_next + expand_to(weight, x) * (denoised - denoised_before)
        self._memory = denoised, h
        return x_next


FEW_STEP: dict[str, type[Step]] = {
    DDIM.name: DDIM,
    Heun.name: Heun,
    DPMSolverPP2M.name: DPMSolverPP2M,
}
"""Name in configs (`sampling.method`) → class; see `step.make_step`."""
