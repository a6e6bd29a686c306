"""Predictors and correctors in the release's manner, `update_fn(x, t)`, and their tables.

`sampling` gives these names on. A class of either manner, the release's or the library's (`Step`),
becomes a step of the library's loop by `as_step`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from models._release import defined_again
from score_sde.noise import Noise
from score_sde.sde import SDE, Score
from score_sde.solvers import correctors, predictors
from score_sde.solvers.step import Step
from score_sde.tensor_ops import choose, expand_to

Update = tuple[Tensor, Tensor]
"""The new state (B, ...), and the same without the noise that was added last."""

PREDICTORS: dict[str, Any] = {}
CORRECTORS: dict[str, Any] = {}
"""Recipe name → class, the release's and those that were registered."""


class UpdateStep(Step):
    """`update_fn(x, t)` of an object that is made anew for each step, as in the release.

    Args:
        kind: the object's class.
        sde: the forward SDE.
        options: what the class takes after SDE and score.
        heeds_noise: whether the release's classes take their draws from the loop's noise.
    """

    name = "update_fn"
    chain_steps = True

    def __init__(self, kind: Any, sde: SDE, options: tuple[Any, ...], heeds_noise: bool) -> None:
        super().__init__(sde)
        self.kind, self.options, self.heeds_noise = kind, options, heeds_noise

    def begin(self, num_steps: int) -> None:
        """Refuses a number of steps that `update_fn` does not know."""
        if num_steps != self.sde.N:
            raise ValueError(
                f"{self.name} steps by T/N with N={self.sde.N} and not in {num_steps} steps: set "
                "sampling.num_steps=0 for N of them"
            )

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> Update:
        """One update at t; where it goes is the object's own affair."""
        one = self.kind(self.sde, score, *self.options)
        if self.heeds_noise and isinstance(one, _Stepper):
            one.noise = noise
        return one.update_fn(x, t)


def register_predictor(cls: Any = None, *, name: str | None = None) -> Any:
    """Makes a class of predictors a `sampling.predictor`; a decorator, or a call.

    It is one in the library too, for samplers of as many steps as the SDE has scales.

    Args:
        cls: called as cls(sde, score_fn, probability_flow), with a method update_fn(x, t).
        name: what configs call it; the class's own name by default.

    Raises:
        ValueError: there is another one of this name.
    """

    def register(cls: Any) -> Any:
        key = _add(PREDICTORS, "predictor", cls, name)

        class Registered(UpdateStep):
            def __init__(self, sde: SDE, probability_flow: bool = False) -> None:
                super().__init__(cls, sde, (probability_flow,), True)

        Registered.name = key
        _add_to_library(predictors.PREDICTORS, key, Registered)
        return cls

    return register if cls is None else register(cls)


def register_corrector(cls: Any = None, *, name: str | None = None) -> Any:
    """The same for a class of correctors, called as cls(sde, score_fn, snr, n_steps)."""

    def register(cls: Any) -> Any:
        key = _add(CORRECTORS, "corrector", cls, name)

        class Registered(UpdateStep):
            def __init__(
                self, sde: SDE, snr: float = 0.16, n_steps: int = 1, norms: str = "batch"
            ) -> None:
                super().__init__(cls, sde, (snr, n_steps), True)

        Registered.name = key
        _add_to_library(correctors.CORRECTORS, key, Registered)
        return cls

    return register if cls is None else register(cls)


def _add(table: dict[str, Any], what: str, cls: Any, name: str | None) -> str:
    key = cls.__name__ if name is None else name
    if key in table and not defined_again(table[key], cls):
        raise ValueError(f"there is a {what} {key!r} already: give another name")
    table[key] = cls
    return key


def _add_to_library(table: dict[str, Any], key: str, row: type[UpdateStep]) -> None:
    """Adds a row, unless the library or the user has one of this name that was not registered."""
    if getattr(table.get(key), "__module__", __name__) == __name__:
        table[key] = row


def get_predictor(name: str) -> Any:
    """The class of predictors of this name.

    Raises:
        UnknownName: there is none; lists those that there are.
    """
    return choose(_rows(predictors.PREDICTORS, PREDICTORS), name, "predictor")


def get_corrector(name: str) -> Any:
    """The class of correctors of this name.

    Raises:
        UnknownName: there is none; lists those that there are.
    """
    return choose(_rows(correctors.CORRECTORS, CORRECTORS), name, "corrector")


def _rows(library: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of both tables: the front's, unless the library's row has been replaced."""
    known = (predictors.__name__, correctors.__name__, __name__)
    replaced = {
        name: row
        for name, row in library.items()
        if getattr(row, "name", None) != name or row.__module__ not in known
    }
    return {**library, **ours, **replaced}


class _Stepper(ABC):
    """What predictors and correctors share: one update at a time t."""

    noise: Noise | None = None  # gives the draws; torch's global generator if None

    @abstractmethod
    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """One update of x (B, ...) at times t (B,): the new state, and its mean."""

    def _draw(self, x: Tensor) -> Tensor:
        if self.noise is not None:
            return self.noise(x.shape)
        return torch.randn(x.shape, dtype=x.dtype, device=x.device)


class Predictor(_Stepper):
    """One step of the reverse-time SDE by `update_fn(x, t)`, on the chain of N scales.

    Args:
        sde: the forward SDE.
        score_fn: (x, t) → ∇ log p_t(x).
        probability_flow: a step of the ODE instead.
    """

    def __init__(self, sde: SDE, score_fn: Score, probability_flow: bool = False) -> None:
        self.sde, self.score_fn, self.probability_flow = sde, score_fn, probability_flow
        self.rsde = sde.reverse(score_fn, probability_flow)


class Corrector(_Stepper):
    """Steps at one time by `update_fn(x, t)`.

    Args:
        sde: the forward SDE.
        score_fn: (x, t) → ∇ log p_t(x).
        snr: signal-to-noise ratio of the step size.
        n_steps: inner steps of one update.
    """

    def __init__(self, sde: SDE, score_fn: Score, snr: float, n_steps: int) -> None:
        self.sde, self.score_fn, self.snr, self.n_steps = sde, score_fn, snr, n_steps


@register_predictor(name="euler_maruyama")
class EulerMaruyamaPredictor(Predictor):
    """Euler–Maruyama on the reverse-time SDE, by T/N."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """One step; see `Predictor`."""
        dt = self.rsde.T / self.rsde.N
        drift, diffusion = self.rsde.sde(x, t)
        x_mean = x - drift * dt
        return x_mean + expand_to(diffusion, x) * dt**0.5 * self._draw(x), x_mean


@register_predictor(name="reverse_diffusion")
class ReverseDiffusionPredictor(Predictor):
    """The forward process discretised, then reversed (Song, eq. 46)."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """One step; see `Predictor`."""
        f, G = self.rsde.discretize(x, t)
        return x - f + expand_to(G, x) * self._draw(x), x - f


@register_predictor(name="ancestral_sampling")
class AncestralSamplingPredictor(Predictor):
    """Ancestral sampling of the chain (Song, appendix F); refuses `probability_flow`."""

    def __init__(self, sde: SDE, score_fn: Score, probability_flow: bool = False) -> None:
        predictors.AncestralSamplingPredictor(sde, probability_flow)
        super().__init__(sde, score_fn, probability_flow)

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """One step; see `Predictor`."""
        step = predictors.AncestralSamplingPredictor(self.sde)
        return step.step(x, t, None, self.score_fn, lambda _: self._draw(x))


@register_predictor(name="none")
class NonePredictor(Predictor):
    """Leaves the samples as they are."""

    def __init__(self, sde: Any, score_fn: Score | None, probability_flow: bool = False) -> None:
        """Asks nothing of its arguments."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """Returns x twice."""
        return x, x


@register_corrector(name="langevin")
class LangevinCorrector(Corrector):
    """Langevin steps by norms that are averaged over the batch (Song, algorithms 4 and 5)."""

    library_step = correctors.LangevinCorrector

    def __init__(self, sde: SDE, score_fn: Score, snr: float, n_steps: int) -> None:
        super().__init__(sde, score_fn, snr, n_steps)
        self.library_step(sde, snr, n_steps, "batch")  # what it refuses is refused now

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """All inner steps; see `Corrector`."""
        step = self.library_step(self.sde, self.snr, self.n_steps, "batch")
        return step.step(x, t, None, self.score_fn, lambda _: self._draw(x))


@register_corrector(name="ald")
class AnnealedLangevinDynamics(LangevinCorrector):
    """Langevin steps by the noise level alone, as NCSN's (Song & Ermon 2019, algorithm 1)."""

    library_step = correctors.AnnealedLangevinDynamics


@register_corrector(name="none")
class NoneCorrector(Corrector):
    """Leaves the samples as they are."""

    def __init__(self, sde: Any, score_fn: Score | None, snr: Any, n_steps: Any) -> None:
        """Asks nothing of its arguments."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """Returns x twice."""
        return x, x


_OURS = (*PREDICTORS.values(), *CORRECTORS.values())


def class_of(get: Callable[[str], Any], given: Any, what: str) -> Any:
    """What a caller names by class, by name, or by None."""
    if given is None:
        return get("none")
    if isinstance(given, str):
        return get(given)
    if not callable(given):
        raise ValueError(
            f"{what}={given!r}: give a class with update_fn(x, t), its registered name, or None"
        )
    return given


def as_step(kind: Any, sde: SDE, options: tuple[Any, ...], noise: Noise | None) -> Step:
    """A class of the front, of a user's or of the library as a step of the library's loop."""
    if isinstance(kind, type) and issubclass(kind, Step):
        is_corrector = len(options) == 2
        step: Any = kind(sde, *options, *(("batch",) if is_corrector else ()))  # type: ignore
        return (
            step if is_corrector or not (options[0] and step.evaluations) else _DrawsAnyway(step)
        )
    if kind in _OURS:
        kind(sde, None, *options)  # what it refuses is refused now
    return UpdateStep(kind, sde, options, noise is not None)


class _DrawsAnyway(Step):
    """A step that consumes a draw without need of it: the 2021 release multiplies it by 0."""

    name = "draws_anyway"

    def __init__(self, inner: Step) -> None:
        super().__init__(inner.sde)
        self.inner = inner
        self.evaluations = inner.evaluations

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        noise(x.shape)
        return self.inner.step(x, t, t_next, score, noise)
