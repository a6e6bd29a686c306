"""One step of the pair of Dormand and Prince (1980), orders 5 and 4."""

from collections.abc import Callable, Sequence

from torch import Tensor

from score_sde.tensor_ops import expand_to

# Butcher tableau of Dormand and Prince (1980), table 2: nodes and weights of stages 2 to 7. Those
# of stage 7 give the fifth-order result; _ERROR is how they differ from the fourth-order one's.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)


def dormand_prince_step(
    f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, slope: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the Dormand–Prince pair: six evaluations of f.

    Args:
        f: (y, t) → dy/dt, (B, ...).
        t: (B,) times.
        y: (B, ...) states.
        slope: (B, ...) f(y, t), which the step before has returned.
        h: (B,) signed step sizes; `t` and `h` may be more precise than `y` and live elsewhere.

    Returns:
        The fifth-order states at t + h, their slopes, and the estimated errors; (B, ...) each.
    """
    size = expand_to(h.to(y.dtype).to(y.device), y)
    slopes = [slope]
    y_stage = y
    for node, weights in zip(_NODES, _WEIGHTS, strict=True):
        y_stage = y + size * _combine(weights, slopes)
        slopes.append(f(y_stage, t + node * h))
    return y_stage, slopes[-1], size * _combine(_ERROR, slopes)


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    # Plain products and sums: fused ones may round otherwise in the last rows of a batch.
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total += weight * slope
    return total
