"""What every route takes and gives: the field, its checks, and the result."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from score_sde.tensor_ops import sent_to

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(y, t, index) → dy/dt: y (B, ...), t (B,), index int64 (B,) where these samples stand in y0."""

Cost = Callable[[Tensor], Tensor | int]
"""t (B,) on the CPU, as f is given it → how many evaluations a call of f makes of each sample.

int64 (B,), or one number for all."""

OnFinish = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called with index (k,), y (k, ...), nfe (k,), status (k,) of samples that have just ended."""


class Status(IntEnum):
    """How the integration of a sample ended.

    DONE: it has reached t1. STEP_LIMIT: it has tried as many steps as it may. STEP_TOO_SMALL: its
    step fell to the rounding of t, as the tolerance could not be met. NON_FINITE: its first slope
    is not finite, or steps down to the rounding of t did not lead to finite numbers.
    """

    DONE = 0
    STEP_LIMIT = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3


@dataclass(frozen=True)
class ODEResult:
    """Where N samples ended, on the device of y0.

    Attributes:
        y: (N, ...) the last accepted states.
        t: (N,) the times they belong to, t1 where the status is DONE.
        nfe: int64 (N,) evaluations made for the sample (of padding and other samples: none), one
            for each call of f unless its `Cost` is another.
        status: int64 (N,) of `Status`.
        accepted: int64 (N,) accepted steps.
        rejected: int64 (N,) rejected steps; −1 where they are not known (scipy's methods).
        calls: how often f was called, with a full batch each time.
    """

    y: Tensor
    t: Tensor
    nfe: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    calls: int


def check_problem(y0: Tensor, t0: float, t1: float, rtol: float, atol: float) -> None:
    """Refuses with a ValueError what no route can integrate."""
    if y0.ndim < 2 or len(y0) == 0:
        raise ValueError(
            f"y0 must be (N, ...) with N ≥ 1 and at least one more axis, got {tuple(y0.shape)}"
        )
    if y0.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"y0 must be float32 or float64, got {y0.dtype}: cast it, and let eval_dtype "
            "be what the network wants"
        )
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 != t1):
        raise ValueError(f"t0 and t1 must be finite and differ, got t0={t0}, t1={t1}")
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"tolerances must be above 0, got rtol={rtol}, atol={atol}")


def call_field(f: Field, y: Tensor, t: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """f in the dtype it is to see, its slopes in that of y; `t` may live elsewhere."""
    slope = f(y.to(dtype), sent_to(y.device, t, dtype), index)
    if slope.shape != y.shape:
        raise ValueError(
            f"f gave slopes of shape {tuple(slope.shape)} for states of shape {tuple(y.shape)}: "
            "the two must be equal"
        )
    return slope.detach().to(y.dtype)
