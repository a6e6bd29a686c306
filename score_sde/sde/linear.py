"""Stochastic differential equations that turn data into noise, and their reversal.

Every SDE here is linear, so that p(x_t | x_0) = N(α(t) x_0, σ(t)² I), and two functions of time
say everything:

    mean_scale  α(t)        std  σ(t)
    drift       f(x, t) = (α'/α) x
    diffusion   g(t)²   = (σ²)' − 2 (α'/α) σ²

A new SDE is these two functions, a prior and a name; drift and diffusion follow by
differentiation where no closed form is given. `N` belongs to the discrete chain (SMLD or DDPM)
that the paper puts on the same path: a grid of times, whose step k stands where the SDE has the
mean scale and the std of the chain (`chain_times`).

Symbols: x (B, ...) the state, of any rank ≥ 2; t, s (B,) times with 0 ≤ s ≤ t ≤ T; z standard
normal noise. Where x is given, t may be one number for the whole batch. The paper's SDEs end at
T = 1, as their formulas say; a new one may set its own T.

Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
Equations" (ICLR), cited below as (Song, eq. n).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from score_sde.tensor_ops import added, expand_to, look_up, sum_per_sample, times_for

Table = TypeVar("Table", Tensor, tuple[Tensor, Tensor])

Score = Callable[[Tensor, Tensor], Tensor]


class SDE(ABC):
    """A linear SDE on [0, T], given by `mean_scale` and `std`.

    Attributes:
        name: what configs and messages call it.
        N: number of scales of the discrete chain on the same path.
        T: where the forward process ends; 1 for the paper's SDEs.
        eps: where sampling ends by default; below it the score is too steep to be learnt.
        train_eps: where training times begin by default.
        grid: what a predictor–corrector sampler's times are even in by default, a kind of
            `solvers.grids.time_grid`: time itself, unless that says little of the noise level.
        network_output: what a network trained for this SDE puts out, the "score" itself
            (Song & Ermon) or the "noise", −σ times the score (Ho et al.). `score` knows what
            follows from it.
        has_chain: whether networks may be trained on a discrete chain of N noise levels: SMLD's
            where they put out the score, DDPM's where they put out the noise. Its steps stand
            where the std is above 0 (`chain_times`).
        prior_std: standard deviation of the prior N(0, prior_std² I), which stands in for p_T.
        noise_depends_on_x: whether the diffusion depends on the state. It does not for any linear
            SDE; a process where it does gives the diffusion with the shape of x, each number's by
            that number alone, and a `reverse` of its own. Milstein's step asks for it.
    """

    name: str
    T: float = 1.0
    eps: float = 1e-3
    train_eps: float = 1e-5
    grid: str = "uniform"
    network_output: Literal["score", "noise"] = "noise"
    has_chain: bool = False
    prior_std: float = 1.0
    noise_depends_on_x: bool = False

    def __init__(self, N: int) -> None:
        if N < 1:
            raise ValueError(f"N={N}: an SDE needs at least one scale")
        self.N = N

    @abstractmethod
    def mean_scale(self, t: Tensor) -> Tensor:
        """α(t), the factor of x_0 in the mean of p(x_t | x_0): (B,) → (B,)."""

    @abstractmethod
    def std(self, t: Tensor) -> Tensor:
        """σ(t), the standard deviation of p(x_t | x_0): (B,) → (B,)."""

    def mean_rate(self, t: Tensor) -> Tensor:
        """α'(t)/α(t), the factor of x in the drift: (B,) → (B,)."""
        value, rate = _with_derivative(self.mean_scale, t)
        return rate / value

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g(t)²: (B,) → (B,)."""
        value, rate = _with_derivative(self.std, t)
        return (2 * value * rate - 2 * self.mean_rate(t) * value**2).clamp_min(0)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The exact step from s to t.

        Args:
            t: (B,) later times. Nothing checks that they are: the other way round r is above 1 and
                G is 0.
            s: (B,) earlier times.

        Returns:
            r and G, both (B,), with p(x_t | x_s) = N(r x_s, G² I).
        """
        r = self.mean_scale(t) / self.mean_scale(s)
        # A difference of close squares may round below zero, and the root of that is NaN.
        return r, (self.std(t) ** 2 - r**2 * self.std(s) ** 2).clamp_min(0).sqrt()

    def noise_level(self, t: Tensor) -> Tensor:
        """σ(t)/α(t), the noise level of x_t/α(t) (σ of Karras et al. 2022): (B,) → (B,)."""
        return self.std(t) / self.mean_scale(t)

    def snr(self, t: Tensor) -> Tensor:
        """α(t)²/σ(t)², the signal-to-noise ratio: (B,) → (B,)."""
        return (self.mean_scale(t) / self.std(t)) ** 2

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """The inverse of `noise_level`, by bisection on [0, T]: any shape → the same shape."""
        low, high = torch.zeros_like(level), torch.full_like(level, self.T)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.noise_level(middle) > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def sde(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Drift and diffusion of the forward SDE.

        Returns:
            f(x, t) with the shape of x, and g(t) as (B,).
        """
        t = times_for(x, t)
        return expand_to(self.mean_rate(t), x) * x, self.diffusion_squared(t).sqrt()

    def marginal_prob(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean (as x) and standard deviation (B,) of p(x_t | x_0 = x) (Song, eq. 29)."""
        t = times_for(x, t)
        return expand_to(self.mean_scale(t), x) * x, self.std(t)

    def prior_sampling(
        self, shape: Sequence[int], *, noise: Callable[[Sequence[int]], Tensor] | None = None
    ) -> Tensor:
        """Draws from the prior at time T.

        Args:
            shape: (B, ...).
            noise: gives standard normal noise of a shape; torch's global generator by default.
        """
        z = torch.randn(*shape) if noise is None else noise(shape)
        return z * self.prior_std

    def prior_logp(self, z: Tensor) -> Tensor:
        """Log density of the prior, in nats: (B, ...) → (B,)."""
        dimensions = math.prod(z.shape[1:])
        normaliser = 0.5 * dimensions * math.log(2 * math.pi * self.prior_std**2)
        return -sum_per_sample(z**2) / (2 * self.prior_std**2) - normaliser

    def chain_times(self) -> Tensor:
        """Where the steps 0 … N − 1 of the discrete chain stand: float64 (N,) on the CPU.

        Evenly spaced up to T, unless the chain has noise levels of its own.
        """
        return torch.linspace(self.T, 0, self.N, dtype=torch.float64).flip(0)

    def chain_scales(self) -> tuple[Tensor, Tensor]:
        """Mean scale and std of the chain's steps 0 … N − 1: both (N,) on the CPU.

        Those of the SDE at `chain_times`, unless the chain has tables of its own.
        """
        return self._once("chain_scales", self._computed_scales)

    def _computed_scales(self) -> tuple[Tensor, Tensor]:
        times = self.chain_times()
        return self.mean_scale(times).float(), self.std(times).float()

    def _once(self, name: str, compute: Callable[[], Table]) -> Table:
        """A table that follows from the SDE, computed the first time that it is asked for.

        It is the same tensor ever after, whose copy on another device is kept (`kept_on`).
        """
        tables = vars(self).setdefault("_tables", {})
        if name not in tables:
            tables[name] = compute()
        return tables[name]

    def chain_betas(self) -> Tensor:
        """β_i = 1 − ᾱ_i/ᾱ_{i−1} of a chain that preserves the variance: float64 (N,) on the CPU.

        √ᾱ_i are its mean scales, and ᾱ_{−1} is 1 (Ho et al. 2020, section 2).
        """
        kept = self.mean_scale(self.chain_times()) ** 2
        return 1 - kept / torch.cat([torch.ones_like(kept[:1]), kept[:-1]])

    def index(self, t: Tensor) -> Tensor:
        """The chain's step nearest to time t, 0 … N − 1: (B,) → int64 (B,)."""
        return (t * ((self.N - 1) / self.T)).round().long().clamp(0, self.N - 1)

    def chain_position(self, t: Tensor) -> Tensor:
        """`index` in the dtype of t, the label of a network that was trained on the chain."""
        return self.index(t).to(t.dtype)

    def nearest_step(self, t: Tensor) -> Tensor:
        """The time of the chain's step nearest to t: (B,) → (B,).

        Rounded to float32 as the times of grids are (`solvers.grids.chain_grid`), so that a time
        of a grid is its own nearest one.
        """
        times = self._once("times", lambda: self.chain_times().float())
        return look_up(times, self.index(t), t)

    def chain_alpha(self, t: Tensor) -> Tensor:
        """The factor α_i of the Langevin step (Song, algorithms 4 and 5): (B,) → (B,).

        It is 1 where the SDE keeps the mean, or the paper gives no chain.
        """
        return torch.ones_like(t)

    def discretize(
        self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step x_t = x_s + f + G z of the forward process.

        Args:
            x: (B, ...) the state.
            t: (B,) where the step ends.
            s: (B,) where it begins; None takes one step of the paper's own chain of N scales,
                which is Euler–Maruyama with a step of T/N where the paper gives no chain.

        Returns:
            f with the shape of x, and G as (B,).
        """
        t = times_for(x, t)
        if s is None:
            return self._chain_step(x, t)
        r, G = self.transition(t, times_for(x, s))
        return expand_to(r - 1, x) * x, G

    def _chain_step(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        drift, diffusion = self.sde(x, t)
        dt = self.T / self.N
        return drift * dt, diffusion * math.sqrt(dt)

    def ancestral_step(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of ancestral sampling, x_s = (x_t + G² ∇ log p_t(x_t)) / r + std z.

        The mean is E[x_s | x_t] itself, by Tweedie's formula for the step from s to t. The noise
        is that of p(x_s | x_t, x_0), which for VE is the paper's (Song, appendix F).

        Args:
            t: (B,) the later time, where x stands.
            s: (B,) the earlier time; None takes one step of the paper's own chain, or T/N where
                the paper gives none.

        Returns:
            r, G and std, all (B,), with r and G as in `transition`.
        """
        earlier = (t - self.T / self.N).clamp_min(0) if s is None else s
        r, G = self.transition(t, earlier)
        return r, G, G * self.std(earlier) / self.std(t)

    def reverse(self, score_fn: Score, probability_flow: bool = False) -> "ReverseSDE":
        """The reverse-time SDE (Song, eq. 6), or the probability-flow ODE (Song, eq. 13).

        Args:
            score_fn: (x, t) → ∇ log p_t(x).
            probability_flow: the ODE instead of the SDE.

        Raises:
            ValueError: where the noise depends on x, whose reversal has another drift.
        """
        if self.noise_depends_on_x:
            raise ValueError(
                f"{self.name} has noise that depends on x, and the reversal of a linear SDE does "
                "not hold for it: give it a `reverse` of its own"
            )
        return ReverseSDE(self, score_fn, probability_flow)


class ReverseSDE:
    """Drift and diffusion of the process run backwards in time; made by `SDE.reverse`.

    The score enters through the drift alone: f − g² ∇ log p_t, with half of it, and no noise, for
    the probability-flow ODE.
    """

    def __init__(self, forward: SDE, score_fn: Score, probability_flow: bool) -> None:
        self.forward = forward
        self.score_fn = score_fn
        self.probability_flow = probability_flow
        self.T = forward.T
        self.N = forward.N

    def sde(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Drift (as x) and diffusion (B,) of the reverse-time equation."""
        t = times_for(x, t)
        return self._reversed(*self.forward.sde(x, t), x, t)

    def discretize(
        self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """f and G of the reverse diffusion step x_s = x_t − f + G z (Song, eq. 46).

        Arguments as in `SDE.discretize`.
        """
        t = times_for(x, t)
        return self._reversed(*self.forward.discretize(x, t, s), x, t)

    def _reversed(self, f: Tensor, g: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        weight = 0.5 if self.probability_flow else 1.0
        f = added(-weight * expand_to(g**2, x) * self.score_fn(x, t), f)
        return f, torch.zeros_like(g) if self.probability_flow else g


def _with_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    # Also where a caller has switched gradients off, or is in inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        at = t.detach().clone().requires_grad_()
        value = function(at)
        if not value.requires_grad:  # a constant
            return value, torch.zeros_like(value)
        (rate,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), rate
