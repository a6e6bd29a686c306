"""Deterministic solvers that extrapolate the noise estimates of the last steps."""

from typing import Literal

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.score import noise_from_score
from score_sde.sde import SDE, Score
from score_sde.solvers.few_step.multistep import MultistepSolver, combined
from score_sde.solvers.few_step.solver import exact
from score_sde.solvers.few_step.weights import means, quadrature

FEW = 15
"""Runs of fewer steps end with lower orders. Longer ones lose by it here: noise estimates hardly
change any more at the end, while denoised samples, extrapolated over a last step that is longer in
λ than those before it, as on a chain, overshoot."""


class DEIS(MultistepSolver):
    """DEIS, tAB3: the noise estimate extrapolated in time (Zhang & Chen 2023, section 3.3).

    A polynomial in t through the noise estimates of this step and of the three before it is
    integrated against dℓ over the step. In the transformed form x_s = (x_t − c n) / r the mean of
    the polynomial stands for n.

    Args:
        sde: the forward SDE.
        lower_order_final: see `MultistepSolver`.
        space: the variable of the polynomial: "t" time, "log_rho" the logarithm of ρ = ℓ.
        remembers: how many estimates it goes through, which is the order.
    """

    name = "deis"
    order = 4
    few = FEW

    def __init__(
        self,
        sde: SDE,
        lower_order_final: bool = True,
        space: Literal["t", "log_rho"] = "t",
        remembers: int = 4,
    ) -> None:
        self.space, self.remembers, self.order = space, remembers, remembers
        super().__init__(sde, lower_order_final)

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        times, values = self._recall(t, noise_from_score(self.sde, score(x, t), t))
        h, *nodes = self._lengths(t, [s, *times])
        points, mass = quadrature(h, "noise")
        if self.space == "t":
            levels = self.sde.noise_level(exact(t)) * torch.exp(-points)
            points = self.sde.time_of_noise_level(levels.flatten()).reshape(levels.shape)
            nodes = [exact(time) for time in times]
        mean = combined(means(torch.stack(nodes), points, mass), values)
        return self._along(mean, x, t, s)


class IPNDM(MultistepSolver):
    """iPNDM-4: Adams–Bashforth's fixed weights on noise estimates (Zhang & Chen 2023, table 3).

    DDIM's step is made with (55 n_t − 59 n_1 + 37 n_2 − 9 n_3) / 24, and with the weights of lower
    orders at the start (Liu et al. 2022 start by Runge–Kutta steps instead: PNDM). The weights
    extrapolate over steps of one length in ℓ. Where neighbouring steps differ by a ratio of
    1 + O(h), what is extrapolated is off by O(h²), and the method is of order 2 on each such grid.

    Args:
        sde: the forward SDE.
        lower_order_final: see `MultistepSolver`.
    """

    name = "ipndm"
    order = 2
    remembers = 4
    few = FEW

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        _, values = self._recall(t, noise_from_score(self.sde, score(x, t), t))
        # At the level 0 Euler's step ends, as everywhere in this package.
        above_zero = (self.sde.std(s) > 0).to(x)
        weights = torch.stack([w * above_zero for w in _ADAMS_BASHFORTH[len(values) - 1]])
        return self._along(combined(weights, values), x, t, s)


_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
