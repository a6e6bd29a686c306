"""Ordinary differential equations dy/dt = f(y, t), the error of each sample controlled by itself.

States and slopes stay on their device, times and step sizes on the host.
"""

from score_sde.solvers.ode.adaptive import solve
from score_sde.solvers.ode.dormand_prince import dormand_prince_step
from score_sde.solvers.ode.problem import Field, ODEResult, OnFinish, Status
from score_sde.solvers.ode.through_scipy import solve_scipy

__all__ = [
    "Field",
    "ODEResult",
    "OnFinish",
    "Status",
    "dormand_prince_step",
    "solve",
    "solve_scipy",
]
