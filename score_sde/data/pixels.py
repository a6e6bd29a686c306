"""From stored pictures to uint8 tensors of one shape: decoding, colour, cropping, resizing.

`conform` is the only place where an image changes size. For training and evaluation it is resized
until it just covers the wanted size, and the centre is kept. The filter is antialiased bilinear (a
triangle), that of the 2021 release's faces. For other ways see `fits`. An image of the wanted size
passes unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from score_sde.atomic import open_regular, shown
from score_sde.data import formats, jpeg
from score_sde.data.fits import FITS, Size, SizeError, check_fit
from score_sde.data.memory import refuse_beyond_memory
from score_sde.tensor_ops import check_name

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name of an image with so many channels."""

COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}

SAMPLE = 16
"""Images that are looked at for what a run should say of their pixels."""


def check_channels(num_channels: int) -> None:
    """Refuses a number of channels that no picture has.

    Raises:
        UnknownName: lists those that there are.
    """
    check_name(num_channels, MODES, "data.num_channels")


def conform(
    image: Image.Image, image_size: Size, num_channels: int, fit: str = "resize"
) -> Tensor:
    """Converts one image, and brings it to a size.

    Args:
        image: of any size and mode with 8 or 16 bits. Transparent parts are shown on white unless
            there are 4 channels.
        image_size: (H, W) to give.
        num_channels: 1 (ITU-R 601 luma of colours), 3 or 4.
        fit: a name of `FITS`.

    Returns:
        uint8 (C, H, W); of the image's own size where the fit keeps it.

    Raises:
        SizeError: of a size that the fit does not take.
        ValueError: for floating-point pixels and integers of 32 bits, which have no range to map
            to 0 … 255.
    """
    check_fit(fit, (image.height, image.width), image_size)
    made = FITS[fit].change(in_mode(image, num_channels), image_size)
    pixels = np.array(made).reshape(made.height, made.width, num_channels)
    return torch.from_numpy(pixels).movedim(-1, 0)


def conform_array(
    images: np.ndarray, image_size: Size, num_channels: int, fit: str = "resize"
) -> Tensor:
    """`conform` for uint8 (N, H, W[, C]): gives uint8 (N, C, *image_size), contiguous."""
    pixels = images[..., None] if images.ndim == 3 else images
    stored = pixels.shape[1], pixels.shape[2]
    check_fit(fit, stored, image_size)
    height, width = image_size = stored if FITS[fit].keeps else image_size
    if pixels.shape[1:] == (*image_size, num_channels):
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
    refuse_beyond_memory(
        f"{len(images):,} images of {height}x{width}",
        len(images) * num_channels * height * width,
    )
    pictures = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    result = torch.empty(len(images), num_channels, *image_size, dtype=torch.uint8)
    for row, picture in zip(result, pictures, strict=True):
        row.copy_(conform(Image.fromarray(picture), image_size, num_channels, fit))
    return result


def policy(
    image_size: tuple[int, int], num_channels: int, stored_size: tuple[int, int] | None = None
) -> str:
    """`conform` in words; `stored_size` is the (H, W) of the stored images if all agree."""
    size, colour = f"{image_size[0]}x{image_size[1]}", COLOURS[num_channels]
    if stored_size == image_size:
        return f"{size} as stored, {colour}"
    enlarged = "smaller images are enlarged"
    if stored_size is not None:
        larger = image_size[0] > stored_size[0] or image_size[1] > stored_size[1]
        enlarged = f"{'enlarged' if larger else 'reduced'} from {stored_size[0]}x{stored_size[1]}"
    return (
        f"shorter side resized to {size} (antialiased bilinear, {enlarged}), centre crop, {colour}"
    )


@dataclass(frozen=True)
class FileDecoder:
    """Index → image of a list of files.

    Attributes:
        root: the folder of the files.
        paths: file paths relative to it.
        image_size: (H, W) to give.
        num_channels: 1, 3 or 4.
        centre: side of the centred square cut out first, or 0 for the whole image.
        fit: how images are brought to that size, a name of `FITS`.
        quick: decode JPEG files that keep their size by torchvision (`jpeg.is_ready`).
    """

    root: Path
    paths: tuple[str, ...]
    image_size: tuple[int, int]
    num_channels: int
    centre: int = 0
    fit: str = "resize"
    quick: bool = False

    def __call__(self, index: int) -> Tensor:
        """Decodes image `index` to uint8 (C, H, W).

        Raises:
            ValueError: naming the file, where it cannot be decoded or has a size that does not
                fit.
        """
        return self.with_size(index)[0]

    def with_size(self, index: int) -> tuple[Tensor, Size]:
        """Image `index` as a call gives it, and the size of the picture; raises as a call does."""
        if (whole := self._as_stored(index)) is not None:
            return whole, self.image_size
        with self._file(index) as path, formats.opened(path) as image:
            if self.centre:
                left, top = (image.width - self.centre) // 2, (image.height - self.centre) // 2
                image = image.crop((left, top, left + self.centre, top + self.centre))
            size = image.height, image.width
            return conform(image, self.image_size, self.num_channels, self.fit), size

    def _as_stored(self, index: int) -> Tensor | None:
        """Image `index` where it is a plain JPEG file of the very size and colours to give."""
        name = self.paths[index].lower()
        if not self.quick or self.centre or not name.endswith(jpeg.ENDINGS):
            return None
        with self._file(index) as path, open_regular(path) as file:
            return jpeg.decoded(file.read(), (self.num_channels, *self.image_size))

    def seems_whole(self, index: int) -> bool:
        """Whether image `index` ends as its format does, as far as that can be told so.

        Raises:
            ValueError: naming the file, where it cannot be opened.
        """
        with self._file(index) as path:
            return bool(formats.ends_as_its_format(path))

    def refuse_cut_off(self, index: int) -> None:
        """Looks closer at a file that does not seem whole: at its header, else at all of it.

        Raises:
            ValueError: naming the file, where it cannot be decoded.
        """
        with self._file(index) as path:
            marked = formats.ends_as_its_format(path) is not None
            whole = not marked and formats.holds_what_its_header_claims(path)
        if not whole:
            self(index)

    @contextmanager
    def _file(self, index: int) -> Iterator[Path]:
        """Where an image lies; whatever fails within this names it."""
        path = self.root / self.paths[index]
        try:
            yield path
        except SizeError as error:
            raise ValueError(f"{shown(path)} {error}") from error
        except Exception as error:  # Pillow's readers raise all kinds for what others wrote
            raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> ValueError:
    reason = error.strerror if isinstance(error, OSError) else ""
    if isinstance(error, UnidentifiedImageError):  # whose own words quote an object
        reason = "it is of no format that Pillow reads"
    reason = reason or " ".join(str(error).split())[:300] or type(error).__name__
    return ValueError(
        f"{shown(path)} cannot be decoded as an image ({reason}): repair the file or remove it; "
        "of many, --mode prepare leaves such files out"
    )


def in_mode(image: Image.Image, num_channels: int, ground: str = "white") -> Image.Image:
    """An image with so many channels of 8 bits.

    Args:
        image: of any mode with 8 or 16 bits.
        num_channels: 1, 3 or 4.
        ground: colour behind transparent parts, by a name of Pillow's or as #RRGGBB; 4 channels
            need none.

    Raises:
        ValueError: for floating-point pixels and integers of 32 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no range to map: save them with 8 or 16 bits")
    if image.mode == "I" and image.format not in formats.SIXTEEN_BITS_IN_32:
        raise ValueError("integers of 32 bits have no range to map: save them with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        deep = np.asarray(image, dtype=np.float64).clip(0, 65535)
        image = Image.fromarray((deep / 257).round().astype(np.uint8))
    if num_channels != 4 and image.has_transparency_data:
        # What lies under transparent pixels is arbitrary, often black.
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))
    return image.convert(MODES[num_channels])


def dark(images: list[Tensor]) -> tuple[str, ...]:
    """A word where images uint8 use the lowest quarter of the levels only, else nothing.

    Such are 12-bit pixels in 16-bit files, and masks of 0 and 1.
    """
    brightest = max((int(image.max()) for image in images), default=255)
    if brightest >= 64:
        return ()
    return (
        f"the images are nearly black: the brightest pixel of {len(images)} looked at is "
        f"{brightest} of 255; if their files hold fewer bits than they could (12 in 16, or 0 and "
        "1 in 8), multiply the pixels to fill the range",
    )
