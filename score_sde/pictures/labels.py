"""Pictures with lines of text above them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIZE, _LINE, _EDGE = 13, 18, 6
_NARROWEST = 260
_INK = 32  # of 255


def labelled(picture: np.ndarray, text: Sequence[str]) -> np.ndarray:
    """A picture under lines of text, on white.

    Lines that are too long for the picture's width are broken between words; a picture narrower
    than 260 pixels gets white beside it. So pictures of one size with texts of as many lines and
    of like lengths come out in one size, as the frames of a film must.

    Args:
        picture: (H, W, C) uint8.
        text: lines.

    Returns:
        (H', W', C) uint8.
    """
    height, width, channels = picture.shape
    wide = max(width, _NARROWEST)
    lines = [part for line in text for part in _broken(line, wide - 2 * _EDGE)]
    head = Image.new("L", (wide, _LINE * len(lines) + 2 * _EDGE), 255)
    draw = ImageDraw.Draw(head)
    for k, line in enumerate(lines):
        draw.text((_EDGE, _EDGE + k * _LINE), line, fill=_INK, font=_font())
    whole = np.full((head.height + height, wide, channels), 255, np.uint8)
    whole[: head.height, :, : min(channels, 3)] = np.asarray(head)[..., None]
    whole[head.height :, :width] = picture
    return whole


def _broken(line: str, width: int) -> list[str]:
    """A line in parts that are no wider, broken between words."""
    parts = [""]
    for word in line.split():
        longer = f"{parts[-1]} {word}".strip()
        if parts[-1] and _font().getlength(longer) > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font of matplotlib's plots, which comes with it and has the letters of mathematics."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), _SIZE)
