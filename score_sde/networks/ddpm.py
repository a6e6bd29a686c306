"""The U-Net of DDPM (Ho et al. 2020, appendix B), as the paper's baselines use it."""

from collections.abc import Sequence
from functools import partial

from score_sde.networks.blocks import AttentionBlock, Head, ResidualBlock
from score_sde.networks.layers import SigmaTable, SinusoidalEmbedding, activation
from score_sde.networks.resampling import resampling_layers
from score_sde.networks.unet import Parts, UNet

_GROUPS = 32


class DDPM(UNet):
    """Residual blocks normalised in 32 groups, plain resampling, sinusoidal times, no pyramids.

    Args:
        image_size: Side, or (height, width), for which `attn_resolutions` is meant; other sizes
            are taken too.
        num_channels: Channels of the images.
        nf: Width of the first level, a multiple of 32.
        ch_mult: Width of each level in units of `nf`; its length is the number of levels.
        num_res_blocks: Residual blocks of a level on the way down; there is one more on the way
            up.
        attn_resolutions: A level has attention if its shorter side, image_size // 2^level, is
            among these.
        attn_every_up: Whether it attends after every block on the way up, as Ho et al. do, or
            after the level's last one only, as the 2021 release does.
        dropout: Probability in the residual blocks.
        resamp_with_conv: Whether resampling has a convolution.
        conditional: Whether the blocks see the time.
        num_classes: Number of class labels; with any, label None means the null class, index
            `num_classes`.
        augment_dim: Numbers that say how an image was augmented; 0 for none.
        upsampling_factor: How many times smaller the images are that it is given to upsample; 0
            for none.
        nonlinearity: "swish", "relu", "elu" or "lrelu".
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.
        scale_by_sigma: Whether the output is divided by the entry cond (truncated) of the
            descending geometric table.
        sigma_min: Smallest σ of that table.
        sigma_max: Largest σ of that table.
        num_scales: Length of that table.

    Raises:
        ValueError: The nonlinearity is not known, a width is no multiple of 32, or class labels
            are wanted of an unconditional network.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        num_channels: int,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        attn_every_up: bool = False,
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        conditional: bool = True,
        num_classes: int = 0,
        augment_dim: int = 0,
        upsampling_factor: int = 0,
        nonlinearity: str = "swish",
        centered: bool = True,
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        act = activation(nonlinearity)
        table = (sigma_min, sigma_max, num_scales)
        block = partial(
            ResidualBlock,
            act=act,
            temb_dim=4 * nf if conditional else None,
            dropout=dropout,
            groups=_GROUPS,
        )
        super().__init__(
            image_size=image_size,
            num_channels=num_channels,
            nf=nf,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            parts=Parts(
                block,
                partial(AttentionBlock, groups=_GROUPS),
                *resampling_layers(None, resamp_with_conv),
            ),
            embedding=SinusoidalEmbedding(nf),
            act=act,
            conditional=conditional,
            num_classes=num_classes,
            augment_dim=augment_dim,
            upsampling_factor=upsampling_factor,
            head=partial(Head, out_channels=num_channels, act=act, init_scale=0.0, groups=_GROUPS),
            noise_level=SigmaTable(*table) if scale_by_sigma else None,
            centered=centered,
            sigma_table=table,
            attn_every_up=attn_every_up,
        )
