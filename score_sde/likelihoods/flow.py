"""Densities and latents by the probability-flow ODE.

The flow dx/dt = v(x, t) = f − ½ g² ∇ log p_t carries data at time eps to the prior at time T
without losing any probability, so that along a path (Chen et al. 2018, theorem 1; Song et al.
2021, eq. 39)

    log p_eps(x) = log p_T(z) + ∫ div v dt,      from eps to T.

State and log density are solved together, in float64 where the device has it; the score is
evaluated in the dtype of the data. No graph outlives its evaluation, so memory does not grow with
the number of steps.

The value is that of the flow between its ends: the prior stands in for p_T, which meets it up to a
small mismatch, and eps is not 0. Both belong to the model, not to the solver.

Symbols as in `sde`: x (N, ...) of any rank ≥ 2 with D numbers per sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from score_sde.likelihoods.divergence import value_and_divergence
from score_sde.score import ScoreFor, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.solvers.ode import ODEResult, RungeKutta, Status, solve

Solver = Callable[..., ODEResult]
"""`solvers.ode.solve` or `solve_scipy`, with its options in place."""


@dataclass(frozen=True)
class LogLikelihood:
    """What is known of N samples after `log_likelihood`.

    Attributes:
        logp: float64 (N,) log p_eps in nats; NaN where the status is not DONE. (float32 on a
            device that has no float64.)
        z: (N, ...) the latents at T, with the dtype of the data.
        nfe: int64 (N,) evaluations of the flow made for each sample.
        status: int64 (N,) of `solvers.ode.Status`.
    """

    logp: Tensor
    z: Tensor
    nfe: Tensor
    status: Tensor


def log_likelihood(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    *,
    probes: Tensor | None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float = 1e-5,
    batch_size: int | None = None,
    max_steps: int = 10_000,
    method: str | RungeKutta = "rk45",
    control: str = "i",
) -> LogLikelihood:
    """Log density of data in nats (Song et al. 2021, section 4.3 and appendix D.2).

    The error of each sample is controlled by itself, so that at a fixed `batch_size` no value
    depends on its batch mates, bit for bit.

    Args:
        sde: the forward SDE.
        score_for: int64 (b,) rows of x → their score, (x, t) → ∇ log p_t(x); of a network:
            `lambda row: NetworkScore(net, sde, continuous=True)`.
        x: (N, ...) float32 or float64 data as the network sees them.
        probes: (K, N, ...) as of `hutchinson_probes`; None for the exact trace, for small D.
        rtol: relative tolerance.
        atol: absolute tolerance.
        eps: where the flow begins; for networks that were never shown such small times, their own.
        batch_size: how many samples the score sees at a time; all N by default.
        max_steps: steps after which a sample is given up, with its status saying so.
        method: of the solver: a row of `solvers.ode.ODE_SOLVERS`, or a table of one's own.
        control: how its steps follow from their errors, a row of `solvers.ode.STEP_CONTROLS`.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    solver = partial(
        solve,
        rtol=rtol,
        atol=atol,
        batch_size=batch_size,
        max_steps=max_steps,
        method=method,
        control=control,
    )
    return integrate(sde, score_for, x, probes, eps, solver)[0]


def encode(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float = 1e-5,
    batch_size: int | None = None,
    max_steps: int = 10_000,
    method: str | RungeKutta = "rk45",
    control: str = "i",
) -> ODEResult:
    """The latents of data: the flow from eps to T, without densities.

    Arguments as of `log_likelihood`. Returns the latents as `y` (N, ...), with their status, and
    `nfe` counting the evaluations of a guide too.
    """
    options = {"batch_size": batch_size, "method": method, "control": control}
    solver = partial(solve, rtol=rtol, atol=atol, max_steps=max_steps, **options)
    return _transport(sde, score_for, x, eps, sde.T, solver)


def decode(
    sde: SDE,
    score_for: ScoreFor,
    z: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float = 1e-5,
    batch_size: int | None = None,
    max_steps: int = 10_000,
    method: str | RungeKutta = "rk45",
    control: str = "i",
) -> ODEResult:
    """The inverse of `encode`: latents z (N, ...) at T → data at eps, as `y`."""
    options = {"batch_size": batch_size, "method": method, "control": control}
    solver = partial(solve, rtol=rtol, atol=atol, max_steps=max_steps, **options)
    return _transport(sde, score_for, z, sde.T, eps, solver)


@dataclass(frozen=True)
class Reconstruction:
    """What is known of N samples after `reconstruct`.

    Attributes:
        z: (N, ...) the latents at T.
        x: (N, ...) what they are decoded to.
        nfe: int64 (N,) evaluations made for each, there and back.
        status: int64 (N,) of `solvers.ode.Status`: of the way that failed, if one did.
        max_error: (N,) the largest |x − data| of each sample.
        rms_error: (N,) the root of the mean of (x − data)².
    """

    z: Tensor
    x: Tensor
    nfe: Tensor
    status: Tensor
    max_error: Tensor
    rms_error: Tensor


def reconstruct(sde: SDE, score_for: ScoreFor, x: Tensor, **options: Any) -> Reconstruction:
    """`encode`, then `decode`: what data lose on the way to their latents and back.

    Both ways are solved with the same options, which are those of `encode`; so are the arguments.
    The round trip's error is the solver's alone: the flow itself is invertible.
    """
    there = encode(sde, score_for, x, **options)
    back = decode(sde, score_for, there.y, **options)
    off = (back.y - x).flatten(1)
    return Reconstruction(
        there.y,
        back.y,
        there.nfe + back.nfe,
        torch.where(there.status == Status.DONE, back.status, there.status),
        off.abs().amax(1),
        off.square().mean(1).sqrt(),
    )


def integrate(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    probes: Tensor | None,
    eps: float,
    solver: Solver,
) -> tuple[LogLikelihood, int]:
    """State and log density, side by side in (N, D + 1).

    Args:
        sde: as of `log_likelihood`, like the next four.
        score_for: see there.
        x: see there.
        probes: see there.
        eps: see there.
        solver: one of `solvers.ode`, with its options in place.

    Returns:
        The likelihood, and how often the flow was evaluated.
    """
    _check(sde, x, eps)
    if probes is not None and (not len(probes) or probes.shape[1:] != x.shape):
        raise ValueError(
            f"{len(probes)} probes of shape {tuple(probes.shape[1:])} for data of shape "
            f"{tuple(x.shape)}: each sample needs at least one of its own shape"
        )
    shape, rest = x.shape, x.new_zeros(len(x), 1)

    def field(y: Tensor, t: Tensor, row: Tensor) -> Tensor:
        flow = sde.reverse(_differentiable(score_for(row)), probability_flow=True)
        value, divergence = value_and_divergence(
            lambda x: flow.sde(x, t)[0],
            y[:, :-1].reshape(-1, *shape[1:]),
            None if probes is None else probes[:, row].to(y),
        )
        return torch.cat([value.flatten(1), divergence[:, None]], dim=1)

    state = _precise(torch.cat([x.flatten(1), rest], dim=1))
    result = solver(field, state, eps, sde.T, eval_dtype=x.dtype)
    z, change = result.y[:, :-1].reshape(shape), result.y[:, -1]
    logp = (sde.prior_logp(z) + change).masked_fill(result.status != Status.DONE, math.nan)
    return LogLikelihood(logp, z.to(x.dtype), result.nfe, result.status), result.calls


def _transport(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    start: float,
    end: float,
    solver: Solver,
) -> ODEResult:
    _check(sde, x, min(start, end))

    def field(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        return sde.reverse(score_for(row), probability_flow=True).sde(x, t)[0]

    cost = partial(evaluations_at, score_for(torch.arange(len(x[:1]), device=x.device)))
    result = solver(field, _precise(x), start, end, eval_dtype=x.dtype, cost=cost)
    return replace(result, y=result.y.to(x.dtype))


def _check(sde: SDE, x: Tensor, eps: float) -> None:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"data of shape {tuple(x.shape)} and {x.dtype}: the flow carries floating-point "
            "samples (N, ...) of rank 2 or more; dequantise and scale images first"
        )
    if not 0 < eps < sde.T:
        raise ValueError(f"eps={eps}: the flow begins between 0 and T={sde.T}, both excluded")


def _differentiable(score: Score) -> Score:
    """The score, once it is sure that its share of the divergence is not left out unseen."""

    def checked(x: Tensor, t: Tensor) -> Tensor:
        value = score(x, t)
        if not value.requires_grad:
            raise ValueError(
                "the score has no derivative with respect to x: compute it without torch.no_grad, "
                "without torch.inference_mode and without detaching it"
            )
        return value

    return checked


def _precise(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()  # MPS has no float64
