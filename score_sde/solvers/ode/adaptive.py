"""The adaptive solver: samples of their own time and step, in batches of one fixed size.

Slots are filled from a reserve of samples whose first slopes and step sizes are known: these two
evaluations are made ahead of need, for a full batch of waiting samples at once. So no call of f is
spent on a single new sample, and only the last samples of all leave slots empty. The slots step
together, each from its own time by its own size: as many calls of f as the method takes for a
step, one small read of the errors.
"""

import math

import torch
from torch import Tensor

from score_sde.solvers.ode.problem import (
    Cost,
    Field,
    ODEResult,
    OnFinish,
    Status,
    call_field,
    check_problem,
)
from score_sde.solvers.ode.runge_kutta import RungeKutta, runge_kutta_step
from score_sde.solvers.ode.slots import Sample, SlotLoop, Slots
from score_sde.solvers.ode.step_control import STEP_CONTROLS, StepControl
from score_sde.solvers.ode.tableaux import ODE_SOLVERS
from score_sde.tensor_ops import choose, expand_to, sent_to


@torch.no_grad()
def solve(
    f: Field,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | RungeKutta = "rk45",
    control: str = "i",
    norm: str = "sample",
    batch_size: int | None = None,
    max_steps: int = 10_000,
    first_step: float | None = None,
    eval_dtype: torch.dtype | None = None,
    on_finish: OnFinish | None = None,
    cost: Cost | None = None,
) -> ODEResult:
    """Integrates dy/dt = f(y, t) from t0 to t1, forward or backward, by a Runge–Kutta method.

    A step is accepted where the root mean square of error / (atol + rtol max(|y|, |y_new|)) is
    below 1. With norm="sample" each sample has its own time, step and error. f always sees
    `batch_size` samples: one that has ended gives its slot to the next that waits, or keeps it as
    padding. At a fixed batch size a sample's result is the same bit for bit whatever its mates and
    whichever slot it gets, where f's rows are so. With norm="joint" the batch is one problem with
    one norm and one step, as in the 2021 release; with "rk45" and "dop853" it makes the
    evaluations of scipy's RK45 and DOP853.

    Gradients are not recorded; f may record its own with `torch.enable_grad`.

    Args:
        f: (y, t, index) → dy/dt of the shape of y: y (B, ...), t (B,), index int64 (B,) into y0.
        y0: (N, ...) float32 or float64, the states at t0. Its dtype is that of all states.
        t0: where to start.
        t1: where to end; reached exactly.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: a row of `ODE_SOLVERS`, by name, or a table of one's own. "rk45" is Dormand–Prince
            5(4), "tsit5" Tsitouras 5(4), "dop853" Dormand–Prince 8(5,3).
        control: how step sizes follow from errors: a row of `STEP_CONTROLS`. "i" is scipy's,
            "pi" looks back one step further, and rejects fewer.
        norm: "sample" or "joint".
        batch_size: B, all N by default. For norm="joint" it can be nothing else.
        max_steps: steps a sample may try, accepted or not.
        first_step: size of the first step; by default found from one more evaluation of f.
        eval_dtype: dtype of the y and t that f is given, by default that of y0.
        on_finish: is called with index, y, nfe and status of samples as they end.
        cost: what `nfe` counts for a call of f, of norm="sample"; one evaluation by default.

    Returns:
        The states reached. A sample that cannot go on (see `Status`) keeps its last accepted
        state, and the others go on.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    check_problem(y0, t0, t1, rtol, atol)
    _check_steps(abs(t1 - t0), max_steps, first_step)
    if norm not in ("sample", "joint"):
        raise ValueError(f'norm is "sample" or "joint", got {norm!r}')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    spacing = torch.finfo(y0.dtype).eps / torch.finfo(torch.float64).eps
    table = choose(ODE_SOLVERS, method, "method") if isinstance(method, str) else method
    gains = choose(STEP_CONTROLS, control, "control")
    steps = StepControl(table, gains, t0, t1, rtol, atol, max_steps, first_step, spacing)
    if norm == "sample":
        size = batch_size or len(y0)
        return _Integrator(f, y0, steps, size, eval_dtype or y0.dtype, on_finish, cost).run()
    if batch_size not in (None, len(y0)):
        raise ValueError(
            f'norm="joint" takes all {len(y0)} samples as one batch, got batch_size={batch_size}: '
            'leave it out, or take norm="sample"'
        )
    return _solve_joint(f, y0, steps, eval_dtype or y0.dtype, on_finish)


def _solve_joint(
    f: Field,
    y0: Tensor,
    control: StepControl,
    eval_dtype: torch.dtype,
    on_finish: OnFinish | None,
) -> ODEResult:
    """The whole batch as a single sample of the shape (N, ...)."""
    n = len(y0)
    index = torch.arange(n, device=y0.device)

    def field(y: Tensor, t: Tensor, _: Tensor) -> Tensor:
        return f(y[0], t.repeat(n), index)[None]

    one = _Integrator(field, y0[None], control, 1, eval_dtype, None).run()
    result = ODEResult(
        one.y[0],
        *(v.repeat(n) for v in (one.t, one.nfe, one.status, one.accepted, one.rejected)),
        calls=one.calls,
    )
    if on_finish is not None:
        on_finish(index, result.y, result.nfe, result.status)
    return result


def _check_steps(span: float, max_steps: int, first_step: float | None) -> None:
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    if first_step is not None and not 0 < first_step <= span:
        raise ValueError(f"first_step must be in (0, |t1 - t0| = {span}], got {first_step}")


class _Integrator(SlotLoop[Sample]):
    """The samples' own Runge–Kutta steps; `state` of its slots is (y, slope)."""

    def __init__(
        self,
        f: Field,
        y0: Tensor,
        control: StepControl,
        batch_size: int,
        eval_dtype: torch.dtype,
        on_finish: OnFinish | None,
        cost: Cost | None = None,
    ) -> None:
        samples = [Sample(index, control.t0) for index in range(len(y0))]
        super().__init__(y0, samples, batch_size, on_finish, cost)
        self.f = f
        self.control = control
        self.eval_dtype = eval_dtype

    def padding(self, index: int) -> Sample:
        return Sample(index, self.control.t0, status=Status.DONE)

    def prepare(self, samples: list[Sample], index: Tensor) -> Slots[Sample]:
        """Slopes and first step sizes, ahead of need, of a full batch."""
        slots = Slots(samples, index, (self.y[index],))
        slope = self._evaluate(slots, slots.state[0], slots.times())
        slots.state = (slots.state[0], slope)
        self._first_steps(slots)
        return slots

    def _first_steps(self, slots: Slots[Sample]) -> None:
        control, (y, slope) = self.control, slots.state
        norms = [control.scaled_norm(x, y.abs()) for x in (y, slope)]
        d0, d1 = torch.stack(norms).tolist()
        started = slots.running()
        for slot in started:
            sample = slots.samples[slot]
            sample.nfe += 1
            if not (math.isfinite(d0[slot]) and math.isfinite(d1[slot])):
                sample.status = Status.NON_FINITE
            elif control.first_step is not None:
                sample.h = control.first_step
        self.finish(slots, started)
        running = slots.running()
        if control.first_step is not None or not running:
            return
        trial = [0.0] * self.batch_size
        for slot in running:
            trial[slot] = control.trial_step(d0[slot], d1[slot])
        h = control.direction * torch.tensor(trial, dtype=torch.float64)
        y_trial = y + expand_to(sent_to(y.device, h, y.dtype), y) * slope
        change = self._evaluate(slots, y_trial, slots.times() + h) - slope
        d2 = control.scaled_norm(change, y.abs()).tolist()
        for slot in running:
            sample, step = slots.samples[slot], trial[slot]
            sample.nfe += 1
            sample.h = control.initial_step(step, d1[slot], d2[slot] / step)

    def step(self, slots: Slots[Sample]) -> None:
        running, samples, (y, slope) = slots.running(), slots.samples, slots.state
        steps = [self.control.propose(s) if s.status is None else 0.0 for s in samples]
        y_new, slope_new, errors = runge_kutta_step(
            self.control.method,
            lambda y, t: self._evaluate(slots, y, t),
            slots.times(),
            y,
            slope,
            torch.tensor(steps, dtype=torch.float64),
        )
        magnitude = torch.maximum(y.abs(), y_new.abs())
        norms = torch.stack([self.control.scaled_norm(e, magnitude) for e in errors], 1).tolist()
        accepted = [False] * self.batch_size
        for slot in running:
            accepted[slot] = self.control.judge(samples[slot], norms[slot])
        move = expand_to(sent_to(y.device, torch.tensor(accepted)), y)
        slots.state = (torch.where(move, y_new, y), torch.where(move, slope_new, slope))
        self.finish(slots, running)

    def _evaluate(self, slots: Slots[Sample], y: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        self.charge(slots, t.to(self.eval_dtype))
        return call_field(self.f, y, t, slots.index, self.eval_dtype)
