"""What a field of a config may hold: ranges of numbers, names, tuples of numbers.

Names that are rows of a table are looked up when they are checked, so that rows added by a recipe
count, and nothing is imported before.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from score_sde.atomic import expanded


@dataclass(frozen=True)
class Number:
    """Finite numbers within a range.

    Attributes:
        words: the range, as in "it must be …".
        within: whether a number lies in it.
        refusal: what is said of a finite one that does not; from the words by default.
    """

    words: str
    within: Callable[[float], bool]
    refusal: str = ""

    def check(self, value: float, what: str) -> None:
        """Refuses a value of the field `what` with a ValueError."""
        finite = isinstance(value, Integral) or math.isfinite(value)
        if not (finite and self.within(value)):
            words = (finite and self.refusal) or f"it must be {self.words}"
            raise ValueError(f"{what}={value!r}: {words}")


class Names:
    """Names: those given, and the rows of tables where some are named.

    Args:
        *names: those that are in no table.
        table: where the table is, as "module:NAME".
        more: where another one is.
    """

    def __init__(self, *names: str, table: str = "", more: str = "") -> None:
        self.names, self.tables = names, [place for place in (table, more) if place]

    @property
    def words(self) -> str:
        """The names, and the places of the tables."""
        return ", ".join([*self.names, *(f"a row of {place}" for place in self.tables)])

    def allowed(self) -> list[str]:
        """All of them, now."""
        return list(dict.fromkeys([*self.names, *(n for p in self.tables for n in _rows(p))]))

    def row(self, name: str) -> object:
        """What a table has under a name; None where the name is in no table."""
        rows = [_rows(place) for place in self.tables]
        return next((table[name] for table in rows if name in table), None)

    def check(self, value: object, what: str) -> None:
        """Refuses a value of the field `what` with an UnknownName."""
        from score_sde.tensor_ops import check_name  # here, as `schema` imports no torch

        check_name(value, self.allowed(), what)


def _rows(table: str) -> Mapping[str, object]:
    module, _, name = table.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Numbers:
    """Tuples of numbers.

    Attributes:
        words: what they are, with an example.
        fits: whether a tuple is one.
    """

    words: str
    fits: Callable[[tuple[Any, ...]], bool]

    def check(self, value: Any, what: str) -> None:
        """Refuses a value of the field `what` with a ValueError."""
        if not self.fits(tuple(value)):
            raise ValueError(f"{what}={value!r}: give {self.words}")


def one_to(most: int) -> Number:
    """Numbers from 1 to `most`, above which no table or weight of that size could be made."""
    return Number(f"from 1 to {most:,}", lambda x: 1 <= x <= most)


def up_to(most: int) -> Number:
    """Numbers from 0 to `most`, likewise."""
    return Number(f"from 0 to {most:,}", lambda x: 0 <= x <= most)


class FilePath:
    """The path of a file or folder, or nothing."""

    words = "a path"

    def check(self, value: object, what: str) -> None:
        """Refuses a value of the field `what` with a ValueError."""
        if not isinstance(value, str):
            raise ValueError(f"{what}={value!r}: it must be a path, as text")
        try:
            expanded(value)
        except ValueError as error:
            raise ValueError(f"{what}={value!r}: {error}") from error


PATH = FilePath()
AT_LEAST_1 = Number("at least 1", lambda x: x >= 1)
EVERY = Number(
    "at least 1",
    lambda x: x >= 1,
    "it must be at least 1; for never, give more than training.n_iters",
)
AT_LEAST_0 = Number("at least 0", lambda x: x >= 0, "it may not be negative")
ABOVE_0 = Number("above 0", lambda x: x > 0)
SHARE = Number("from 0 to below 1", lambda x: 0 <= x < 1)
PROBABILITY = Number("from 0 to 1", lambda x: 0 <= x <= 1)
FINITE = Number("a finite number", lambda x: True)
NOT_0 = Number("a finite number other than 0", lambda x: x != 0)
SEED = Number("a whole number of 64 bits", lambda x: -(2**63) <= x < 2**63)
AUTO_ON_OFF = Names("auto", "on", "off")


def _whole(items: tuple[Any, ...]) -> bool:
    return all(type(item) is int and item >= 1 for item in items)


def _levels(items: tuple[Any, ...]) -> bool:
    return 1 <= len(items) <= 16 and _whole(items) and max(items) <= 1024


def _kernel(items: tuple[Any, ...]) -> bool:
    return (
        all(isinstance(x, Real) for x in items) and math.isfinite(sum(items)) and sum(items) != 0
    )


def _lengths(items: tuple[Any, ...]) -> bool:
    # 1/√12 is the length of the mean of all weights; two equal ones could not be told apart.
    numbers = all(isinstance(x, int | float) and 0 < x <= 0.2886 for x in items)
    return numbers and [*items] == sorted({*items})


def _interval(items: tuple[Any, ...]) -> bool:
    numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in items)
    return numbers and (not items or (len(items) == 2 and 0 <= items[0] < items[1]))


def _range(items: tuple[Any, ...]) -> bool:
    numbers = all(type(x) in (int, float) and math.isfinite(x) for x in items)
    return numbers and (not items or (len(items) == 2 and items[0] < items[1]))


RANGE = Numbers("two numbers, the lower one first, as (-1.5, 4.0), or ()", _range)
INTERVAL = Numbers("two numbers from 0 up, the lower one first, as (0.2, 5.0), or ()", _interval)
SIDES = Numbers("whole numbers from 1 up, as (16,), or () for none", _whole)
LEVELS = Numbers(
    "whole numbers from 1 to 1,024, one for each of at most 16 levels, as (1, 2)", _levels
)
LENGTHS = Numbers(
    "numbers above 0 and up to 0.2886, in ascending order, as (0.05, 0.1), or () for none",
    _lengths,
)
KERNEL = Numbers("numbers whose sum is not 0, as (1, 3, 3, 1)", _kernel)
