"""NCSN (Song & Ermon 2019) and NCSNv2 (Song & Ermon 2020).

NCSN gets the noise level by conditional instance normalisation; NCSNv2 does not, and divides
its output by σ. Symbols: B batch, C channels, H and W height and width; `cond` (B,) is the step
index of the descending geometric table of noise levels (a float one is truncated), called `y`
inside. A width is a number of channels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.networks.layers import SigmaTable, activation
from score_sde.networks.refinenet import Norm, RefineNet
from score_sde.tensor_ops import choose

_EPS = 1e-5

# Per class of image sizes, the residual stages: width in units of nf, whether the first block
# halves the sides (or, where dilated, would have), dilation.
_STAGES = {
    64: ((1, False, 1), (2, True, 1), (2, True, 2), (2, True, 4)),
    128: ((1, False, 1), (2, True, 1), (2, True, 1), (4, True, 2), (4, True, 4)),
    256: ((1, False, 1), (2, True, 1), (2, True, 1), (2, True, 1), (4, True, 2), (4, True, 4)),
}


class NoNorm(nn.Module):
    """Stands where a normalisation may stand, and does nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` as it is."""
        return x


class InstanceNorm(nn.Module):
    """Instance normalisation without weights (Ulyanov et al. 2016)."""

    def __init__(self, width: int, eps: float = _EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return F.instance_norm(x, eps=self.eps)


class VarianceNorm(nn.Module):
    """Division by each channel's standard deviation, the mean staying in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        variance = x.var(dim=(2, 3), keepdim=True)
        return self.alpha[:, None, None] * x * torch.rsqrt(variance + _EPS)


def normalised_means(x: Tensor) -> Tensor:
    """Each channel's mean, normalised over the channels: (B, C, H, W) → (B, C).

    Instance normalisation alone forgets these means; InstanceNorm++ adds them back (NCSN, appendix
    A.1).
    """
    means = x.mean(dim=(2, 3))
    centred = means - means.mean(dim=1, keepdim=True)
    return centred * torch.rsqrt(means.var(dim=1, keepdim=True) + _EPS)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++: γ (instance norm + α normalised means) + β."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(width))
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        h = F.instance_norm(x, eps=_EPS) + (self.alpha * normalised_means(x))[..., None, None]
        return self.gamma[:, None, None] * h + self.beta[:, None, None]


class ConditionalInstanceNormPlus(nn.Module):
    """InstanceNorm++ whose γ, α and β belong to the noise level."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, 3 * width)
        with torch.no_grad():
            self.embed.weight[:, : 2 * width].normal_(1, 0.02)
            self.embed.weight[:, 2 * width :].zero_()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) and int64 (B,) → (B, C, H, W)."""
        gamma, alpha, beta = self.embed(y)[..., None, None].chunk(3, dim=1)
        h = F.instance_norm(x, eps=_EPS) + alpha * normalised_means(x)[..., None, None]
        return gamma * h + beta


class NCSN(RefineNet):
    """NCSN: conditional InstanceNorm++ throughout, average pooling, no division by σ.

    The 2021 release could not build it; this is the network its weights' names and shapes
    describe.

    Args:
        num_channels: Channels of the images.
        nf: Width of the first stage.
        num_scales: Number of noise levels; cond is below it.
        nonlinearity: "elu", "swish", "relu" or "lrelu".
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        nf: int = 128,
        num_scales: int = 10,
        nonlinearity: str = "elu",
        centered: bool = False,
    ) -> None:
        norm = partial(ConditionalInstanceNormPlus, num_classes=num_scales)
        super().__init__(
            num_channels=num_channels,
            nf=nf,
            stages=_STAGES[64],
            act=activation(nonlinearity),
            norm=norm,
            final_norm=norm,
            refine_norm=norm,
            pool=nn.AvgPool2d(5, stride=1, padding=2),
            noise_level=None,
            centered=centered,
            sigma_table=None,
        )


class NCSNv2(RefineNet):
    """NCSNv2: unconditional normalisation in the stages only, max pooling, output divided by σ.

    Args:
        num_channels: Channels of the images.
        nf: Width of the first stage.
        size_class: 64, 128 or 256: the image sides for which the stages are meant.
        sigma_min: Smallest σ of the table.
        sigma_max: Largest σ of the table.
        num_scales: Length of the table.
        normalization: "InstanceNorm++", "InstanceNorm" or "VarianceNorm".
        nonlinearity: "elu", "swish", "relu" or "lrelu".
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.

    Raises:
        ValueError: An option is not known.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        nf: int = 128,
        size_class: int = 64,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 232,
        normalization: str = "InstanceNorm++",
        nonlinearity: str = "elu",
        centered: bool = False,
    ) -> None:
        # The release hands num_scales to the final normalisation, where InstanceNorm takes it for
        # ε.
        norms: dict[str, tuple[Norm, Norm]] = {
            "InstanceNorm++": (InstanceNormPlus, InstanceNormPlus),
            "InstanceNorm": (InstanceNorm, partial(InstanceNorm, eps=float(num_scales))),
            "VarianceNorm": (VarianceNorm, VarianceNorm),
        }
        norm, final_norm = choose(norms, normalization, "normalization")
        table = (sigma_min, sigma_max, num_scales)
        super().__init__(
            num_channels=num_channels,
            nf=nf,
            stages=choose(_STAGES, size_class, "size_class"),
            act=activation(nonlinearity),
            norm=norm,
            final_norm=final_norm,
            refine_norm=NoNorm,
            pool=nn.MaxPool2d(5, stride=1, padding=2),
            noise_level=SigmaTable(*table),
            centered=centered,
            sigma_table=table,
        )
