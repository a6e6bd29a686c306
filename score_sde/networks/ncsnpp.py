"""NCSN++ and DDPM++ (Song et al. 2021, section 4.1 and appendix H): one U-Net, many options.

Symbols: B batch, C image channels, H and W height and width. Levels are counted from 0, the full
resolution. The network is built in the order in which data pass through it, and
`checkpoints/release_2021.py` counts on that order.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from score_sde.networks.blocks import AttentionBlock, BigGANBlock, Head, ResidualBlock, merger
from score_sde.networks.layers import activation, conv1x1, embedding_and_sigma
from score_sde.networks.resampling import (
    Taps,
    downsampler,
    downsampling_conv,
    resampling_layers,
    upsampler,
    upsampling_conv,
)
from score_sde.networks.unet import Factory, NoPyramid, Parts, Pyramid, PyramidFactory, UNet
from score_sde.tensor_ops import choose


class InputSkip(Pyramid):
    """Feeds the shrunken image into a level: projected to its width, then added or put beside."""

    def __init__(self, pyramid_width: int, width: int, *, taps: Taps, cat: bool) -> None:
        super().__init__()
        self.resample = downsampler(taps)
        self.project = conv1x1(pyramid_width, width)
        self.cat = cat
        self.widths = (pyramid_width, 2 * width if cat else width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The image at twice the sides, and h → the image at this level's sides, and h."""
        pyramid = self.resample(pyramid)
        projected = self.project(pyramid)
        return pyramid, torch.cat([projected, h], dim=1) if self.cat else projected + h


class InputResidual(Pyramid):
    """A second way down of strided convolutions, joined with the first at every level."""

    def __init__(self, pyramid_width: int, width: int, *, taps: Taps, rescale: bool) -> None:
        super().__init__()
        self.down = downsampling_conv(pyramid_width, width, taps)
        self.merge = merger(rescale)
        self.widths = (width, width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Features at twice the sides, and h → their sum, twice."""
        pyramid = self.merge(self.down(pyramid), h)
        return pyramid, pyramid


class OutputStart(Pyramid):
    """Begins the output pyramid at the lowest level."""

    def __init__(self, width: int, head: Head) -> None:
        super().__init__()
        self.head = head
        self.widths = (head.conv.out_channels, width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """h → what the head makes of it, and h."""
        return self.head(h), h


class OutputSkip(Pyramid):
    """Doubles the image made so far and adds this level's own."""

    def __init__(self, width: int, head: Head, taps: Taps) -> None:
        super().__init__()
        self.resample = upsampler(taps)
        self.head = head
        self.widths = (head.conv.out_channels, width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The image at half the sides, and h → the image at this level's sides, and h."""
        return self.resample(pyramid) + self.head(h), h


class OutputResidual(Pyramid):
    """A second way up of convolutions, joined with the first at every level."""

    def __init__(self, pyramid_width: int, width: int, *, taps: Taps, rescale: bool) -> None:
        super().__init__()
        self.up = upsampling_conv(pyramid_width, width, taps)
        self.merge = merger(rescale)
        self.widths = (width, width)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Features at half the sides, and h → their sum, twice."""
        pyramid = self.merge(self.up(pyramid), h)
        return pyramid, pyramid


class NCSNpp(UNet):
    """The U-Net of NCSN++ (Fourier embedding, FIR, pyramids) and DDPM++ (positional, plain).

    Args:
        image_size: Side, or (height, width), for which `attn_resolutions` is meant; other sizes
            are taken too.
        num_channels: C.
        nf: Width of the first level.
        ch_mult: Width of each level in units of `nf`; its length is the number of levels.
        num_res_blocks: Residual blocks of a level on the way down; there is one more on the way
            up.
        attn_resolutions: A level has attention if its shorter side, image_size // 2^level, is
            among these.
        dropout: Probability in the residual blocks.
        resblock_type: "biggan" (resampling inside the blocks) or "ddpm".
        progressive: Output pyramid: "none", "output_skip" or "residual".
        progressive_input: Input pyramid: "none", "input_skip" or "residual".
        progressive_combine: How "input_skip" joins: "sum" or "cat".
        fir: Whether to resample with a FIR filter.
        fir_kernel: Its taps.
        resamp_with_conv: Whether the resampling beside "ddpm" blocks has a convolution.
        skip_rescale: Whether sums of branches are divided by √2.
        embedding_type: "fourier" (cond is σ > 0) or "positional" (cond is a time or step index).
        fourier_scale: Standard deviation of the Fourier frequencies.
        conditional: Whether the blocks see the noise level.
        num_classes: Number of class labels; with any, label None means the null class, index
            `num_classes`.
        init_scale: Initial scale of the last convolution of every block and of the output.
        augment_dim: Numbers that say how an image was augmented; 0 for none.
        upsampling_factor: How many times smaller the images are that it is given to upsample; 0
            for none.
        nonlinearity: "swish", "relu", "elu" or "lrelu".
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.
        scale_by_sigma: Whether the output is divided by the noise level: by cond itself
            ("fourier"), or by the entry cond (truncated) of the descending geometric table
            ("positional").
        sigma_min: Smallest σ of that table.
        sigma_max: Largest σ of that table.
        num_scales: Length of that table.

    Raises:
        ValueError: An option is not known, the normalisation's groups do not divide a width, or
            class labels are wanted of an unconditional network.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        num_channels: int,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resblock_type: str = "biggan",
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        resamp_with_conv: bool = True,
        skip_rescale: bool = True,
        embedding_type: str = "positional",
        fourier_scale: float = 16.0,
        conditional: bool = True,
        num_classes: int = 0,
        augment_dim: int = 0,
        upsampling_factor: int = 0,
        init_scale: float = 0.0,
        nonlinearity: str = "swish",
        centered: bool = True,
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        act = activation(nonlinearity)
        table = (sigma_min, sigma_max, num_scales)
        embedding, noise_level = embedding_and_sigma(embedding_type, nf, fourier_scale, table)
        taps = tuple(fir_kernel) if fir else None
        block = partial(
            choose({"biggan": BigGANBlock, "ddpm": ResidualBlock}, resblock_type, "resblock_type"),
            act=act,
            temb_dim=4 * nf if conditional else None,
            dropout=dropout,
            init_scale=init_scale,
            rescale=skip_rescale,
        )
        head = partial(Head, act=act, init_scale=init_scale)
        super().__init__(
            image_size=image_size,
            num_channels=num_channels,
            nf=nf,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            parts=Parts(
                block,
                partial(AttentionBlock, init_scale=init_scale, rescale=skip_rescale),
                *_resampling(resblock_type, block, taps, resamp_with_conv),
                _input_pyramid(progressive_input, progressive_combine, taps, skip_rescale),
                *_output_pyramid(progressive, num_channels, head, taps, skip_rescale),
            ),
            embedding=embedding,
            act=act,
            conditional=conditional,
            num_classes=num_classes,
            augment_dim=augment_dim,
            upsampling_factor=upsampling_factor,
            head=None
            if progressive == "output_skip"
            else partial(head, out_channels=num_channels),
            noise_level=noise_level if scale_by_sigma else None,
            centered=centered,
            sigma_table=table,
        )


def _resampling(
    resblock_type: str, block: Callable[..., nn.Module], taps: Taps, with_conv: bool
) -> tuple[Factory, Factory]:
    """What halves and doubles the sides between levels: a residual block, or its own layer."""
    if resblock_type == "biggan":
        return (
            lambda width: block(width, width, resample=downsampler(taps)),
            lambda width: block(width, width, resample=upsampler(taps)),
        )
    return resampling_layers(taps, with_conv)


def _input_pyramid(
    progressive_input: str, combine: str, taps: Taps, rescale: bool
) -> PyramidFactory:
    """What stands behind each halving of the sides."""
    cat = choose({"sum": False, "cat": True}, combine, "progressive_combine")
    options: dict[str, PyramidFactory] = {
        "none": NoPyramid,
        "input_skip": partial(InputSkip, taps=taps, cat=cat),
        "residual": partial(InputResidual, taps=taps, rescale=rescale),
    }
    return choose(options, progressive_input, "progressive_input")


def _output_pyramid(
    progressive: str, num_channels: int, head: Callable[..., Head], taps: Taps, rescale: bool
) -> tuple[PyramidFactory, PyramidFactory]:
    """What stands at the end of the lowest level on the way up, and of every other one."""
    options: dict[str, tuple[PyramidFactory, PyramidFactory]] = {
        "none": (NoPyramid, NoPyramid),
        "output_skip": (
            lambda _, width: OutputStart(width, head(width, num_channels)),
            lambda _, width: OutputSkip(width, head(width, num_channels), taps),
        ),
        "residual": (
            lambda _, width: OutputStart(width, head(width, width, init_scale=1.0)),
            partial(OutputResidual, taps=taps, rescale=rescale),
        ),
    }
    return choose(options, progressive, "progressive")
