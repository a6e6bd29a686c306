"""Arrays that are no pictures: floats, or grey levels in other numbers of channels.

Their numbers are kept as they are: nothing is resized, and no colours are made of channels. All
but uint8 become float32, with a range of the whole set (`scaling`).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde.atomic import shown
from score_sde.data.arrays import read_images
from score_sde.data.fits import SizeError
from score_sde.data.memory import refuse_beyond_memory
from score_sde.data.pixels import MODES, SAMPLE, check_channels, conform_array, dark, policy
from score_sde.data.scaling import Range, check_range, refuse_dequantisation
from score_sde.data.sources import MemorySource, Request
from score_sde.data.splits import held_out_of


def is_picture(dtype: np.dtype, channels: int) -> bool:
    """Whether images of a type are pictures, which may be resized, and given other colours."""
    return dtype == np.uint8 and channels in MODES


def check_alike(given: tuple[int, ...], wanted: tuple[int, int, int], remedy: str = "") -> None:
    """Refuses arrays of another shape than is asked for.

    Args:
        given: (H, W, C) of each.
        wanted: (C, H, W).
        remedy: what to do; by default to ask for what there is.

    Raises:
        SizeError: says both, without what is of that shape.
    """
    height, width, channels = given
    if channels != wanted[0]:
        raise SizeError(
            f"has {channels} channels, and {wanted[0]} are asked for, where only pictures of 8 "
            f"bits can be given others: {remedy or f'set data.num_channels={channels}'}"
        )
    if (height, width) != wanted[1:]:
        fields = f"data.image_size={height}"
        square = width == height and wanted[1] == wanted[2]
        fields += "" if square else f" and data.image_width={width}"
        raise SizeError(
            f"has {height}x{width} numbers, and {wanted[1]}x{wanted[2]} are asked for, where only "
            f"pictures of 8 bits are resized: {remedy or f'set {fields}'}"
        )


def kept(images: np.ndarray) -> Tensor:
    """(N, H, W[, C]) → (N, C, H, W), contiguous: uint8 as it is, all others as float32."""
    images = images[..., None] if images.ndim == 3 else images
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1), kind))


def range_of(images: np.ndarray, request: Request, where: str) -> Range:
    """That of the request, else from the least to the largest of the numbers; () of uint8.

    Raises:
        ValueError: numbers that are not finite, or a range that is none; or noise is to be added
            to grey levels.
    """
    if images.dtype == np.uint8:
        return ()
    low, high = float(images.min()), float(images.max())
    if not np.isfinite(low + high):
        raise ValueError(f"{where} holds numbers that are not finite: leave these images out")
    return stated(request, (low, high), where)


def stated(request: Request, range: tuple[float, float], where: str) -> Range:
    """The range of the request, else that of the numbers.

    Raises:
        ValueError: a range that is none, or noise is to be added to grey levels.
    """
    if request.dequantised:
        refuse_dequantisation(range, where)
    return check_range(request.range or range, f"the numbers in {where}")


def words(dtype: object, range: Range, channels: int) -> str:
    """What arrays hold."""
    held = f"{channels} channels of {dtype}"
    return f"{held}, of which {range[0]:g} becomes 0 and {range[1]:g} 1" if range else held


def open_array(request: Request, path: Path) -> MemorySource:
    """A split of a `.npy` or `.npz` file, of pictures or of other arrays.

    Raises:
        OSError: it is not there.
        ValueError: as `arrays.read_images`, or images that are not what was asked for.
    """
    images, labels = read_images(path)
    held_out = held_out_of([str(row) for row in range(len(images))], request.test_fraction)
    chosen = np.array(held_out, dtype=bool) == (request.split == "test")
    if not chosen.any() and request.split == "train":
        raise ValueError(f"{shown(path)} leaves no image for training: lower data.test_fraction")
    classes = () if labels is None else tuple(str(label) for label in range(int(labels.max()) + 1))
    height, width = images.shape[1:3]
    channels = images.shape[3] if images.ndim == 4 else 1
    found: Range = ()
    if is_picture(images.dtype, channels):
        check_channels(request.num_channels)
        pixels = conform_array(images[chosen], request.image_size, request.num_channels)
        how = policy(request.image_size, request.num_channels, (height, width))
    else:
        try:
            check_alike((height, width, channels), request.shape)
        except SizeError as error:
            raise ValueError(f"each image of {shown(path)} {error}") from error
        found = range_of(images, request, shown(path))
        refuse_beyond_memory(f"{len(images):,} arrays", 4 * images.size)
        pixels = kept(images[chosen])
        how = f"{height}x{width} as stored, {words(images.dtype, found, channels)}"
    digest = hashlib.sha256(np.ascontiguousarray(images).data.cast("B"))
    looked_at = request.split == "train" and not found
    info = request.info(
        int(chosen.sum()),
        how,
        class_names=classes,
        content=[digest.hexdigest(), request.test_fraction],
        notes=dark(list(pixels[:SAMPLE])) if looked_at else (),
        range=found,
    )
    return MemorySource(info, pixels, None if labels is None else labels[torch.from_numpy(chosen)])
