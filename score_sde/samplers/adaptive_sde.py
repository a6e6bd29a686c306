"""Sampling by the reverse-time SDE, with the error of each sample controlled by itself."""

from functools import partial
from typing import ClassVar

from torch import Tensor

from score_sde.noise import normal
from score_sde.samplers.adaptive import AdaptiveSampler
from score_sde.score import ScoreFor, evaluations_at
from score_sde.sde import SDE
from score_sde.solvers.adaptive_sde import SDEControl, solve_sde
from score_sde.solvers.ode import ODEResult


class AdaptiveSDESampler(AdaptiveSampler):
    """Draws by the reverse-time SDE (Song et al. 2021, eq. 6) with an adaptive solver.

    The solver is that of Jolicoeur-Martineau et al. 2021 ("Gotta Go Fast When Generating Data with
    Score-Based Models"), but for a rejected step's noise, which is kept: see `solvers.kept_path`.

    Args:
        sde: the forward SDE.
        rtol: ε_rel, relative tolerance of a step.
        atol: ε_abs, absolute tolerance; one grey level suits images.
        eps: where the solution ends; the SDE's own by default.
        max_steps: steps after which a sample is given up, with its `status` saying so.
        tweedie: ends with Tweedie's formula at eps, one more evaluation.

    Raises:
        ValueError: where eps is not in (0, T).
    """

    arguments: ClassVar = {"rtol": "sde_rtol", "atol": "sde_atol", "max_steps": "max_steps"}

    def __init__(
        self,
        sde: SDE,
        rtol: float = 0.02,
        atol: float = 2 / 256,
        eps: float | None = None,
        max_steps: int = 10_000,
        *,
        tweedie: bool = False,
    ) -> None:
        super().__init__(sde, eps, tweedie=tweedie)
        self.control = SDEControl(rtol, atol, 0.01 * sde.T, max_steps=max_steps)

    def solve(
        self, prior: Tensor, score_for: ScoreFor, part: Tensor, seed: int, batch_size: int
    ) -> ODEResult:
        """See `AdaptiveSampler.solve`; each sample's draws are numbered from 1."""

        def equation(x: Tensor, t: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            return self.sde.reverse(score_for(part[row])).sde(x, t)

        def draws(row: Tensor, number: Tensor) -> Tensor:
            return normal(seed, part[row], 1 + number, prior.shape[1:], dtype=prior.dtype)

        return solve_sde(
            equation,
            prior,
            self.start,
            self.eps,
            draws,
            self.control,
            batch_size=batch_size,
            cost=partial(evaluations_at, score_for(part[:1])),
        )
