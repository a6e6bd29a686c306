"""The images that a command begins with: a user's own, or the recipe's test images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_sde.config.build import (
    Config,
    data_range,
    drawn_classes,
    field,
    image_shape,
    open_split,
)
from score_sde.data import MemorySource, Pictures, Source, open_pictures


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
    config: Config,
    path: Path | None,
    count: int,
    report: Callable[[str], None],
    *,
    larger: bool = False,
) -> Inputs:
    """The first `count` images of `open_input`, whose notes are reported.

    Args:
        config: of the network.
        path: as of `open_input`.
        count: likewise.
        report: is given each note.
        larger: whether images may be larger than the network's.

    Raises:
        OSError, ValueError: as `open_input`, or larger images where they may not be.
    """
    source = open_input(config, path, count)
    if not larger and source.info.shape != image_shape(config):
        _, height, width = image_shape(config)
        raise ValueError(
            f"config.sampling.fit={field(config, 'sampling.fit')!r} keeps images at their own "
            f"size, and here they must have the network's, {height}x{width}: take resize, crop or "
            "pad"
        )
    for note in source.info.notes:
        report(note)
    row, label = torch.arange(min(count, len(source))), field(config, "sampling.label")
    labels = None
    if drawn_classes(config):
        labels = source.labels(row).cpu() if label < 0 else torch.full_like(row, label)
    known = source.names if isinstance(source, MemorySource) else ()
    names = known or [f"{source.info.name} {source.info.split} {k}" for k in row.tolist()]
    return Inputs(source.info.to_unit(source.images(row)), labels, list(names[: len(row)]))


def open_input(
    config: Config, path: Path | None, count: int, measured: Sequence[int] | None = None
) -> Source:
    """The first `count` images of a user's own, or the test images.

    They have the network's size, or their own, which is larger, where `sampling.fit` keeps it: so
    `info.shape` is what is drawn, with scores of `config.build.tiled`.

    Args:
        config: of the network.
        path: an image, a folder of images or an array file (`--input`), which alone holds floats;
            None for the recipe's test images.
        count: how many are asked for, at most.
        measured: (C, H, W) of measurements of one image of the network's size, where a user's own
            are such measurements. They are taken as they are: of this size, or of a larger one
            where `sampling.fit` keeps it.

    Raises:
        OSError: nothing at the path.
        ValueError: no images there, or of a size that does not fit; a network of classes and
            images that do not say theirs, where `sampling.label` names none for all.
    """
    channels, height, width = measured or image_shape(config)
    fit = field(config, "sampling.fit")
    if path is not None and measured and data_range(config):
        raise ValueError(
            "--measured takes pictures of 8 bits, and this network knows floats: give the images "
            "themselves, without --measured"
        )
    if path is not None and measured:
        source = _as_measured(path, tuple(measured), count, fit)
    elif path is not None:
        size, range = (height, width), data_range(config)
        source = open_pictures(path, size, channels, count, fit, range)
    elif fit == "resize":
        source = open_split(config, "test")
    else:
        raise ValueError(
            f"--fit={fit} is for images of one's own, and the recipe's test images have the "
            "network's size: name images with --input, or leave it out"
        )
    classes = drawn_classes(config)
    if classes and source.info.num_classes != classes and field(config, "sampling.label") < 0:
        raise ValueError(
            f"the network has {classes} classes and the images of {source.info.name} do not say "
            "theirs: name one for all with --label, take the recipe's own test images, or an "
            "unconditional network"
        )
    return source


def _as_measured(path: Path, shape: tuple[int, ...], count: int, fit: str) -> Source:
    """Measurements as they are: to resize one would make another of it."""
    channels, height, width = shape
    if fit not in ("resize", "tile"):
        raise ValueError(f"--fit={fit} has no use beside --measured: leave it out, or take tile")
    wanted = f"measurements of the network's images have {height}x{width} pixels"
    source = open_pictures(path, (height, width), channels, count, "tile")
    if fit == "resize" and source.info.shape != shape:
        _, h, w = source.info.shape
        raise ValueError(f"{path} has {h}x{w} pixels, and {wanted}: give such, or take --fit tile")
    return source


def inside_of(source: Source) -> Tensor | None:
    """Which pixels are the images' own and not padding: bool (N, 1, H, W); None where all are."""
    return source.inside if isinstance(source, Pictures) else None


def place_of(source: Path | None) -> str:
    """Where images of one's own lie, for the digest of what is made of them; test images: ""."""
    return "" if source is None else str(source.absolute())
