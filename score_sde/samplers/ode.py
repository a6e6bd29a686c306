"""Sampling by the probability-flow ODE, with the error of each sample controlled by itself."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from score_sde.noise import SampleNoise
from score_sde.samplers.grid import OnStep, Samples, batches
from score_sde.score import ScoreFor, denoised_from_score
from score_sde.sde import SDE
from score_sde.solvers.ode import ODE_SOLVERS, RungeKutta, solve
from score_sde.tensor_ops import choose

_ROUNDS = 8


class ODESampler:
    """Draws by the probability-flow ODE (Song et al. 2021, eq. 13) with an adaptive solver.

    A sample is a deterministic function of its draw from the prior.

    The network sees full batches of one size. A few times as many samples are solved together, so
    that a sample that is done early gives its place to one that waits.

    Args:
        sde: the forward SDE.
        rtol: relative tolerance of each sample's solution.
        atol: absolute tolerance.
        eps: where the solution ends; the SDE's own by default.
        max_steps: steps after which a sample is given up, with its `status` saying so.
        method: a row of `solvers.ode.ODE_SOLVERS`, by name, or a `RungeKutta` table.
        control: a row of `solvers.ode.STEP_CONTROLS`, by name.
        tweedie: ends with Tweedie's formula at eps, one more evaluation.

    Raises:
        ValueError: where eps is not in (0, T), or no method has this name.
    """

    deterministic = True

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
        tweedie: bool = False,
    ) -> None:
        self.sde = sde
        self.method = choose(ODE_SOLVERS, method, "method") if isinstance(method, str) else method
        self.control, self.rtol, self.atol, self.max_steps = control, rtol, atol, max_steps
        self.eps = sde.eps if eps is None else eps
        self.tweedie = tweedie
        if not 0 < self.eps < sde.T:
            raise ValueError(
                f"eps={eps}: sampling must end between 0 and T={sde.T}, both excluded"
            )

    def draw(
        self,
        score_for: ScoreFor,
        index: Tensor,
        shape: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        on_step: OnStep | None = None,
    ) -> Iterator[Samples]:
        """Draws several batches at a time; arguments and errors are those of `Sampler.draw`.

        Samples come with their status. They have no steps in common, so `on_step` is called twice
        for each part: with the prior, and with what became of it.
        """
        for part in batches(index, batch_size * _ROUNDS, device):
            prior = self.sde.prior_sampling(
                (len(part), *shape), noise=SampleNoise(seed, part, dtype=dtype)
            )
            if on_step is not None:
                on_step(0, 1, self.sde.T, prior, prior)
            samples = self._solve(prior, score_for, part, batch_size)
            if on_step is not None:
                on_step(1, 1, self.eps, samples.x, samples.x)
            yield samples

    @torch.no_grad()
    def _solve(self, prior: Tensor, score_for: ScoreFor, part: Tensor, batch_size: int) -> Samples:
        def drift(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
            return self.sde.reverse(score_for(part[row]), probability_flow=True).sde(x, t)[0]

        result = solve(
            drift,
            prior,
            self.sde.T,
            self.eps,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            control=self.control,
            batch_size=batch_size,
            max_steps=self.max_steps,
        )
        if not self.tweedie:
            return Samples(part, result.y, result.nfe, result.status)
        x = self._denoised(result.y, score_for, part, batch_size)
        return Samples(part, x, result.nfe + 1, result.status)

    def _denoised(self, x: Tensor, score_for: ScoreFor, part: Tensor, batch_size: int) -> Tensor:
        denoised = []
        for start in range(0, len(part), batch_size):
            # The last batch is filled up with its last sample, lest a result depend on how many
            # come with it.
            row = torch.arange(start, start + batch_size, device=x.device).clamp_max(len(part) - 1)
            t = x.new_full((batch_size,), self.eps)
            score = score_for(part[row])(x[row], t)
            denoised.append(denoised_from_score(self.sde, x[row], score, t))
        return torch.cat(denoised)[: len(part)]
