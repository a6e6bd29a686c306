"""The sampling loop: the one place that owns grid, progress, call count and final denoising.

At each time of the grid a corrector brings the samples closer to p_t, then a predictor carries
them to the next time (the order of the 2021 release; algorithm 1 of Song et al. 2021 puts the
predictor first).

A sampler draws samples by their index. Noise is a function of (seed, index, draw), so a sample
does not depend on how many are drawn at a time.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from score_sde.noise import Noise, SampleNoise
from score_sde.samplers.beginning import StartFor, beginning, check_share
from score_sde.score import ScoreFor, denoised_from_score, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.solvers.correctors import NoneCorrector
from score_sde.solvers.step import Step
from score_sde.tensor_ops import expand_to

OnStep = Callable[[int, int, float, Tensor, Tensor], None]
"""Called with (k, total, t, x, x_mean) after k of `total` steps, when x (b, ...) stands at time t.

At k = 0 that is what the samples begin with."""

Constraint = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(x, x_mean, t, t_next) → (x, x_mean): where inpainting and measurements take hold.

Called after a corrector, which stays at t (t_next is t), and after a predictor, where t_next is
the grid's next time, and None after the last step of the paper's chain, which has none."""


@dataclass(frozen=True)
class Samples:
    """Samples that are done.

    Attributes:
        index: int64 (b,) their indices.
        x: (b, ...) the samples, as the network sees them (scaling is undone elsewhere).
        nfe: int64 (b,) evaluations for each, those of a guide included.
        status: int64 (b,) `solvers.ode.Status` of each; None where a sampler always arrives.
    """

    index: Tensor
    x: Tensor
    nfe: Tensor
    status: Tensor | None = None


ConstraintFor = Callable[[Tensor, Noise], Constraint]
"""int64 (b,) sample indices and their source of noise → the constraint on these samples."""


class Sampler(Protocol):
    """What draws samples: `GridSampler` and the children of `AdaptiveSampler`."""

    @property
    def sde(self) -> SDE:
        """The forward SDE."""
        ...

    @property
    def start(self) -> float:
        """The time where samples begin: T, but for the `last` part of a walk."""
        ...

    @property
    def temperature(self) -> float:
        """What draws from the prior are scaled by."""
        ...

    @property
    def num_steps(self) -> int | None:
        """How many steps every sample takes; None where each has its own."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether a sample is a function of its draw from the prior."""
        ...

    def last(self, share: float) -> "Sampler":
        """The last part of the walk as a sampler, whose samples have to be given their start.

        Args:
            share: of the walk, above 0; 1 is the whole of it.

        Raises:
            ValueError: another share, or one that holds no step.
        """
        ...

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
        start_for: StartFor | None = None,
    ) -> Iterator[Samples]:
        """Draws the samples with the given indices, some at a time.

        Args:
            score_for: int64 (b,) indices → the score for these samples.
            index: int64 (n,) sample indices.
            shape: shape of one sample.
            seed: of the noise.
            batch_size: how many samples the score is given at a time.
            device: where they are drawn.
            dtype: of the state.
            on_step: called after every step of every batch.
            start_for: gives what samples begin with; draws from the prior by default.

        Yields:
            `Samples` of one batch or several, in the order of `index`.

        Raises:
            ValueError: where batch_size < 1, or a walk that begins below T is given no start.
        """
        ...


class CountedScore:
    """A score that counts its evaluations, of samples that share their times."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self._calls: Tensor | int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at (x, t)."""
        self._calls = self._calls + evaluations_at(self.score, t)
        return self.score(x, t)

    @property
    def calls(self) -> int:
        """Evaluations of each sample so far; a guided score makes several in a call."""
        return int(self._calls if isinstance(self._calls, int) else self._calls.max())


class GridSampler:
    """Walks a grid of times with a predictor (or a few-step solver) and a corrector.

    Args:
        sde: the forward SDE, which gives the prior at its T.
        times: the grid on the CPU, decreasing from T (see `solvers.grids`): K + 1 times for K
            steps.
        predictor: the step from each time to the next.
        corrector: the step at each time; none by default.
        chain: at each of `times`, the last one included, the predictor takes one step of the
            paper's own chain.
        denoise: leaves out the noise that the last step adds. For a solver that adds none this
            changes nothing.
        tweedie: ends with Tweedie's formula at the last time instead, one more evaluation.
        corrector_first: the order at each time; the other way round the corrector acts where the
            predictor arrives.
        resample: how often each step is taken where a constraint acts (see `completion`).
        temperature: what draws from the prior are scaled by, for steps without noise.

    Raises:
        ValueError: where the times are no decreasing grid from T, `tweedie` meets `chain`, steps
            cannot be taken so often, or a temperature other than 1 meets steps that draw noise.
    """

    def __init__(
        self,
        sde: SDE,
        times: Tensor,
        predictor: Step,
        corrector: Step | None = None,
        *,
        chain: bool = False,
        denoise: bool = True,
        tweedie: bool = False,
        corrector_first: bool = True,
        resample: int = 1,
        temperature: float = 1.0,
    ) -> None:
        _check_times(sde, times, chain)
        if chain and tweedie:
            raise ValueError(
                "the last step of the paper's chain leaves no noise for Tweedie's formula: "
                "take denoise=True, or a grid of solvers.grids.time_grid"
            )
        if resample < 1:
            raise ValueError(f"resample={resample}: each step is taken once or more")
        if resample > 1 and predictor.remembers > 1:
            raise ValueError(
                f"resample={resample}: {predictor.name} remembers the steps before, and cannot "
                "take one twice; set 1, or take pc or ddim"
            )
        self.sde = sde
        self.times: list[float] = times.tolist()
        self.predictor = predictor
        self.corrector = NoneCorrector(sde) if corrector is None else corrector
        self.chain, self.denoise = chain, denoise
        # A grid that ends at no noise at all leaves Tweedie's formula nothing to do.
        self.tweedie = tweedie and bool(sde.std(times[-1:]) > 0)
        self.corrector_first, self.resample = corrector_first, resample
        self.num_steps = len(self.times) - (0 if chain else 1)
        self.whole, self.temperature = True, temperature
        if temperature != 1 and not self.deterministic:
            raise ValueError(
                f"temperature={temperature:g} scales what an image is a function of, and steps "
                "that draw noise forget it: take some without noise, or 1"
            )

    @property
    def start(self) -> float:
        """The first time of the grid."""
        return self.times[0]

    @property
    def evaluations(self) -> int:
        """How often a run calls the score where no constraint acts."""
        each = self.predictor.evaluations + self.corrector.evaluations
        skipped = 0 if self.corrector_first or not self.chain else self.corrector.evaluations
        return self.num_steps * each - skipped + self.tweedie

    @property
    def deterministic(self) -> bool:
        """Whether a sample is a function of its draw from the prior: that of the ODE, or near."""
        return self.predictor.deterministic and self.corrector.deterministic

    def last(self, share: float) -> "GridSampler":
        """The last steps of the grid, rounded to a whole number; see `Sampler.last`.

        Solvers of several steps begin anew there, and noise that is shared out over the steps of
        a run (`Heun`) is shared out over these.
        """
        steps = round(check_share(share) * self.num_steps)
        if not steps:
            raise ValueError(
                f"{share:g} of a grid of {self.num_steps} steps holds none of them: take a larger "
                "part, or more steps"
            )
        part = copy.copy(self)
        part.times = self.times[self.num_steps - steps :]
        part.num_steps, part.whole = steps, self.whole and steps == self.num_steps
        return part

    @torch.no_grad()
    def run(
        self,
        x: Tensor,
        score: Score,
        noise: Noise,
        *,
        constraint: Constraint | None = None,
        on_step: OnStep | None = None,
    ) -> tuple[Tensor, int]:
        """Carries samples down the grid.

        Args:
            x: (B, ...) what they begin with, such as draws from the prior.
            score: (x, t) → ∇ log p_t(x).
            noise: gives standard normal noise of a shape, for the steps in their order.
            constraint: acts on the state after each corrector and each predictor.
            on_step: called after every step.

        Returns:
            The samples (B, ...), and the number of evaluations for each, a guide's included.
        """
        score = CountedScore(score)
        walk = _Walk(x, x, score, noise, constraint)
        self.predictor.begin(self.num_steps)
        self.corrector.begin(self.num_steps)
        for k in range(self.num_steps + 1):
            if k > 0:
                self._step(walk, k - 1)
            if on_step is not None:
                t = self.times[min(k, len(self.times) - 1)]
                on_step(k, self.num_steps, t, walk.x, walk.x_mean)
        return self._finish(walk), score.calls

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
        start_for: StartFor | None = None,
        constraint_for: ConstraintFor | None = None,
    ) -> Iterator[Samples]:
        """Draws `batch_size` samples at a time; arguments and errors are those of `Sampler.draw`.

        One is the grid's own: `constraint_for` gives the constraint of each batch, which also acts
        on what samples begin with.
        """
        for part in batches(index, batch_size, device):
            noise = SampleNoise(seed, part, dtype=dtype)
            x = beginning(self, part, shape, noise, start_for)
            constraint = None if constraint_for is None else constraint_for(part, noise)
            if constraint is not None:
                start = x.new_full((len(part),), self.times[0])
                x, _ = constraint(x, x, start, start)
            x, nfe = self.run(x, score_for(part), noise, constraint=constraint, on_step=on_step)
            yield Samples(part, x, torch.full_like(part, nfe))

    def _step(self, walk: "_Walk", k: int) -> None:
        t, arrival = self.times[k], self.times[k + 1] if k + 1 < len(self.times) else None
        # The last step of the paper's chain leads to the image itself, and no way leads back.
        once = walk.constraint is None or arrival is None
        for again in range(1 if once else self.resample):
            if again:
                walk.go_back(self.sde, arrival, t)
            if self.corrector_first:
                walk.correct(self.corrector, t)
            walk.predict(self.predictor, t, arrival, self.chain)
            # A corrector that does nothing must not pass its x for the predictor's mean.
            if not self.corrector_first and arrival is not None and self.corrector.evaluations:
                walk.correct(self.corrector, arrival)

    def _finish(self, walk: "_Walk") -> Tensor:
        if not self.tweedie:
            return walk.x_mean if self.denoise else walk.x
        t = walk.at(self.times[-1])
        return denoised_from_score(self.sde, walk.x, walk.score(walk.x, t), t)


@dataclass
class _Walk:
    """The state of a run between two calls of its steps."""

    x: Tensor
    x_mean: Tensor
    score: Score
    noise: Noise
    constraint: Constraint | None

    def at(self, t: float) -> Tensor:
        return self.x.new_full((len(self.x),), t)

    def correct(self, corrector: Step, t: float) -> None:
        t_B = self.at(t)
        self._keep(corrector.step(self.x, t_B, None, self.score, self.noise), t_B, t_B)

    def predict(self, predictor: Step, t: float, arrival: float | None, chain: bool) -> None:
        t_B, next_B = self.at(t), None if arrival is None else self.at(arrival)
        step_to = None if chain else next_B
        self._keep(predictor.step(self.x, t_B, step_to, self.score, self.noise), t_B, next_B)

    def go_back(self, sde: SDE, arrival: float | None, t: float) -> None:
        assert arrival is not None
        r, G = sde.transition(self.at(t), self.at(arrival))
        self.x = expand_to(r, self.x) * self.x + expand_to(G, self.x) * self.noise(self.x.shape)

    def _keep(self, state: tuple[Tensor, Tensor], t: Tensor, t_next: Tensor | None) -> None:
        self.x, self.x_mean = state
        if self.constraint is not None:
            self.x, self.x_mean = self.constraint(self.x, self.x_mean, t, t_next)


def batches(index: Tensor, size: int, device: torch.device | str) -> Iterator[Tensor]:
    """Cuts sample indices into parts of `size`, on the device.

    Raises:
        ValueError: where size < 1.
    """
    if size < 1:
        raise ValueError(f"batch_size={size}: at least one sample is drawn at a time")
    yield from index.to(device).split(size)


def _check_times(sde: SDE, times: Tensor, chain: bool) -> None:
    if times.ndim != 1 or len(times) < (1 if chain else 2):
        raise ValueError(f"times of shape {tuple(times.shape)}: a grid needs (K + 1,) times")
    # DDPM's chain ends in slightly more noise than the SDE does at T.
    if times[0] not in (sde.T, sde.chain_times()[-1].to(times.dtype)):
        raise ValueError(
            f"the grid begins at {times[0].item()}, but the prior is drawn at T={sde.T}: "
            "begin the grid there"
        )
    if (times.diff() >= 0).any():
        raise ValueError("the times of a grid must decrease: take fewer steps or a smaller eps")
