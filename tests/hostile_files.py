"""Files that are not what their names say: damaged, lying about their size, or no files at all.

`KINDS` makes one of each at a path; a reader must answer every one with its content or a sentence.
"""

import bz2
import gzip
import io
import os
import pickle
import random
import shutil
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MARK = Path(__file__).with_name("executed_by_a_hostile_file")
"""What a file's code would make, if it were ever run."""


class _Bomb:
    def __reduce__(self):
        return (os.mknod, (str(MARK),))


def picture(kind: str, mode: str = "RGB", **options) -> bytes:
    """A whole picture of 16x16 pixels of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG that claims a size; its pixels are what `data` unpacks to."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An array file with a header as given."""
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def described(shape: str, descr: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


def npz(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def images(count: int = 4) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return stored(pixels)


def labelled(labels: np.ndarray) -> bytes:
    return npz(images=images(), labels=stored(labels))


def encrypted() -> bytes:
    content = bytearray(npz(images=images()))
    content[6] |= 1  # the flag, in the member's own header and in the list at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def compressed_otherwise(number: int) -> bytes:
    content = bytearray(npz(images=images()))
    content[8] = number
    content[content.index(b"PK\x01\x02") + 10] = number
    return bytes(content)


def lying_about_its_size(claimed: int) -> bytes:
    """A deflated member whose list entry and header claim far more than it has."""
    content = bytearray(
        npz(zipfile.ZIP_DEFLATED, images=npy(described(f"({claimed // 16}, 4, 4)"), bytes(64)))
    )
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", claimed)
    return bytes(content)


def idx(shape: tuple[int, ...], data: bytes, kind: int = 8, axes: int | None = None) -> bytes:
    axes = len(shape) if axes is None else axes
    return bytes([0, 0, kind, axes]) + struct.pack(f">{len(shape)}I", *shape) + data


def damaged(content: bytes, seed: int, changes: int = 8) -> bytes:
    """A file with some bytes changed, behind its first ones."""
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(changes):
        changed[rng.randrange(8, len(changed))] = rng.randrange(256)
    return bytes(changed)


def _zip_with_torch() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Bomb()))
    return file.getvalue()


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n("
    + os.fsencode(MARK)
    + b") (w) file closefile\nshowpage\n%%EOF\n"
)
HALF = {
    kind: picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA")
}
LZW = picture("TIFF", compression="tiff_lzw")

CONTENT: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\0",
    "zeros": bytes(4096),
    "text": b"not what you think\n",
    "page": b"<html><body>404 Not Found</body></html>",
    "noise": random.Random(0).randbytes(4096),
    "not text": b"\xff\xfe\xfa 1\n" * 8,
    "deep json": b"[" * 200_000,
    "long line": b"a" * 2**20,
    "pickle": pickle.dumps(_Bomb()),
    "archive with a pickle": _zip_with_torch(),
    "postscript": POSTSCRIPT,
    "pdf": b"%PDF-1.4\n%%EOF\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "gzip of zeros": gzip.compress(bytes(2**22)),
    "bzip2": bz2.compress(bytes(100)),
    "zip of nothing": npz(),
    "zip cut off": npz(images=images())[:-30],
    "png of 10^10 pixels": png(100_000, 100_000),
    "png of 2^62 pixels": png(2**31 - 1, 2**31 - 1),
    "png without a side": png(0, 5),
    "png of too few pixels": png(64, 64, data=bytes(100)),
    "png of 16 bits": png(1, 1, depth=16, colour=0, data=b"\0\1\2"),
    "png of a depth that there is not": png(4, 4, depth=7, data=bytes(100)),
    "png with text of 2^27": png(1, 1).replace(b"IDAT", b"zTXt", 1),  # its checksum is wrong, too
    "bmp of a minus": HALF["BMP"][:18] + struct.pack("<ii", -16, -16) + HALF["BMP"][26:],
    "bmp of 2^60 pixels": HALF["BMP"][:18] + struct.pack("<ii", 2**30, 2**30) + HALF["BMP"][26:],
    "ppm of 10^9 pixels": b"P6 100000 10000 255\n" + bytes(100),
    "pgm of words": b"P2\n4 4\n255\n1 2 three\n",
    "float tiff": picture("TIFF", "F"),
    "integer tiff": picture("TIFF", "I"),
    "float pfm": b"Pf\n2 2\n-1.0\n" + bytes(16),
    "npy": images(),
    "npy of objects": stored(np.array([{"a": _Bomb()}], dtype=object)),
    "npy of floats": stored(np.zeros((2, 4, 4, 3), np.float32)),
    "npy of nothing": stored(np.zeros((), np.uint8)),
    "npy without images": stored(np.zeros((0, 4, 4, 3), np.uint8)),
    "npy without a side": stored(np.zeros((3, 0, 4, 3), np.uint8)),
    "npy cut off": images()[:-10],
    "npy cut in its header": images()[:40],
    "npy of 10^12 bytes": npy(described("(1000000, 1000, 1000)"), bytes(100)),
    "npy of 2^80 bytes": npy(described("(1099511627776, 1048576, 1048576)"), bytes(100)),
    "npy of minus": npy(described("(-4, 4, 4)"), bytes(64)),
    "npy by columns": npy(described("(4, 4, 5)", order="True"), bytes(80)),
    "npy of a wide type": npy(described("(4, 4, 4)", "'|V9000000000'"), bytes(64)),
    "npy of a type within types": npy(described("(4, 4, 4)", "('|u1', (1000000000,))"), b"\0"),
    "npy with a deep header": npy("(" * 9000),
    "npy with code for a header": npy("__import__('os').abort()"),
    "npy with a large header": npy(" " * 60_000),
    "npy of version 9": npy(described("(4, 4, 5)"), bytes(80), b"\x09\x00"),
    "npy of truths": npy(described("(True, 4, 5)"), bytes(80)),
    "npz": npz(images=images()),
    "npz with other names": npz(data=images(), x=images()),
    "npz encrypted": encrypted(),
    "npz compressed by method 9": compressed_otherwise(9),
    "npz compressed by method 14": compressed_otherwise(14),
    "npz compressed by method 99": compressed_otherwise(99),
    "npz lying about its size": lying_about_its_size(2**31),
    "npz with a wrong checksum": npz(images=images()).replace(b"\x93NUMPY", b"\x93NUMPX"),
    "npz with a changed pixel": npz(images=images())[:200] + b"!!" + npz(images=images())[202:],
    "npz of text": npz(images=b"text"),
    "npz of a bomb": npz(images=images(), labels=stored(np.array([_Bomb()] * 4, dtype=object))),
    "labels of 2^40": labelled(np.array([0, 1, 2, 2**40])),
    "labels of 2^64 - 1": labelled(np.array([0, 1, 2, 2**64 - 1], np.uint64)),
    "labels below 0": labelled(np.array([0, 1, 2, -1])),
    "labels in words": labelled(np.array(["a", "b", "c", "d"])),
    "labels of fractions": labelled(np.array([0, 0.5, 1, 1])),
    "labels of nan": labelled(np.array([0, np.nan, 1, 1])),
    "labels of truths": labelled(np.array([True, False, True, True])),
    "labels too few": labelled(np.arange(3)),
    "labels in columns": labelled(np.arange(4)[:, None]),
    "labels of 10^12 bytes": npz(images=images(), labels=npy(described("(4,)", "'<i8'"))),
    "idx": idx((2, 4, 4), bytes(32)),
    "idx of floats": idx((2, 4, 4), bytes(128), kind=13),
    "idx of 2^96 bytes": idx((2**32 - 1,) * 3, bytes(32)),
    "idx of no images": idx((0, 28, 28), b""),
    "idx without a side": idx((5, 0, 28), b""),
    "idx with 255 axes": idx((1,) * 20, bytes(2), axes=255),
    "idx without axes": idx((), b"\7"),
    "idx of one axis": idx((5,), bytes(range(5))),
    "idx of labels above": idx((5,), b"\xff" * 5),
    "idx with more behind": idx((2, 4, 4), bytes(99)),
    "mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\xff\xff\xff\x7f",
    "table of nothing": b"000001.jpg\n\n  \n",
    "table of other places": b"../../../etc/passwd 0\n/etc/passwd 0\n\xff.jpg 0\n",
    **{f"half a {kind}": content[: len(content) // 2] for kind, content in HALF.items()},
    **{f"head of a {kind}": content[:12] for kind, content in HALF.items()},
    **{
        f"{kind} damaged {seed}": damaged(content, seed)
        for kind, content in HALF.items()
        for seed in range(2)
    },
    **{f"packed TIFF damaged {seed}": damaged(LZW, seed, 4) for seed in range(4)},
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    before = os.open(".", os.O_RDONLY)
    try:
        os.fchdir(here)  # a socket's whole path may have 108 bytes
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.fchdir(before)
        os.close(before)
        os.close(here)


def _unreadable(path: Path) -> None:
    path.write_bytes(picture("PNG"))
    path.chmod(0)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def deep_folders(path: Path) -> None:
    """Folders in folders, deeper than a path may be long."""
    before = os.open(".", os.O_RDONLY)
    path.mkdir()
    try:
        os.chdir(path)
        for _ in range(20):
            os.mkdir(DEEP)
            os.chdir(DEEP)
    finally:
        os.fchdir(before)
        os.close(before)


DEEP = "d" * 250


OTHER = {
    "pipe": _fifo,
    "link to a pipe": lambda path: (_fifo(path.with_name("a pipe")), path.symlink_to("a pipe")),
    "socket": _socket,
    "link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "link to a device of nothing": lambda path: path.symlink_to("/dev/null"),
    "link to the terminal": lambda path: path.symlink_to("/dev/tty"),
    "folder": lambda path: path.mkdir(),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to the folder": lambda path: path.symlink_to("."),
    "unreadable": _unreadable,
    "2^40 bytes of nothing": _sparse,
}

KINDS = {name: (lambda path, c=content: path.write_bytes(c)) for name, content in CONTENT.items()}
KINDS |= OTHER


def clear(path: Path) -> None:
    """Takes away whatever lies at a path."""
    path.with_name("a pipe").unlink(missing_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
