"""What a solver step is, and how one is made with the arguments that it declares.

A step moves samples from time t to an earlier time t_next (a predictor), or leaves them at t and
brings them closer to p_t (a corrector). Grid, loop, progress, call count and final denoising
belong to the loop in `samplers`.

Symbols as in `sde`: x (B, ...), t and t_next (B,).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from score_sde.noise import Noise
from score_sde.sde import SDE, Score


class Step(ABC):
    """A step of a solver for one SDE.

    Attributes:
        name: what recipes and messages call it.
        order: global order of convergence of a deterministic solver; of one that remembers steps,
            given accurate values at the first of them.
        start_order: of one that remembers steps, the order of the error that is added where a run
            begins, as it must, with steps of lower orders.
        weak_order: the weak order where noise enters: that of the moments.
        strong_order: the strong order there: that of each path, where the steps of every size see
            one path (`noise.BrownianPath`).
        evaluations: how often one step calls the score.
        remembers: how many evaluations of a run it combines; with more than one, a step may not
            be taken twice.
        grid: the kind of `grids.time_grid` that suits it.
        chain_steps: whether it also takes steps of a chain of N scales (`t_next` None), as the
            paper's predictors do; others are given the chain's own times to step between.
        on_chain: whether the score belongs to a network that knows the times of the SDE's chain
            and no others; times between those of the grid are then moved by `node`.
        arguments: what its constructor takes besides the SDE, by name, with the field of a
            config's group `sampling` that each stands for.

    Raises:
        ValueError: where the step does not accept the SDE.
    """

    name: ClassVar[str]
    order: int | None = None
    start_order: int | None = None
    weak_order: int | None = None
    strong_order: float | None = None
    grid: ClassVar[str] = "uniform"
    evaluations: int = 1
    remembers: int = 1
    chain_steps: ClassVar[bool] = False
    arguments: ClassVar[Mapping[str, str]] = {}
    on_chain: bool = False

    def __init__(self, sde: SDE) -> None:
        refusal = self.accepts(sde)
        if refusal is not None:
            raise ValueError(f"{self.name} does not run on {sde.name}: {refusal}")
        self.sde = sde

    @property
    def deterministic(self) -> bool:
        """Whether it adds no noise, so that a sample is a function of its draw from the prior."""
        return self.order is not None

    @classmethod
    def accepts(cls, sde: SDE) -> str | None:
        """None where the step runs on this SDE, else the reason why it does not."""
        return None

    def refuses_chain(self) -> str | None:
        """Why the step can't work with the times of a discrete chain; None where it can."""
        return None

    def node(self, t: Tensor) -> Tensor:
        """Where the score may be asked for about time t: the chain's nearest time `on_chain`."""
        return self.sde.nearest_step(t) if self.on_chain else t

    def begin(self, num_steps: int) -> None:  # noqa: B027  (most steps remember nothing)
        """Says that a run of `num_steps` steps begins; what an earlier run left is forgotten."""

    @abstractmethod
    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Takes one step.

        Args:
            x: (B, ...) the state at time t.
            t: (B,) where it stands.
            t_next: (B,) where it goes, earlier than t. None is one step of the paper's own chain
                of N scales (`SDE.discretize`); correctors, which stay at t, are always given None.
            score: (x, t) → ∇ log p_t(x).
            noise: gives standard normal noise of a shape; called only where noise enters.

        Returns:
            The new state, and the same without the noise that was added last.
        """


def make_step(
    kind: Callable[..., Step], sde: SDE, sampling: Mapping[str, Any], *, on_chain: bool = False
) -> Step:
    """A step for an SDE, with the arguments that it declares.

    Args:
        kind: a row of PREDICTORS, CORRECTORS or FEW_STEP: a class of steps, or a function.
        sde: the forward SDE.
        sampling: the fields of a config's group `sampling`.
        on_chain: whether the network knows the times of the SDE's discrete chain only.

    Raises:
        ValueError: the step does not accept the SDE, its chain or a value, a field is missing, or
            the row gives no step.
    """
    arguments = arguments_of(kind)
    lacking = [field for field in arguments.values() if field not in sampling]
    if lacking:
        raise ValueError(
            f"sampling.{lacking[0]} is missing, which {_name_of(kind)} takes: set it in the recipe"
        )
    given = {name: sampling[field] for name, field in arguments.items()}
    step = kind(sde, **given) if callable(kind) else kind
    if not isinstance(step, Step):
        raise ValueError(
            f"{_name_of(kind)} gives {step!r:.60} where a row of this table is called as "
            "row(sde, **arguments) and gives a score_sde.solvers.step.Step"
        )
    if on_chain and (refusal := step.refuses_chain()) is not None:
        raise ValueError(f"{_name_of(kind)} does not run on a discrete chain: {refusal}")
    step.on_chain = on_chain
    return step


def arguments_of(kind: Any) -> Mapping[str, str]:
    """What a row takes besides the SDE (`Step.arguments`).

    Of a `functools.partial` it is what is not fixed yet; of another function, which declares
    nothing, nothing.
    """
    if isinstance(kind, partial):
        rest = arguments_of(kind.func).items()
        return {name: field for name, field in rest if name not in kind.keywords}
    return getattr(kind, "arguments", {})


def _name_of(kind: Any) -> str:
    return str(getattr(kind, "name", kind))
