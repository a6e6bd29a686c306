"""What is measured of images, by the name of the task: inpainting, super-resolution and others.

A task makes a measurement for images of one shape out of plain settings. Those that have a basis
of their own for replacement, as inpainting and colourisation have in the paper (Song et al. 2021,
appendix I), say it in `Task.known`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from score_sde.noise import Stream, uniform
from score_sde.posteriors.measurements import (
    BicubicDownsampling,
    BoxDownsampling,
    FourierMask,
    GaussianBlur,
    Grey,
    Mask,
    Measurement,
    MotionBlur,
    RandomProjection,
    SoftMask,
)
from score_sde.posteriors.measurements.measurement import image_shape
from score_sde.samplers.completion import Known, known_gray, known_pixels
from score_sde.tensor_ops import choose


@dataclass(frozen=True)
class Task:
    """A row of `TASKS`.

    Attributes:
        measure: called as measure(shape, std, **arguments), with the shape (C, H, W) of images and
            the std of the noise in units of the network's data.
        arguments: what it takes besides, by name, with the field of a config's group `restore`
            that each stands for. Two are more than fields: `mask` is given as a tensor, (1, H, W)
            in [0, 1] with 1 where images are known, and `seed` is that of the config.
        known: what replacement keeps of images (B, C, H, W), where a measurement of it has a basis
            of its own; None for that of its singular value decomposition (`Replaced`).
    """

    measure: Callable[..., Measurement]
    arguments: Mapping[str, str] = field(default_factory=dict)
    known: Callable[[Measurement, Tensor], Known] | None = None


def visible(shape: Sequence[int], std: float, mask: Tensor) -> Mask:
    """The pixels in which a mask (1, H, W) is nearer to white."""
    return Mask(shape, std, (mask > 0.5).double())


def colours(shape: Sequence[int], std: float) -> Grey:
    """The mean of three channels.

    Raises:
        ValueError: another number of channels.
    """
    channels, _, _ = image_shape(shape)
    if channels != 3:
        raise ValueError(
            f"colorize needs images of 3 channels, and this network's have {channels}: take "
            "inpaint, or a checkpoint of coloured images"
        )
    return Grey(shape, std)


DOWNSAMPLINGS: dict[str, Callable[..., Measurement]] = {
    "box": BoxDownsampling,
    "bicubic": BicubicDownsampling,
}
"""Name → how images are made smaller, called as row(shape, std, factor)."""


def smaller(shape: Sequence[int], std: float, factor: int, kind: str) -> Measurement:
    """Sides that are `factor` times smaller, by a row of `DOWNSAMPLINGS`."""
    return choose(DOWNSAMPLINGS, kind, "downsampling")(shape, std, factor)


def everything(shape: Sequence[int], std: float) -> Mask:
    """Every pixel, with its noise."""
    return Mask(shape, std, torch.ones(1, 1))


def dimmed(shape: Sequence[int], std: float, mask: Tensor, floor: float) -> SoftMask:
    """Pixels seen as well as a mask is white, black ones as a mask of `floor` has it."""
    return SoftMask(shape, std, floor + (1 - floor) * mask.double())


def projections(shape: Sequence[int], std: float, share: float, seed: int) -> RandomProjection:
    """Random orthonormal directions, `share` of as many as an image has numbers."""
    size = image_shape(shape)
    count = max(1, round(share * size[0] * size[1] * size[2]))
    return RandomProjection(shape, std, count, seed)


def frequencies(shape: Sequence[int], std: float, share: float, seed: int) -> FourierMask:
    """The mean, and of the other frequencies a share at random, each with its negative."""
    first = torch.zeros(1, dtype=torch.int64)
    drawn = uniform(seed, first, 0, image_shape(shape)[1:], stream=Stream.DATA)[0]
    opposite = drawn.flip(-2, -1).roll((1, 1), (-2, -1))
    kept = 1 - (1 - torch.minimum(drawn, opposite)) ** 2 < share  # of two the smaller: even again
    # A frequency that is its own negative was drawn once.
    kept = torch.where(drawn == opposite, drawn < share, kept)
    kept[0, 0] = True
    return FourierMask(shape, std, kept.double())


def known_of_mask(measurement: Measurement, images: Tensor) -> Known:
    """What replacement keeps of images whose pixels a mask hides or shows."""
    return known_pixels(images, measurement.measured(torch.ones(1, *measurement.shape))[0, :1])


def known_of_colours(measurement: Measurement, images: Tensor) -> Known:
    """What replacement keeps of images that are measured as `colours` does."""
    return known_gray(images)


TASKS: dict[str, Task] = {
    "inpaint": Task(visible, {"mask": "mask"}, known=known_of_mask),
    "colorize": Task(colours, known=known_of_colours),
    "super_resolution": Task(smaller, {"factor": "factor", "kind": "downsampling"}),
    "deblur": Task(GaussianBlur, {"width": "blur_width"}),
    "motion_deblur": Task(MotionBlur, {"length": "blur_length", "angle": "blur_angle"}),
    "denoise": Task(everything),
    "soft_inpaint": Task(dimmed, {"mask": "mask", "floor": "mask_floor"}),
    "compressed_sensing": Task(projections, {"share": "share", "seed": "seed"}),
    "fourier": Task(frequencies, {"share": "share", "seed": "seed"}),
}
"""Name (`restore.task`) → what it measures of images."""
