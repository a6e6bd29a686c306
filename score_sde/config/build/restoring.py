"""Config → what draws images that fit a measurement.

`restore.posterior` names a row of `RESTORERS`, or a posterior score, on which every sampler runs
(`ByScore`).
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from score_sde import parallel
from score_sde.config.build.measuring import restore_fields
from score_sde.config.build.objects import Config, build_device, field
from score_sde.config.build.sampling import build_times
from score_sde.config.build.scores import (
    Labels,
    guided,
    label_of,
    sample_labels,
    thresholded,
    tiled,
)
from score_sde.posteriors import (
    DDRM,
    POSTERIORS,
    Measurement,
    Particles,
    PosteriorScore,
    Replaced,
    TwistedSMC,
    draw_ddrm,
)
from score_sde.samplers import GridSampler, Sampler, Samples, completion
from score_sde.samplers.completion import Known
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import Network, ScoreFor
from score_sde.sde import SDE
from score_sde.solvers.few_step import FEW_STEP
from score_sde.tensor_ops import choose


@dataclass(frozen=True)
class Measured:
    """What is measured of images, in their order.

    Attributes:
        y: (n, ...) the measurements.
        known: what replacement keeps, where it has a basis of its own (`Task.known`).
        labels: int64 (n,) classes of the images, where they have some of their own.
    """

    y: Tensor
    known: Known | None = None
    labels: Tensor | None = None


class Restorer(ABC):
    """Draws images that fit what is measured, several of each.

    Completion j of image i is sample i · completions + j, on which alone its noise depends.

    Args:
        name: `restore.posterior`, auto decided.
        config: of the network, with sampler, seed and the group `restore`.
        measurement: what is known of images.
        sde: that the network was trained for.
        sampler: of `config.sampling`.
        completions: of each image.
        times: of a grid that was found for the network, if any.

    Attributes:
        needs_grid: whether it takes hold at the steps of a grid.
        own_steps: whether it takes steps of its own there, in the place of the sampler's.
        constrains: whether it acts on the sampler's steps: a corrector then mixes what is known
            and what is drawn, as resampling does.
        heeds: the fields of `restore` that it takes, by their names within.

    Raises:
        ValueError: a measurement or a sampler that it does not run on.
    """

    needs_grid: ClassVar[bool] = False
    own_steps: ClassVar[bool] = False
    constrains: ClassVar[bool] = False
    heeds: Sequence[str] = ()

    def __init__(
        self,
        name: str,
        config: Config,
        measurement: Measurement,
        sde: SDE,
        sampler: Sampler,
        completions: int = 1,
        times: Tensor | None = None,
    ) -> None:
        self.name, self.config, self.measurement, self.sde = name, config, measurement, sde
        self.sampler, self.completions, self.times = sampler, completions, times
        refusal = self.refuses(measurement)
        if refusal is not None:
            raise ValueError(f"{name} does not run on {measurement.name}: {refusal}")
        if self.needs_grid:
            self.on_grid()

    def facts(self) -> dict[str, Any]:
        """What is to be told of what was drawn, as JSON can hold it."""
        return {}

    @abstractmethod
    def refuses(self, measurement: Measurement) -> str | None:
        """Why it does not run on a measurement; None where it does."""

    @abstractmethod
    def parts(self, score_for: ScoreFor, measured: Measured, index: Tensor) -> Iterator[Samples]:
        """Draws samples by their index, with the score that `scores` gives."""

    def draw(
        self, network: Network, measured: Measured, index: Tensor | None = None
    ) -> Iterator[Samples]:
        """Draws the completions of each image.

        What is measured without noise is in them as it was measured, where its decomposition is
        known.

        Args:
            network: with its weights in place.
            measured: of the images.
            index: int64 (n,) of the completions; all by default.
        """
        if index is None:
            index = torch.arange(len(measured.y) * self.completions)
        score_for = self.scores(network, self.label_of(measured))
        exact = Replaced.accepts(self.measurement) is None
        for part in self.parts(score_for, measured, index):
            if exact:
                known = Replaced(self.measurement, self.rows(measured.y, part.index))
                part = dataclasses.replace(part, x=known.put(part.x, known.value))
            yield part

    def scores(self, network: Network, label_of: Labels | None) -> ScoreFor:
        """The network's score, of the images' classes and led, kept to the data's range.

        At noise levels far above the data a network's errors would carry samples away otherwise,
        see `posteriors.scores`.
        """
        score_for = self.prior(network, label_of)
        if field(self.config, "sampling.threshold") != "none":
            return thresholded(self.config, self.sde, score_for)
        centered = self.config.data.centered
        return lambda index: ThresholdedScore(score_for(index), self.sde, "static", centered)

    def prior(self, network: Network, label_of: Labels | None) -> ScoreFor:
        """The network's score, of the images' classes and led; of larger images by tiles."""
        score_for = guided(self.config, network, self.sde, label_of)
        return tiled(self.config, score_for, self.measurement.shape)

    def rows(self, y: Tensor, index: Tensor) -> Tensor:
        """What was measured of the images that samples are completions of, on their device."""
        return y[index.cpu() // self.completions].to(index.device)

    def posterior_for(self, name: str, score_for: ScoreFor, y: Tensor) -> Callable[[Tensor], Any]:
        """Sample indices → the posterior score of these, by the name of its row."""
        kind, given = _scored(name), _given(self.config, name)
        return lambda index: kind(
            score_for(index), self.sde, self.measurement, self.rows(y, index), **given
        )

    def on_grid(self) -> GridSampler:
        """The sampler, which has to be one that takes steps of a grid."""
        if isinstance(self.sampler, GridSampler):
            return self.sampler
        raise ValueError(
            f"config.sampling.method={self.config.sampling.method!r}: {self.name} takes hold at "
            f"the steps of a grid; take {', '.join(['pc', *FEW_STEP])}, or another posterior, as "
            "--posterior pigdm"
        )

    @property
    def where(self) -> dict[str, Any]:
        """What all draws are given alike."""
        return {
            "shape": self.measurement.shape,
            "seed": self.config.seed,
            "batch_size": self.config.sampling.batch_size,
            "device": build_device(self.config),
        }

    def label_of(self, measured: Measured) -> Labels | None:
        """Sample indices → the classes that they are drawn of; None where there are none."""
        if measured.labels is None or field(self.config, "sampling.label") >= 0:
            return sample_labels(self.config)
        return label_of(measured.labels, self.completions)


class ByScore(Restorer):
    """By a row of `POSTERIORS`, a score like any other."""

    def __init__(self, name: str, *given: Any, **more: Any) -> None:
        self.heeds = _scored(name).arguments
        super().__init__(name, *given, **more)
        _given(self.config, name)

    def refuses(self, measurement: Measurement) -> str | None:
        """See `Restorer.refuses`."""
        return _scored(self.name).accepts(measurement)

    def parts(self, score_for: ScoreFor, measured: Measured, index: Tensor) -> Iterator[Samples]:
        """See `Restorer.parts`."""
        posterior_for = self.posterior_for(self.name, score_for, measured.y)
        return self.sampler.draw(posterior_for, index, **self.where)


class ByReplacement(Restorer):
    """By putting in what is known after each step (Song et al. 2021, appendix I.2)."""

    needs_grid, constrains = True, True

    def refuses(self, measurement: Measurement) -> str | None:
        """See `Restorer.refuses`."""
        return Replaced.accepts(measurement)

    def scores(self, network: Network, label_of: Labels | None) -> ScoreFor:
        """The network's; thresholded only where `sampling.threshold` says so."""
        return thresholded(self.config, self.sde, self.prior(network, label_of))

    def draw(
        self, network: Network, measured: Measured, index: Tensor | None = None
    ) -> Iterator[Samples]:
        """See `Restorer.draw`."""
        if index is None:
            index = torch.arange(len(measured.y) * self.completions)
        yield from self.parts(self.scores(network, self.label_of(measured)), measured, index)

    def parts(self, score_for: ScoreFor, measured: Measured, index: Tensor) -> Iterator[Samples]:
        """See `Restorer.parts`."""
        known, y = measured.known, measured.y

        def known_for(part: Tensor) -> completion.Given:
            if known is None:
                return Replaced(self.measurement, self.rows(y, part))
            return known.of(part.cpu() // self.completions).to(part.device)

        return completion.complete(self.on_grid(), score_for, known_for, index, **self.where)


class ByDDRM(Restorer):
    """By DDRM's steps (Kawar et al. 2022)."""

    needs_grid, own_steps, heeds = True, True, ("eta", "eta_b")

    def refuses(self, measurement: Measurement) -> str | None:
        """See `Restorer.refuses`."""
        return DDRM.measures(measurement)

    def parts(self, score_for: ScoreFor, measured: Measured, index: Tensor) -> Iterator[Samples]:
        """See `Restorer.parts`."""
        eta, eta_b = (field(self.config, f"restore.{name}") for name in self.heeds)
        times = build_times(self.config, self.sde, DDRM.grid, self.times)

        def step_for(part: Tensor) -> DDRM:
            return DDRM(self.sde, self.measurement, self.rows(measured.y, part), eta, eta_b)

        return draw_ddrm(self.sde, times, score_for, step_for, index, **self.where)


class ByParticles(Restorer):
    """By twisted sequential Monte Carlo (Wu et al. 2023): of each run one particle, by weight."""

    needs_grid, own_steps = True, True

    def __init__(self, name: str, config: Config, *given: Any, **more: Any) -> None:
        self.twist = field(config, "restore.twist")
        own = ("twist", "particles", "resample_below")
        self.heeds = (*own, *_scored(self.twist).arguments)
        super().__init__(name, config, *given, **more)
        _given(config, self.twist)
        particles, below = (field(config, f"restore.{name}") for name in own[1:])
        times = build_times(config, self.sde, TwistedSMC.grid, self.times)
        self.walk = TwistedSMC(self.sde, times, particles, threshold=below)
        self.told: list[Tensor] = []

    def refuses(self, measurement: Measurement) -> str | None:
        """See `Restorer.refuses`."""
        twist = _scored(self.twist)
        if not hasattr(twist, "log_likelihood"):
            return f"its twist has to have a likelihood, and {self.twist} has none; take pigdm"
        return twist.accepts(measurement)

    def parts(self, score_for: ScoreFor, measured: Measured, index: Tensor) -> Iterator[Samples]:
        """See `Restorer.parts`."""
        posterior_for = self.posterior_for(self.twist, score_for, measured.y)
        for drawn in self.walk.draw(posterior_for, index, **self.where):
            self.told.append(drawn.ess)
            yield _chosen(drawn)

    def facts(self) -> dict[str, Any]:
        """The effective sample size of the particles: at the end, and where it was least.

        Every process that has drawn must call it.
        """
        given: list[list[Tensor]] = parallel.gather_objects(self.told)  # type: ignore[assignment]
        ess = torch.stack([one.cpu() for told in given for one in told])
        names = {"particles": self.walk.particles, "ess_at_end": ess[:, -1].mean().item()}
        return names | {"least_ess": ess.min(1).values.mean().item()}


def _chosen(drawn: Particles) -> Samples:
    """The particle that is a draw from the posterior, with the evaluations of all of them."""
    index = torch.tensor([drawn.index], device=drawn.x.device)
    nfe = torch.full_like(index, drawn.nfe * len(drawn.x))
    return Samples(index, drawn.x[drawn.chosen, None], nfe)


def _scored(name: str) -> type[PosteriorScore]:
    return choose(POSTERIORS, name, "config.restore.posterior")


def _given(config: Config, name: str) -> dict[str, Any]:
    """What a posterior score takes of the group `restore`.

    Raises:
        ValueError: a field that the recipe does not have.
    """
    kind, fields = _scored(name), restore_fields(config)
    if lacking := [argument for argument in kind.arguments if argument not in fields]:
        raise ValueError(
            f"config.restore.{lacking[0]} is missing, which {name} takes: set it in the recipe"
        )
    return {argument: fields[argument] for argument in kind.arguments}


RESTORERS: dict[str, type[Restorer]] = {
    "replacement": ByReplacement,
    "ddrm": ByDDRM,
    "twisted": ByParticles,
}
"""Name (`restore.posterior`) → what draws, where that is no posterior score."""


def build_restorer(
    config: Config,
    measurement: Measurement,
    sde: SDE,
    sampler: Sampler,
    completions: int = 1,
    times: Tensor | None = None,
) -> Restorer:
    """What `restore.posterior` names; auto: replacement where it runs, else pigdm.

    Raises:
        ValueError: as `Restorer`.
    """
    name = field(config, "restore.posterior")
    if name == "auto":
        name = "replacement" if Replaced.accepts(measurement) is None else "pigdm"
    kind = RESTORERS.get(name, ByScore)
    return kind(name, config, measurement, sde, sampler, completions, times)
