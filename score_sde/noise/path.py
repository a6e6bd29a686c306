"""Noise as one Brownian path, and what steps ask of either kind: increments and areas.

A step asks `increment` (or `increment_and_area`) for its noise, with the times between which it
lies. Of a plain `Noise` that is a draw; a `BrownianPath` is asked between the times, so that steps
of every size see one path.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from score_sde.noise.counted import Noise

Clock = Callable[[Tensor], Tensor]
"""A monotone function of time: (K,) times → (K,)."""


class BrownianPath:
    """Noise that is one Brownian path, whatever the size of the steps that ask for it.

    The path is kept as standard normals on a fine grid of times, two for each interval and sample:
    z of its increment and ζ of its area. In a clock c, which is time itself or a monotone function
    of it, the increment over a fine interval is √|Δc| z and the integral of the path since its
    beginning |Δc|^{3/2} (z/2 + ζ/√12). Longer steps are composed of these, so that every step size
    has the right law. Clocks see one path up to the fine grid: dB_c = √|c'| dW.

    Passed as `noise` to a step, it shows the strong order; `increment` and `increment_and_area`
    ask it. It holds 2 K normals for each number of a sample.

    Args:
        noise: where the fine normals come from, in the order of the times.
        shape: (B, ...) of the state.
        times: (K + 1,) the fine grid, decreasing; steps begin and end on it.

    Raises:
        ValueError: where the times are no decreasing grid.
    """

    def __init__(self, noise: Noise, shape: Sequence[int], times: Tensor) -> None:
        if times.ndim != 1 or len(times) < 2 or (times.diff() >= 0).any():
            raise ValueError(
                f"times of shape {tuple(times.shape)}: a Brownian path needs a decreasing grid of "
                "(K + 1,) times"
            )
        self.times = times.double()
        pairs = [(noise(shape), noise(shape)) for _ in range(len(times) - 1)]
        self._z = torch.stack([z for z, _ in pairs])
        self._area = torch.stack([area for _, area in pairs])

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Refuses: noise that belongs to no interval of time is not the path's."""
        raise ValueError(
            "a BrownianPath gives the noise between two times of its grid, and this step draws "
            "noise that belongs to none: pass other noise, or another step"
        )

    def between(
        self, t: Tensor, t_next: Tensor | None, clock: Clock | None = None
    ) -> tuple[Tensor, Tensor]:
        """Standard normals z and ζ of the path's increment and area between two times.

        Args:
            t: (B,) where the step begins, one time of the grid for all samples.
            t_next: (B,) where it ends, a later one in the grid.
            clock: the variable in which the path is Brownian; time by default.

        Returns:
            z and ζ as in `increment_and_area`.

        Raises:
            ValueError: where a time is not on the grid, none is given, or the clock is infinite.
        """
        first, last = self._place(t), self._place(t_next)
        at = self.times[first : last + 1]
        steps = (at if clock is None else clock(at)).diff().abs().to(self._z)
        total = steps.sum()
        if not total.isfinite():
            raise ValueError(
                f"the Brownian path was asked down to time {self.times[last].item():g}, where its "
                "clock is infinite: end the grid where there is noise left"
            )
        root = steps.sqrt().reshape(-1, *[1] * (self._z.ndim - 1))
        jumps = root * self._z[first:last]
        areas = root**2 * (jumps / 2 + root * self._area[first:last] / math.sqrt(12))
        before = jumps.cumsum(0) - jumps
        rise, integral = jumps.sum(0), (root**2 * before + areas).sum(0)
        z = rise / total.sqrt()
        return z, (integral / total - rise / 2) * math.sqrt(12) / total.sqrt()

    def _place(self, t: Tensor | None) -> int:
        if t is None:
            raise ValueError(
                "a BrownianPath is asked between two times of its grid, and a step of the paper's "
                "own chain names one: walk a grid of solvers.grids.time_grid"
            )
        apart = (self.times.to(t.device) - t.reshape(-1)[0]).abs()
        place = int(apart.argmin())
        if apart[place] > 1e-6 * self.times[0] or (t != t.reshape(-1)[0]).any():
            raise ValueError(
                f"the Brownian path was asked at time {t.reshape(-1)[0].item():g}: give it a fine "
                "grid that has all times of the steps, which all samples share"
            )
        return place


def increment(
    noise: Noise,
    shape: Sequence[int],
    t: Tensor,
    t_next: Tensor | None,
    clock: Clock | None = None,
) -> Tensor:
    """The standard normal z of a Brownian increment √h z between two times.

    Args:
        noise: a draw of it, unless it is a path, which is asked between the times.
        shape: (B, ...) of the state.
        t: (B,) where the step begins.
        t_next: (B,) where it ends.
        clock: the variable in which the path is Brownian, and h = |c(t_next) − c(t)|; time by
            default.
    """
    between = getattr(noise, "between", None)
    return noise(shape) if between is None else between(t, t_next, clock)[0]


def increment_and_area(
    noise: Noise,
    shape: Sequence[int],
    t: Tensor,
    t_next: Tensor | None,
    clock: Clock | None = None,
) -> tuple[Tensor, Tensor]:
    """Independent standard normals z and ζ of a path's increment and its area; two draws.

    Over a step of length h the increment is √h z, and the integral of the path since the step's
    beginning h^{3/2} (z/2 + ζ/√12). Its part √(h/12) ζ is the space-time Lévy area. Arguments as
    in `increment`.
    """
    between = getattr(noise, "between", None)
    return (noise(shape), noise(shape)) if between is None else between(t, t_next, clock)
