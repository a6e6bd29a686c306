"""Deterministic solvers that remember the steps before: one evaluation a step."""

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.score import denoised_from_score, noise_from_score
from score_sde.sde import SDE, Score
from score_sde.solvers.few_step.solver import FewStepSolver
from score_sde.tensor_ops import expand_to


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
