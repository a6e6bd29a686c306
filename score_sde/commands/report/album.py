"""Pictures that a report holds, as many as its size allows."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from score_sde.atomic import read_whole
from score_sde.pictures import page
from score_sde.pictures.page import Html

MOST_BYTES = 14 * 2**20
"""Of all pictures; in the page they take a third more, and so it stays below 20 MB."""

_SIDES = (1600, 1100, 800, 560)
"""Pixels of the longer side: the first is what a picture has at most, the others where that is too
many bytes."""
_MOST_PIXELS = 2**26  # larger ones are not decoded
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass
class Album:
    """Takes pictures until its room is used up, and says which it left out.

    Attributes:
        refused: is given the error of a file that is no picture, or can't be read.
        left: bytes that are left.
        smaller: pictures that were made smaller.
        omitted: files that found no room.
    """

    refused: Callable[[Exception], None]
    left: int = field(default_factory=lambda: MOST_BYTES)
    smaller: list[Path] = field(default_factory=list)
    omitted: list[Path] = field(default_factory=list)

    def picture(self, path: Path, alt: str, allowance: int, caption: object = "") -> Html | None:
        """A picture or a film.

        Args:
            path: a PNG or a GIF file.
            alt: what it shows.
            allowance: bytes that it may take at most.
            caption: below it.

        Returns:
            None where it can't be read or finds no room.
        """
        try:
            content = read_whole(path)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                kind, size, content = self._fitted(path, content, min(allowance, self.left))
        except _NoRoom:
            self.omitted.append(path)
            return None
        except (OSError, ValueError, SyntaxError, *_BOMBS) as error:
            self.refused(ValueError(f"{path.name} can't be shown: {' '.join(str(error).split())}"))
            return None
        self.left -= len(content)
        return page.picture(page.data_uri(kind, content), alt, size, caption)

    def _fitted(self, path: Path, content: bytes, room: int) -> tuple[str, tuple[int, int], bytes]:
        """Kind, size and bytes of a picture that is no larger than there is room."""
        with Image.open(io.BytesIO(content), formats=("PNG", "GIF")) as image:
            kind, size = f"image/{(image.format or '').lower()}", image.size
            if size[0] * size[1] > _MOST_PIXELS:
                raise ValueError(f"it has {size[0]} x {size[1]} pixels")
            image.load()  # a file that is cut off is none
            small = max(size) <= _SIDES[0]
            if len(content) <= room and (small or image.format == "GIF"):
                return kind, size, content
            if image.format == "GIF":
                raise _NoRoom
            whole = image.convert("RGB" if image.mode not in ("L", "1", "I;16") else "L")
        for side in _SIDES:
            made = whole.copy()
            made.thumbnail((side, side), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            made.save(file, format="PNG", optimize=True)
            if file.tell() <= room:
                self.smaller.append(path)
                return "image/png", made.size, file.getvalue()
        raise _NoRoom

    def notes(self) -> list[str]:
        """What was left out, and what is smaller than its file."""
        said = []
        if self.smaller:
            said.append(f"Smaller here than their files: {_named(self.smaller)}.")
        if self.omitted:
            most = MOST_BYTES * 4 / 3 / 1e6
            said.append(
                f"Left out, as a report stays below {most:.0f} MB: {_named(self.omitted)}."
            )
        return said


class _NoRoom(Exception):  # noqa: N818, nothing went wrong
    """A picture that is too large."""


def _named(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{', '.join(names[:12])}{more}"
