"""An adaptive solver of stochastic equations, the error of each sample controlled by itself.

For dx = f(x, t) dt + g(t) dW, Jolicoeur-Martineau et al. 2021 ("Gotta Go Fast When Generating Data
with Score-Based Models", algorithms 1 and 2) take a step of Euler and Maruyama, x', and from the
drift and diffusion at its end the step x'' of the stochastic improved Euler method, and compare:

    x'  = x + h f(x, t) + g(t) ΔW
    x'' = x + h ½ (f(x, t) + f(x', t + h)) + ½ (g(t) + g(t + h)) ΔW
    E   = √ mean ((x' − x'') / δ)²,    δ = max(ε_abs, ε_rel max(|x'|, |x'_prev|))

Where E ≤ 1 the sample moves to x'' (extrapolation), and x' is what x'_prev is to the next step;
the size of the next step is θ E^−r times that of the last, whether it was accepted or not.

Here a rejected step keeps its path (`kept_path`), where the paper draws fresh noise. Samples pass
through slots as those of the adaptive ODE do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.solvers.kept_path import Draws, KeptPaths, PathSample
from score_sde.solvers.ode.problem import Cost, ODEResult, Status, check_problem
from score_sde.solvers.ode.slots import SlotLoop, Slots
from score_sde.tensor_ops import expand_to, mean_per_sample, sent_to

Equation = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x, t, index) → f and g: x and f (B, ...), t and g (B,), index int64 (B,) into x0."""

_LEAST_FACTOR = 0.2  # where an error is not finite, and says nothing about the next step


@dataclass(frozen=True)
class SDEControl:
    """How steps are chosen and judged; the values are the paper's.

    Attributes:
        rtol: ε_rel; the paper takes 0.01 to 0.05, for the more or fewer evaluations.
        atol: ε_abs; the paper takes one grey level, 2/256 for images in [−1, 1].
        first_step: size of the first step.
        safety: θ.
        exponent: r.
        max_steps: steps a sample may try, accepted or not.
    """

    rtol: float = 0.01
    atol: float = 2 / 256
    first_step: float = 0.01
    safety: float = 0.9
    exponent: float = 0.9
    max_steps: int = 10_000

    def next_size(self, sample: PathSample, error: float, left: float) -> float:
        """Size of the next step, after one of the size `sample.h`, where `left` is to go."""
        if not math.isfinite(error):
            return _LEAST_FACTOR * sample.h
        return left if error == 0 else self.safety * sample.h * error**-self.exponent


@torch.no_grad()
def solve_sde(
    equation: Equation,
    x0: Tensor,
    t0: float,
    t1: float,
    draws: Draws,
    control: SDEControl,
    *,
    batch_size: int | None = None,
    cost: Cost | None = None,
) -> ODEResult:
    """Solves dx = f(x, t) dt + g(t) dW from t0 to t1, forward or backward in time.

    Each sample has its own time, step, path and error. `equation` always sees `batch_size`
    samples, as `ode.solve` has it, and a sample is the same bit for bit whatever its mates.

    Args:
        equation: (x, t, index) → f and g.
        x0: (N, ...) float32 or float64, the states at t0.
        t0: where to start.
        t1: where to end; reached exactly.
        draws: int64 (B,) indices into x0 and numbers 0, 1, … of their draws → (B, ...) noise.
        control: tolerances, and how steps follow from errors.
        batch_size: B, all N by default.
        cost: what `nfe` counts for a call of `equation`; one evaluation by default.

    Returns:
        The states reached; `nfe` counts two calls for each step, accepted or not. A sample
        that cannot go on (see `Status`) keeps its last accepted state.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    check_problem(x0, t0, t1, control.rtol, control.atol)
    if not (0 < control.first_step and control.max_steps >= 1 and (batch_size or 1) >= 1):
        raise ValueError(
            f"first_step must be above 0, max_steps and batch_size at least 1, got "
            f"{control.first_step}, {control.max_steps} and {batch_size}"
        )
    size = batch_size or len(x0)
    return _Integrator(equation, x0, t0, t1, draws, control, size, cost).run()


class _Integrator(SlotLoop[PathSample]):
    """Two evaluations a step; `state` of its slots is (x, x'_prev)."""

    def __init__(
        self,
        equation: Equation,
        x0: Tensor,
        t0: float,
        t1: float,
        draws: Draws,
        control: SDEControl,
        batch_size: int,
        cost: Cost | None,
    ) -> None:
        samples = [PathSample(k, t0, h=control.first_step) for k in range(len(x0))]
        super().__init__(x0, samples, batch_size, None, cost)
        self.equation, self.t0, self.t1, self.control = equation, t0, t1, control
        self.direction = math.copysign(1.0, t1 - t0)
        self.paths = KeptPaths(draws, x0[:1].expand(batch_size, *x0.shape[1:]))

    def padding(self, index: int) -> PathSample:
        return PathSample(index, self.t0, status=Status.DONE)

    def prepare(self, samples: list[PathSample], index: Tensor) -> Slots[PathSample]:
        x = self.y[index]
        return Slots(samples, index, (x, x))

    def step(self, slots: Slots[PathSample]) -> None:
        running, samples, (x, previous) = slots.running(), slots.samples, slots.state
        ends = [self._end(sample) for sample in samples]
        t, t_next = slots.times(), torch.tensor(ends, dtype=torch.float64)
        h = expand_to(sent_to(x.device, t_next - t, x.dtype), x)
        w = self.paths.ask(samples, slots.index, ends)
        euler = self._euler(slots, x, x, t, h, w)
        # Heun's mean of two steps of Euler and Maruyama from x, the second with drift and
        # diffusion of where the first has led.
        second = self._euler(slots, x, euler, t_next, h, w)
        improved = (euler + second) / 2
        magnitude = torch.maximum(euler.abs(), previous.abs())
        scale = (self.control.rtol * magnitude).clamp_min(self.control.atol)
        errors = mean_per_sample(((euler - improved) / scale).square()).sqrt().tolist()
        accepted = [False] * self.batch_size
        for slot in running:
            accepted[slot] = self._judge(samples[slot], ends[slot], errors[slot])
        self.paths.advance(samples, accepted, w)
        move = expand_to(sent_to(x.device, torch.tensor(accepted)), x)
        slots.state = (torch.where(move, improved, x), torch.where(move, euler, previous))
        self.finish(slots, running)

    def _euler(
        self, slots: Slots[PathSample], x: Tensor, at: Tensor, t: Tensor, h: Tensor, w: Tensor
    ) -> Tensor:
        self.calls += 1
        t = t.to(x.dtype)
        self.charge(slots, t)
        drift, diffusion = self.equation(at, sent_to(x.device, t), slots.index)
        return x + h * drift + expand_to(diffusion, x) * w

    def _end(self, sample: PathSample) -> float:
        """Where the sample's next step ends; also sets its size."""
        if sample.status is not None:
            return sample.t
        end = sample.t + self.direction * sample.h
        if self.direction * (end - self.t1) >= 0:
            end = self.t1
        sample.h = abs(end - sample.t)
        return end

    def _judge(self, sample: PathSample, end: float, error: float) -> bool:
        sample.nfe += 2
        accepted = error <= 1
        if accepted:
            sample.t = end
            sample.accepted += 1
        else:
            sample.rejected += 1
        sample.h = self.control.next_size(sample, error, abs(self.t1 - sample.t))
        if sample.t == self.t1:
            sample.status = Status.DONE
        elif self._smallest(sample.t) > sample.h:
            finite = math.isfinite(error)
            sample.status = Status.STEP_TOO_SMALL if finite else Status.NON_FINITE
        elif sample.accepted + sample.rejected >= self.control.max_steps:
            sample.status = Status.STEP_LIMIT
        return accepted

    def _smallest(self, t: float) -> float:
        return 10 * torch.finfo(self.y.dtype).eps * abs(t)
