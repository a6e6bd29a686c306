"""The skeleton that NCSN++, DDPM++ and DDPM share: way down, middle, way up, pyramids beside.

Symbols: B batch, C image channels, H and W height and width, E width of the conditioning; a width
is a number of channels. Levels are counted from 0, the full resolution. Parts are built and
registered in the order in which data pass through them: `checkpoints/release_2021.py` counts on
that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.networks.blocks import Attended, AttentionBlock, Conditioning
from score_sde.networks.layers import (
    GaussianFourierProjection,
    SinusoidalEmbedding,
    conv3x3,
    pad_to_multiple,
)
from score_sde.networks.low_resolution import with_image
from score_sde.networks.recomputing import Runner, runner
from score_sde.tensor_ops import expand_to

Factory = Callable[[int], nn.Module]  # width → module


class Pyramid(nn.Module):
    """Runs beside the levels: (pyramid, h) → (pyramid, h).

    Attributes:
        widths: The widths of the two that come out.
    """

    widths: tuple[int, int]


class NoPyramid(Pyramid):
    """Stands where a pyramid may stand, and does nothing."""

    def __init__(self, pyramid_width: int, width: int) -> None:
        super().__init__()
        self.widths = (pyramid_width, width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The arguments as they are."""
        return pyramid, h


PyramidFactory = Callable[[int, int], Pyramid]  # widths of pyramid and h → module


@dataclass(frozen=True)
class Parts:
    """What a U-Net is made of.

    A pyramid is made from the pair of widths that goes into it.

    Attributes:
        block: (width in, width out) → residual module (h, temb) → h.
        attention: width → attention module.
        downsample: width → module (h, temb) → h that halves the sides.
        upsample: width → module (h, temb) → h that doubles the sides.
        input_pyramid: Makes the module behind each `downsample`.
        output_start: Makes the module at the end of the lowest level on the way up.
        output_step: Makes the module at the end of every other level on the way up.
    """

    block: Callable[[int, int], nn.Module]
    attention: Callable[[int], AttentionBlock]
    downsample: Factory
    upsample: Factory
    input_pyramid: PyramidFactory = NoPyramid
    output_start: PyramidFactory = NoPyramid
    output_step: PyramidFactory = NoPyramid

    def attended_block(self, width_in: int, width: int, attended: bool) -> nn.Module:
        """A residual block, followed by attention if `attended`."""
        block = self.block(width_in, width)
        return Attended(block, self.attention(width)) if attended else block


class DownLevel(nn.Module):
    """One resolution on the way down: blocks, then half the sides and the input pyramid."""

    def __init__(
        self, blocks: list[nn.Module], downsample: nn.Module | None, pyramid: Pyramid | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.pyramid = pyramid

    def forward(
        self, h: Tensor, pyramid: Tensor, temb: Tensor | None, run: Runner
    ) -> tuple[list[Tensor], Tensor]:
        """Walks the level; `run` computes its parts.

        Returns:
            All that the way up will want, last the input of the next level; and the pyramid.
        """
        outputs = []
        for block in self.blocks:
            h = run(block, h, temb)
            outputs.append(h)
        if self.downsample is not None and self.pyramid is not None:
            pyramid, h = run(_halved, self.downsample, self.pyramid, h, pyramid, temb)
            outputs.append(h)
        return outputs, pyramid


def _halved(
    downsample: nn.Module, merge: Pyramid, h: Tensor, pyramid: Tensor, temb: Tensor | None
) -> tuple[Tensor, Tensor]:
    return merge(pyramid, downsample(h, temb))


class UpLevel(nn.Module):
    """One resolution on the way up: blocks, the output pyramid, then twice the sides."""

    def __init__(
        self, blocks: list[nn.Module], pyramid: Pyramid, upsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.pyramid = pyramid
        self.upsample = upsample

    def forward(
        self, h: Tensor, skips: list[Tensor], pyramid: Tensor, temb: Tensor | None, run: Runner
    ) -> tuple[Tensor, Tensor]:
        """Walks the level, taking what it needs off the end of `skips`, the way down's outputs.

        `run` computes its parts.

        Returns:
            The input of the next level, and the pyramid.
        """
        for block in self.blocks:
            h = run(_joined, block, h, skips.pop(), temb)
        pyramid, h = run(self.pyramid, pyramid, h)
        if self.upsample is not None:
            h = run(self.upsample, h, temb)
        return h, pyramid


def _joined(block: nn.Module, h: Tensor, skip: Tensor, temb: Tensor | None) -> Tensor:
    """A block of both; what they are put beside each other in need not be kept."""
    return block(torch.cat([h, skip], dim=1), temb)


class UNet(nn.Module):
    """Builds and walks the levels; NCSNpp and DDPM choose the parts.

    Images of any size are taken: sides that are not multiples of `divisor` = 2^(levels - 1) are
    padded with zeros (after centring) at the bottom and right, and the result is cut back.

    Args:
        image_size: Side, or (height, width), for which `attn_resolutions` is meant.
        num_channels: C.
        nf: Width of level 0.
        ch_mult: Width of each level in units of `nf`.
        num_res_blocks: Blocks of a level on the way down; there is one more on the way up.
        attn_resolutions: A level has attention if its shorter side, image_size // 2^level, is
            among these.
        parts: What to build it from.
        embedding: (B,) cond → features of the noise level.
        act: Nonlinearity of the conditioning.
        conditional: Whether the blocks see the noise level (E = 4 nf).
        num_classes: Number of class labels; the null class is one more.
        augment_dim: Numbers that say how an image was augmented, which the network is given as
            `augment`; 0 for none.
        upsampling_factor: How many times smaller the sides of an image are that the network is
            given beside x, as `image`, and upsamples; 0 for none.
        head: width → module from features to image, or None where the output pyramid makes the
            image.
        noise_level: (B,) cond → (B,) σ by which the output is divided, or None.
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.
        sigma_table: (sigma_min, sigma_max, num_scales) of the chain the network belongs to.
        attn_every_up: Whether an attended level attends after every block on the way up, or after
            the last one only.

    Raises:
        ValueError: Class labels, augmentations or images beside are wanted of an unconditional
            network.

    Attributes:
        inputs: What else it takes, by name: "augment", "image" and "image_noise", or nothing.
        activation_checkpointing: Whether training computes each block again in the backward pass
            instead of keeping its inside (`recomputing`).
    """

    activation_checkpointing = False

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        num_channels: int,
        nf: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        parts: Parts,
        embedding: GaussianFourierProjection | SinusoidalEmbedding,
        act: nn.Module,
        conditional: bool,
        num_classes: int,
        augment_dim: int,
        upsampling_factor: int,
        head: Factory | None,
        noise_level: nn.Module | None,
        centered: bool,
        sigma_table: tuple[float, float, int],
        attn_every_up: bool = False,
    ) -> None:
        if num_classes and not conditional:
            raise ValueError(
                f"an unconditional network cannot take {num_classes} classes: set conditional=True"
            )
        if augment_dim and not conditional:
            raise ValueError(
                "an unconditional network cannot be told how images were augmented: set "
                "conditional=True"
            )
        if upsampling_factor and not conditional:
            raise ValueError(
                "an unconditional network cannot be told the noise of the images that it "
                "upsamples: set conditional=True"
            )
        super().__init__()
        self.centered = centered
        self.upsampling_factor = upsampling_factor
        self.sigma_table = sigma_table
        self.temb_dim = 4 * nf
        self.divisor = 2 ** (len(ch_mult) - 1)
        side = image_size if isinstance(image_size, int) else min(image_size)
        attended = [side // 2**level in attn_resolutions for level in range(len(ch_mult))]
        widths = [nf * mult for mult in ch_mult]
        self.embedding = embedding
        self.cond_kind = embedding.cond_kind
        beside = ("image", "image_noise") if upsampling_factor else ()
        self.inputs = (*(("augment",) if augment_dim else ()), *beside)
        self.conditioning = None
        if conditional:
            self.conditioning = Conditioning(
                embedding.features,
                self.temb_dim,
                act=act,
                num_classes=num_classes,
                augment_dim=augment_dim,
                image_noise=upsampling_factor > 0,
            )
        channels_in = 2 * num_channels if upsampling_factor else num_channels
        self.conv_in = conv3x3(channels_in, nf)
        skips = self._build_down(parts, channels_in, nf, widths, num_res_blocks, attended)
        width = skips[-1]
        middle = [parts.attended_block(width, width, True), parts.block(width, width)]
        self.middle = nn.ModuleList(middle)
        self._build_up(parts, skips, widths, num_res_blocks, attended, attn_every_up)
        self.head = None if head is None else head(widths[0])
        self.noise_level = noise_level

    def _build_down(
        self,
        parts: Parts,
        num_channels: int,
        nf: int,
        widths: list[int],
        num_res_blocks: int,
        attended: list[bool],
    ) -> list[int]:
        """Builds the way down; returns the widths of what it hands to the way up."""
        pyramid_width, skips, levels = num_channels, [nf], []
        for level, width in enumerate(widths):
            blocks = []
            for _ in range(num_res_blocks):
                blocks.append(parts.attended_block(skips[-1], width, attended[level]))
                skips.append(width)
            downsample = pyramid = None
            if level < len(widths) - 1:
                downsample = parts.downsample(width)
                pyramid = parts.input_pyramid(pyramid_width, width)
                pyramid_width, width_out = pyramid.widths
                skips.append(width_out)
            levels.append(DownLevel(blocks, downsample, pyramid))
        self.down = nn.ModuleList(levels)
        return skips

    def _build_up(
        self,
        parts: Parts,
        skips: list[int],
        widths: list[int],
        num_res_blocks: int,
        attended: list[bool],
        attn_every_up: bool,
    ) -> None:
        """Builds the way up, from the lowest level to level 0."""
        skips = list(skips)
        width, pyramid_width, levels = skips[-1], 0, []
        output_pyramid = parts.output_start
        for level in reversed(range(len(widths))):
            blocks = []
            for i in range(num_res_blocks + 1):
                here = attended[level] and (attn_every_up or i == num_res_blocks)
                width_in, width = width + skips.pop(), widths[level]
                blocks.append(parts.attended_block(width_in, width, here))
            pyramid = output_pyramid(pyramid_width, width)
            pyramid_width, width = pyramid.widths
            upsample = parts.upsample(width) if level else None
            levels.append(UpLevel(blocks, pyramid, upsample))
            output_pyramid = parts.output_step
        self.up = nn.ModuleList(levels)

    def pieces(self) -> list[nn.Module]:
        """What is computed one after the other, each with weights of its own."""
        levels: tuple[Any, Any] = self.down, self.up
        down = [piece for one in levels[0] for piece in (*one.blocks, one.downsample, one.pyramid)]
        up = [piece for one in levels[1] for piece in (*one.blocks, one.pyramid, one.upsample)]
        return [piece for piece in (*down, *self.middle, *up) if piece is not None]

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        label: Tensor | None = None,
        augment: Tensor | None = None,
        image: Tensor | None = None,
        image_noise: Tensor | None = None,
    ) -> Tensor:
        """Applies the network.

        Args:
            x: (B, C, H, W), any height and width.
            cond: (B,) the noise level, as a label.
            label: int64 (B,) classes; None is the null class.
            augment: (B, augment_dim) how the images were augmented; None is not at all.
            image: (B, C, h, w) low-resolution images to be upsampled, of the range of the images;
                their pixels are repeated, and stand beside those of x as further channels.
            image_noise: (B,) standard deviations of the noise on `image`; None is none.

        Returns:
            (B, C, H, W) of the dtype of `x`.

        Raises:
            ValueError: Labels are given to a network without classes, an augmentation to one
                that is not told of it; or an image to one that does not upsample, none to one
                that does, or one of another size.
        """
        if label is not None and self.conditioning is None:
            raise ValueError("labels were given to an unconditional network: leave them out")
        height, width = x.shape[-2:]
        temb = None
        if self.conditioning is not None:
            temb = self.conditioning(self.embedding(cond), label, augment, image_noise)
        given = with_image(x, image, self.upsampling_factor)
        pyramid = pad_to_multiple(given if self.centered else 2 * given - 1, self.divisor)
        run = runner(self)
        skips = [self.conv_in(pyramid)]
        for level in self.down:
            outputs, pyramid = level(skips[-1], pyramid, temb, run)
            skips.extend(outputs)
        h = skips[-1]
        for block in self.middle:
            h = run(block, h, temb)
        made = h  # not looked at by the lowest level
        for level in self.up:
            h, made = level(h, skips, made, temb, run)
        out = (made if self.head is None else run(self.head, h))[..., :height, :width]
        if self.noise_level is not None:
            out = out / expand_to(self.noise_level(cond), out)
        return out.to(x.dtype)
