"""Deterministic solvers that remember nothing: DDIM, Heun, DPM-Solver-2."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise, increment
from score_sde.score import noise_from_score
from score_sde.sde import SDE, Score
from score_sde.solvers.few_step.solver import FewStepSolver, along, exact, grid_time
from score_sde.tensor_ops import expand_to


class DDIM(FewStepSolver):
    """Euler's method in the noise level, with fresh noise or none (Song, J. et al. 2021, eq. 12).

    A step from t to s adds noise of std η G σ_s/σ_t (their eq. 16), with r and G of the transition
    p(x_t | x_s), and goes further along the noise estimate by as much: c of `solver` becomes
    c_η = σ_t − r σ_s q with q² = 1 − η² G²/σ_t². η = 1 is ancestral sampling.

    Args:
        sde: the forward SDE.
        eta: η from 0, the ODE with no noise, to 1.

    Raises:
        ValueError: where η lies outside.
    """

    name = "ddim"
    order = 1
    arguments: ClassVar = {"eta": "eta"}

    def __init__(self, sde: SDE, eta: float = 0.0) -> None:
        super().__init__(sde)
        if not 0 <= eta <= 1:
            raise ValueError(
                f"eta={eta}: the noise of DDIM's steps lies between 0, none, and 1, that of "
                "ancestral sampling"
            )
        self.eta = eta
        if eta > 0:
            self.order, self.weak_order, self.strong_order = None, 1, 1.0

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        s = grid_time(self, t_next)
        x_mean = self.advance(x, t, s, score, noise)
        if self.eta == 0:
            return x_mean, x_mean
        _, G = self.sde.transition(t, s)
        std = self.eta * G * self.sde.std(s) / self.sde.std(t)
        z = increment(noise, x.shape, t, s, self.sde.snr)
        return x_mean + expand_to(std, x) * z, x_mean

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """One evaluation, at t; without the noise of the step."""
        n = noise_from_score(self.sde, score(x, t), t)
        if self.eta == 0:
            return self._along(n, x, t, s)
        r, G = self.sde.transition(t, s)
        before, after = self.sde.std(t), r * self.sde.std(s)
        added = (self.eta * G / before) ** 2
        # σ_t² − r² σ_s² q² in terms that do not cancel.
        c = (G**2 + after**2 * added) / (before + after * (1 - added).clamp_min(0).sqrt())
        return along(n, x, c, r)


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
        if s_churn > 0:
            self.order = None

    def refuses_chain(self) -> str | None:
        """With churn it does not: raised levels lie between those of the chain."""
        if self.s_churn == 0:
            return None
        return (
            f"config.sampling.s_churn={self.s_churn} leads to times between those of the discrete "
            "chain, which this network does not know: set it to 0"
        )

    def begin(self, num_steps: int) -> None:
        """Shares the churn out over the steps of the run."""
        self._gamma = min(self.s_churn / num_steps, math.sqrt(2) - 1)

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """Two evaluations, at t (after the churn) and at s."""
        if self._gamma > 0:
            x, t = self._churn(x, t, noise)
        n = noise_from_score(self.sde, score(x, t), t)
        slope = self._slope(t, s)
        x_euler = along(n, x, *slope)
        n_next = noise_from_score(self.sde, score(x_euler, s), s)
        # At the level 0 there is no noise to estimate: Euler's step ends there, as in the paper.
        above_zero = expand_to(self.sde.std(s) > 0, x)
        return torch.where(above_zero, along((n + n_next).div_(2), x, *slope), x_euler)

    def _churn(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        level = self.sde.noise_level(t)
        inside = (level >= self.s_min) & (level <= self.s_max)
        raised = self.sde.time_of_noise_level(level * (1 + self._gamma)).clamp_max(self.sde.T)
        later = torch.where(inside, torch.maximum(raised, t), t)
        r, G = self.sde.transition(later, t)
        return expand_to(r, x) * x + expand_to(G * self.s_noise, x) * noise(x.shape), later


class DPMSolver2(FewStepSolver):
    """DPM-Solver-2: the midpoint method in λ = −log ℓ (Lu et al. 2022a, algorithm 1 and eq. 4.1).

    The noise estimate n_u at u, whose level is the geometric mean of those at t and s, makes the
    step. A network that knows the times of a chain only is asked at its step nearest to u, with
    the coefficients of that node (their algorithm 4): n_t + (n_u − n_t) / (2 r), where r is how
    far of the step, in λ, u lies. Neighbours in the chain have none between them, and s itself is
    the node there.
    """

    name = "dpm_solver2"
    order = 2
    evaluations = 2
    grid = "log_snr"

    def advance(self, x: Tensor, t: Tensor, s: Tensor, score: Score, noise: Noise) -> Tensor:
        """Two evaluations, at t and at u."""
        n = noise_from_score(self.sde, score(x, t), t)
        middle = (self.sde.noise_level(exact(t)) * self.sde.noise_level(exact(s))).sqrt()
        u = self.node(self.sde.time_of_noise_level(middle).to(t))
        u = torch.where(u < t, torch.maximum(u, s), s)
        n_u = noise_from_score(self.sde, score(self._along(n, x, t, u), u), u)
        to_u, to_s = self._lengths(t, [u, s])
        # A step to the level 0 is infinitely long in λ, and Euler's is exact there.
        weight = torch.where(torch.isfinite(to_s), to_s / (2 * to_u), torch.zeros_like(to_s))
        weight = expand_to(weight.to(x), x)
        change = torch.where(weight > 0, n_u - n, torch.zeros_like(n))
        return self._along(n + weight * change, x, t, s)
