"""Linear equations by conjugate gradients (Hestenes & Stiefel 1952), each sample by itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.tensor_ops import expand_to, sum_per_sample


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Solves M x = b with M symmetric and positive semi-definite, b in its range, from x = 0.

    A sample that is done stays as it is while its mates go on, so that it does not depend on
    them. It is also done where M is found not to be positive.

    Args:
        operator: v → M v, on (B, ...), each sample by itself.
        b: (B, ...).
        tolerance: of ‖b − M x‖/‖b‖ of each sample.
        max_iterations: after which a sample is left as it is.

    Returns:
        x (B, ...), and the relative residual (B,) that was reached.
    """
    x, r, p = torch.zeros_like(b), b, b
    size = squared = sum_per_sample(b * b)
    active = squared > 0
    for _ in range(max_iterations):
        active = active & (squared > tolerance**2 * size)
        if not bool(active.any()):
            break
        Mp = operator(p)
        curvature = sum_per_sample(p * Mp)
        active = active & (curvature > 0)
        step = torch.where(active, squared / curvature, 0.0)
        moving = expand_to(active, b)
        x = torch.where(moving, x + expand_to(step, b) * p, x)
        r = torch.where(moving, r - expand_to(step, b) * Mp, r)
        left = torch.where(active, sum_per_sample(r * r), squared)
        p = torch.where(moving, r + expand_to(left / squared, b) * p, p)
        squared = left
    residual = (squared / size).sqrt()
    return x, torch.where(size > 0, residual, 0.0)
