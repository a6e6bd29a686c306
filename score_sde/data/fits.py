"""How a picture of one size becomes an image of another: by resizing, cutting, padding, or not.

`FITS` holds the ways by name. Training and evaluation resize; whoever gives pictures of his own to
a command may choose (`--fit`). Sizes are (height, width) in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Size = tuple[int, int]


class SizeError(ValueError):
    """A picture of a size that a fit does not take; the sentence lacks the picture's name."""


@dataclass(frozen=True)
class Fit:
    """A row of `FITS`.

    Attributes:
        change: (picture, wanted size) → the picture with that size; where `keeps`, as it is.
        smaller: whether it takes pictures that are smaller than is wanted in one side or both.
        larger: whether it takes pictures that are larger in one side or both.
        keeps: whether pictures keep their own size.
    """

    change: Callable[[Image.Image, Size], Image.Image]
    smaller: bool
    larger: bool
    keeps: bool = False

    def takes(self, size: Size, wanted: Size) -> bool:
        """Whether a picture of a size can be had in the wanted one, or is kept."""
        smaller = any(a < b for a, b in zip(size, wanted, strict=True))
        larger = any(a > b for a, b in zip(size, wanted, strict=True))
        return (self.smaller or not smaller) and (self.larger or not larger)


def _resized(image: Image.Image, wanted: Size) -> Image.Image:
    height, width = wanted
    # The box is what is kept; Pillow's filter still reaches over its edges, as if cut afterwards.
    scale = min(image.width / width, image.height / height)
    box_width, box_height = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _cropped(image: Image.Image, wanted: Size) -> Image.Image:
    top, left = margins(wanted, (image.height, image.width))
    return image.crop((left, top, left + wanted[1], top + wanted[0]))


def _padded(image: Image.Image, wanted: Size) -> Image.Image:
    top, left = margins((image.height, image.width), wanted)
    sides = [(top, wanted[0] - image.height - top), (left, wanted[1] - image.width - left)]
    pixels = np.asarray(image)
    return Image.fromarray(np.pad(pixels, [*sides, (0, 0)][: pixels.ndim], mode="edge"))


def _kept(image: Image.Image, wanted: Size) -> Image.Image:
    return image


FITS: dict[str, Fit] = {
    "resize": Fit(_resized, smaller=True, larger=True),
    "crop": Fit(_cropped, smaller=False, larger=True),
    "pad": Fit(_padded, smaller=True, larger=False),
    "tile": Fit(_kept, smaller=False, larger=True, keeps=True),
}
"""Name → way. resize: until it just covers the wanted size, and the centre is kept; crop: the
centre is cut out; pad: put in the middle, with its edges repeated around it; tile: it is kept, and
what cannot take it whole takes tiles of the wanted size."""


def check_fit(fit: str, size: Size, wanted: Size) -> None:
    """Refuses a picture of a size that a fit does not take.

    Args:
        fit: a name of `FITS`.
        size: of the picture.
        wanted: of the image.

    Raises:
        SizeError: says both sizes and which fits take it.
    """
    row = FITS[fit]
    if row.takes(size, wanted):
        return
    others = [f"fit={name}" for name, other in FITS.items() if other.takes(size, wanted)]
    bound = "at most" if row.smaller else "at least"
    raise SizeError(
        f"has {size[0]}x{size[1]} pixels, and fit={fit} takes pictures of {bound} "
        f"{wanted[0]}x{wanted[1]}: take {' or '.join(others)}"
    )


def margins(inner: Size, outer: Size) -> Size:
    """Where the inner of two rectangles with one middle begins, from above and from the left."""
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2


def inside(size: Size, wanted: Size) -> Tensor:
    """Which pixels are the picture's own where one of a size is padded: bool (1, *wanted)."""
    top, left = margins(size, wanted)
    own = torch.zeros(1, *wanted, dtype=torch.bool)
    own[:, top : top + size[0], left : left + size[1]] = True
    return own
