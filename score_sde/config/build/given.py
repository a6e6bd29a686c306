"""Config → what samples of an upsampler are drawn from: low-resolution images, by sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde.config.build.objects import (
    Config,
    build_scaler,
    field,
    image_shape,
    low_resolution,
    num_classes,
    upsampling_factor,
)
from score_sde.data import Source, opened
from score_sde.networks.low_resolution import LowResolution, to_draw_from

BATCH = 256

NEEDED = (
    "this network upsamples low-resolution images, and is given none here: draw with it by --mode "
    "cascade --upsampler FILE, from what a base model draws or from images of --input"
)
"""Why a network that upsamples can't be used like others."""


@dataclass(frozen=True)
class Given:
    """Low-resolution images, and which of them each sample is drawn from.

    Attributes:
        images: float32 (n, C, h, w) in the network's range, without noise.
        labels: int64 (n,) classes of these, or None.
        row_of: sample indices, int64 (b,) → rows of the images, int64 (b,).
        level: standard deviation of the noise that they are given.
        seed: of this noise, and of the samples'.
    """

    images: Tensor
    labels: Tensor | None
    row_of: Callable[[Tensor], Tensor]
    level: float
    seed: int

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        """What the network is given for samples, int64 (b,), by the names of its inputs."""
        rows = self.row_of(index).to(self.images.device)
        images = self.images[rows].to(index.device)
        return to_draw_from(images, self.level, self.seed, index)

    def label_of(self, index: Tensor) -> Tensor:
        """Classes of samples: int64 (b,) → int64 (b,)."""
        if self.labels is None:
            raise ValueError("these low-resolution images do not say of which class they are")
        return self.labels[self.row_of(index).to(self.labels.device)].to(index.device)


@dataclass(frozen=True)
class GivenFor:
    """What samples of a network that upsamples are drawn from, as an evaluation asks for it.

    Attributes:
        of: sample indices, int64 (n,), ascending → what these samples are drawn from.
        words: which images these are, for a report.
        facts: the same for digests.
    """

    of: Callable[[Tensor], Given | None]
    words: str
    facts: Mapping[str, Any]


def held_out_inputs(
    config: Config,
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """What else a network is given of held-out images: nothing, but where it upsamples.

    It comes by name, from the images (n, C, H, W) as the network sees them and their rows, int64
    (n,), in the test images.
    """
    smaller = low_resolution(config)
    if smaller is None:
        return lambda x_0, index: {}
    return lambda x_0, index: smaller.held_out(x_0, config.seed, index)


def low_resolution_shape(config: Config) -> tuple[int, int, int]:
    """(C, h, w) of the images that an upsampler is given."""
    channels, height, width = image_shape(config)
    factor = upsampling_factor(config)
    return channels, height // factor, width // factor


def given_images(
    config: Config,
    images: Tensor,
    labels: Tensor | None = None,
    row_of: Callable[[Tensor], Tensor] | None = None,
    seed: int | None = None,
) -> Given:
    """What samples are drawn from: images in [0, 1], (n, C, h, w); sample k from image k mod n.

    Args:
        config: of the upsampler.
        images: in [0, 1].
        labels: int64 (n,), where they are known.
        row_of: which image each sample is drawn from, instead.
        seed: of the noise; that of the config by default.
    """
    n = len(images)
    return Given(
        build_scaler(config)(images),
        labels,
        row_of or (lambda index: index % n),
        field(config, "sampling.image_noise"),
        config.seed if seed is None else seed,
    )


def given_of(config: Config, source: Source, count: int) -> Given | None:
    """What samples are drawn from where images of full size are at hand: their means of blocks.

    Args:
        config: of a network; None comes back for one that does not upsample.
        source: the images, with their classes.
        count: how many of them are taken at most, the first ones.
    """
    factor = upsampling_factor(config)
    if not factor:
        return None
    index, smaller = torch.arange(min(count, len(source))), LowResolution(factor, 0.0)
    with opened(source, parts := index.split(BATCH)) as stream:
        means = [
            smaller.images(source.info.to_unit(images.cpu()))
            for _, images in zip(parts, stream, strict=True)
        ]
    labels = source.labels(index).cpu() if num_classes(config) else None
    return given_images(config, torch.cat(means), labels)
