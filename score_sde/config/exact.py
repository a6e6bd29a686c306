"""Config → data whose score is known exactly, made of the data set's training images."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde import noise
from score_sde.config.build import (
    Config,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_scaler,
    build_sde,
    draw,
)
from score_sde.data import Source
from score_sde.evaluation.features import spread_levels
from score_sde.samplers import Samples
from score_sde.score.exact import Classes, ExactScore, Mixture, Points
from score_sde.tensor_ops import choose

POINTS = 300
"""Training images that are the means of `points`."""

STD = 0.1

LEAST_STD = 1e-4
"""Below, samples in float32 say nothing of the variance within a component."""


@dataclass(frozen=True)
class Exact:
    """Data whose score is known.

    Attributes:
        mixture: the data, in the network's range.
        kind: a name of `MIXTURES`.
        std: see there.
        seed: of its exact draws.
        facts: what it depends on, for digests.
        inverse_scale: the network's range → images in [0, 1].
    """

    mixture: Mixture
    kind: str
    std: float
    seed: int
    facts: Mapping[str, Any]
    inverse_scale: Callable[[Tensor], Tensor]

    def images(self, index: Tensor) -> Tensor:
        """Exact draws as images in [0, 1] and a little beyond, (n, C, H, W)."""
        return self.inverse_scale(self.mixture.sample(index, self.seed))

    def drawer(self, config: Config) -> Callable[[Tensor], Iterator[Samples]]:
        """Sample indices → `Samples`, by the sampler and the SDE of a config.

        Raises:
            ValueError: as `build_sampler`.
        """
        sde, device = build_sde(config), build_device(config)
        sampler, score = build_sampler(config, sde), ExactScore(self.mixture, sde)
        no_network = torch.nn.Identity()
        return lambda index: draw(
            config, no_network, sde, index, device, sampler=sampler, score_for=lambda _: score
        )


def _points(source: Source, scale: Callable[[Tensor], Tensor], std: float) -> Mixture:
    index = noise.permutation(len(source), 0, 0)[:POINTS]  # many sets lie sorted by class
    return Points(scale(real_images(source, index)), std)


def _classes(source: Source, scale: Callable[[Tensor], Tensor], std: float) -> Mixture:
    index = torch.arange(len(source))
    labels = source.labels(index) if source.info.num_classes > 1 else torch.zeros_like(index)
    return Classes.of(scale(real_images(source, index)), labels, std)


def real_images(source: Source, index: Tensor) -> Tensor:
    """Images of a split as floats in [0, 1], or beyond a stated range, (n, C, H, W)."""
    images, info = source.images(index), source.info
    return info.to_unit(images) if info.range else spread_levels(images, info.levels).float() / 255


MIXTURES: dict[str, Callable[[Source, Callable[[Tensor], Tensor], float], Mixture]] = {
    "points": _points,
    "classes": _classes,
}
"""Name (`--exact`) → training images, their scaling and a std → data. Points are some of the
images with a Gaussian of this std around each; classes the Gaussian of each class, to which noise
of this std is added, as some pixels never change."""


def build_exact(config: Config, kind: str, std: float | None, train: Source) -> Exact:
    """Data of a config's training images.

    Args:
        config: with data, range and seed.
        kind: a name of `MIXTURES`.
        std: in units of the scaled data; None for `STD`.
        train: the training images.

    Raises:
        UnknownName: another kind.
        ValueError: a std below `LEAST_STD`, or no images.
    """
    std = STD if std is None else std
    if not LEAST_STD <= std < math.inf:
        raise ValueError(
            f"--exact_std {std:g}: give a number from {LEAST_STD:g} on, in units of the "
            "scaled data"
        )
    row = choose(MIXTURES, kind, "--exact")
    mixture = row(train, build_scaler(config), std)
    mixture.to(build_device(config))
    facts = {"exact": kind, "std": std, "images": train.info.fingerprint, "points": POINTS}
    return Exact(mixture, kind, std, config.seed, facts, build_inverse_scaler(config))
