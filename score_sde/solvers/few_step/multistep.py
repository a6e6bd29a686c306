"""Deterministic solvers that remember denoised samples: one evaluation a step."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.score import denoised_from_score, noise_from_score
from score_sde.sde import SDE, Score
from score_sde.solvers.few_step.solver import FewStepSolver
from score_sde.solvers.few_step.weights import finite, leading, means, quadrature
from score_sde.tensor_ops import expand_to


class MultistepSolver(FewStepSolver):
    """What the solvers share that combine the evaluations of several steps.

    The first steps have less to remember and are of lower orders.

    Args:
        sde: the forward SDE.
        lower_order_final: the last step is of order 1, the one before it of order 2, and so on,
            which is steadier. The declared order is that of a run without.

    Attributes:
        few: only runs of fewer steps end with lower orders.
    """

    grid = "log_snr"
    start_order = 2
    few: ClassVar[float] = math.inf

    def __init__(self, sde: SDE, lower_order_final: bool = True) -> None:
        super().__init__(sde)
        self.lower_order_final = lower_order_final
        self.begin(0)

    def begin(self, num_steps: int) -> None:
        """Forgets the steps of an earlier run."""
        self._left = num_steps
        self._descends = self.lower_order_final and 0 < num_steps < self.few
        self._memory: list[tuple[Tensor, Tensor]] = []

    def _recall(self, t: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Remembers an evaluation; the times and values that this step combines, newest first."""
        self._memory = [(t, value), *self._memory][: self.remembers]
        most = max(self._left, 1) if self._descends else self.remembers
        self._left -= 1
        times, values = zip(*self._memory[:most], strict=True)
        return list(times), list(values)


def combined(weights: Tensor, values: list[Tensor]) -> Tensor:
    """Σ_j w_j value_j: weights (K, B), values (B, ...)."""
    x = values[0]
    # As value_0 + Σ w_j (value_j − value_0): what the values share has no rounded weights.
    for weight, value in zip(weights[1:].to(x), values[1:], strict=True):
        x = (value - values[0]).mul_(expand_to(weight, x)).add_(x)
    return x


class DPMSolverPP2M(MultistepSolver):
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
    remembers = 2

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        value = score(x, t)
        x_next = self._along(noise_from_score(self.sde, value, t), x, t, s)
        times, denoised = self._recall(t, denoised_from_score(self.sde, x, value, t))
        if len(denoised) == 2:
            h, h_before = self._log_ratio(t, s), self._log_ratio(times[1], t)
            weight = -self.sde.mean_scale(s) * torch.expm1(-h) * h / (2 * h_before)
            # A step to the level 0 is infinitely long in h, and Euler's is exact there.
            weight = torch.where(torch.isfinite(h), weight, torch.zeros_like(h))
            x_next = x_next + expand_to(weight, x) * (denoised[0] - denoised[1])
        return x_next

    def _log_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.log(self.sde.noise_level(t) / self.sde.noise_level(s))


class DenoisedMultistep(MultistepSolver):
    """What the solvers share that interpolate denoised samples D by polynomials in λ = −log ℓ."""

    def _mean(self, times: list[Tensor], values: list[Tensor], t: Tensor, s: Tensor) -> Tensor:
        """The mean of D over the step from t to s, of the polynomial through the values.

        Args:
            times: of the values, each (B,).
            values: each (B, ...).
            t: (B,) where the step begins.
            s: (B,) where it ends.
        """
        h, *nodes = self._lengths(t, [s, *times])
        points, mass = quadrature(h, "denoised")
        if len(times) == 2:
            # Of two values the papers take the one amid the step, which is of the same order.
            points, mass = finite(h)[None] / 2, torch.ones_like(h)[None]
        return combined(self._weights(torch.stack(nodes), points, mass), values)

    def _weights(self, nodes: Tensor, points: Tensor, mass: Tensor) -> Tensor:
        return means(nodes, points, mass)


class DPMSolverPP3M(DenoisedMultistep):
    """DPM-Solver++(3M): as 2M, with the parabola through the last three denoised samples.

    D(λ) = D_t + (λ − λ_t) D' + ½ (λ − λ_t)² D'', whose second derivative is *twice* the second
    divided difference: D'' = 2 D[λ_t, λ_1, λ_2]. Diffusers' scheduler, as other published code,
    puts the divided difference itself for D''. Half of the term of third order is then missing
    from each step, and the method is of order 2.

    Args:
        sde: the forward SDE.
        lower_order_final: see `MultistepSolver`.
        published: without the factor 2; for comparison. Of order 2.
    """

    name = "dpm_solver++3m"
    order = 3
    remembers = 3

    def __init__(self, sde: SDE, lower_order_final: bool = True, published: bool = False) -> None:
        super().__init__(sde, lower_order_final)
        self.published = published
        if published:
            self.order = 2

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        denoised = denoised_from_score(self.sde, x, score(x, t), t)
        times, values = self._recall(t, denoised)
        return self._towards(self._mean(times, values, t, s), x, t, s)

    def _weights(self, nodes: Tensor, points: Tensor, mass: Tensor) -> Tensor:
        weights = means(nodes, points, mass)
        if self.published and len(nodes) == 3:
            weights = weights - 0.5 * (mass * points**2).sum(0) * leading(nodes)
        return weights


class UniPC(DenoisedMultistep):
    """UniPC-3: predictor and corrector, one evaluation a step (Zhao et al. 2023, algorithms 5, 6).

    The predictor UniP-p integrates the polynomial through the last p denoised samples, the
    corrector UniC-p that through these and the one at the predicted point, which the next step
    evaluates anyway: the correction is made at its beginning, and raises the order to p + 1. What
    is left open by the paper is its B(h), which enters where two values are combined: it is
    B₂(h) = e^h − 1.

    The correction is added to the state as the step is given it, so that what a constraint has put
    there in the meantime stays there but for that difference. The last step is not corrected.

    Args:
        sde: the forward SDE.
        lower_order_final: see `MultistepSolver`.
    """

    name = "unipc"
    order = 4
    start_order = 3
    remembers = 3

    def begin(self, num_steps: int) -> None:
        """Forgets the steps of an earlier run."""
        super().begin(num_steps)
        self._predicted: tuple[list[Tensor], list[Tensor], Tensor] | None = None

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t."""
        denoised = denoised_from_score(self.sde, x, score(x, t), t)
        if self._predicted is not None:
            times, values, predicted = self._predicted
            corrected = self._mean([*times, t], [*values, denoised], times[0], t)
            x = x + self._gain(x, times[0], t) * (corrected - predicted)
        times, values = self._recall(t, denoised)
        predicted = self._mean(times, values, t, s)
        self._predicted = times, values, predicted
        return self._towards(predicted, x, t, s)


class UniPC2(UniPC):
    """UniPC-2: see `UniPC`."""

    name = "unipc2"
    order = 3
    start_order = 3
    remembers = 2
