"""What a network may put out, each with the ways from it to score, noise and denoised image.

With x = α x_0 + σ z, every output F is trained towards a target that is linear in data and noise,

    F* = p x_0 + q z,

and its expectation given x says E[x_0 | x], E[z | x] and the score, each by a x + b F:

    prediction  F*                               E[z | x]
    score       −z/σ                             −σ F
    noise       z                                F                      (Ho et al. 2020)
    denoised    x_0                              (x − α F)/σ
    v           α z − σ x_0                      (σ x + α F)/(α² + σ²)  (Salimans & Ho 2022)
    velocity    α' x_0 + σ' z, which is dx/dt    2σ (F − (α'/α) x)/g²   (Lipman et al. 2023)
    edm         (σ x_0/s − s α z)/R              σ x/R² − (s α/R) F     (Karras et al. 2022)

v's denominator makes it serve where α² + σ² is not 1. The velocity's expectation is the field of
the probability-flow ODE, f − ½ g² score, hence its form. Of EDM, s is the standard deviation of
the data and R² = σ² + s² α²: with y = x/α and the noise level l = σ/α it is Karras' table 1,

    D(y) = c_skip y + c_out F(c_in y),   c_skip = s²/(l² + s²),   c_out = l s/√(l² + s²),
    c_in = 1/√(l² + s²),   c_in y = x/R,

written without a division by α, which ends at almost 0 for some SDEs.

No way goes through another one: denoised images that a network puts out, for example, are not
made of a score again, as little of them would be left where σ/α is large. What is left of rounding
is that of the numbers given, times σ/α (a denoised image of noise) or α/σ (noise of a denoised
image), which no order of arithmetic avoids.

Sources: Ho et al. 2020, "Denoising Diffusion Probabilistic Models"; Salimans & Ho 2022,
"Progressive Distillation for Fast Sampling of Diffusion Models", appendix D; Lipman et al. 2023,
"Flow Matching for Generative Modeling", eq. 23; Karras et al. 2022, "Elucidating the Design Space
of Diffusion-Based Generative Models", table 1.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.sde import SDE
from score_sde.tensor_ops import added, expand_to, look_up


class Scales:
    """Mean scale, std and their rates at times t (B,), each computed where it is asked for."""

    def __init__(self, sde: SDE, t: Tensor) -> None:
        self.sde, self.t = sde, t

    def one(self) -> Tensor:
        """1: (B,)."""
        return torch.ones_like(self.t)

    @property
    def alpha(self) -> Tensor:
        """α, the factor of the data: (B,)."""
        return self.sde.mean_scale(self.t)

    @property
    def sigma(self) -> Tensor:
        """σ, the factor of the noise: (B,)."""
        return self.sde.std(self.t)

    @property
    def mean_rate(self) -> Tensor:
        """α'/α: (B,)."""
        return self.sde.mean_rate(self.t)

    @property
    def diffusion_squared(self) -> Tensor:
        """g²: (B,)."""
        return self.sde.diffusion_squared(self.t)


class ChainScales(Scales):
    """Those of steps of the SDE's discrete chain, which has no rates.

    Args:
        sde: whose chain it is.
        step: int64 (B,), 0 … N − 1.
        like: a tensor of the device and dtype to use.
    """

    def __init__(self, sde: SDE, step: Tensor, like: Tensor) -> None:
        self.sde, self.step, self.like = sde, step, like

    def one(self) -> Tensor:
        """1: (B,)."""
        return self.like.new_ones(len(self.step))

    @property
    def alpha(self) -> Tensor:
        """The chain's mean scale: (B,)."""
        return look_up(self.sde.chain_scales()[0], self.step, self.like)

    @property
    def sigma(self) -> Tensor:
        """The chain's std: (B,)."""
        return look_up(self.sde.chain_scales()[1], self.step, self.like)


@dataclass(frozen=True)
class Affine:
    """y = a x + b F, of a state x and an output F.

    Attributes:
        a: (B,), or None for 0.
        b: (B,).
    """

    a: Tensor | None
    b: Tensor

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """y, with the shape of x."""
        scaled = expand_to(self.b, x) * output
        return scaled if self.a is None else added(expand_to(self.a, x) * x, scaled)

    def solve(self, x: Tensor, y: Tensor) -> Tensor:
        """The output F that gives y, with the shape of x."""
        rest = y if self.a is None else y - expand_to(self.a, x) * x
        return rest / expand_to(self.b, x)


class Prediction(ABC):
    """What a network puts out, and what follows from it.

    Args:
        sigma_data: s, the standard deviation of the data, of which EDM makes use.

    Attributes:
        name: what configs call it.
        on_chains: whether it may be trained on the chains of SMLD and DDPM.
        divided: whether its size is 1/σ, so that the network divides by the noise level.
        by_level: whether the network is told the noise level on every SDE, not the time.
    """

    name: ClassVar[str]
    on_chains: ClassVar[bool] = True
    divided: ClassVar[bool] = False
    by_level: ClassVar[bool] = False

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(
                f"sigma_data={sigma_data}: the standard deviation of the data is above 0"
            )
        self.sigma_data = sigma_data

    @abstractmethod
    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """F* of data x_0 and noise z, with their shape."""

    @abstractmethod
    def noise(self, at: Scales) -> Affine:
        """E[z | x] of x and the output."""

    @abstractmethod
    def denoised(self, at: Scales) -> Affine:
        """E[x_0 | x] of x and the output."""

    def score(self, at: Scales) -> Affine:
        """∇ log p_t(x) of x and the output: −1/σ times the noise."""
        noise = self.noise(at)
        return Affine(None if noise.a is None else -noise.a / at.sigma, -noise.b / at.sigma)

    def input_scale(self, at: Scales) -> Tensor | None:
        """The factor (B,) of the state that the network is given; None for 1."""
        return None


class ScoreOutput(Prediction):
    """∇ log p_t(x) itself (Song & Ermon 2019)."""

    name = "score"
    divided = True

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """−z/σ."""
        return -z / expand_to(at.sigma, z)

    def noise(self, at: Scales) -> Affine:
        """−σ F."""
        return Affine(None, -at.sigma)

    def denoised(self, at: Scales) -> Affine:
        """(x + σ² F)/α."""
        return Affine(1 / at.alpha, at.sigma**2 / at.alpha)

    def score(self, at: Scales) -> Affine:
        """F."""
        return Affine(None, at.one())


class NoiseOutput(Prediction):
    """E[z | x] (Ho et al. 2020)."""

    name = "noise"

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """The noise z."""
        return z

    def noise(self, at: Scales) -> Affine:
        """F."""
        return Affine(None, at.one())

    def denoised(self, at: Scales) -> Affine:
        """(x − σ F)/α."""
        return Affine(1 / at.alpha, -at.sigma / at.alpha)


class DenoisedOutput(Prediction):
    """E[x_0 | x], the denoised image."""

    name = "denoised"

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """The data x_0."""
        return x_0

    def noise(self, at: Scales) -> Affine:
        """(x − α F)/σ."""
        return Affine(1 / at.sigma, -at.alpha / at.sigma)

    def denoised(self, at: Scales) -> Affine:
        """F."""
        return Affine(None, at.one())


class VOutput(Prediction):
    """v = α z − σ x_0 (Salimans & Ho 2022), for any α² + σ²."""

    name = "v"

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """α z − σ x_0."""
        return expand_to(at.alpha, z) * z - expand_to(at.sigma, x_0) * x_0

    def noise(self, at: Scales) -> Affine:
        """(σ x + α F)/(α² + σ²)."""
        total = at.alpha**2 + at.sigma**2
        return Affine(at.sigma / total, at.alpha / total)

    def denoised(self, at: Scales) -> Affine:
        """(α x − σ F)/(α² + σ²)."""
        total = at.alpha**2 + at.sigma**2
        return Affine(at.alpha / total, -at.sigma / total)


class VelocityOutput(Prediction):
    """dx/dt = α' x_0 + σ' z of the path from data to noise (flow matching, Lipman et al. 2023)."""

    name = "velocity"
    on_chains = False

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """α' x_0 + σ' z, with σ' = (α'/α) σ + g²/(2σ)."""
        per_noise = at.mean_rate * at.sigma + self._per_noise(at)
        return expand_to(at.mean_rate * at.alpha, x_0) * x_0 + expand_to(per_noise, z) * z

    def noise(self, at: Scales) -> Affine:
        """(F − (α'/α) x) 2σ/g²."""
        return Affine(-at.mean_rate / self._per_noise(at), 1 / self._per_noise(at))

    def denoised(self, at: Scales) -> Affine:
        """x/α − (σ/α) times the noise."""
        per_level = at.alpha * self._per_noise(at) / at.sigma  # α g²/(2σ²), (σ/α)' α²/σ
        return Affine((at.mean_rate + self._per_noise(at) / at.sigma) / per_level, -1 / per_level)

    def score(self, at: Scales) -> Affine:
        """2 ((α'/α) x − F)/g²."""
        return Affine(2 * at.mean_rate / at.diffusion_squared, -2 / at.diffusion_squared)

    @staticmethod
    def _per_noise(at: Scales) -> Tensor:
        """What the noise adds to the velocity at a given x, g²/(2σ): (B,)."""
        return at.diffusion_squared / (2 * at.sigma)


class EDMOutput(Prediction):
    """EDM's F, of unit variance as its input c_in y is (Karras et al. 2022, table 1)."""

    name = "edm"
    on_chains = False
    by_level = True

    def target(self, at: Scales, x_0: Tensor, z: Tensor) -> Tensor:
        """(x_0 − c_skip y)/c_out = (σ x_0/s − s α z)/R."""
        total = self._total(at)
        data, noise = at.sigma / (self.sigma_data * total), self.sigma_data * at.alpha / total
        return expand_to(data, x_0) * x_0 - expand_to(noise, z) * z

    def noise(self, at: Scales) -> Affine:
        """(y − D)/l = σ x/R² − (s α/R) F."""
        total = self._total(at)
        return Affine(at.sigma / total**2, -self.sigma_data * at.alpha / total)

    def denoised(self, at: Scales) -> Affine:
        """D = c_skip y + c_out F = s² α x/R² + (s σ/R) F."""
        total = self._total(at)
        return Affine(self.sigma_data**2 * at.alpha / total**2, self.sigma_data * at.sigma / total)

    def input_scale(self, at: Scales) -> Tensor | None:
        """c_in/α = 1/R."""
        return 1 / self._total(at)

    def _total(self, at: Scales) -> Tensor:
        """R = √(σ² + s² α²), the standard deviation of x: (B,)."""
        return torch.hypot(at.sigma, self.sigma_data * at.alpha)


PREDICTIONS: dict[str, type[Prediction]] = {
    prediction.name: prediction
    for prediction in (
        ScoreOutput,
        NoiseOutput,
        DenoisedOutput,
        VOutput,
        VelocityOutput,
        EDMOutput,
    )
}
"""Name in configs (`model.prediction`) → what a network puts out."""
