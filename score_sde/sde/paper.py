"""The SDEs of the paper, VE, VP and sub-VP, with the tables of SMLD's and DDPM's chains.

Symbols and equation numbers as in `linear`.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from score_sde.sde.exploding import ExplodingSDE, check_levels
from score_sde.sde.linear import SDE
from score_sde.tensor_ops import expand_to, kept_on, look_up

_NOTHING_LEFT = 1e8  # a noise level at which float32 has nothing of the data any more


class VESDE(ExplodingSDE):
    """Variance exploding: x_t = x_0 + σ(t) z, the limit of SMLD (Song, eq. 9 and 30)."""

    name = "vesde"
    eps = 1e-5
    has_chain = True

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, N: int = 1000) -> None:
        """`sigma_min` and `sigma_max` are the noise levels at t = 0 and 1, in data units."""
        super().__init__(N)
        check_levels(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_ratio = math.log(sigma_max / sigma_min)
        self.prior_std = sigma_max
        self.discrete_sigmas = torch.exp(
            torch.linspace(math.log(sigma_min), math.log(sigma_max), N)
        )
        self._ones = torch.ones_like(self.discrete_sigmas)

    def std(self, t: Tensor) -> Tensor:
        """σ(t) = σ_min (σ_max/σ_min)^t; the 2021 release, too, does not subtract σ_min²."""
        return self.sigma_min * torch.exp(self.log_ratio * t)

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

    def chain_scales(self) -> tuple[Tensor, Tensor]:
        """1 and SMLD's noise levels, the smallest first."""
        return self._ones, self.discrete_sigmas

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

    def chain_times(self) -> Tensor:
        """Where DDPM's steps stand: at the times of their own noise levels √(1 − ᾱ_k)/√ᾱ_k.

        Since α² + σ² = 1 for the chain and for the SDE, mean scale and std are then √ᾱ_k and
        √(1 − ᾱ_k). Step k stands at about (k + 1)/N, the last one slightly beyond T: the chain's
        product of 1 − β_i is smaller than the exponential of their sum.

        A last scale with β = 1 leaves nothing of the data; it stands where nothing of them is left
        in float32.
        """
        level = self.sqrt_1m_alphas_cumprod.double() / self.sqrt_alphas_cumprod.double()
        return self.time_of_noise_level(level.clamp_max(_NOTHING_LEFT))

    def chain_scales(self) -> tuple[Tensor, Tensor]:
        """√ᾱ_i and √(1 − ᾱ_i) of DDPM's chain."""
        return self.sqrt_alphas_cumprod, self.sqrt_1m_alphas_cumprod

    def chain_betas(self) -> Tensor:
        """DDPM's β_i."""
        return self.discrete_betas.double()

    def index(self, t: Tensor) -> Tensor:
        """The chain's step nearest to time t, 0 … N − 1: (B,) → int64 (B,)."""
        return torch.bucketize(t.contiguous(), kept_on(t.device, self._between_steps, t.dtype))

    @cached_property
    def _between_steps(self) -> Tensor:
        # Asked at every evaluation of a network that was trained on the chain.
        times = self.chain_times()
        return (times[1:] + times[:-1]) / 2

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
