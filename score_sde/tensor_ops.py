"""Per-sample arithmetic on batches of any rank.

The first axis counts samples. Whatever belongs to a sample as a whole (a time, a noise level, a
norm) has shape (B,).
"""

import torch
from torch import Tensor


def expand_to(v: Tensor, x: Tensor) -> Tensor:
    """Reshapes per-sample values so that they broadcast over a batch.

    Args:
        v: (B,) or a scalar tensor.
        x: (B, ...) of any rank.

    Returns:
        `v` as (B, 1, ..., 1) with the rank of `x`; a scalar comes back as it is.
    """
    return v.reshape(-1, *[1] * (x.ndim - 1)) if v.ndim else v


def look_up(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Entries of a table that was made on the CPU, with the device and dtype of `like`.

    Args:
        table: (N,).
        index: int64 (B,).
        like: any tensor.

    Returns:
        (B,).
    """
    return table.to(device=like.device, dtype=like.dtype, non_blocking=True)[index]


def sum_per_sample(x: Tensor) -> Tensor:
    """Sums everything but the first axis: (B, ...) → (B,)."""
    return x.flatten(1).sum(1)


def mean_per_sample(x: Tensor) -> Tensor:
    """Averages everything but the first axis: (B, ...) → (B,)."""
    return x.flatten(1).mean(1)


def norm_per_sample(x: Tensor) -> Tensor:
    """Euclidean norm of each sample: (B, ...) → (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
