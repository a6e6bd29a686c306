"""Ordinary differential equations dy/dt = f(y, t), the error of each sample controlled by itself.

States and slopes stay on their device, times and step sizes on the host.
"""

from score_sde.solvers.ode.adaptive import solve
from score_sde.solvers.ode.problem import Field, ODEResult, OnFinish, Status
from score_sde.solvers.ode.runge_kutta import RungeKutta, runge_kutta_step
from score_sde.solvers.ode.step_control import STEP_CONTROLS
from score_sde.solvers.ode.tableaux import ODE_SOLVERS
from score_sde.solvers.ode.through_scipy import solve_scipy

__all__ = [
    "ODE_SOLVERS",
    "STEP_CONTROLS",
    "Field",
    "ODEResult",
    "OnFinish",
    "RungeKutta",
    "Status",
    "runge_kutta_step",
    "solve",
    "solve_scipy",
]
