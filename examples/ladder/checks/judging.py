"""One sentence on an answer: right, not yet and why, or not answered yet."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

UNANSWERED = "Not answered yet: replace the three dots."
ANY = float("nan")  # in what a mistake gives: this one of the numbers may be what it likes


def unanswered(value: Any) -> bool:
    """Whether nothing was answered, or not all of several things."""
    if isinstance(value, tuple):
        return any(unanswered(part) for part in value)
    return value is None or value is ...


def numbers_of(value: Any) -> Tensor:
    """A number, a tensor, or several of one shape (stacked), in float64 where they are real."""
    if isinstance(value, (tuple, list)):
        return torch.stack([numbers_of(part) for part in value])
    tensor = torch.as_tensor(value).detach()
    return tensor if tensor.is_complex() else tensor.double()


def misshapen(value: Any, right: Any) -> str | None:
    """What is wrong with an answer before its numbers are looked at, if anything is."""
    if isinstance(right, tuple) and not (isinstance(value, tuple) and len(value) == len(right)):
        return f"Not yet: {len(right)} values are asked for, as a tuple."
    try:
        given = numbers_of(value)
    except (TypeError, ValueError, RuntimeError):
        return f"Not yet: the answer is {value!r:.60}, where a number or a tensor is asked for."
    if given.is_complex():
        return (
            "Not yet: a root of a negative number was taken, so the answer is complex; "
            "mind what is subtracted from what."
        )
    wanted = numbers_of(right)
    if given.shape != wanted.shape:
        return (
            f"Not yet: the answer has the shape {tuple(given.shape)}, and "
            f"{tuple(wanted.shape)} is asked for."
        )
    return None


def judged(
    answer: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    right: Callable[..., Any],
    well: str,
    mistakes: Mapping[str, Callable[..., Any]],
    otherwise: str,
    tolerance: float = 1e-3,
) -> str:
    """One sentence on an answer, which is tried with several inputs.

    One input alone would let a constant pass, and formulas that happen to agree there.

    Args:
        answer: gives a number, a tensor or a tuple of them; None or ... where it has nothing.
        cases: what it is called with, each the arguments of one call.
        right: gives the right values.
        well: what to say where all are right.
        mistakes: what to say where all are what a typical mistake gives.
        otherwise: what to say of any other answer.
        tolerance: of each number, relative to it.
    """
    given = [answer(*case) for case in cases]
    if any(unanswered(value) for value in given):
        return UNANSWERED
    for value, case in zip(given, cases, strict=True):
        amiss = misshapen(value, right(*case))
        if amiss:
            return amiss

    def agrees_with(formula: Callable[..., Any]) -> list[bool]:
        near = []
        for value, case in zip(given, cases, strict=True):
            other = numbers_of(formula(*case))
            off = (numbers_of(value) - other).abs()
            near.append(bool(((off <= tolerance * other.abs()) | other.isnan()).all()))
        return near

    found = agrees_with(right)
    if all(found):
        return f"Right: {well}"
    for words, mistaken in mistakes.items():
        if all(agrees_with(mistaken)):
            return f"Not yet: {words}"
    if any(found):
        return (
            f"Not yet: that is right for some of the numbers tried, and not for all; {otherwise}"
        )
    return f"Not yet: {otherwise}"
