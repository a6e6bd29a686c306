"""The times between which solvers step.

A grid is a decreasing float32 tensor of times on the CPU, computed in float64. `time_grid` serves
networks trained in continuous time. Networks trained on a discrete chain know the times of its
steps only (`SDE.chain_times`): `chain_grid` takes some of them, `paper_grid` at eps = 0 takes all.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from score_sde.sde import SDE
from score_sde.tensor_ops import check_name

GridKind = Literal["uniform", "log_snr", "edm"]

_RHO = 7.0


def time_grid(
    sde: SDE, num_steps: int, kind: GridKind = "uniform", eps: float | None = None
) -> Tensor:
    """Times from T down to eps for `num_steps` steps.

    Args:
        sde: whose noise levels the times stand for.
        num_steps: how many steps the grid has.
        kind: what is spaced evenly. "uniform": time itself, which for VE is the logarithm of the
            noise level, and is what predictor–corrector samplers were tuned for. "log_snr": the
            logarithm of the noise level (Lu et al. 2022a, section 4). "edm": the noise level to
            the power 1/7 (Karras et al. 2022, eq. 5), fine at small levels and good for few steps.
        eps: where the grid ends; the SDE's own by default.

    Returns:
        (num_steps + 1,), the first T and the last eps.

    Raises:
        ValueError: where num_steps < 1, the kind is unknown, or eps is not in (0, T).
    """
    eps = sde.eps if eps is None else eps
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: a sampler takes at least one step")
    if not 0 < eps < sde.T:
        raise ValueError(f"eps={eps}: sampling must end between 0 and T={sde.T}, both excluded")
    check_name(kind, get_args(GridKind), "grid")
    fraction = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    times = _times_at(sde, fraction, kind, eps)
    times[0], times[-1] = sde.T, eps
    return times.float()


def time_at(
    sde: SDE, fraction: float, kind: GridKind = "uniform", eps: float | None = None
) -> float:
    """The time behind which that fraction of a `time_grid` lies, in the limit of many steps.

    Args:
        sde: whose noise levels the times stand for.
        fraction: in [0, 1]; 0 gives T and 1 gives eps.
        kind: as of `time_grid`.
        eps: where the grid ends; the SDE's own by default.
    """
    eps = sde.eps if eps is None else eps
    if fraction in (0, 1):
        return eps if fraction else sde.T
    return _times_at(sde, torch.tensor([fraction], dtype=torch.float64), kind, eps).item()


def _times_at(sde: SDE, fraction: Tensor, kind: GridKind, eps: float) -> Tensor:
    ends = torch.tensor([sde.T, eps], dtype=torch.float64)
    if kind == "uniform":
        return torch.lerp(ends[0], ends[1], fraction)
    if kind == "log_snr":
        first, last = sde.noise_level(ends).log()
        return sde.time_of_noise_level(torch.lerp(first, last, fraction).exp())
    first, last = sde.noise_level(ends) ** (1 / _RHO)
    return sde.time_of_noise_level(torch.lerp(first, last, fraction) ** _RHO)


def level_parts(sde: SDE, parts: int) -> Tensor:
    """Times from 0 up to T between which losses are averaged, to be told apart by noise level.

    The parts are even in time, and in log-SNR for an SDE whose own grid is not even in time: on
    Karras' σ = t, say, even parts of time would put all that is learnt into the first.

    Args:
        sde: whose noise levels the times stand for.
        parts: how many.

    Returns:
        (parts + 1,), the first 0 and the last T.
    """
    if sde.grid == "uniform":
        return torch.linspace(0, sde.T, parts + 1)
    times = time_grid(sde, parts, "log_snr").flip(0)
    times[0] = 0
    return times


def bent_grid(
    sde: SDE, num_steps: int, bend: tuple[float, float], eps: float | None = None
) -> Tensor:
    """Times from T down to eps whose steps in log-SNR differ smoothly.

    Step k, in the middle of which u = (2k + 1)/num_steps − 1, is in proportion to exp(a u + b u²).

    Args:
        sde: whose noise levels the times stand for.
        num_steps: how many steps the grid has.
        bend: a and b. (0, 0) gives the grid "log_snr" of `time_grid`, a < 0 smaller steps towards
            the data, b > 0 smaller ones in the middle.
        eps: where the grid ends; the SDE's own by default.

    Returns:
        (num_steps + 1,), the first T and the last eps; it may fail to decrease where it is bent
        beyond what float32 can tell apart.

    Raises:
        ValueError: as `time_grid`.
    """
    ends = time_grid(sde, num_steps, "log_snr", eps)[[0, -1]]
    first, last = sde.noise_level(ends.double()).log()
    u = (2 * torch.arange(num_steps, dtype=torch.float64) + 1) / num_steps - 1
    lengths = (bend[0] * u + bend[1] * u**2).softmax(0)
    done = torch.cat([torch.zeros_like(u[:1]), lengths.cumsum(0)])
    times = sde.time_of_noise_level(torch.lerp(first, last, done).exp()).float()
    times[0], times[-1] = ends
    return times


def paper_grid(sde: SDE, eps: float | None = None) -> Tensor:
    """The paper's grid: N times, evenly from T to eps, at each of which the chain takes a step.

    Args:
        sde: gives N and T.
        eps: the last time; the SDE's own by default. 0 gives the times of the chain's own steps,
            for networks that were trained on them.

    Returns:
        (N,), for steps with `t_next=None`.
    """
    eps = sde.eps if eps is None else eps
    if eps == 0:
        return sde.chain_times().flip(0).float()
    return torch.linspace(sde.T, eps, sde.N, dtype=torch.float64).float()


def chain_grid(sde: SDE, num_steps: int) -> Tensor:
    """Times of a discrete chain, from step N − 1 down to 0, some left out where steps are fewer.

    The last one has the chain's smallest noise, which Tweedie's formula takes away.

    Args:
        sde: gives the chain.
        num_steps: how many steps the grid has, at most N − 1. All N steps of the chain itself are
            `paper_grid(sde, eps=0.0)`.

    Returns:
        (num_steps + 1,) of `sde.chain_times()`.

    Raises:
        ValueError: where num_steps is not in 1 … N − 1, or the chain's last step leaves nothing of
            the data, so that no other can be reached from it.
    """
    last = sde.N - 1
    if not 1 <= num_steps <= last:
        raise ValueError(
            f"num_steps={num_steps}: a network trained on {sde.N} discrete scales can take "
            f"1 to {last} steps between them; for more, train in continuous time"
        )
    # Rounded quotients of whole numbers: exact, and no index comes twice.
    index = [(last * (num_steps - k) + num_steps // 2) // num_steps for k in range(num_steps + 1)]
    times = sde.chain_times()[index].float()
    if sde.mean_scale(times[:1]) < torch.finfo(torch.float32).eps:
        raise ValueError(
            f"N={sde.N}: the last scale of this chain leaves nothing of the data, so that steps "
            "between its scales begin nowhere: give it more scales than beta_max, or take all of "
            "them (sampling.method='pc', sampling.num_steps=0)"
        )
    return times
