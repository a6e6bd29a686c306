"""Primitives of the image networks, each built from plain numbers.

Symbols: B batch, C channels, H and W height and width; `x` is (B, C, H, W), `cond` (B,) is what a
network gets as its noise label (σ, a time times 999, or a step index). Everything keeps the
dtype, device and memory format of `x`.
"""

import math
from functools import partial
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.tensor_ops import choose

T = TypeVar("T")

_ACTIVATIONS = {
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "lrelu": lambda: nn.LeakyReLU(0.2),
}
_SMALLEST_SCALE = 1e-10


def activation(name: str) -> nn.Module:
    """The nonlinearity of that name: swish, relu, elu or lrelu (slope 0.2).

    Raises:
        ValueError: The name is none of these.
    """
    return choose(_ACTIVATIONS, name, "nonlinearity")()


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fills a weight uniformly, of variance `scale` over the mean fan (DDPM's initialiser).

    A scale of 0 means 1e-10: the layer starts as almost nothing, yet gradients pass through it.
    """
    return nn.init.xavier_uniform_(weight, gain=math.sqrt(scale or _SMALLEST_SCALE))


def dense(in_features: int, out_features: int, *, init_scale: float = 1.0) -> nn.Linear:
    """A linear layer with variance-scaling weights and a zero bias."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)
    return layer


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    padding: int = 1,
    init_scale: float = 1.0,
) -> nn.Conv2d:
    """A 3×3 convolution with variance-scaling weights and a zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=padding)
    variance_scaling_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def conv1x1(in_channels: int, out_channels: int, *, init_scale: float = 1.0) -> nn.Conv2d:
    """A 1×1 convolution with variance-scaling weights and a zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, 1)
    variance_scaling_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Group normalisation (Wu & He 2018) with ε = 1e-6.

    Args:
        channels: Width of the input.
        groups: Number of groups; None is NCSN++'s rule min(channels // 4, 32). DDPM has 32
            throughout.

    Raises:
        ValueError: The groups do not divide the channels.
    """
    allowed = (
        "multiples of 4 up to 128 and multiples of 32 above"
        if groups is None
        else f"multiples of {groups}"
    )
    groups = max(min(channels // 4, 32), 1) if groups is None else groups
    if channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in {groups} groups: "
            f"choose a width (nf times every ch_mult) among the {allowed}"
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


CondKind = Literal["sigma", "number", "level"]
"""What a network takes as `cond`: a noise level σ > 0, a time or step, or an index of SMLD's
levels."""


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a time at geometrically spaced frequencies (Vaswani et al. 2017).

    Args:
        dim: Number of features E, at least 4; an odd one is filled up with a zero.
    """

    cond_kind: CondKind = "number"

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 4:
            raise ValueError(
                f"an embedding of {dim} features is too small: choose nf of at least 4"
            )
        self.features = dim

    def forward(self, cond: Tensor) -> Tensor:
        """(B,) times, integer or real, → (B, E)."""
        # In float32 at least: half precision has no room for 999 and its neighbours.
        t = cond.to(torch.promote_types(cond.dtype, torch.float32))
        half = self.features // 2
        exponents = torch.arange(half, device=t.device, dtype=t.dtype)
        phases = t[:, None] * torch.exp(exponents * (-math.log(10_000) / (half - 1)))
        features = torch.cat([torch.sin(phases), torch.cos(phases)], dim=1)
        return F.pad(features, (0, self.features % 2))


class GaussianFourierProjection(nn.Module):
    """Random Fourier features of log σ (Tancik et al. 2020; the paper's appendix on NCSN++).

    The frequencies are drawn once and never trained, but belong to the state.

    Args:
        num_frequencies: Number of frequencies; there are twice as many features.
        scale: Standard deviation of the frequencies.
    """

    cond_kind: CondKind = "sigma"

    def __init__(self, num_frequencies: int, scale: float = 16.0) -> None:
        super().__init__()
        self.features = 2 * num_frequencies
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(num_frequencies) * scale)

    def forward(self, cond: Tensor) -> Tensor:
        """(B,) noise levels σ > 0 → (B, 2 num_frequencies)."""
        log_sigma = cond.to(torch.promote_types(cond.dtype, torch.float32)).log()
        phases = log_sigma[:, None] * self.frequencies * 2 * math.pi
        return torch.cat([torch.sin(phases), torch.cos(phases)], dim=1)


def descending_sigmas(sigma_min: float, sigma_max: float, num_scales: int) -> Tensor:
    """The geometric noise scales of SMLD, largest first: float64 (num_scales,) on the CPU.

    Raises:
        ValueError: a noise level of 0 or below.
    """
    if not min(sigma_min, sigma_max) > 0:
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}: noise levels must be above 0"
        )
    log_sigmas = torch.linspace(
        math.log(sigma_max), math.log(sigma_min), num_scales, dtype=torch.float64, device="cpu"
    )
    return log_sigmas.exp()


class SigmaTable(nn.Module):
    """σ by step index, descending. Float indices are truncated, as they are in the 2021 release.

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level, at index 0.
        num_scales: Number of levels.
    """

    def __init__(self, sigma_min: float, sigma_max: float, num_scales: int) -> None:
        super().__init__()
        table = descending_sigmas(sigma_min, sigma_max, num_scales)
        self.sigmas: Tensor
        # Derived from the constructor's numbers, so not a part of the state.
        table = table.to(torch.get_default_device(), torch.get_default_dtype())
        self.register_buffer("sigmas", table, persistent=False)

    def forward(self, cond: Tensor) -> Tensor:
        """(B,) step indices → (B,) noise levels."""
        return self.sigmas[cond.long()]


def embedding_and_sigma(
    embedding_type: str, nf: int, fourier_scale: float, table: tuple[float, float, int]
) -> tuple[GaussianFourierProjection | SinusoidalEmbedding, nn.Module]:
    """What is made of `cond`: its embedding, and the module that gives the noise level σ.

    Args:
        embedding_type: "fourier" (cond is σ itself) or "positional" (cond is a time or step
            index).
        nf: Number of frequencies ("fourier", 2 nf features) or of features ("positional").
        fourier_scale: Standard deviation of the Fourier frequencies.
        table: (sigma_min, sigma_max, num_scales) of the descending table that "positional" looks σ
            up in.

    Raises:
        ValueError: The embedding type is not known.
    """
    fourier = partial(GaussianFourierProjection, nf, fourier_scale), nn.Identity
    positional = partial(SinusoidalEmbedding, nf), partial(SigmaTable, *table)
    options = {"fourier": fourier, "positional": positional}
    embedding, sigma = choose(options, embedding_type, "embedding_type")
    return embedding(), sigma()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-head attention over all pixels, scaled by C^-1/2: three (B, C, H, W) → one."""
    height, width = q.shape[2:]
    q, k, v = (y.flatten(2).transpose(1, 2).unsqueeze(1) for y in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.squeeze(1).transpose(1, 2).unflatten(2, (height, width))


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Pads height and width at their ends with zeros up to multiples of `divisor`."""
    height, width = x.shape[-2:]
    bottom, right = -height % divisor, -width % divisor
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
