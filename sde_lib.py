"""SDEs by the names of the 2021 release, which also take a user's class in its manner.

The library's SDEs (`score_sde.sde`) are given by mean scale α(t) and std σ(t), and all else
follows from these. The release's are given by `sde(x, t)` and `marginal_prob(x, t)`, and users'
classes override those. So here α and σ are what `marginal_prob` says where it is replaced, drift
and diffusion what `sde` says; steps of the chain are read off the tables, which may be replaced.
Step k of a chain stands at time k T/(N − 1), whatever its noise level, and times between steps
belong to the lower one, as in the release; the library puts it where the SDE has its noise level.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from score_sde import sde as library
from score_sde.sde import Score
from score_sde.tensor_ops import expand_to, look_up

__all__ = ["SDE", "VESDE", "VPSDE", "ReverseSDE", "subVPSDE"]

_RANKS = (4, 2, 3, 5)  # of the x that a user's functions are asked with: images come first


class SDE(library.SDE):
    """The base of SDEs; a child needs no more than the release's abstract methods.

    These are `T`, `sde(x, t)`, `marginal_prob(x, t)`, `prior_sampling(shape)` and `prior_logp(z)`;
    without its own `sde`, drift and diffusion follow from `marginal_prob` by differentiation. The
    SDE must be linear, as all of the paper's are. Its networks put out the noise and are told
    999 t/T, unless the class sets `network_output = "score"`, whose networks are told σ(t).
    """

    name = "sde"
    _given_by_formulas = False  # whether α(t) and σ(t) are there without a child's marginal_prob
    _unasked: frozenset[str] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls) and not cls._given_by_formulas:
            cls.name = cls.__name__

    def _asks(self, name: str) -> bool:
        """Whether a child (or the object itself) has replaced a method, which then decides."""
        place = str(getattr(getattr(self, name), "__module__", ""))
        ours = place == __name__ or place.startswith(f"{library.__name__}.")
        return name not in self._unasked and not ours

    @contextmanager
    def _by_formula(self, *names: str) -> Iterator[None]:
        """Within this, a child's methods are not asked, as it may be they that ask."""
        before = self._unasked
        self._unasked = before.union(names)
        try:
            yield
        finally:
            self._unasked = before

    def _drift_by_formula(self) -> Any:
        # A child of VESDE with its own marginal_prob alone keeps VE's drift and diffusion.
        kept = ("marginal_prob",) if self._given_by_formulas else ()
        return self._by_formula("sde", *kept)

    def mean_scale(self, t: Tensor) -> Tensor:
        """α(t), of `marginal_prob` where a child has its own: (B,) → (B,)."""
        if self._asks("marginal_prob"):
            return _coefficients(self.marginal_prob, t)[0]
        self._check_given()
        return super().mean_scale(t)

    def std(self, t: Tensor) -> Tensor:
        """σ(t), of `marginal_prob` where a child has its own: (B,) → (B,)."""
        if self._asks("marginal_prob"):
            return _coefficients(self.marginal_prob, t)[1]
        self._check_given()
        return super().std(t)

    def _check_given(self) -> None:
        if not self._given_by_formulas:
            raise NotImplementedError(
                f"{type(self).__name__} says nowhere how x_t follows from x_0: define "
                "marginal_prob(x, t), which gives mean and std of p(x_t | x_0 = x)"
            )

    def mean_rate(self, t: Tensor) -> Tensor:
        """α'/α, of `sde` where a child has its own: (B,) → (B,)."""
        if self._asks("sde"):
            return _coefficients(self.sde, t)[0]
        with self._drift_by_formula():
            return super().mean_rate(t)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g², of `sde` where a child has its own: (B,) → (B,)."""
        if self._asks("sde"):
            return _coefficients(self.sde, t)[1] ** 2
        with self._drift_by_formula():
            return super().diffusion_squared(t)

    def chain_times(self) -> Tensor:
        """The release's times of the chain's steps, k T/(N − 1): float64 (N,)."""
        return library.SDE.chain_times(self)

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        return compute()  # what it follows from may be set

    def chain_position(self, t: Tensor) -> Tensor:
        """t (N − 1)/T, not rounded, which the release's networks are told: (B,) → (B,)."""
        return t * (self.N - 1) / self.T

    def index(self, t: Tensor) -> Tensor:
        """The chain's step at or below time t: (B,) → int64 (B,).

        The margin keeps the times of steps from rounding below them: their rounding error in
        float32, for any N.
        """
        margin = 4 * self.N * torch.finfo(torch.float32).eps
        return (self.chain_position(t) + margin).long()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The exact step from s to t; see `score_sde.sde.SDE.transition`."""
        if self._asks("marginal_prob"):
            return library.SDE.transition(self, t, s)
        return super().transition(t, s)

    def time_of_noise_level(self, level: Tensor) -> Tensor:
        """The inverse of `noise_level`: any shape → the same shape."""
        if self._asks("marginal_prob"):
            return library.SDE.time_of_noise_level(self, level)
        return super().time_of_noise_level(level)

    def sde(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Drift (as x) and diffusion (B,), which is one number where t is."""
        with self._drift_by_formula():
            drift, diffusion = super().sde(x, _times(t, x))
        return drift, diffusion if isinstance(t, Tensor) else diffusion[0]

    def marginal_prob(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean (as x) and std (B,) of p(x_t | x_0 = x); the std is one number where t is."""
        with self._by_formula("marginal_prob"):
            mean, std = super().marginal_prob(x, _times(t, x))
        return mean, std if isinstance(t, Tensor) else std[0]

    def discretize(
        self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step x_t = x_s + f + G z; see `score_sde.sde.SDE.discretize`."""
        return super().discretize(x, _times(t, x), s)

    def reverse(self, score_fn: Score, probability_flow: bool = False) -> "ReverseSDE":
        """The reverse-time SDE (Song, eq. 6), or the probability-flow ODE (Song, eq. 13).

        Args:
            score_fn: (x, t) → ∇ log p_t(x).
            probability_flow: the ODE instead of the SDE.
        """
        return _reversed(type(self))(self, score_fn, probability_flow)


class VESDE(SDE, library.VESDE):
    """Variance exploding; arguments and attributes as in `score_sde.sde.VESDE`."""

    name = library.VESDE.name
    _given_by_formulas = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; what follows from the noise levels goes with them."""
        super().__setattr__(name, value)
        if name in ("sigma_min", "sigma_max") and "log_ratio" in vars(self):
            self.log_ratio = math.log(self.sigma_max / self.sigma_min)
            self.prior_std = self.sigma_max

    def discretize(
        self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """SMLD's step by `discrete_sigmas` where s is None; f = 0, G² = σ_i² − σ_{i−1}²."""
        if s is not None:
            return super().discretize(x, t, s)
        return torch.zeros_like(x), self._levels(_times(t, x))[2]

    def ancestral_step(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """SMLD's ancestral step by `discrete_sigmas` where s is None."""
        if s is not None:
            return super().ancestral_step(t, s)
        sigma, below, G = self._levels(t)
        return torch.ones_like(t), G, G * below / sigma

    def chain_scales(self) -> tuple[Tensor, Tensor]:
        """1 and the noise levels of the table as it is now."""
        return torch.ones_like(self.discrete_sigmas), self.discrete_sigmas

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """σ_i, σ_{i−1} and G, from the table as it is now; σ_{−1} = 0."""
        i = self.index(t)
        sigma = look_up(self.discrete_sigmas, i, t)
        below = look_up(self.discrete_sigmas, (i - 1).clamp_min(0), t).masked_fill(i == 0, 0)
        return sigma, below, ((sigma - below) * (sigma + below)).sqrt()


class VPSDE(SDE, library.VPSDE):
    """Variance preserving; arguments and attributes as in `score_sde.sde.VPSDE`."""

    name = library.VPSDE.name
    _given_by_formulas = True

    def ancestral_step(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """DDPM's ancestral step by `discrete_betas` where s is None."""
        if s is not None:
            return super().ancestral_step(t, s)
        beta = look_up(self.discrete_betas, self.index(t), t)
        return (1 - beta).sqrt(), beta.sqrt(), beta.sqrt()


class subVPSDE(SDE, library.subVPSDE):
    """Sub-VP; arguments and attributes as in `score_sde.sde.subVPSDE`."""

    name = library.subVPSDE.name
    _given_by_formulas = True


class ReverseSDE(SDE, library.ReverseSDE):
    """The process run backwards in time, made by `SDE.reverse`.

    What has no direction (T, N, tables, `marginal_prob`, the prior) is that of the forward SDE, of
    whose class it is too.
    """

    def __init__(self, forward: SDE, score_fn: Score, probability_flow: bool = False) -> None:
        vars(self).update(vars(forward))
        self.forward, self.score_fn = forward, score_fn
        self.probability_flow = probability_flow

    def sde(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Drift (as x) and diffusion (B,) of the reverse-time equation."""
        t = _times(t, x)
        return self._backwards(*self.forward.sde(x, t), x, t)

    def discretize(
        self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """f and G of the reverse diffusion step x_s = x_t − f + G z (Song, eq. 46)."""
        t = _times(t, x)
        # A user's own discretize takes x and t alone.
        step = self.forward.discretize(x, t) if s is None else self.forward.discretize(x, t, s)
        return self._backwards(*step, x, t)

    def reverse(self, score_fn: Score, probability_flow: bool = False) -> "ReverseSDE":
        """Refused: this is the reverse already."""
        raise ValueError(
            "a reverse SDE has no reverse: call reverse of the forward SDE, sde.reverse"
        )

    def _backwards(self, f: Tensor, g: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        g = _per_sample(g, x)
        share = 0.5 if self.probability_flow else 1.0
        f = f - expand_to(g**2, x) * self.score_fn(x, t) * share
        return f, torch.zeros_like(g) if self.probability_flow else g


@functools.cache
def _reversed(kind: type[SDE]) -> type[ReverseSDE]:
    return type(f"Reverse{kind.__name__}", (ReverseSDE, kind), {})


def _times(t: Any, x: Tensor) -> Tensor:
    """Times as a tensor on the device of x; a number stands for the whole batch."""
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=x.dtype, device=x.device)


def _per_sample(value: Any, x: Tensor) -> Tensor:
    """What a user's function gives for a batch (a number, (B,), (B, 1, 1, 1)) as (B,)."""
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1)
    return value.expand(len(x)) if len(value) == 1 else value


def _coefficients(
    function: Callable[[Tensor, Tensor], Sequence[Tensor]], t: Tensor
) -> tuple[Tensor, Tensor]:
    """a and b of a user's function (x, t) → (a(t) x + a constant, b(t)), in the shape of t.

    It is asked with x = 1 and x = 0. A function may be written for one rank only, by
    `a[:, None, None, None] * x`, so ranks are tried until what comes back has the shape of x.
    """
    times, error = t.reshape(-1), None
    for rank in _RANKS:
        one = times.new_ones(len(times), *[1] * (rank - 1))
        try:
            (mean, spread), (shift, _) = (
                function(one, times),
                function(torch.zeros_like(one), times),
            )
        except (IndexError, RuntimeError, ValueError) as exception:
            error = error or exception
            continue
        if mean.shape == one.shape or len(times) == 1:
            scale = (mean - shift).reshape(len(times), -1)[:, 0]
            return scale.reshape(t.shape), _per_sample(spread, one).reshape(t.shape)
    if (
        len(times) > 1
    ):  # one at a time, whatever the function adds to an image is broadcast rightly
        pairs = [_coefficients(function, time[None]) for time in times]
        scale, spread = (torch.cat(parts).reshape(t.shape) for parts in zip(*pairs, strict=True))
        return scale, spread
    raise error or ValueError(f"{function} gives nothing of the shape of x: give mean and std")
