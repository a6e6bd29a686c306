"""Blocks of the U-Nets: residual, attention, conditioning and pyramid.

Symbols: B batch, C channels, H and W height and width, E width of the conditioning. `x` and `h`
are (B, C, H, W); `temb` is (B, E), already through the nonlinearity, or None in an unconditional
network. A block's children are registered in the order in which data pass through them;
`checkpoints/release_2021.py` counts on it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.networks.layers import (
    SinusoidalEmbedding,
    attend,
    conv1x1,
    conv3x3,
    dense,
    group_norm,
    variance_scaling_,
)


def rescaled_sum(x: Tensor, h: Tensor) -> Tensor:
    """(x + h) / √2, so that the sum of two branches of unit variance has unit variance."""
    return (x + h) * math.sqrt(0.5)


def merger(rescale: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """How two branches are joined: their sum, divided by √2 if `rescale`."""
    return rescaled_sum if rescale else torch.add


class Conditioning(nn.Module):
    """What conditions the blocks: an embedded noise level through two layers, plus a class vector.

    Args:
        features: Width of the embedding.
        width: E.
        act: The network's nonlinearity.
        num_classes: Number of class labels; 0 for none. Index `num_classes` is the null class, for
            a label that is unknown; training meets it only where it leaves labels out.
        augment_dim: Numbers that say how an image was augmented; 0 for none.
        image_noise: Whether an image with noise is given beside, whose level it is told.
    """

    def __init__(
        self,
        features: int,
        width: int,
        *,
        act: nn.Module,
        num_classes: int = 0,
        augment_dim: int = 0,
        image_noise: bool = False,
    ) -> None:
        super().__init__()
        self.dense_0 = dense(features, width)
        self.dense_1 = dense(width, width)
        self.act = act
        self.num_classes = num_classes
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.classes is not None:
            variance_scaling_(self.classes.weight)
        # Without a bias: of an image as it is, whose numbers are 0, it says nothing.
        self.augment = nn.Linear(augment_dim, width, bias=False) if augment_dim else None
        if self.augment is not None:
            variance_scaling_(self.augment.weight)
        self.level = SinusoidalEmbedding(features) if image_noise else None
        self.image_noise = dense(features, width) if image_noise else None

    def forward(
        self,
        embedded: Tensor,
        label: Tensor | None = None,
        augment: Tensor | None = None,
        image_noise: Tensor | None = None,
    ) -> Tensor:
        """Combines noise level, class, augmentation and the noise of an image beside.

        Args:
            embedded: (B, features).
            label: int64 (B,), None for the null class.
            augment: (B, augment_dim), None for images as they are.
            image_noise: (B,) levels, None for an image without noise.

        Returns:
            (B, E), activated.

        Raises:
            ValueError: Labels are given to a network without classes, or an augmentation to one
                that is not told of it.
        """
        temb = self.dense_1(self.act(self.dense_0(embedded.to(self.dense_0.weight.dtype))))
        if self.classes is not None:
            if label is None:
                shape = (len(embedded),)
                label = torch.full(shape, self.num_classes, device=embedded.device)
            temb = temb + self.classes(label)
        elif label is not None:
            raise ValueError("labels were given to a network without classes: set num_classes")
        if augment is not None:
            if self.augment is None:
                raise ValueError(
                    "an augmentation was given to a network that is not told of any: set "
                    "augment_dim"
                )
            temb = temb + self.augment(augment.to(temb.dtype))
        if self.level is not None and self.image_noise is not None:
            level = embedded.new_zeros(len(embedded)) if image_noise is None else image_noise
            # As times are that count 1,000 steps: a level of 1 is much noise.
            features = self.level(1000 * level)
            temb = temb + self.image_noise(features.to(temb.dtype))
        return self.act(temb)


class ResidualBlock(nn.Module):
    """Two normalised 3×3 convolutions beside a shortcut, the noise level added between them.

    `resample` is applied to both branches (BigGAN's block; Brock et al. 2019); without it this is
    DDPM's block.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        act: Nonlinearity.
        temb_dim: E; None for an unconditional block.
        dropout: Probability, before the second convolution.
        init_scale: Of the second convolution.
        rescale: Whether to divide the sum by √2.
        resample: Module that changes the sides, or None.
        groups: Of the normalisation; None is NCSN++'s rule.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        act: nn.Module,
        temb_dim: int | None,
        dropout: float = 0.0,
        init_scale: float = 0.0,
        rescale: bool = False,
        resample: nn.Module | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.act = act
        self.resample = resample
        self.norm_0 = group_norm(in_channels, groups)
        self.conv_0 = conv3x3(in_channels, out_channels)
        self.dense = None if temb_dim is None else dense(temb_dim, out_channels)
        self.norm_1 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_1 = conv3x3(out_channels, out_channels, init_scale=init_scale)
        self.shortcut = self._make_shortcut()
        self.merge = merger(rescale)

    def _make_shortcut(self) -> nn.Module:
        if self.in_channels == self.out_channels:
            return nn.Identity()
        return conv1x1(self.in_channels, self.out_channels, init_scale=0.1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H', W')."""
        h = self.act(self.norm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_0(h)
        if self.dense is not None and temb is not None:
            h = h + self.dense(temb)[:, :, None, None]
        h = self.conv_1(self.dropout(self.act(self.norm_1(h))))
        return self.merge(self.shortcut(x), h)


class BigGANBlock(ResidualBlock):
    """A residual block with a 1×1 convolution in its shortcut wherever width or sides change."""

    def _make_shortcut(self) -> nn.Module:
        if self.in_channels == self.out_channels and self.resample is None:
            return nn.Identity()
        return conv1x1(self.in_channels, self.out_channels)


class AttentionBlock(nn.Module):
    """Normalised self-attention over all pixels beside a shortcut.

    Args:
        channels: C.
        init_scale: Of the output projection.
        rescale: Whether to divide the sum by √2.
        groups: Of the normalisation; None is NCSN++'s rule.
    """

    def __init__(
        self,
        channels: int,
        *,
        init_scale: float = 0.0,
        rescale: bool = False,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.query = conv1x1(channels, channels, init_scale=0.1)
        self.key = conv1x1(channels, channels, init_scale=0.1)
        self.value = conv1x1(channels, channels, init_scale=0.1)
        self.out = conv1x1(channels, channels, init_scale=init_scale)
        self.merge = merger(rescale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        h = self.norm(x)
        return self.merge(x, self.out(attend(self.query(h), self.key(h), self.value(h))))


class Attended(nn.Module):
    """A residual block, then attention."""

    def __init__(self, block: nn.Module, attention: AttentionBlock) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        return self.attention(self.block(x, temb))


class Head(nn.Module):
    """Normalise, activate, convolve: from features to an image (or to the pyramid's features)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        act: nn.Module,
        init_scale: float,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = group_norm(in_channels, groups)
        self.act = act
        self.conv = conv3x3(in_channels, out_channels, init_scale=init_scale)

    def forward(self, h: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        return self.conv(self.act(self.norm(h)))
