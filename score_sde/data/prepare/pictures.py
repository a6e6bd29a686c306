"""One stored image → what a shard holds of it.

Pictures become PNG files of 8 bits, grey or RGB as they are: transparent parts are shown on the
ground, 16 bits are rounded to 8, palettes, CMYK and the like become RGB, and so do grey ones that
show a coloured ground. Other arrays stay as they
are, floats and many channels included, as `.npy` files (H, W, C).
"""

import errno
import io
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, UnidentifiedImageError
from torch.nn import functional as F

from score_sde.atomic import shown
from score_sde.data import formats
from score_sde.data.arrays import read_array, read_member
from score_sde.data.fits import FITS, Size, margins
from score_sde.data.memory import BeyondMemory
from score_sde.data.pixels import in_mode
from score_sde.data.prepare.listing import Item, Reader

_OF_THE_MACHINE = frozenset(
    (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENODEV, errno.ENXIO)
)


@dataclass(frozen=True)
class Made:
    """An image as a shard holds it.

    Attributes:
        content: a PNG or an `.npy` file.
        shape: (H, W, C) of it.
        dtype: of its numbers.
        enlarged: whether it was smaller than was asked for.
        low, high: its least and largest number; of pictures those that they may have.
    """

    content: bytes
    shape: tuple[int, int, int]
    dtype: str
    enlarged: bool
    low: float
    high: float


def _cropped(image: Image.Image, size: Size, ground: str) -> Image.Image:
    return FITS["resize"].change(image, size)


def _padded(image: Image.Image, size: Size, ground: str) -> Image.Image:
    inner = _within((image.height, image.width), size)
    resized = image.resize((inner[1], inner[0]), Image.Resampling.BILINEAR)
    whole = Image.new(image.mode, (size[1], size[0]), ground)
    top, left = margins(inner, size)
    whole.paste(resized, (left, top))
    return whole


def _within(size: Size, wanted: Size) -> Size:
    """The largest size of the same proportions that fits into the wanted one."""
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return min(height, wanted[0]), min(width, wanted[1])


FITTED: dict[str, Callable[[Image.Image, Size, str], Image.Image]] = {
    "crop": _cropped,
    "pad": _padded,
}
"""How pictures come to a size (`--fit`): crop, resized until they just cover it, and the middle is
kept; pad, resized until they just fit into it, in the middle of the ground. The filter is
antialiased bilinear, as everywhere (`score_sde.data.pixels`)."""


@dataclass(frozen=True)
class Maker:
    """Makes images of a corpus; it travels to worker processes.

    Attributes:
        read: of the corpus.
        size: (H, W) to give.
        fit: a name of `FITTED`.
        ground: colour behind transparent parts and around padded pictures.
        like: type and channels that all arrays must have; None for any.
    """

    read: Reader
    size: Size
    fit: str
    ground: str
    like: tuple[str, int] | None = None

    def __call__(self, items: Sequence[Item]) -> list[Made | str]:
        """Each image, or why it can't be had, in a few words."""
        return [self.one(item) for item in items]

    def one(self, item: Item) -> Made | str:
        """An image, or why it can't be had.

        Raises:
            OSError, MemoryError, BeyondMemory: it is no fault of the image's.
        """
        try:
            content = self.read(item.place)
            if isinstance(content, np.ndarray):
                return self._array(content)
            ending = os.path.splitext(item.name)[1].lower()
            if ending in (".npy", ".npz"):
                return self._array(_loaded(content, ending))
            with formats.decoded(io.BytesIO(content), ending) as image:
                return self._picture(image)
        except UnidentifiedImageError:  # whose own words quote an object
            return "it is of no format that Pillow reads"
        except MemoryError:
            raise
        except BeyondMemory as error:  # what shards hold must not depend on what else runs
            raise BeyondMemory(f"{shown(item.name)}: {error}") from error
        except Exception as error:  # Pillow, NumPy and zipfile raise all kinds for others' files
            if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
                raise  # else a disk that goes away would leave out all that lies on it
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
            return " ".join(reason.split())[:300] or type(error).__name__

    def _picture(self, image: Image.Image) -> Made:
        grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        stored = image.height, image.width
        shows_ground = image.has_transparency_data or (self.fit == "pad" and stored != self.size)
        if grey and shows_ground:
            grey = len(set(ImageColor.getrgb(self.ground)[:3])) == 1
        plain = in_mode(image, 1 if grey else 3, self.ground)
        fitted = plain if stored == self.size else FITTED[self.fit](plain, self.size, self.ground)
        file = io.BytesIO()
        # Of the pixels alone: profiles and dates are no part of them. The level is Pillow's own.
        Image.fromarray(np.asarray(fitted)).save(file, "PNG", compress_level=6)
        shape = (*self.size, 1 if grey else 3)
        return Made(file.getvalue(), shape, "uint8", self._enlarges(stored), 0.0, 255.0)

    def _array(self, array: np.ndarray) -> Made:
        array = array[..., None] if array.ndim == 2 else array
        kind = str(array.dtype.newbyteorder("=")), array.shape[2]
        if is_png(*kind) and (self.like is None or is_png(*self.like)):
            return self._picture(Image.fromarray(array[..., 0] if kind[1] == 1 else array))
        if self.like is not None and kind != self.like:
            raise ValueError(
                f"it has {kind[1]} channels of {kind[0]}, and the first array "
                f"{self.like[1]} of {self.like[0]}"
            )
        if not np.isfinite(array).all():
            raise ValueError("it holds numbers that are not finite")
        stored = array.shape[0], array.shape[1]
        fitted = array if stored == self.size else _fitted(array, self.size, self.fit)
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(fitted, fitted.dtype.newbyteorder("<")))
        return Made(
            file.getvalue(),
            fitted.shape,
            kind[0],
            self._enlarges(stored),
            float(fitted.min()),
            float(fitted.max()),
        )

    def _enlarges(self, stored: Size) -> bool:
        """Whether a picture of a size is enlarged: the fits differ in which side counts."""
        scales = [side / given for side, given in zip(self.size, stored, strict=True)]
        return (max(scales) if self.fit == "crop" else min(scales)) > 1


def is_png(dtype: str, channels: int) -> bool:
    """Whether images of a type are stored as PNG files, as pictures; others are as arrays."""
    return dtype == "uint8" and channels in (1, 3)


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (2, 3) or min(shape) < 1 or dtype.kind not in "uif":
        raise ValueError(
            f"it holds {dtype} of shape {str(shape)[:60]}, where numbers (H, W) or (H, W, C) of "
            "one image are needed"
        )


def _loaded(content: bytes, ending: str) -> np.ndarray:
    """The array of an `.npy` file, or the only one of an `.npz`."""
    file = io.BytesIO(content)
    if ending == ".npy":
        return read_array(file, len(content), _check)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise ValueError(f"it holds {len(members)} arrays, where one image is needed")
        return read_member(archive, members[0], _check)


def _fitted(array: np.ndarray, size: Size, fit: str) -> np.ndarray:
    """An array (H, W, C) resized as pictures are; around padded ones lie zeros."""
    height, width = array.shape[:2]
    if fit == "pad":
        inner = _within((height, width), size)
    else:
        scale = max(size[0] / height, size[1] / width)
        inner = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    pixels = torch.from_numpy(array.astype(np.float64)).movedim(-1, 0)[None]
    resized = F.interpolate(pixels, inner, mode="bilinear", antialias=True)[0].movedim(0, -1)
    top, left = margins(inner, size) if fit == "pad" else margins(size, inner)
    if fit == "pad":
        whole = torch.zeros(*size, array.shape[2], dtype=resized.dtype)
        whole[top : top + inner[0], left : left + inner[1]] = resized
    else:
        whole = resized[top : top + size[0], left : left + size[1]]
    if array.dtype.kind in "iu":
        whole = whole.round()
    return whole.numpy().astype(array.dtype)


def ground_in_words(ground: str) -> str:
    """A colour as #rrggbb, whatever it was called.

    Raises:
        ValueError: there is no such colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(ground)[:3]
    except ValueError as error:
        raise ValueError(
            f"--ground {ground}: give a colour such as white, black or #808080"
        ) from error
    return f"#{red:02x}{green:02x}{blue:02x}"


def bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes that an image takes in memory."""
    return math.prod(shape) * np.dtype(dtype).itemsize
