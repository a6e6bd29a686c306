"""From stored pictures to uint8 tensors of one shape: decoding, colour, cropping, resizing.

`conform` is the only place where an image changes size, for training as for evaluation: it is
resized until it just covers the wanted size, and the centre is kept. The filter is antialiased
bilinear (a triangle), that of the 2021 release's faces. An image of the wanted size passes
unchanged.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name of an image with so many channels."""

COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}

# What Pillow raises for files that are damaged, cut off, missing, or no images at all.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def conform(image: Image.Image, image_size: tuple[int, int], num_channels: int) -> Tensor:
    """Converts, resizes and crops one image.

    Args:
        image: of any size and mode with 8 or 16 bits. Transparent parts are shown on white unless
            there are 4 channels.
        image_size: (H, W) to give.
        num_channels: 1 (ITU-R 601 luma of colours), 3 or 4.

    Returns:
        uint8 (C, H, W).

    Raises:
        ValueError: for floating-point pixels, which have no range to map to 0 … 255.
    """
    height, width = image_size
    image = _in_mode(image, num_channels)
    # The box is what is kept; Pillow's filter still reaches over its edges, as if cut afterwards.
    scale = min(image.width / width, image.height / height)
    box_width, box_height = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    resized = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(resized).reshape(height, width, num_channels)).movedim(-1, 0)


def conform_array(images: np.ndarray, image_size: tuple[int, int], num_channels: int) -> Tensor:
    """`conform` for uint8 (N, H, W[, C]): gives uint8 (N, C, *image_size), contiguous."""
    pixels = images[..., None] if images.ndim == 3 else images
    if pixels.shape[1:] == (*image_size, num_channels):
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
    pictures = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    result = torch.empty(len(images), num_channels, *image_size, dtype=torch.uint8)
    for row, picture in zip(result, pictures, strict=True):
        row.copy_(conform(Image.fromarray(picture), image_size, num_channels))
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
    """

    root: Path
    paths: tuple[str, ...]
    image_size: tuple[int, int]
    num_channels: int
    centre: int = 0

    def __call__(self, index: int) -> Tensor:
        """Decodes image `index` to uint8 (C, H, W).

        Raises:
            ValueError: naming the file, where it cannot be decoded.
        """
        path = self.root / self.paths[index]
        try:
            with Image.open(path) as stored:
                image = ImageOps.exif_transpose(stored)  # photographs stand upright
                if self.centre:
                    left, top = (image.width - self.centre) // 2, (image.height - self.centre) // 2
                    image = image.crop((left, top, left + self.centre, top + self.centre))
                return conform(image, self.image_size, self.num_channels)
        except _DECODING_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path} cannot be decoded as an image ({reason}): repair the file or remove it"
            ) from error


def _in_mode(image: Image.Image, num_channels: int) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels; 8 or 16 bits are allowed")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        deep = np.asarray(image, dtype=np.float64).clip(0, 65535)
        image = Image.fromarray((deep / 257).round().astype(np.uint8))
    if num_channels != 4 and image.has_transparency_data:
        # What lies under transparent pixels is arbitrary, often black.
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, "white"), image.convert("RGBA")
        )
    return image.convert(MODES[num_channels])
