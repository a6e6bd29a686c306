"""Explicit Runge–Kutta methods with an estimate of their error: a table each, and one step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from score_sde.tensor_ops import expand_to, sent_to


@dataclass(frozen=True)
class RungeKutta:
    """The table of a method whose last stage is the slope at the end of the step.

    The next step begins with that slope, so that a step costs one evaluation less than it has
    stages (Hairer, Nørsett, Wanner I, II.5: "first same as last").

    Attributes:
        title: its name in reports.
        order: of the result that is carried on.
        nodes: those of stages 2 to S, in units of the step; the last is 1.
        weights: of the stages before each of these: S − 1 rows, the k-th of k numbers. The last
            row gives the result.
        errors: rows of S weights, each of which estimates the error: one row, or two of which the
            second is the rougher (see `error`).
        error_order: the order in h of the estimated error of a step.

    Raises:
        ValueError: where the rows are not of these lengths.
    """

    title: str
    order: int
    nodes: Sequence[float]
    weights: Sequence[Sequence[float]]
    errors: Sequence[Sequence[float]]
    error_order: int

    def __post_init__(self) -> None:
        """Checks the lengths of the rows."""
        stages = len(self.nodes) + 1
        triangle = [len(row) for row in self.weights] == list(range(1, stages))
        if not triangle or self.nodes[-1] != 1 or self.error_order < 1:
            raise ValueError(
                f"{self.title}: {len(self.nodes)} nodes, of which the last is 1, take rows of 1, "
                f"2, … {len(self.nodes)} weights and an error_order of at least 1"
            )
        if len(self.errors) not in (1, 2) or any(len(row) != stages for row in self.errors):
            raise ValueError(
                f"{self.title}: the error is estimated by one or two rows of {stages} weights"
            )

    @property
    def evaluations(self) -> int:
        """Calls of f in one step."""
        return len(self.nodes)

    def error(self, norms: Sequence[float]) -> float:
        """The error of a step from the norms of its estimates.

        Two of them, E and the rougher e, are joined as E² / √(E² + 0.01 e²), whose order in h is
        twice that of E less that of e. E alone would be too small where it vanishes by chance
        (Hairer, Nørsett, Wanner I, II.10, eq. 10.17).
        """
        if len(norms) == 1:
            return norms[0]
        fine, rough = norms
        joint = math.hypot(fine, 0.1 * rough)
        return fine * (fine / joint) if joint > 0 else joint


def runge_kutta_step(
    method: RungeKutta,
    f: Callable[[Tensor, Tensor], Tensor],
    t: Tensor,
    y: Tensor,
    slope: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One step, by `method.evaluations` calls of f.

    Args:
        method: the table.
        f: (y, t) → dy/dt, (B, ...).
        t: (B,) times.
        y: (B, ...) states.
        slope: (B, ...) f(y, t), which the step before has returned.
        h: (B,) signed step sizes; `t` and `h` may be more precise than `y` and live elsewhere.

    Returns:
        The states at t + h, their slopes, and the estimates of their errors; (B, ...) each.
    """
    size = expand_to(sent_to(y.device, h, y.dtype), y)
    slopes = [slope]
    y_stage = y
    for node, weights in zip(method.nodes, method.weights, strict=True):
        y_stage = y + size * _combine(weights, slopes)
        slopes.append(f(y_stage, t + node * h))
    return y_stage, slopes[-1], [size * _combine(weights, slopes) for weights in method.errors]


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    # Plain products and sums: fused ones may round otherwise in the last rows of a batch.
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total += weight * slope
    return total
