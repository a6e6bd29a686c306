"""Array files, read no further than their headers can be believed; those of images whole.

A header is a claim: it is compared with what the file has and what the memory can take, before
anything is read. Nothing in a file is executed: Python objects are refused.
"""

import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from score_sde.atomic import open_regular, shown
from score_sde.data.memory import refuse_beyond_memory

ARRAY_EXTENSIONS = frozenset({".npy", ".npz"})
MOST_CLASSES = 2**20
"""Labels are numbers of classes: a larger one is some other number."""

DEFLATE_RATIO = 1032
"""No byte that deflate (of gzip and zip) writes stands for more than so many."""

Check = Callable[[tuple[int, ...], np.dtype], None]
"""Shape and type that a header claims; raises ValueError for what is not wanted."""


def read_images(path: Path) -> tuple[np.ndarray, Tensor | None]:
    """Images (N, H, W[, C]) and labels int64 (N,) or None, of a `.npy` or `.npz` file.

    Images are integers or floats of any type; those of uint8 with 1, 3 or 4 channels are pictures.

    Raises:
        ValueError: no such file, damaged, or with arrays that can't be images or labels.
        OSError: nothing is there, or it cannot be reached.
    """
    if path.suffix.lower() not in ARRAY_EXTENSIONS:
        raise ValueError(
            f"{shown(path)} is neither a folder nor a .npy or .npz file: set data.root to one of "
            "these"
        )
    with open_regular(path) as file:
        try:
            arrays = _arrays(file, path)
        except _RefusedError:
            raise
        except Exception as error:  # NumPy and zipfile raise all kinds for what others wrote
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{shown(path)} cannot be read ({reason[:300]}): write it again with numpy.savez"
            ) from error
    images, labels = arrays["images"], arrays.get("labels")
    return images, None if labels is None else _numbers(path, labels)


class _RefusedError(ValueError):
    """What a file holds is read well and of no use; the sentence is complete."""


def _arrays(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    if file.read(2) != b"PK":
        file.seek(0)
        return {"images": read_array(file, size, lambda *claim: _check_images(path, *claim))}
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "images" not in members:
            named = ", ".join(map(repr, sorted(members)[:5])) or "nothing"
            raise _RefusedError(
                f"{shown(path)} holds {named[:300]}: name the array of images 'images'"
            )
        count = 0

        def check_labels(shape: tuple[int, ...], dtype: np.dtype) -> None:
            if dtype.kind not in "iu" or shape != (count,):
                raise _bad_labels(path, f"are {dtype} of shape {shape}", count)

        checks = {"images": lambda *claim: _check_images(path, *claim), "labels": check_labels}
        for name, check in checks.items():
            if name in members:
                arrays[name] = read_member(archive, members[name], check)
                count = len(arrays["images"])
    return arrays


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, check: Check) -> np.ndarray:
    """One array of an `.npz`, if `check` takes what its header claims.

    Raises:
        ValueError: from `check`; or its claim can't be true, or exceeds the memory.
        Exception: of many types, where it is damaged.
    """
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        refuse_beyond_deflate(info.file_size, info.compress_size)
    with archive.open(info) as member:
        array = read_array(member, info.file_size, check)  # pyright: ignore[reportArgumentType]
        member.read(1)  # at its end the checksum is compared
    return array


def refuse_beyond_deflate(claimed: int, stored: int) -> None:
    """Refuses a length that no compressed bytes of a length can stand for.

    Raises:
        ValueError: the claim can't be true.
    """
    if claimed > DEFLATE_RATIO * stored + 1024:
        raise ValueError(f"it claims {claimed:,} bytes, which {stored:,} compressed ones can't be")


def read_array(file: BinaryIO, size: int, check: Check) -> np.ndarray:
    """The array of an `.npy` file, if `check` takes what its header claims.

    Args:
        file: at its beginning.
        size: bytes that are there.
        check: is given shape and type.

    Raises:
        ValueError: from `check`; or its claim can't be true, or exceeds the memory.
        Exception: of many types, where it is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
    check(shape, dtype)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, not numbers")
    needed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > there:
        raise ValueError(f"its header claims {needed:,} bytes and it holds {there:,}")
    refuse_beyond_memory(f"an array of {needed:,} bytes", needed)
    array = np.empty(math.prod(shape), dtype)
    view, filled = array.view(np.uint8), 0
    while filled < needed:
        part = file.read(min(2**24, needed - filled))
        if not part:
            raise ValueError(f"it ends after {filled:,} of {needed:,} bytes")
        view[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind not in "uif" or len(shape) not in (3, 4):
        raise _RefusedError(
            f"{shown(path)} holds images of shape {str(shape)[:100]} and type {str(dtype)[:100]}: "
            "give numbers (N, H, W, C): pictures as uint8 with 1, 3 or 4 channels, or others"
        )
    if len(shape) == 3 and shape[2] in (3, 4):
        raise _RefusedError(
            f"{shown(path)} holds an array of shape {shape}, like one colour image: "
            "store images[None], or images[..., None] if these are grey"
        )
    if min(shape) < 1:
        raise _RefusedError(
            f"{shown(path)} holds images of shape {shape}, which is no image: "
            "write at least one into it, of at least one pixel"
        )


def _numbers(path: Path, labels: np.ndarray) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:
        raise _bad_labels(path, f"go from {low} to {high}", len(labels))
    return torch.from_numpy(labels.astype(np.int64))


def _bad_labels(path: Path, words: str, count: int) -> ValueError:
    return _RefusedError(
        f"labels in {shown(path)} {words}: give integers from 0 to below {MOST_CLASSES:,}, "
        f"one for each of its {count} images"
    )
