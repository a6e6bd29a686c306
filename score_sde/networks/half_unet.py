"""A classifier of noisy images: the way down of a U-Net, then a mean over the pixels.

It tells classes apart at every noise level (Song et al. 2021, appendix I; half a U-Net as in
Dhariwal & Nichol 2021), and its gradient leads a score (`score.guidance`).

Symbols: B batch, C image channels, H and W height and width, K classes.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from score_sde.networks.blocks import Attended, AttentionBlock, BigGANBlock, Conditioning
from score_sde.networks.layers import (
    CondKind,
    SinusoidalEmbedding,
    activation,
    conv3x3,
    dense,
    group_norm,
    pad_to_multiple,
)
from score_sde.networks.recomputing import runner
from score_sde.networks.resampling import downsampler


class HalfUNet(nn.Module):
    """Residual blocks told the noise level, halved sides between levels, logits at the end.

    Images of any size are taken, as by the score networks.

    Args:
        image_size: (height, width) for which `attn_resolutions` is meant.
        num_channels: C.
        num_classes: K.
        nf: width of level 0.
        ch_mult: width of each level in units of `nf`.
        num_res_blocks: blocks of a level.
        attn_resolutions: a level has attention if its shorter side is among these.
        dropout: probability in the residual blocks.

    Raises:
        ValueError: fewer than two classes, or a width that the normalisation's groups do not
            divide.

    Attributes:
        activation_checkpointing: whether training computes each block again in the backward pass
            instead of keeping its inside (`recomputing`).
    """

    cond_kind: CondKind = "number"
    activation_checkpointing = False

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        num_channels: int,
        num_classes: int,
        nf: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"{num_classes} classes can't be told apart: give at least 2")
        super().__init__()
        self.act = activation("swish")
        self.divisor = 2 ** (len(ch_mult) - 1)
        block = partial(BigGANBlock, act=self.act, temb_dim=4 * nf, dropout=dropout, rescale=True)
        self.embedding = SinusoidalEmbedding(nf)
        self.conditioning = Conditioning(nf, 4 * nf, act=self.act)
        self.conv_in = conv3x3(num_channels, nf)
        blocks, width = list[nn.Module](), nf
        for level, factor in enumerate(ch_mult):
            if level:
                blocks.append(block(width, width, resample=downsampler(None)))
            attended = min(image_size) // 2**level in attn_resolutions
            for _ in range(num_res_blocks):
                made, width = block(width, nf * factor), nf * factor
                attention = AttentionBlock(width, rescale=True) if attended else None
                blocks.append(made if attention is None else Attended(made, attention))
        self.blocks = nn.ModuleList(blocks)
        self.norm = group_norm(width)
        self.head = dense(width, num_classes)

    def pieces(self) -> list[nn.Module]:
        """What is computed one after the other, each with weights of its own."""
        return list(self.blocks)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Applies the network.

        Args:
            x: (B, C, H, W) noisy images, of about unit variance.
            cond: (B,) a number that grows with the noise level, see `score.NoisyClassifier`.

        Returns:
            (B, K) logits, of the dtype of `x`.
        """
        temb = self.conditioning(self.embedding(cond))
        h = self.conv_in(pad_to_multiple(x, self.divisor).to(self.conv_in.weight.dtype))
        run = runner(self)
        for block in self.blocks:
            h = run(block, h, temb)
        return self.head(self.act(self.norm(h)).mean((2, 3))).to(x.dtype)
