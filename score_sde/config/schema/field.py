"""What a row is: one field of a config, and the kinds of rows that there are."""

from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

from score_sde.config.holds import AT_LEAST_1, FilePath, Names, Number, Numbers, one_to

PART = Number("above 0 and up to 1", lambda x: 0 < x <= 1)

LARGEST_INT = 2**63 - 1
"""What a count may be at most: tensors hold no larger sizes."""


@dataclass(frozen=True)
class Field:
    """A row: one field of a config.

    Attributes:
        default: what it holds where a recipe says nothing; its type is the field's.
        help: one line.
        holds: what it may hold, None for whatever its type allows.
        resume: whether a resumed run may change it. "free": at any time; "on_request": where the
            user allows it by name (--allow NAME); "images": where other images are allowed
            (--allow data); "never": it would be another experiment.
        from_checkpoint: whether a checkpoint decides it when samples are drawn from it. "yes";
            "unless_given": where the command does not say otherwise; "no": the recipe does.
        older: what runs did that were made before the field was added; None for the fields of
            every run. A shard of an evaluation counts on where the field stands at this value.
    """

    default: Any
    help: str
    holds: Number | Names | Numbers | FilePath | None = None
    resume: Literal["free", "on_request", "images", "never"] = "never"
    from_checkpoint: Literal["yes", "unless_given", "no"] = "no"
    older: Any = None

    def check(self, value: Any, what: str) -> None:
        """Refuses a value that the field may not hold.

        Args:
            value: what it is given.
            what: the field, for the message.

        Raises:
            ValueError: another type, or a value outside of what is allowed; an UnknownName for a
                name that is none of the allowed ones.
        """
        kind, number = type(self.default), isinstance(value, Real) and not isinstance(value, bool)
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"{what}={value!r}: it must be True or False")
        if kind in (int, float) and not number:
            raise ValueError(f"{what}={value!r}: it must be a number")
        if kind is int and not isinstance(value, Integral):
            raise ValueError(f"{what}={value!r}: it must be a whole number")
        if kind is int and isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ValueError(f"{what}={value!r}: it must be a whole number of 64 bits")
        if kind is str and not isinstance(value, str):
            raise ValueError(f"{what}={value!r}: it must be text")
        if kind is tuple and not isinstance(value, list | tuple):
            raise ValueError(f"{what}={value!r}: it must be a tuple, as (1, 2)")
        holds: Any = self.holds
        if holds:
            holds.check(value, what)


free = partial(Field, resume="free")
on_request = partial(Field, resume="on_request")
of_checkpoint = partial(Field, from_checkpoint="yes")
of_images = partial(of_checkpoint, resume="images")


def added(
    default: Any, help: str, holds: Number | Names | Numbers | FilePath | None = None
) -> Field:
    """Fields that runs did not have; at their defaults they are in no digest."""
    return Field(default, help, holds, resume="free", older=default)


def counted_from_1(instead: str, most: int = LARGEST_INT) -> Number:
    """Counts of what is switched off by another field; `most` where each takes memory at once."""
    words = AT_LEAST_1.words if most == LARGEST_INT else one_to(most).words
    return Number(words, lambda x: 1 <= x <= most, f"it must be {words}; {instead}")
