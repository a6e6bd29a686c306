"""Between numbers as they are stored and those from 0 to 1 that models are made of.

Stored are grey levels k = 0 … L - 1 (uint8), which become k / (L - 1), so that black is 0 and
white 1; or floats with a stated range (low, high), which become (x - low) / (high - low). What
lies beyond the range goes beyond 0 and 1, and is not clipped.
"""

import math

import torch
from torch import Tensor

Range = tuple[float, float] | tuple[()]
"""(low, high) of floats, in their own units; () for grey levels."""

LEAST_SHARE = 2.0**-16
"""What a range may be of its ends' size, so that float32 tells at least 256 numbers within it."""


def are_pictures(channels: int, range: Range = ()) -> bool:
    """Whether images are seen as they are: grey or RGB, or RGBA of grey levels."""
    return channels in (1, 3) or (channels == 4 and not range)


def ends_of(levels: int, range: Range) -> tuple[float, float]:
    """The stored numbers that become 0 and 1."""
    return range if range else (0.0, levels - 1.0)


def to_unit(images: Tensor, levels: int, range: Range = ()) -> Tensor:
    """Stored images → float32, of the same shape.

    Args:
        images: uint8 grey levels, or floats.
        levels: L, of grey levels.
        range: of floats, (low, high).
    """
    low, high = ends_of(levels, range)
    # In place, as most of a batch's time is memory; never in the caller's.
    unit = images.to(torch.float32, copy=True)
    return (unit.sub_(low) if low else unit).div_(high - low)


def from_unit(x: Tensor, range: tuple[float, float]) -> Tensor:
    """Floats whose range became [0, 1] → float32 in their own units."""
    low, high = range
    return x.to(torch.float32, copy=True).mul_(high - low).add_(low)


def check_range(range: tuple[float, float], what: str) -> tuple[float, float]:
    """A range, if float32 can tell numbers within it.

    Args:
        range: (low, high).
        what: whose it is, for the message.

    Raises:
        ValueError: nothing lies between its ends, or too little for their size.
    """
    low, high = map(float, range)
    largest = max(abs(low), abs(high))
    if not (math.isfinite(low) and math.isfinite(high) and largest < 1e37):
        raise ValueError(f"{what} go from {low:g} to {high:g}: numbers below 1e37 are needed")
    if not high - low > LEAST_SHARE * largest:
        raise ValueError(
            f"{what} go from {low:.9g} to {high:.9g}, which float32 can hardly tell apart: "
            "subtract their mean, or state what is to become 0 and 1 with --config.data.range"
        )
    return low, high


def refuse_dequantisation(range: Range, name: str) -> None:
    """Refuses noise on what has no levels.

    Raises:
        ValueError: a range is there, of floats.
    """
    if range:
        raise ValueError(
            f"{name} holds numbers from {range[0]:g} to {range[1]:g} and no grey levels that "
            "noise could fill up: set data.uniform_dequantization=False"
        )
