"""Plain JPEG files of the wanted size by torchvision: Pillow's pixels in two thirds of its time.

Both are libjpeg-turbo; what is saved are the ways through Pillow's own images, so that it is worth
it only where a picture is not resized. What is not plain (turned by its EXIF, of four colours, of
12 bits) or can't be decoded is Pillow's, which reads it, or refuses it in its own words.
"""

import warnings
from typing import cast

import torch
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


def decoded(content: bytes, shape: tuple[int, int, int]) -> Tensor | None:
    """A JPEG file as uint8 (C, H, W); None where it is Pillow's.

    Args:
        content: of the file.
        shape: (C, H, W) that it must have, C being 1 or 3.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    if _plain_shape(content) != shape:
        return None
    mode = ImageReadMode.GRAY if shape[0] == 1 else ImageReadMode.RGB
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from torchvision 0.29 on it says that it will go
            stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return cast(Tensor, decode_jpeg(stored, mode))
    except RuntimeError:  # it is cut off or damaged, or the decoder was not built in
        return None


def _plain_shape(content: bytes) -> tuple[int, int, int]:
    """(C, H, W) of a plain JPEG file, by its segments before the first scan; else zeros."""
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
            shape = channels, height, width
        elif kind not in _PASSED_OVER:
            break
        place += 2 + int.from_bytes(segment[:2])
    return 0, 0, 0
