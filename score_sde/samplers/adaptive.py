"""What samplers share that choose each sample's times by its own error."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from score_sde.noise import SampleNoise
from score_sde.samplers.beginning import StartFor, beginning, check_share
from score_sde.samplers.grid import OnStep, Samples, batches
from score_sde.score import ScoreFor, denoised_from_score, evaluations_at
from score_sde.sde import SDE
from score_sde.solvers.grids import GridKind, time_at
from score_sde.solvers.ode import ODEResult

_ROUNDS = 8


class AdaptiveSampler(ABC):
    """Draws with a solver that gives each sample its own times.

    The network sees full batches of one size. A few times as many samples are solved together, so
    that a sample that is done early gives its place to one that waits. A network that knows the
    times of a discrete chain only has no use for such times, and is refused where samplers are
    built.

    Args:
        sde: the forward SDE.
        eps: where the solution ends; the SDE's own by default.
        tweedie: ends with Tweedie's formula at eps, one more evaluation.

    Attributes:
        arguments: what the constructor takes besides, by name, with the field of a config's group
            `sampling` that each stands for.
        num_steps: None, as in `Sampler`.
        deterministic: whether a sample is a function of its draw from the prior.
        start: where the solution begins: T, but for the `last` part of it.
        whole: whether it is no such part.
        temperature: what draws from the prior are scaled by.

    Raises:
        ValueError: where eps is not in (0, T).
    """

    arguments: ClassVar[Mapping[str, str]] = {}
    num_steps: None = None
    deterministic: bool = False
    whole: bool = True
    temperature: float = 1.0

    def __init__(self, sde: SDE, eps: float | None = None, *, tweedie: bool = False) -> None:
        self.sde = sde
        self.eps = sde.eps if eps is None else eps
        self.start = sde.T
        self.tweedie = tweedie
        if not 0 < self.eps < sde.T:
            raise ValueError(
                f"eps={eps}: sampling must end between 0 and T={sde.T}, both excluded"
            )

    @abstractmethod
    def solve(
        self, prior: Tensor, score_for: ScoreFor, part: Tensor, seed: int, batch_size: int
    ) -> ODEResult:
        """Carries samples from `start` to eps.

        Args:
            prior: (n, ...) what they begin with, such as draws from the prior; noise in it was
                draw 0 of each.
            score_for: int64 (b,) indices → the score for these samples.
            part: int64 (n,) their indices.
            seed: of the noise.
            batch_size: how many the score is given at a time.
        """

    def last(self, share: float) -> Self:
        """The last part of the solution; see `Sampler.last`.

        Samples have no steps in common, so it is a share of the grid that the SDE suggests
        (`SDE.grid`).
        """
        part = copy.copy(self)
        if check_share(share) < 1:
            kind = cast(GridKind, self.sde.grid)
            part.start, part.whole = time_at(self.sde, 1 - share, kind, self.eps), False
        return part

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
        """Draws several batches at a time; arguments and errors are those of `Sampler.draw`.

        Samples come with their status. They have no steps in common, so `on_step` is called twice
        for each part: with what they begin with, and with what became of it.
        """
        for part in batches(index, batch_size * _ROUNDS, device):
            noise = SampleNoise(seed, part, dtype=dtype)
            prior = beginning(self, part, shape, noise, start_for)
            if on_step is not None:
                on_step(0, 1, self.start, prior, prior)
            samples = self._end(prior, score_for, part, seed, batch_size)
            if on_step is not None:
                on_step(1, 1, self.eps, samples.x, samples.x)
            yield samples

    @torch.no_grad()
    def _end(
        self, prior: Tensor, score_for: ScoreFor, part: Tensor, seed: int, batch_size: int
    ) -> Samples:
        result = self.solve(prior, score_for, part, seed, batch_size)
        if not self.tweedie:
            return Samples(part, result.y, result.nfe, result.status)
        x = self._denoised(result.y, score_for, part, batch_size)
        last = evaluations_at(score_for(part[:1]), prior.new_full((1,), self.eps))
        return Samples(part, x, result.nfe + last, result.status)

    def _denoised(self, x: Tensor, score_for: ScoreFor, part: Tensor, batch_size: int) -> Tensor:
        denoised = []
        for start in range(0, len(part), batch_size):
            # The last batch is filled up with its last sample, lest a result depend on how many
            # come with it.
            row = torch.arange(start, start + batch_size, device=x.device).clamp_max(len(part) - 1)
            t = x.new_full((batch_size,), self.eps)
            score = score_for(part[row])(x[row], t)
            denoised.append(denoised_from_score(self.sde, x[row], score, t))
        return torch.cat(denoised)[: len(part)]
