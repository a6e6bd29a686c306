"""The likelihood of the 2021 release, by its name: a thin front of `flow`."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from models.utils import get_score_fn
from score_sde.likelihoods.bits import bin_width, bits_per_dim
from score_sde.likelihoods.divergence import HutchinsonType, check_kind, value_and_divergence
from score_sde.likelihoods.flow import Solver, integrate
from score_sde.sde import SDE
from score_sde.solvers.ode import Status, solve, solve_scipy

_LARGEST = 10  # of data in [0, 1]; levels of 0 to 255 exceed it unless all images are black


def get_div_fn(fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The estimate εᵀ (∂fn/∂x) ε of a field's divergence (Skilling 1989, Hutchinson 1990).

    Args:
        fn: (x, t) → the shape of x, each sample by itself.

    Returns:
        div_fn(x, t, eps) → (B,), for x (B, ...), t (B,) and the probe eps (B, ...).
    """

    def div_fn(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return value_and_divergence(lambda x: fn(x, t), x, eps[None])[1]

    return div_fn


def get_likelihood_fn(
    sde: SDE,
    inverse_scaler: Callable[[Tensor], Tensor],
    hutchinson_type: HutchinsonType = "Rademacher",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    eps: float = 1e-5,
    *,
    levels: int = 256,
) -> Callable[..., tuple[Tensor, Tensor, int]]:
    """Bits per dimension as the 2021 release computes them: one error norm for the whole batch.

    The network is one that was trained in continuous time.

    Args:
        sde: the forward SDE.
        inverse_scaler: from the network's range to [0, 1].
        hutchinson_type: "Rademacher" or "Gaussian", one probe for each image.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: "RK45", solved on the device, or another method of `scipy.integrate.solve_ivp`.
        eps: where the flow begins.
        levels: of the data.

    Returns:
        fn(model, data, *, probe=None) → (bits_per_dim, z, nfe): data (B, ...) dequantised and as
        the network sees them, on its device; probe (B, ...), drawn from torch's global generator
        by default; bits_per_dim (B,); z (B, ...) the latents; nfe how often the flow was
        evaluated, a forward pass and a vector-Jacobian product each.

    Raises:
        ValueError: where the type of probe is unknown, or data with these levels and this
            transform have no bits/dim.
        ArithmeticError: from fn, where the solver does not arrive.
    """
    check_kind(hutchinson_type)
    width = bin_width(inverse_scaler, levels)
    solver: Solver = partial(solve, norm="joint")
    if method != "RK45":
        solver = partial(solve_scipy, method=method)

    warned = False

    def likelihood_fn(
        model: nn.Module, data: Tensor, *, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor, int]:
        nonlocal warned
        score = get_score_fn(sde, model, train=False, continuous=True)
        data = data.to(_dtype_of(model, data))
        if not warned and data.numel() and inverse_scaler(data.detach()).max() > _LARGEST:
            warned = True
            warnings.warn(
                f"bits/dim of data up to {data.max().item():.4g}, which is outside of what the "
                "network sees: scale images to [0, 1] and call the data scaler first",
                stacklevel=2,
            )
        probe = _torch_probe(hutchinson_type, data) if probe is None else probe
        options = partial(solver, rtol=rtol, atol=atol)
        result, calls = integrate(sde, lambda _: score, data, probe[None], eps, options)
        if (result.status != Status.DONE).any():
            raise ArithmeticError(
                f"the ODE solver {method} stopped before T={sde.T}: the data or the network's "
                "output are not finite, or too steep; check both, or raise eps or the tolerances"
            )
        bits = bits_per_dim(result.logp, data[0].numel(), width)
        return bits.to(data.dtype), result.z, calls

    return likelihood_fn


def _dtype_of(model: nn.Module, data: Tensor) -> torch.dtype:
    """What a network computes in: its weights' type, or that of the data if it has none."""
    weights = next(iter(getattr(model, "parameters", tuple)()), data)
    return weights.dtype if data.is_floating_point() else data.dtype


def _torch_probe(kind: HutchinsonType, data: Tensor) -> Tensor:
    if kind == "Gaussian":
        return torch.randn_like(data)
    return torch.randint_like(data, 2) * 2 - 1
