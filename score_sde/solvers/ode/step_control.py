"""How the size of a step is chosen and its error judged: Hairer, Nørsett, Wanner I, II.4.

Times and step sizes are Python floats on the host: double precision whatever the device, and the
same wherever in a batch a sample stands (a vectorised power may round otherwise in the last rows).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from score_sde.solvers.ode.problem import Status
from score_sde.solvers.ode.runge_kutta import RungeKutta
from score_sde.solvers.ode.slots import Sample
from score_sde.tensor_ops import mean_per_sample

_SAFETY, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 10.0
_LEAST_ERROR = 1e-4  # that is remembered: an error of 0 says nothing about the next one

STEP_CONTROLS: dict[str, tuple[float, float]] = {"i": (1.0, 0.0), "pi": (0.7, 0.4)}
"""Name in configs (`sampling.step_control`, `eval.step_control`) → α and β.

After an accepted step with the error E_n of a method whose error is of order k, the next one is
0.9 E_n^(−α/k) E_{n−1}^(β/k) times as long. With β = 0 the size follows the last error alone, as in
scipy; Gustafsson (1991), "Control theoretic techniques for stepsize selection in explicit
Runge–Kutta methods", also looks at the error before it, so that fewer steps are rejected."""


@dataclass(frozen=True)
class StepControl:
    """How steps are chosen and judged: Hairer, Nørsett, Wanner I, II.4."""

    method: RungeKutta
    gains: tuple[float, float]  # of `STEP_CONTROLS`
    t0: float
    t1: float
    rtol: float
    atol: float
    max_steps: int
    first_step: float | None
    spacing: float  # of the floats of the state, in units of that of doubles

    @property
    def exponent(self) -> float:
        """The power of the error that the size of a step goes with."""
        return 1 / self.method.error_order

    @property
    def direction(self) -> float:
        """+1 forward in time, −1 backward."""
        return math.copysign(1.0, self.t1 - self.t0)

    def scaled_norm(self, x: Tensor, magnitude: Tensor) -> Tensor:
        """Root mean square of x / (atol + rtol magnitude) per sample: (B,)."""
        return mean_per_sample((x / (self.atol + self.rtol * magnitude)).square()).sqrt()

    def trial_step(self, d0: float, d1: float) -> float:
        """Size of the Euler step that explores f, from the norms of y and of its slope."""
        h = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        return min(h, abs(self.t1 - self.t0))

    def initial_step(self, h: float, d1: float, d2: float) -> float:
        """Size of the first step, from the trial one and the norms of slope and curvature."""
        if not math.isfinite(d2):
            return _MIN_FACTOR * h
        steepest = max(d1, d2)
        guess = max(1e-6, h * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** self.exponent
        return min(100 * h, guess, abs(self.t1 - self.t0))

    def propose(self, sample: Sample) -> float:
        """Sets where the sample's next step ends; its signed size."""
        t_next = sample.t + self.direction * max(sample.h, self._smallest(sample.t))
        if self.direction * (t_next - self.t1) > 0:
            t_next = self.t1
        sample.t_next = t_next
        sample.h = abs(t_next - sample.t)
        return t_next - sample.t

    def judge(self, sample: Sample, norms: Sequence[float]) -> bool:
        """Whether the proposed step is accepted; sets the size of the next, or ends the sample.

        `norms` are those of the method's estimates of the error.
        """
        error = self.method.error(norms)
        sample.nfe += self.method.evaluations
        factor = _MIN_FACTOR
        if error == 0:
            factor = _MAX_FACTOR
        elif math.isfinite(error):
            factor = min(_MAX_FACTOR, max(_MIN_FACTOR, self._factor(sample, error)))
        accepted = error < 1
        if accepted:
            sample.last_error = max(error, _LEAST_ERROR)
            sample.t = sample.t_next
            sample.accepted += 1
            factor = min(1.0, factor) if sample.after_rejection else factor
        else:
            sample.rejected += 1
        sample.h *= factor
        sample.after_rejection = not accepted
        sample.status = self._status(sample, error)
        return accepted

    def _factor(self, sample: Sample, error: float) -> float:
        if error >= 1:  # it will be rejected, and what was before is of no help
            return _SAFETY * error**-self.exponent
        alpha, beta = self.gains
        before = sample.last_error ** (beta * self.exponent)
        return _SAFETY * error ** -(alpha * self.exponent) * before

    def _status(self, sample: Sample, error: float) -> Status | None:
        if sample.t == self.t1:
            return Status.DONE
        if sample.after_rejection and sample.h < self._smallest(sample.t):
            return Status.STEP_TOO_SMALL if math.isfinite(error) else Status.NON_FINITE
        if sample.accepted + sample.rejected >= self.max_steps:
            return Status.STEP_LIMIT
        return None

    def _smallest(self, t: float) -> float:
        ulp = abs(math.nextafter(t, self.direction * math.inf) - t)
        return 10 * ulp * self.spacing
