"""A grid of times for one score, one method and one number of steps.

What suits a score is where its denoised image changes. The steps in log-SNR go as the exponential
of a parabola (`solvers.grids.bent_grid`), whose two coefficients bring a few samples nearest to
where the converged ODE takes them from the same noise. More coefficients fit these samples better
and others worse. Even so a few samples can mislead, and so the grid is held against the one that
is even in log-SNR, on other noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from score_sde.noise import SampleNoise
from score_sde.samplers.grid import GridSampler, batches
from score_sde.score import ScoreFor
from score_sde.solvers.few_step import UniPC
from score_sde.solvers.grids import bent_grid, time_grid
from score_sde.solvers.step import Step

_SAMPLES = 32  # that the grid is fitted to, and as many others that it is tried on
_TRIES = 50
RUNS = _TRIES + 4  # those of the converged ODE, of a check and of the comparison at the end
_CONVERGED = 100
_SEED = 0x6A09E667  # of noise that no samples are drawn with
_FIRST = ((0.0, 0.0), (-0.5, 0.0), (0.0, 0.7))  # the first bends that are tried


@dataclass(frozen=True)
class OptimisedGrid:
    """A grid, with what it was found to be worth.

    Attributes:
        times: (num_steps + 1,) the better one of the two.
        error: mean distance per sample to the converged ODE's, as a root mean square over its
            values, of the optimised grid on noise that it was not fitted to.
        log_snr_error: the same of the grid that is even in log-SNR.
    """

    times: Tensor
    error: float
    log_snr_error: float

    @property
    def better(self) -> bool:
        """Whether `times` are the optimised ones; otherwise they are even in log-SNR."""
        return self.error < self.log_snr_error


def optimised_grid(
    step: Step,
    score_for: ScoreFor,
    num_steps: int,
    shape: Sequence[int],
    eps: float,
    *,
    tweedie: bool = True,
    batch_size: int = 2 * _SAMPLES,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_run: Callable[[], object] = lambda: None,
) -> OptimisedGrid:
    """Fits a grid to a score, in about 50 runs of 32 samples and one of 64 with 100 steps.

    Args:
        step: a deterministic step, with its SDE.
        score_for: as of `Sampler.draw`.
        num_steps: of the grid.
        shape: of one sample.
        eps: where the grid ends.
        tweedie: whether runs end with Tweedie's formula.
        batch_size: how many samples the score is given at a time.
        device: where they are drawn.
        dtype: of the state.
        on_run: called after each run, of which there are about `RUNS`.

    Raises:
        ValueError: where the step draws noise, and so does not follow the ODE.
    """
    sde = step.sde

    def refused(shape: Sequence[int]) -> Tensor:
        raise ValueError(
            f"{step.name} draws noise, and a grid is optimised for methods that follow the ODE: "
            "set config.sampling.grid to auto, or take a method without noise"
        )

    def drawn(by: Step, times: Tensor, index: Tensor) -> Tensor:
        sampler, done = GridSampler(sde, times, by, tweedie=tweedie), []
        for part in batches(index, batch_size, device):
            noise = SampleNoise(_SEED, part, dtype=dtype)
            x = sde.prior_sampling((len(part), *shape), noise=noise)
            done.append(sampler.run(x, score_for(part), refused)[0])
        on_run()
        return torch.cat(done)

    fitted, others = torch.arange(2 * _SAMPLES).split(_SAMPLES)
    even = time_grid(sde, num_steps, "log_snr", eps)
    drawn(step, even, fitted[:1])  # one that draws noise is refused before much is computed
    fine = time_grid(sde, max(_CONVERGED, 4 * num_steps), "log_snr", eps)
    exact = drawn(UniPC(sde), fine, torch.cat([fitted, others]))

    def error(times: Tensor, index: Tensor) -> float:
        if (times.diff() >= 0).any():
            return float("inf")
        off = drawn(step, times, index) - exact[index.to(exact.device)]
        return off.double().square().flatten(1).mean(1).sqrt().mean().item()

    def tried(bend: np.ndarray) -> float:
        return error(bent_grid(sde, num_steps, tuple(bend), eps), fitted)

    options = {"maxfev": _TRIES, "initial_simplex": np.array(_FIRST)}
    found = minimize(tried, np.zeros(2), method="Nelder-Mead", options=options)
    times = bent_grid(sde, num_steps, tuple(found.x), eps)
    errors = error(times, others), error(even, others)
    return OptimisedGrid(times if errors[0] < errors[1] else even, *errors)
