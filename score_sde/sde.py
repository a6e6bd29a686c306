"""Stochastic differential equations that turn data into noise, and their reversal.

Every SDE here is linear, so that p(x_t | x_0) = N(α(t) x_0, σ(t)² I), and two functions of time
say everything:

    mean_scale  α(t)        std  σ(t)
    drift       f(x, t) = (α'/α) x
    diffusion   g(t)²   = (σ²)' − 2 (α'/α) σ²

A new SDE is these two functions, a prior and a name; drift and diffusion follow by
differentiation where no closed form is given. `N` belongs to the discrete chain (SMLD or DDPM)
that the paper puts on the same path.

Symbols: x (B, ...) the state, of any rank ≥ 2; t, s (B,) times with 0 ≤ s ≤ t ≤ T; z standard
normal noise. The paper's SDEs end at T = 1, as their formulas say; a new one may set its own T.

Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
Equations" (ICLR), cited below as (Song, eq. n).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from score_sde.tensor_ops import expand_to, look_up, sum_per_sample

Score = Callable[[Tensor, Tensor], Tensor]


class SDE(ABC):
    """A linear SDE on [0, T], given by `mean_scale` and `std`.

    Attributes:
        name: what configs and messages call it.
        N: number of scales of the discrete chain on the same path.
        T: where the forward process ends; 1 for the paper's SDEs.
        eps: where sampling ends by default; below it the score is too steep to be learnt.
        network_output: what a network trained for this SDE puts out, the "score" itself
            (Song & Ermon) or the "noise", −σ times the score (Ho et al.). `score.py` knows what
            follows from it.
        has_chain: whether the paper defines a discrete chain with its own noise levels.
        prior_std: standard deviation of the prior N(0, prior_std² I), which stands in for p_T.
    """

    name: str
    T: float = 1.0
    eps: float = 1e-3
    network_output: Literal["score", "noise"] = "noise"
    has_chain: bool = False
    prior_std: float = 1.0

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
            t: (B,) later times.
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

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """The inverse of `noise_level`, by bisection on [0, T]: any shape → the same shape."""
        low, high = torch.zeros_like(level), torch.full_like(level, self.T)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.noise_level(middle) > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and diffusion of the forward SDE.

        Returns:
            f(x, t) with the shape of x, and g(t) as (B,).
        """
        return expand_to(self.mean_rate(t), x) * x, self.diffusion_squared(t).sqrt()

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (as x) and standard deviation (B,) of p(x_t | x_0 = x) (Song, eq. 29)."""
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

    def index(self, t: Tensor) -> Tensor:
        """Step of the discrete chain at time t, 0 … N − 1: (B,) → int64 (B,).

        The chain's step k stands at t = k T / (N − 1). Times between two steps belong to the lower
        one, as in the 2021 release; the small margin keeps times that were meant to be a step from
        rounding below it.
        """
        return (t * (self.N - 1) / self.T + 1e-4).long()

    def chain_alpha(self, t: Tensor) -> Tensor:
        """The factor α_i of the Langevin step (Song, algorithms 4 and 5): (B,) → (B,).

        It is 1 where the SDE keeps the mean.
        """
        return torch.ones_like(t)

    def discretize(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step x_t = x_s + f + G z of the forward process.

        Args:
            x: (B, ...) the state.
            t: (B,) where the step ends.
            s: (B,) where it begins; None takes one step of the paper's own chain of N scales,
                which is Euler–Maruyama with a step of T/N where the paper gives no chain.

        Returns:
            f with the shape of x, and G as (B,).
        """
        if s is None:
            return self._chain_step(x, t)
        r, G = self.transition(t, s)
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
        """
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

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift (as x) and diffusion (B,) of the reverse-time equation."""
        return self._reversed(*self.forward.sde(x, t), x, t)

    def discretize(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f and G of the reverse diffusion step x_s = x_t − f + G z (Song, eq. 46).

        Arguments as in `SDE.discretize`.
        """
        return self._reversed(*self.forward.discretize(x, t, s), x, t)

    def _reversed(self, f: Tensor, g: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        weight = 0.5 if self.probability_flow else 1.0
        f = f - weight * expand_to(g**2, x) * self.score_fn(x, t)
        return f, torch.zeros_like(g) if self.probability_flow else g


class VESDE(SDE):
    """Variance exploding: x_t = x_0 + σ(t) z, the limit of SMLD (Song, eq. 9 and 30)."""

    name = "vesde"
    eps = 1e-5
    network_output = "score"
    has_chain = True

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, N: int = 1000) -> None:
        """`sigma_min` and `sigma_max` are the noise levels at t = 0 and 1, in data units."""
        super().__init__(N)
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min={sigma_min}, sigma_max={sigma_max}: noise levels must satisfy "
                "0 < sigma_min < sigma_max"
            )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_ratio = math.log(sigma_max / sigma_min)
        self.prior_std = sigma_max
        self.discrete_sigmas = torch.exp(
            torch.linspace(math.log(sigma_min), math.log(sigma_max), N)
        )

    def mean_scale(self, t: Tensor) -> Tensor:
        """α = 1."""
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        """σ(t) = σ_min (σ_max/σ_min)^t; the released code, too, does not subtract σ_min²."""
        return self.sigma_min * torch.exp(self.log_ratio * t)

    def mean_rate(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = (σ²)'."""
        return 2 * self.log_ratio * self.std(t) ** 2

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r = 1, G² = σ(t)² − σ(s)², without its cancellation."""
        shrunk = -torch.expm1(-2 * self.log_ratio * (t - s))
        return torch.ones_like(t), self.std(t) * shrunk.clamp_min(0).sqrt()

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """t = log(level/σ_min) / log(σ_max/σ_min)."""
        return torch.log(level / self.sigma_min) / self.log_ratio

    def ancestral_step(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior's noise, σ_{i−1} √(σ_i² − σ_{i−1}²) / σ_i on SMLD's chain."""
        if s is not None:
            return super().ancestral_step(t, s)
        sigma, below, G = self._chain_levels(t)
        return torch.ones_like(t), G, G * below / sigma

    def _chain_step(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), self._chain_levels(t)[2]

    def _chain_levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # SMLD: σ_i, σ_{i−1} and G² = σ_i² − σ_{i−1}², with σ_{−1} = 0. The ratio of neighbours is
        # constant, so no squares cancel.
        i = self.index(t)
        sigma = look_up(self.discrete_sigmas, i, t)
        below = look_up(self.discrete_sigmas, (i - 1).clamp_min(0), t)
        kept = math.sqrt(-math.expm1(-2 * self.log_ratio / max(self.N - 1, 1)))
        first = i == 0
        return sigma, below.masked_fill(first, 0), torch.where(first, sigma, sigma * kept)


class _BetaSDE(SDE):
    """What VP and sub-VP share: β(t) linear from β_min to β_max, α = exp(−½ ∫β), DDPM's tables."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, N: int = 1000) -> None:
        """`beta_min` and `beta_max` are β(0) and β(1), per unit of time; N scales.

        The chain's β_i = β/N are variances of at most 1: where N < beta_max the last ones are cut
        to 1, and a step of such a scale forgets everything.
        """
        super().__init__(N)
        if not 0 < beta_min <= beta_max:
            raise ValueError(
                f"beta_min={beta_min}, beta_max={beta_max}: rates must satisfy "
                "0 < beta_min <= beta_max"
            )
        self.beta_0, self.beta_1 = beta_min, beta_max
        betas = torch.linspace(beta_min / N, beta_max / N, N, dtype=torch.float64).clamp_max(1)
        cumulative = (1 - betas).cumprod(0)
        self.discrete_betas = betas.float()
        self.alphas = (1 - betas).float()
        self.alphas_cumprod = cumulative.float()
        self.sqrt_alphas_cumprod = cumulative.sqrt().float()
        self.sqrt_1m_alphas_cumprod = (1 - cumulative).sqrt().float()

    def beta_t(self, t: Tensor) -> Tensor:
        """β(t): (B,) → (B,)."""
        return self.beta_0 + t * (self.beta_1 - self.beta_0)

    def beta_integral(self, t: Tensor) -> Tensor:
        """∫₀ᵗ β: (B,) → (B,)."""
        return t * (self.beta_0 + 0.5 * t * (self.beta_1 - self.beta_0))

    def mean_scale(self, t: Tensor) -> Tensor:
        """α(t) = exp(−½ ∫₀ᵗ β)."""
        return torch.exp(-0.5 * self.beta_integral(t))

    def mean_rate(self, t: Tensor) -> Tensor:
        """−½ β(t)."""
        return -0.5 * self.beta_t(t)

    def chain_alpha(self, t: Tensor) -> Tensor:
        """1 − β_i of the chain's step at time t (the paper's α_i, not its product)."""
        return look_up(self.alphas, self.index(t), t)

    def _integral_between(self, t: Tensor, s: Tensor) -> Tensor:
        # ∫ₛᵗ β in a form without cancellation.
        return (t - s) * (self.beta_0 + 0.5 * (t + s) * (self.beta_1 - self.beta_0))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        # The root of ½(β₁ − β₀) t² + β₀ t = integral, in the form that does not cancel near 0.
        slope = self.beta_1 - self.beta_0
        return 2 * integral / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * slope * integral))


class VPSDE(_BetaSDE):
    """Variance preserving: α² + σ² = 1, the limit of DDPM (Song, eq. 11 and 33)."""

    name = "vpsde"
    has_chain = True

    def std(self, t: Tensor) -> Tensor:
        """σ² = 1 − exp(−∫₀ᵗ β)."""
        return (-torch.expm1(-self.beta_integral(t))).sqrt()

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = β(t)."""
        return self.beta_t(t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r² = exp(−∫ₛᵗ β), G² = 1 − r²."""
        between = self._integral_between(t, s)
        return torch.exp(-0.5 * between), (-torch.expm1(-between)).clamp_min(0).sqrt()

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """The root of σ²/α² = exp(∫₀ᵗ β) − 1 = level²."""
        return self._time_of_integral(torch.log1p(level**2))

    def ancestral_step(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The larger of DDPM's two noises, √β_i on its chain (Ho et al. 2020, section 3.2)."""
        r, G = self._chain_transition(t) if s is None else self.transition(t, s)
        return r, G, G

    def _chain_step(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r, G = self._chain_transition(t)
        return expand_to(r - 1, x) * x, G

    def _chain_transition(self, t: Tensor) -> tuple[Tensor, Tensor]:
        i = self.index(t)
        return look_up(self.alphas, i, t).sqrt(), look_up(self.discrete_betas, i, t).sqrt()


class subVPSDE(_BetaSDE):
    """Sub-VP: the mean of VP with the smaller std 1 − α², made for likelihoods (Song, eq. 12).

    The paper gives no discrete chain for it. `alphas` and the other tables are those of VP with
    the same β, which the Langevin step sizes need.
    """

    name = "subvpsde"

    def std(self, t: Tensor) -> Tensor:
        """σ = 1 − exp(−∫₀ᵗ β), the square of VP's."""
        return -torch.expm1(-self.beta_integral(t))

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g² = β(t) (1 − exp(−2 ∫₀ᵗ β))."""
        return -self.beta_t(t) * torch.expm1(-2 * self.beta_integral(t))

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """r² = exp(−∫ₛᵗ β), G² = σ(t)² − r² σ(s)², without its cancellation."""
        # (1 − e^{−B_t})² − r² (1 − e^{−B_s})² with r² = e^{B_s − B_t} is a product of two terms.
        between = self._integral_between(t, s)
        total = self.beta_integral(t) + self.beta_integral(s)
        squared = torch.expm1(-between) * torch.expm1(-total)
        return torch.exp(-0.5 * between), squared.clamp_min(0).sqrt()

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """The root of σ/α = 2 sinh(½ ∫₀ᵗ β) = level."""
        return self._time_of_integral(2 * torch.asinh(level / 2))


def _with_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    value, rate, *_ = torch.func.jvp(function, (t,), (torch.ones_like(t),))
    return value, rate


def _ve(model: Mapping[str, Any]) -> SDE:
    return VESDE(model["sigma_min"], model["sigma_max"], model["num_scales"])


def _from_betas(kind: type[_BetaSDE]) -> Callable[[Mapping[str, Any]], SDE]:
    def build(model: Mapping[str, Any]) -> SDE:
        beta_max, num_scales = model["beta_max"], model["num_scales"]
        if beta_max > num_scales:
            raise ValueError(
                f"model.num_scales={num_scales}: the chain of {kind.name} needs at least "
                f"beta_max={beta_max:g} scales, since beta_max/num_scales is a variance of at "
                "most 1; for fewer sampling steps set sampling.num_steps"
            )
        return kind(model["beta_min"], beta_max, num_scales)

    return build


SDES: dict[str, Callable[[Mapping[str, Any]], SDE]] = {
    VESDE.name: _ve,
    VPSDE.name: _from_betas(VPSDE),
    subVPSDE.name: _from_betas(subVPSDE),
}
"""Name in configs (`training.sde`) → the SDE of the fields of the group `model`."""
