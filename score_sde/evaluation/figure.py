"""A figure: one number of a report, with its error; or the reason why there is none."""

import math
from typing import Any

import numpy as np

Figure = dict[str, Any]
"""`value`, its standard error `se` (None where it is not known), the number `n` that it is a mean
of, and how it was made."""


class LeftOut(Exception):  # noqa: N818, nothing went wrong
    """A figure that this checkpoint, or this evaluation, does not have.

    Args:
        why: the reason, for the report. Empty where nobody asked for the figure: the report then
            does not name it.
        what: what is left out, where several figures share the reason; by default the figure.
    """

    def __init__(self, why: str = "", what: str = "") -> None:
        super().__init__(why)
        self.why, self.what = why, what


def mean_figure(values: np.ndarray, **how: Any) -> Figure:
    """The mean of one number per image, with its standard error over images.

    Args:
        values: (N,).
        **how: what else the report says of it, such as `split="test"`.

    Returns:
        The figure. An error that is not known is None, as in every figure.
    """
    n = len(values)
    se = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"value": float(values.mean()), "se": se, "n": n, **how}
