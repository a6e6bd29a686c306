"""The images that a command begins with: a user's own, or the recipe's test images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_sde.config.build import Config, field, image_shape, num_classes, open_split
from score_sde.data import MemorySource, Source, open_pictures, to_unit


@dataclass(frozen=True)
class Inputs:
    """The images that a command begins with.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        labels: int64 (N,) the classes that the network is to take them for; None for a network
            without.
        names: of the N images.
    """

    images: Tensor
    labels: Tensor | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)


def read_input(
    config: Config, path: Path | None, count: int, report: Callable[[str], None]
) -> Inputs:
    """The first `count` images of `open_input`, whose notes are reported; errors as there."""
    source = open_input(config, path, count)
    for note in source.info.notes:
        report(note)
    row, label = torch.arange(min(count, len(source))), field(config, "sampling.label")
    labels = None
    if num_classes(config):
        labels = source.labels(row).cpu() if label < 0 else torch.full_like(row, label)
    known = source.names if isinstance(source, MemorySource) else ()
    names = known or [f"{source.info.name} {source.info.split} {k}" for k in row.tolist()]
    return Inputs(to_unit(source.images(row), source.info.levels), labels, list(names[: len(row)]))


def open_input(config: Config, path: Path | None, count: int) -> Source:
    """Images of the network's size: the first `count` of a user's own, or the test images.

    Args:
        config: of the network.
        path: an image, a folder of images or an array file (`--input`); None for the recipe's
            test images.
        count: how many are asked for, at most.

    Raises:
        OSError: nothing at the path.
        ValueError: no images there, or a network of classes and images that do not say theirs,
            where `sampling.label` names none for all.
    """
    channels, height, width = image_shape(config)
    if path is None:
        source = open_split(config, "test")
    else:
        source = open_pictures(path, (height, width), channels, count)
    classes = num_classes(config)
    if classes and source.info.num_classes != classes and field(config, "sampling.label") < 0:
        raise ValueError(
            f"the network has {classes} classes and the images of {source.info.name} do not say "
            "theirs: name one for all with --label, take the recipe's own test images, or an "
            "unconditional network"
        )
    return source
