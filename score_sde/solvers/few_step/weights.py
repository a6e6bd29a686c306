"""How evaluations at several times combine: the weights of exponential Adams methods.

With the noise level ℓ = σ/α, λ = −log ℓ and y = x/α, a step from t to s, h = λ_s − λ_t long, is an
integral of what the network estimates, exact but for what it interpolates:

    noise n        y_s = y_t + ∫ n dℓ                                    dℓ ∝ e^(−λ) dλ
    denoised D     y_s = (ℓ_s/ℓ_t) y_t + ℓ_s ∫ D e^λ dλ                  e^λ dλ

With the measure divided by its integral, ℓ_s − ℓ_t and 1 − e^(−h), what is left is the mean of n
or D over the step. Where a polynomial through evaluations stands for them, in λ or in another
variable that goes along with it, the mean is Σ_j w_j n_j with w_j the mean of Lagrange's
polynomial L_j, and Σ w_j = 1. For D and polynomials in λ the means of τ^k are the φ functions of
exponential integrators, (1 − e^(−h)) E[τ^k] = k! h^(k+1) φ_{k+1}(−h).

Symbols: nodes (K, B) where the estimates stand; points (Q, B) and mass (Q, B) of a quadrature,
whose mass sums to 1 over Q; h (B,), float64.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from score_sde.tensor_ops import kept_on

# Steps of a factor of up to e^20 in the noise level are then integrated to 1e-9, shorter ones to
# rounding.
_POINTS, _LENGTHS = (torch.from_numpy(v) / 2 for v in np.polynomial.legendre.leggauss(20))
_MIDDLES = _POINTS + 0.5  # of the whole step


def quadrature(h: Tensor, measure: Literal["noise", "denoised"]) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre points of a step, with the mass that the measure has there.

    Args:
        h: (B,) the step in λ, above 0.
        measure: what is integrated.

    Returns:
        Points λ − λ_t and mass, both (Q, B). A step to the level 0, which is infinitely long, has
        its mass at its start, where a step of first order is exact.
    """
    v, lengths = (kept_on(h.device, w, h.dtype)[:, None] for w in (_MIDDLES, _LENGTHS))
    h = finite(h)
    mass = lengths * torch.exp(-h * (v if measure == "noise" else 1 - v))
    return h * v, mass / mass.sum(0)


def finite(h: Tensor) -> Tensor:
    """The step in λ, with 0 for one that is infinitely long."""
    return torch.where(torch.isfinite(h), h, torch.zeros_like(h))


def means(nodes: Tensor, points: Tensor, mass: Tensor) -> Tensor:
    """w_j, the means of Lagrange's polynomials of the nodes: (K, B)."""
    apart = _apart(nodes)
    each = (points[:, None, None] - nodes) / apart  # (Q, K, K, B), factor k of polynomial j
    own = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)[:, :, None]
    return (mass[:, None] * each.masked_fill(own, 1).prod(2)).sum(0)


def leading(nodes: Tensor) -> Tensor:
    """The leading coefficients of Lagrange's polynomials, 1/∏(x_j − x_k): (K, B).

    Their sum over values is the divided difference of all of them.
    """
    return 1 / _apart(nodes).prod(1)


def _apart(nodes: Tensor) -> Tensor:
    """x_j − x_k, and 1 where j = k: (K, K, B)."""
    same = torch.eye(len(nodes), dtype=nodes.dtype, device=nodes.device)
    return nodes[:, None] - nodes + same[:, :, None]
