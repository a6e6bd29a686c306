"""Between the three things that say the same of x_t = α x_0 + σ z.

    score     ∇ log p_t(x)
    noise     E[z | x_t]    = −σ · score
    denoised  E[x_0 | x_t]  = (x_t + σ² · score) / α        (Tweedie's formula)

Symbols as in `sde`: x (B, ...), t (B,), or one number for the whole batch.
"""

from torch import Tensor

from score_sde.sde import SDE
from score_sde.tensor_ops import added, expand_to, times_for


def noise_from_score(sde: SDE, score: Tensor, t: Tensor | float) -> Tensor:
    """E[z | x_t] = −σ(t) · score, with the shape of `score`."""
    return -expand_to(sde.std(times_for(score, t)), score) * score


def score_from_noise(sde: SDE, noise: Tensor, t: Tensor | float) -> Tensor:
    """The inverse of `noise_from_score`."""
    return -noise / expand_to(sde.std(times_for(noise, t)), noise)


def denoised_from_score(sde: SDE, x: Tensor, score: Tensor, t: Tensor | float) -> Tensor:
    """E[x_0 | x_t = x] by Tweedie's formula, with the shape of `x`."""
    t = times_for(x, t)
    return added(expand_to(sde.std(t) ** 2, x) * score, x).div_(expand_to(sde.mean_scale(t), x))


def score_from_denoised(sde: SDE, x: Tensor, denoised: Tensor, t: Tensor | float) -> Tensor:
    """The inverse of `denoised_from_score`."""
    t = times_for(x, t)
    return (expand_to(sde.mean_scale(t), x) * denoised - x) / expand_to(sde.std(t) ** 2, x)
