"""One sentence on an answer: right, not yet and why, or not answered yet."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Number = float | Tensor


UNANSWERED = "Not answered yet: replace the three dots."


def unanswered(value: Any) -> bool:
    """Whether nothing was answered, or not all of several things."""
    if isinstance(value, tuple):
        return any(unanswered(part) for part in value)
    return value is None or value is ...


def judged(
    value: Any,
    right: Number,
    well: str,
    mistakes: Mapping[str, Number],
    otherwise: str,
    tolerance: float = 1e-3,
) -> str:
    """One sentence on an answer.

    Args:
        value: what was answered, a number, a tensor or several of them; None or ... where
            nothing was.
        right: the right value.
        well: what to say where it is right.
        mistakes: what to say of values that typical mistakes give.
        otherwise: what to say of any other value.
        tolerance: relative to the largest right number.
    """
    if unanswered(value):
        return UNANSWERED
    try:
        parts = value if isinstance(value, (tuple, list)) else [value]
        numbers = [torch.as_tensor(part).detach().double() for part in parts]
        value = torch.stack(numbers) if parts is value else numbers[0]
    except (TypeError, ValueError, RuntimeError):
        return f"Not yet: the answer is {value!r:.60}, where a number or a tensor is asked for."
    wanted = torch.as_tensor(right).detach().double()
    if value.shape != wanted.shape:
        return (
            f"Not yet: the answer has the shape {tuple(value.shape)}, and "
            f"{tuple(wanted.shape)} is asked for."
        )

    def is_near(other: Number) -> bool:
        other = torch.as_tensor(other).detach().double()
        return bool((value - other).abs().max() <= tolerance * wanted.abs().max())

    if is_near(wanted):
        return f"Right: {well}"
    for words, mistaken in mistakes.items():
        if is_near(mistaken):
            return f"Not yet: {words}"
    return f"Not yet: {otherwise}"
