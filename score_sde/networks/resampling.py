"""Resampling of images by a factor of 2: with a FIR filter (StyleGAN2, NCSN++) or plainly (DDPM).

Every module takes `(x, temb=None)` and ignores `temb`, so that it can stand where a resampling
residual block stands. Symbols: B batch, C channels, H and W height and width, K taps of the
filter; `x` is (B, C, H, W).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.networks.layers import conv3x3

# The taps of a FIR filter; None means plain resampling.
Taps = Sequence[float] | None


def fir_kernel(taps: Sequence[float]) -> Tensor:
    """The separable kernel taps ⊗ taps, normalised to sum 1: (K, K)."""
    if len(taps) < 2 or sum(taps) == 0:
        raise ValueError(f"fir_kernel {tuple(taps)} needs two or more taps whose sum is not 0")
    row = torch.tensor([tap / sum(taps) for tap in taps])
    return torch.outer(row, row)


def upfirdn2d(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """Zero-inserts, pads, convolves and decimates every channel by itself (Karras et al. 2020).

    Each pixel is followed by `up` - 1 zeros; the result is padded by `pad[0]` before and `pad[1]`
    after on both axes, convolved with the kernel (a true convolution: the kernel is flipped), and
    every `down`-th sample is kept.

    Args:
        x: (B, C, H, W).
        kernel: (K, K).
        up: Factor of zero insertion.
        down: Factor of decimation.
        pad: Padding before and after.

    Returns:
        (B, C, H', W') with H' = ceil((H up + pad[0] + pad[1] - K + 1) / down).
    """
    channels, taps = x.shape[1], kernel.shape[0]
    kernel = kernel.to(x.dtype)
    if up == 1:
        weight = kernel.flip(0, 1).expand(channels, 1, taps, taps)
        before, after = pad
        if before == after:
            return F.conv2d(x, weight, stride=down, padding=before, groups=channels)
        padded = F.pad(x, (before, after, before, after))
        return F.conv2d(padded, weight, stride=down, groups=channels)
    # A transposed convolution is the zero insertion and the full convolution in one; what it has
    # too much is cut off.
    before, after = taps - 1 - pad[0], taps - up - pad[1]
    both = max(min(before, after), 0)
    weight = kernel.expand(channels, 1, taps, taps)
    y = F.conv_transpose2d(x, weight, stride=up, padding=both, groups=channels)
    if before != both or after != both:
        y = F.pad(y, (both - before, both - after) * 2)
    return y[..., ::down, ::down] if down > 1 else y


class _FIR(nn.Module):
    """Holds the kernel, which is a constant and no part of the state."""

    def __init__(self, taps: Sequence[float], gain: float = 1.0) -> None:
        super().__init__()
        self.kernel: Tensor
        self.register_buffer("kernel", fir_kernel(taps) * gain, persistent=False)
        self.taps = len(taps)


class FIRUp(_FIR):
    """Doubles the sides with a FIR filter of gain 4 between the samples."""

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__(taps, gain=4.0)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, 2H, 2W)."""
        extra = self.taps - 2
        return upfirdn2d(x, self.kernel, up=2, pad=((extra + 1) // 2 + 1, extra // 2))


class FIRDown(_FIR):
    """Halves the sides after a FIR filter."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        extra = self.taps - 2
        return upfirdn2d(x, self.kernel, down=2, pad=((extra + 1) // 2, extra // 2))


class FIRUpConv(_FIR):
    """A transposed 3×3 convolution of stride 2, then the FIR filter (StyleGAN2)."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__(taps, gain=4.0)
        self.conv = conv3x3(in_channels, out_channels)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, 2H, 2W)."""
        # With weights flipped and channel axes swapped, this convolves x with zeros between.
        y = F.conv_transpose2d(x, self.conv.weight.flip(2, 3).transpose(0, 1), stride=2)
        extra = self.taps - 4
        y = upfirdn2d(y, self.kernel, pad=((extra + 1) // 2 + 1, extra // 2 + 1))
        return y + self.conv.bias[:, None, None]  # pyright: ignore[reportOptionalSubscript]


class FIRDownConv(_FIR):
    """The FIR filter, then a 3×3 convolution of stride 2 (StyleGAN2)."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__(taps)
        self.conv = conv3x3(in_channels, out_channels, stride=2, padding=0)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H/2, W/2)."""
        return self.conv(upfirdn2d(x, self.kernel, pad=((self.taps + 1) // 2, self.taps // 2)))


class NearestUp(nn.Module):
    """Doubles the sides by repeating pixels."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, 2H, 2W)."""
        return F.interpolate(x, scale_factor=2, mode="nearest")


class AverageDown(nn.Module):
    """Halves the sides by averaging 2×2 pixels."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return F.avg_pool2d(x, 2)


class NearestUpConv(nn.Module):
    """Doubles the sides by repeating pixels, then convolves 3×3 (DDPM)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class StridedDownConv(nn.Module):
    """Halves the sides with a 3×3 convolution, padded at the bottom and right only (DDPM)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, stride=2, padding=0)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def upsampler(taps: Taps) -> nn.Module:
    """Doubles the sides: with a FIR filter of these taps, or plainly where `taps` is None."""
    return NearestUp() if taps is None else FIRUp(taps)


def downsampler(taps: Taps) -> nn.Module:
    """Halves the sides: after a FIR filter of these taps, or plainly where `taps` is None."""
    return AverageDown() if taps is None else FIRDown(taps)


def upsampling_conv(in_channels: int, out_channels: int, taps: Taps) -> FIRUpConv | NearestUpConv:
    """Like `upsampler`, with a 3×3 convolution to `out_channels`."""
    if taps is None:
        return NearestUpConv(in_channels, out_channels)
    return FIRUpConv(in_channels, out_channels, taps)


def downsampling_conv(
    in_channels: int, out_channels: int, taps: Taps
) -> FIRDownConv | StridedDownConv:
    """Like `downsampler`, with a 3×3 convolution to `out_channels`."""
    if taps is None:
        return StridedDownConv(in_channels, out_channels)
    return FIRDownConv(in_channels, out_channels, taps)


def resampling_layers(
    taps: Taps, with_conv: bool
) -> tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]]:
    """What halves and what doubles the sides between two levels: width → layer, each.

    Args:
        taps: of the FIR filter, or None; see `downsampler`.
        with_conv: whether each has a convolution.
    """
    if with_conv:
        return (
            lambda width: downsampling_conv(width, width, taps),
            lambda width: upsampling_conv(width, width, taps),
        )
    return lambda width: downsampler(taps), lambda width: upsampler(taps)
