"""Picture files: which are read, how they are opened, and how a cut-off one is known by its ends.

Files are the user's own, so Pillow's limits on size and text are lifted: what bounds a picture is
the memory. Formats that start other programs (EPS), hold no pixels that Pillow can decode by
itself, or hold documents, films or icons are never tried, whatever a file is called.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from score_sde.atomic import open_regular
from score_sde.data.memory import refuse_beyond_memory

LEFT_OUT_FORMATS = frozenset(
    {"EPS", "PDF", "MPEG", "BUFR", "GRIB", "HDF5", "WMF", "IPTC", "ICO", "ICNS", "CUR", "GBR"}
)
"""Formats of Pillow's that are no sets of images, by its names."""

SIXTEEN_BITS_IN_32 = frozenset({"PPM", "PNG"})
"""Formats whose 16-bit pixels Pillow may hold in 32 bits, without saying so."""

LONGEST_TEXT = 2**28
"""Bytes of compressed text that a PNG may hold; Pillow's own 2²⁰ is less than saved workflows."""

LARGE = 2**24
"""Pixels from which a picture's claim on memory is looked at."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation → what makes a photograph stand upright."""


@functools.cache
def extensions() -> dict[str, str]:
    """The endings of picture files, in small letters, each with Pillow's name of the format."""
    registered = Image.registered_extensions()  # loads Pillow's readers
    return {
        ending: name
        for ending, name in sorted(registered.items())
        if (name in Image.OPEN and name not in LEFT_OUT_FORMATS) or ending == ".mpo"
    }


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in extensions()


def endings() -> str:
    """The endings for a message, the usual ones first."""
    usual = (".png", ".jpg", ".jpeg", ".tif", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
    others = len(extensions().keys() - set(usual))
    return f"{', '.join(usual)} (or {others} others that Pillow reads)"


@functools.cache
def _formats(ending: str) -> tuple[str, ...]:
    """Formats to try for a file: some know theirs by no mark, and would take anything for it."""
    expected = extensions().get(ending)
    return tuple(
        name
        for name in dict.fromkeys(extensions().values())
        if name in Image.OPEN and (Image.OPEN[name][1] is not None or name == expected)
    )


@contextlib.contextmanager
def _as_the_users_own() -> Iterator[None]:
    """Pillow without its limits and its warnings, which are meant for strangers' files."""
    limits = (
        (Image, "MAX_IMAGE_PIXELS", None),
        (PngImagePlugin, "MAX_TEXT_CHUNK", LONGEST_TEXT),
        (PngImagePlugin, "MAX_TEXT_MEMORY", 4 * LONGEST_TEXT),
    )
    before = [getattr(module, name) for module, name, _ in limits]
    try:
        for module, name, value in limits:
            setattr(module, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for (module, name, _), value in zip(limits, before, strict=True):
            setattr(module, name, value)


@contextlib.contextmanager
def _header(file: BinaryIO, ending: str) -> Iterator[Image.Image]:
    """A picture of which no pixel has been read yet."""
    with _as_the_users_own(), Image.open(file, formats=_formats(ending.lower())) as stored:
        yield stored


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture with its pixels, standing upright; of a film or a stack the first one.

    Raises:
        Exception: of any kind, as Pillow's readers raise, for what is no picture or damaged.
        ValueError: a picture larger than the memory, or no file but a folder, pipe or device.
    """
    with open_regular(path) as file, decoded(file, path.suffix) as image:
        yield image


@contextlib.contextmanager
def decoded(file: BinaryIO, ending: str) -> Iterator[Image.Image]:
    """`opened`, of a file that is open already.

    Args:
        file: at its beginning.
        ending: of its name, with the dot: some formats are told by nothing else.
    """
    with _header(file, ending) as stored:
        width, height = stored.size
        if width * height > LARGE:
            _refuse_unfounded(stored, file)
            # As stored, and as converted: up to 4 bytes each.
            refuse_beyond_memory(f"{width}x{height} pixels", 8 * width * height)
        with _silent_libtiff(stored):
            stored.load()
        yield _upright(_of_16_bits(stored))


def _refuse_unfounded(image: Image.Image, file: BinaryIO) -> None:
    """Refuses a large picture that is stored as it is by a file with less than a bit a pixel.

    Its reader would take the memory for all of it first.
    """
    codecs = {tile[0] for tile in getattr(image, "tile", ())}
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    if codecs == {"raw"} and image.width * image.height > 8 * size:
        raise ValueError(
            f"it claims {image.width}x{image.height} pixels, and holds less than a bit for each"
        )


def _of_16_bits(image: Image.Image) -> Image.Image:
    if image.mode == "I" and image.format in SIXTEEN_BITS_IN_32:
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF, of which Pillow raises anything, beside whole pixels
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


@contextlib.contextmanager
def _silent_libtiff(image: Image.Image) -> Iterator[None]:
    """Libtiff writes of damage to the process's standard error, beside the error that it gives."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        yield
        return
    try:
        before = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def ends_as_its_format(path: Path) -> bool | None:
    """Whether a file's last bytes are those that end its format: of a cut-off file they aren't.

    A file that goes on after its picture may be taken for a cut-off one: decode it to be sure.

    Returns:
        None where its first bytes are of no format that marks its end.

    Raises:
        ValueError, OSError: it can't be opened.
    """
    with open_regular(path) as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if head.startswith(b"GIF8"):
        return tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if head.startswith(b"BM"):
        return int.from_bytes(head[2:6], "little") <= size
    return None


def holds_what_its_header_claims(path: Path) -> bool:
    """Whether a file is as long as its header says, for formats that tell where pixels lie.

    Raises:
        Exception: of any kind, where it has no header of a picture.
    """
    with open_regular(path) as file, _header(file, path.suffix) as stored:
        size = path.stat().st_size
        if isinstance(stored, TiffImagePlugin.TiffImageFile):
            tags = stored.tag_v2
            offsets, counts = tags.get(273) or tags.get(324), tags.get(279) or tags.get(325)
            ends = map(sum, zip(offsets or (), counts or (), strict=False))
            return max(ends, default=0) <= size
        for codec, box, offset, _ in getattr(stored, "tile", ()):
            if codec == "raw" and box is not None:
                pixels = (box[2] - box[0]) * (box[3] - box[1])
                bits = 1 if stored.mode == "1" else 8 * len(stored.getbands())
                if offset + pixels * bits // 8 > size:
                    return False
    return True
