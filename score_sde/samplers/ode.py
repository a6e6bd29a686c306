"""Sampling by the probability-flow ODE, with the error of each sample controlled by itself."""

from functools import partial
from typing import ClassVar

from torch import Tensor

from score_sde.samplers.adaptive import AdaptiveSampler
from score_sde.score import ScoreFor, evaluations_at
from score_sde.sde import SDE
from score_sde.solvers.ode import ODE_SOLVERS, ODEResult, RungeKutta, solve
from score_sde.tensor_ops import choose


class ODESampler(AdaptiveSampler):
    """Draws by the probability-flow ODE (Song et al. 2021, eq. 13) with an adaptive solver.

    A sample is a deterministic function of its draw from the prior.

    Args:
        sde: the forward SDE.
        rtol: relative tolerance of each sample's solution.
        atol: absolute tolerance.
        eps: where the solution ends; the SDE's own by default.
        max_steps: steps after which a sample is given up, with its `status` saying so.
        method: a row of `solvers.ode.ODE_SOLVERS`, by name, or a `RungeKutta` table.
        control: a row of `solvers.ode.STEP_CONTROLS`, by name.
        temperature: what draws from the prior are scaled by.
        tweedie: ends with Tweedie's formula at eps, one more evaluation.

    Raises:
        ValueError: where eps is not in (0, T), or no method has this name.
    """

    deterministic = True
    arguments: ClassVar = {
        "rtol": "rtol",
        "atol": "atol",
        "max_steps": "max_steps",
        "method": "ode_solver",
        "control": "step_control",
        "temperature": "temperature",
    }

    def __init__(
        self,
        sde: SDE,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        eps: float | None = None,
        max_steps: int = 10_000,
        *,
        method: str | RungeKutta = "rk45",
        control: str = "i",
        temperature: float = 1.0,
        tweedie: bool = False,
    ) -> None:
        super().__init__(sde, eps, tweedie=tweedie)
        self.temperature = temperature
        self.method = choose(ODE_SOLVERS, method, "method") if isinstance(method, str) else method
        self.control, self.rtol, self.atol, self.max_steps = control, rtol, atol, max_steps

    def solve(
        self, prior: Tensor, score_for: ScoreFor, part: Tensor, seed: int, batch_size: int
    ) -> ODEResult:
        """See `AdaptiveSampler.solve`; no noise enters."""

        def drift(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
            return self.sde.reverse(score_for(part[row]), probability_flow=True).sde(x, t)[0]

        return solve(
            drift,
            prior,
            self.start,
            self.eps,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            control=self.control,
            batch_size=batch_size,
            cost=partial(evaluations_at, score_for(part[:1])),
            max_steps=self.max_steps,
        )
