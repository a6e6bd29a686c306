"""The same problem through scipy: other methods, and a second opinion."""

import numpy as np
import torch
from scipy import integrate
from torch import Tensor

from score_sde.solvers.ode.problem import Field, ODEResult, Status, call_field, check_problem
from score_sde.tensor_ops import check_name

_METHODS = {
    "RK45": integrate.RK45,
    "RK23": integrate.RK23,
    "DOP853": integrate.DOP853,
    "Radau": integrate.Radau,
    "BDF": integrate.BDF,
    "LSODA": integrate.LSODA,
}


@torch.no_grad()
def solve_scipy(
    f: Field,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    eval_dtype: torch.dtype | None = None,
) -> ODEResult:
    """Integrates dy/dt = f(y, t) from t0 to t1 with a method of `scipy.integrate.solve_ivp`.

    The whole batch is one vector of doubles on the host, with one error norm and one step; f is
    evaluated on the device of y0. A slope that is not finite ends the integration.

    Args:
        f: (y, t, index) → dy/dt of the shape of y, as for `solve`; always sees all N samples.
        y0: (N, ...) float32 or float64.
        t0: where to start.
        t1: where to end.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
        eval_dtype: dtype of the y and t that f is given, by default that of y0.

    Returns:
        The result in the dtype of y0; all samples share their times, counts and status. `nfe`
        counts every evaluation, those for numerical Jacobians too.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    check_problem(y0, t0, t1, rtol, atol)
    check_name(method, _METHODS, "method")
    field = _HostField(f, y0, eval_dtype or y0.dtype)
    start = y0.flatten().cpu().double().numpy()
    t, y, accepted = t0, start, 0
    try:
        solver = _METHODS[method](field, t0, start, t1, rtol=rtol, atol=atol)
        while solver.status == "running":
            solver.step()
            if solver.status != "failed":
                t, y, accepted = float(solver.t), solver.y.copy(), accepted + 1
        status = Status.DONE if solver.status == "finished" else Status.STEP_TOO_SMALL
    except _NonFiniteSlopeError:
        status = Status.NON_FINITE
    everyone = torch.ones(len(y0), dtype=torch.int64, device=y0.device)
    return ODEResult(
        y=torch.tensor(y, dtype=y0.dtype, device=y0.device).reshape(y0.shape),
        t=torch.full_like(everyone, t, dtype=y0.dtype),
        nfe=field.calls * everyone,
        status=int(status) * everyone,
        accepted=accepted * everyone,
        rejected=-everyone,
        calls=field.calls,
    )


class _NonFiniteSlopeError(Exception):
    """Leaves a scipy solver, which would go on for ever."""


class _HostField:
    """The field as scipy wants it: a vector of doubles for a time and such a vector."""

    def __init__(self, f: Field, y0: Tensor, eval_dtype: torch.dtype) -> None:
        self.f = f
        self.y0 = y0
        self.eval_dtype = eval_dtype
        self.index = torch.arange(len(y0), device=y0.device)
        self.calls = 0

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        self.calls += 1
        dtype = self.eval_dtype
        # A copy: the solver writes into its own vector again.
        state = torch.tensor(y, dtype=dtype, device=self.y0.device).reshape(self.y0.shape)
        times = torch.full((len(state),), t, dtype=dtype)
        slope = call_field(self.f, state, times, self.index, dtype)
        if not slope.isfinite().all():
            raise _NonFiniteSlopeError
        return slope.flatten().cpu().double().numpy()
