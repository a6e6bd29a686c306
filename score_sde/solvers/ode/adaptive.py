"""The adaptive solver: samples of their own time and step, in batches of one fixed size.

Slots are filled from a reserve of samples whose first slopes and step sizes are known: these two
evaluations are made ahead of need, for a full batch of waiting samples at once. So no call of f is
spent on a single new sample, and only the last samples of all leave slots empty. The slots step
together, each from its own time by its own size: as many calls of f as the method takes for a
step, one small read of the errors.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.solvers.ode.problem import (
    Field,
    ODEResult,
    OnFinish,
    Status,
    call_field,
    check_problem,
)
from score_sde.solvers.ode.runge_kutta import RungeKutta, runge_kutta_step
from score_sde.solvers.ode.step_control import STEP_CONTROLS, Sample, StepControl
from score_sde.solvers.ode.tableaux import ODE_SOLVERS
from score_sde.tensor_ops import choose, expand_to


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
        return _Integrator(f, y0, steps, size, eval_dtype or y0.dtype, on_finish).run()
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


@dataclass
class _Slots:
    """B samples side by side: `y` and `slope` are (B, ...), `index` is (B,)."""

    samples: list[Sample]
    index: Tensor
    y: Tensor
    slope: Tensor

    def running(self) -> list[int]:
        return [slot for slot, sample in enumerate(self.samples) if sample.status is None]

    def idle(self) -> list[int]:
        return [slot for slot, sample in enumerate(self.samples) if sample.status is not None]

    def load(self, slots: list[int], source: "_Slots", rows: list[int]) -> None:
        """Puts the samples in `rows` of `source` into `slots`."""
        for slot, row in zip(slots, rows, strict=True):
            self.samples[slot] = source.samples[row]
        # An empty list, where none of the new samples can run, has no dtype of its own.
        to = torch.tensor(slots, dtype=torch.int64, device=self.y.device)
        self.index = self.index.index_copy(0, to, source.index[rows])
        self.y = self.y.index_copy(0, to, source.y[rows])
        self.slope = self.slope.index_copy(0, to, source.slope[rows])


class _Integrator:
    """Drives all samples through slots of one fixed number."""

    def __init__(
        self,
        f: Field,
        y0: Tensor,
        control: StepControl,
        batch_size: int,
        eval_dtype: torch.dtype,
        on_finish: OnFinish | None,
    ) -> None:
        self.f = f
        self.y = y0.clone()  # a row holds its start until its sample ends
        self.control = control
        self.batch_size = batch_size
        self.eval_dtype = eval_dtype
        self.on_finish = on_finish
        self.samples = [Sample(index, control.t0) for index in range(len(y0))]
        self.n_prepared = 0
        self.calls = 0

    def run(self) -> ODEResult:
        slots = self._prepare()
        ready, rows = slots, deque[int]()
        while True:
            idle = slots.idle()
            while idle and (rows or self.n_prepared < len(self.samples)):
                if not rows:
                    ready = self._prepare()
                    rows.extend(ready.running())
                n = min(len(idle), len(rows))
                slots.load(idle[:n], ready, [rows.popleft() for _ in range(n)])
                idle = idle[n:]
            if not slots.running():
                return self._result()
            self._round(slots)

    def _prepare(self) -> _Slots:
        """Slopes and first step sizes of the next B samples, ahead of need, in full batches."""
        start, stop = self.n_prepared, min(self.n_prepared + self.batch_size, len(self.samples))
        self.n_prepared = stop
        padding = [
            Sample(stop - 1, self.control.t0, status=Status.DONE)
            for _ in range(self.batch_size - (stop - start))
        ]
        samples = self.samples[start:stop] + padding
        index = torch.tensor([sample.index for sample in samples], device=self.y.device)
        y = self.y[index]
        slots = _Slots(samples, index, y, self._evaluate(y, self._times(samples), index))
        self._first_steps(slots)
        return slots

    def _first_steps(self, slots: _Slots) -> None:
        control, y, slope = self.control, slots.y, slots.slope
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
        self._finish(slots, [slot for slot in started if slots.samples[slot].status is not None])
        running = slots.running()
        if control.first_step is not None or not running:
            return
        trial = [0.0] * self.batch_size
        for slot in running:
            trial[slot] = control.trial_step(d0[slot], d1[slot])
        h = control.direction * torch.tensor(trial, dtype=torch.float64)
        y_trial = y + expand_to(h.to(y.dtype).to(y.device), y) * slope
        change = self._evaluate(y_trial, self._times(slots.samples) + h, slots.index) - slope
        d2 = control.scaled_norm(change, y.abs()).tolist()
        for slot in running:
            sample, step = slots.samples[slot], trial[slot]
            sample.nfe += 1
            sample.h = control.initial_step(step, d1[slot], d2[slot] / step)

    def _round(self, slots: _Slots) -> None:
        """One step of every slot; idle ones stand still."""
        running, samples, y = slots.running(), slots.samples, slots.y
        steps = [self.control.propose(s) if s.status is None else 0.0 for s in samples]
        y_new, slope_new, errors = runge_kutta_step(
            self.control.method,
            lambda y, t: self._evaluate(y, t, slots.index),
            self._times(samples),
            y,
            slots.slope,
            torch.tensor(steps, dtype=torch.float64),
        )
        magnitude = torch.maximum(y.abs(), y_new.abs())
        norms = torch.stack([self.control.scaled_norm(e, magnitude) for e in errors], 1).tolist()
        accepted = [False] * self.batch_size
        for slot in running:
            accepted[slot] = self.control.judge(samples[slot], norms[slot])
        move = expand_to(torch.tensor(accepted).to(y.device), y)
        slots.y = torch.where(move, y_new, y)
        slots.slope = torch.where(move, slope_new, slots.slope)
        self._finish(slots, [slot for slot in running if samples[slot].status is not None])

    def _finish(self, slots: _Slots, ended: list[int]) -> None:
        if not ended:
            return
        index, y = slots.index[ended], slots.y[ended]
        self.y[index] = y
        if self.on_finish is not None:
            samples = [slots.samples[slot] for slot in ended]
            self.on_finish(index, y, self._gather(samples, "nfe"), self._gather(samples, "status"))

    def _evaluate(self, y: Tensor, t: Tensor, index: Tensor) -> Tensor:
        self.calls += 1
        return call_field(self.f, y, t, index, self.eval_dtype)

    def _times(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([sample.t for sample in samples], dtype=torch.float64)

    def _gather(self, samples: list[Sample], name: str) -> Tensor:
        values = [int(getattr(sample, name)) for sample in samples]
        return torch.tensor(values, device=self.y.device)

    def _result(self) -> ODEResult:
        counts = {
            name: self._gather(self.samples, name)
            for name in ("nfe", "status", "accepted", "rejected")
        }
        t = self._times(self.samples).to(self.y.dtype).to(self.y.device)
        return ODEResult(y=self.y, t=t, calls=self.calls, **counts)
