"""Plain JPEG files by torchvision's decoder: Pillow's pixels in less than half of its time.

Both are libjpeg-turbo. What is not plain (turned by its EXIF, of four colours, of 12 bits, larger
than is decoded without a look at the memory) or can't be decoded is Pillow's, which reads it, or
refuses it in its own words.
"""

import warnings
from typing import cast

import torch
from PIL import Image
from torch import Tensor

ENDINGS = (".jpg", ".jpeg")

_FRAMES = (0xC0, 0xC1, 0xC2)  # Huffman coded: baseline, extended, progressive
_SCAN = 0xDA
# Tables, comments, and what applications add; but for APP1, which is EXIF or XMP and may turn.
_PASSED_OVER = frozenset({0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE2, 0xF0)})


def is_ready() -> bool:
    """Whether torchvision's decoder is there; it takes a second to load."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what else it lacks
            from torchvision.io import decode_jpeg  # noqa: F401
    except Exception:  # a build for another torch fails in one of many ways; later ones have none
        return False
    return True


def decoded(content: bytes, most_pixels: int) -> Image.Image | None:
    """A JPEG file as a picture of mode L or RGB; None where it is Pillow's.

    Args:
        content: of the file.
        most_pixels: larger ones are Pillow's.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    height, width, channels = _plain_shape(content)
    if not 0 < height * width <= most_pixels:
        return None
    mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from torchvision 0.29 on it says that it will go
            stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            pixels = cast(Tensor, decode_jpeg(stored, mode))
    except RuntimeError:  # it is cut off or damaged, or the decoder was not built in
        return None
    return Image.fromarray((pixels[0] if channels == 1 else pixels.movedim(0, -1)).numpy())


def _plain_shape(content: bytes) -> tuple[int, int, int]:
    """(H, W, C) of a plain JPEG file, by its segments before the first scan; else zeros."""
    place, shape = 2, (0, 0, 0)
    while place + 10 <= len(content) and content[place] == 0xFF:
        kind, segment = content[place + 1], content[place + 2 : place + 10]
        if kind == _SCAN:
            return shape
        if kind in _FRAMES:
            bits, channels = segment[2], segment[7]
            if bits != 8 or channels not in (1, 3):
                break
            height, width = int.from_bytes(segment[3:5]), int.from_bytes(segment[5:7])
            shape = height, width, channels
        elif kind not in _PASSED_OVER:
            break
        place += 2 + int.from_bytes(segment[:2])
    return 0, 0, 0
