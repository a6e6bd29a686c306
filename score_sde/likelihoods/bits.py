"""From nats of a density to bits per dimension of quantised data, or to nats in other units."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def bin_width(inverse_scaler: Callable[[Tensor], Tensor], levels: int) -> float:
    """Width that a level of the data has where the network sees it.

    Level k of L fills [k/L, (k + 1)/L) of the data's range [0, 1], as dequantisation by (k + u)/L
    does; the data transform stretches it. −log₂ of the width is the "offset" of bits/dim: 8 for
    256 levels in [0, 1], 7 for data centred to [−1, 1].

    Args:
        inverse_scaler: from the network's range to [0, 1], affine and the same for all pixels.
        levels: L.

    Raises:
        ValueError: where `levels` < 2 or the transform is not affine and increasing.
    """
    if levels < 2:
        raise ValueError(
            f"levels={levels}: bits/dim are for data of at least 2 levels; "
            "for others take log_likelihood, which is in nats"
        )
    return 1 / (levels * _slope(inverse_scaler))


def unit_width(inverse_scaler: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """Width that one unit of the data has where the network sees it, of data that are floats.

    Args:
        inverse_scaler: from the network's range to [0, 1], affine and the same for all numbers.
        low: what became 0 of the data, in their own units.
        high: what became 1.

    Raises:
        ValueError: where `high` is not above `low` or the transform is not affine and increasing.
    """
    if not high > low:
        raise ValueError(f"the range from {low:g} to {high:g} is empty: give the lower end first")
    return 1 / ((high - low) * _slope(inverse_scaler))


def _slope(inverse_scaler: Callable[[Tensor], Tensor]) -> float:
    ends = inverse_scaler(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    low, middle, high = ends.tolist()
    slope = high - low
    if not slope > 0 or abs(middle - (low + high) / 2) > 1e-6 * slope:
        raise ValueError(
            "bits/dim need an inverse_scaler of the form a x + b with a > 0: for other transforms "
            "take log_likelihood and add the logarithm of their derivative"
        )
    return slope


def bits_per_dim(logp: Tensor, dimensions: int, width: float) -> Tensor:
    """Bits per dimension of quantised data from the log density of dequantised ones.

    −log₂ P(k) ≤ E[−log₂ (p(x) widthᴰ)], where x is uniform in the cell of k (Theis et al. 2016,
    section 3.1).

    Args:
        logp: (N,) log density in nats, of the data as the network sees them.
        dimensions: D, numbers per sample.
        width: of a level, there (`bin_width`).

    Returns:
        (N,).
    """
    return -logp / (dimensions * math.log(2)) - math.log2(width)


def nats_per_dim(logp: Tensor, dimensions: int, width: float) -> Tensor:
    """−log density per dimension of data in units of their own.

    y = x / width + const has the density p(y) = p(x) widthᴰ.

    Args:
        logp: (N,) log density in nats, of the data as the network sees them.
        dimensions: D, numbers per sample.
        width: of one such unit, there (`unit_width`).

    Returns:
        (N,).
    """
    return -logp / dimensions - math.log(width)
