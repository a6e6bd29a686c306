"""The skeleton that NCSN and NCSNv2 share: a RefineNet (Lin et al. 2017) with dilated stages.

Symbols: B batch, C channels, H and W height and width; `x` and `h` are (B, C, H, W), `y` int64
(B,) the noise level's index. A width is a number of channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.networks.layers import CondKind, pad_to_multiple
from score_sde.tensor_ops import expand_to

Norm = Callable[[int], nn.Module]  # width → normalisation (x, y) → x


def _conv3x3(width_in: int, width: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=dilation, dilation=dilation, bias=bias)


class ConvMeanPool(nn.Module):
    """A convolution, then the mean of 2×2 pixels."""

    def __init__(self, width_in: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, width, H/2, W/2)."""
        return F.avg_pool2d(self.conv(x), 2)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut.

    A dilated block never halves the sides: with `down` it has a convolution for its shortcut.
    """

    def __init__(
        self, width_in: int, width: int, *, down: bool, dilation: int, act: nn.Module, norm: Norm
    ) -> None:
        super().__init__()
        self.act = act
        self.conv1 = _conv3x3(width_in, width_in, dilation)
        self.normalize2 = norm(width_in)
        if down and dilation == 1:
            self.conv2 = ConvMeanPool(width_in, width, 3)
            self.shortcut = ConvMeanPool(width_in, width, 1)
        else:
            self.conv2 = _conv3x3(width_in, width, dilation)
            self.shortcut = _conv3x3(width_in, width, dilation) if down else nn.Identity()
        self.normalize1 = norm(width_in)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, width_in, H, W) → (B, width, H', W')."""
        h = self.conv1(self.act(self.normalize1(x, y)))
        h = self.conv2(self.act(self.normalize2(h, y)))
        return self.shortcut(x) + h


class Unit(nn.Module):
    """Normalise, activate, convolve."""

    def __init__(self, width: int, act: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.act = act
        self.norm = norm(width)
        self.conv = _conv3x3(width, width, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.conv(self.act(self.norm(x, y)))


class ResidualUnits(nn.Module):
    """RefineNet's residual convolution units: `num_pairs` shortcuts over two units each."""

    def __init__(self, width: int, num_pairs: int, act: nn.Module, norm: Norm) -> None:
        super().__init__()
        pairs = ([Unit(width, act, norm), Unit(width, act, norm)] for _ in range(num_pairs))
        self.pairs = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        for pair in self.pairs:
            h = x
            for unit in pair:  # pyright: ignore[reportGeneralTypeIssues]
                h = unit(h, y)
            x = x + h
        return x


class MultiScaleFusion(nn.Module):
    """Brings feature maps to one width and size (bilinearly) and adds them."""

    def __init__(self, widths_in: Sequence[int], width: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv3x3(width_in, width) for width_in in widths_in)
        self.norms = nn.ModuleList(norm(width_in) for width_in in widths_in)

    def forward(self, xs: Sequence[Tensor], y: Tensor, size: Sequence[int]) -> Tensor:
        """Several (B, C_i, H_i, W_i) → (B, width, *size)."""
        maps = (conv(n(x, y)) for x, conv, n in zip(xs, self.convs, self.norms, strict=True))
        resized = (
            F.interpolate(h, size=tuple(size), mode="bilinear", align_corners=True) for h in maps
        )
        return torch.stack(tuple(resized)).sum(0)


class ChainedPooling(nn.Module):
    """RefineNet's chained residual pooling: two poolings, each convolved, all added."""

    def __init__(self, width: int, act: nn.Module, norm: Norm, pool: nn.Module) -> None:
        super().__init__()
        self.act = act
        self.pool = pool
        self.convs = nn.ModuleList(_conv3x3(width, width, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(width) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x = path = self.act(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            path = conv(self.pool(norm(path, y)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """Refines the features of a stage with what comes from the stage below."""

    def __init__(
        self,
        widths_in: Sequence[int],
        width: int,
        *,
        last: bool,
        act: nn.Module,
        norm: Norm,
        pool: nn.Module,
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ResidualUnits(w, 2, act, norm) for w in widths_in)
        self.output = ResidualUnits(width, 3 if last else 1, act, norm)
        self.fuse = MultiScaleFusion(widths_in, width, norm) if len(widths_in) > 1 else None
        self.pooling = ChainedPooling(width, act, norm, pool)

    def forward(self, xs: Sequence[Tensor], y: Tensor) -> Tensor:
        """Feature maps, the first of the size wanted, → (B, width, H, W)."""
        hs = [adapt(x, y) for adapt, x in zip(self.adapt, xs, strict=True)]
        h = hs[0] if self.fuse is None else self.fuse(hs, y, xs[0].shape[2:])
        return self.output(self.pooling(h, y), y)


class RefineNet(nn.Module):
    """Residual stages on the way down, refine blocks on the way up; NCSN and NCSNv2 choose parts.

    Images of any size are taken: sides are padded with zeros (after centring) at the bottom and
    right to a multiple of what the stages halve them by, and the result is cut back.

    Args:
        num_channels: Channels of the images.
        nf: Width of the first stage.
        stages: Per stage (width in units of `nf`, down, dilation).
        act: Nonlinearity.
        norm: width → normalisation (x, y) → x, in the residual blocks.
        final_norm: The same, ahead of the last convolution.
        refine_norm: The same, in the refine blocks.
        pool: Pooling that keeps the size, in the refine blocks.
        noise_level: (B,) cond → (B,) σ by which the output is divided, or None.
        centered: Whether images come in [-1, 1]; if not they come in [0, 1] and are mapped there.
        sigma_table: (sigma_min, sigma_max, num_scales), None where the release has no table.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        nf: int,
        stages: Sequence[tuple[int, bool, int]],
        act: nn.Module,
        norm: Norm,
        final_norm: Norm,
        refine_norm: Norm,
        pool: nn.Module,
        noise_level: nn.Module | None,
        centered: bool,
        sigma_table: tuple[float, float, int] | None,
    ) -> None:
        super().__init__()
        self.cond_kind: CondKind = "level"
        self.centered = centered
        self.sigma_table = sigma_table
        self.divisor = 2 ** sum(down and dilation == 1 for _, down, dilation in stages)
        self.act = act
        self.begin_conv = nn.Conv2d(num_channels, nf, 3, padding=1)
        self.normalizer = final_norm(nf)
        self.end_conv = nn.Conv2d(nf, num_channels, 3, padding=1)
        widths = [nf * mult for mult, _, _ in stages]
        block = partial(ResidualBlock, act=act, norm=norm)
        self.stages = nn.ModuleList()
        for width_in, width, (_, down, dilation) in zip(
            [nf, *widths], widths, stages, strict=False
        ):
            first = block(width_in, width, down=down, dilation=dilation)
            second = block(width, width, down=False, dilation=dilation)
            self.stages.append(nn.ModuleList([first, second]))
        refine = partial(RefineBlock, act=act, norm=refine_norm, pool=pool)
        self.refine = nn.ModuleList()
        below: list[int] = []
        for width, above in zip(widths[::-1], [*widths[-2::-1], nf], strict=True):
            last = len(self.refine) == len(widths) - 1
            self.refine.append(refine([width, *below], above, last=last))
            below = [above]
        self.noise_level = noise_level

    def pieces(self) -> list[nn.Module]:
        """What is computed one after the other, each with weights of its own."""
        stages: list[Any] = [*self.stages]
        return [*(block for stage in stages for block in stage), *self.refine]

    def forward(self, x: Tensor, cond: Tensor, label: Tensor | None = None) -> Tensor:
        """Applies the network.

        Args:
            x: (B, C, H, W), any height and width.
            cond: (B,) step indices.
            label: Must be None: there are no classes.

        Returns:
            (B, C, H, W) of the dtype of `x`.

        Raises:
            ValueError: Labels are given.
        """
        if label is not None:
            raise ValueError("labels were given to a network without classes: leave them out")
        height, width = x.shape[-2:]
        y = cond.long()
        h = self.begin_conv(pad_to_multiple(x if self.centered else 2 * x - 1, self.divisor))
        features = []
        for stage in self.stages:
            for block in stage:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, y)
            features.append(h)
        below = []
        for refine in self.refine:
            below = [refine([features.pop(), *below], y)]
        out = self.end_conv(self.act(self.normalizer(below[0], y)))[..., :height, :width]
        if self.noise_level is not None:
            out = out / expand_to(self.noise_level(cond), out)
        return out.to(x.dtype)
