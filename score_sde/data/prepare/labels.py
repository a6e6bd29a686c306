"""Classes of images, from one file.

| file | content |
|---|---|
| `dataset.json` | `{"labels": [[path, class], …]}`, as StyleGAN's dataset tools write it |
| `labels.csv`, `dataset.csv`, `metadata.csv` | a line for each image: path, class |
| `NAME-rXX.labels` | an array file for TFRecords: classes (N,), or one-hot rows (N, K) |

It lies in the folder of the images or above them, and paths start from its own folder. Classes
that are whole numbers from 0 up are taken as they are; others are names, and numbered in their
order. Lines for what is no image of the corpus, such as a heading, are passed over.
"""

import csv
import io
import json
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from score_sde.atomic import open_regular, shown
from score_sde.data.arrays import MOST_CLASSES, read_array

NAMES = ("dataset.json", "labels.csv", "dataset.csv", "metadata.csv")
ENOUGH = 20
"""Images from which on names that are nearly all different are no classes."""


def find(folder: str, files: Collection[str]) -> str | None:
    """The file of labels in a folder or above it, by its path; None where there is none.

    Args:
        folder: of the images, with a slash at its end, or empty.
        files: the paths of all files.
    """
    parts = PurePosixPath(folder).parts
    for depth in range(len(parts), -1, -1):
        for name in NAMES:
            path = "/".join([*parts[:depth], name])
            if path in files:
                return path
    return None


def read(
    path: Path, content: bytes, folder: str, names: list[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Classes of images by a file's content.

    Args:
        path: of the file, for messages.
        content: what is in it.
        folder: where it lies, as the images' names have it; `.` for the top.
        names: of the images.

    Returns:
        The class of each image, and the names of the classes; no names where the file states no
        labels.

    Raises:
        ValueError: it cannot be read, or lacks the class of an image.
    """
    try:
        text = content.decode("utf-8-sig")
        pairs = _of_json(text) if path.suffix == ".json" else _of_csv(text)
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{shown(path)} cannot be read as labels ({reason}): write the path and the class of "
            "each image, or give it another name"
        ) from error
    if pairs is None:
        return [-1] * len(names), ()
    above = "" if folder == "." else f"{folder}/"
    classes = {above + _tidy(name): value for name, value in pairs}
    classes |= {above + name: value for name, value in pairs if "\\" in name}
    missing = [name for name in names if name not in classes]
    if missing:
        raise ValueError(
            f"{shown(path)} has no class for {len(missing):,} of {len(names):,} images, first "
            f"{shown(missing[0])}: add them, with paths from the folder of that file"
        )
    return _numbered(path, [classes[name] for name in names])


def _tidy(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _of_json(text: str) -> list[tuple[str, int | str]] | None:
    pairs = json.loads(text)["labels"]
    if pairs is None:
        return None
    for name, value in pairs:
        if not (isinstance(name, str) and type(value) in (int, str)):
            raise ValueError(f"{[name, value]!r:.60} is no path with one class")
    return [(name, value) for name, value in pairs]


def _of_csv(text: str) -> list[tuple[str, int | str]]:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        raise ValueError(f"{short!r:.60} has no class")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def _numbered(path: Path, values: list[Any]) -> tuple[list[int], tuple[str, ...]]:
    if all(isinstance(value, int) or value.isdecimal() for value in values):
        return _counted(path, [int(value) for value in values])
    names = sorted({str(value) for value in values})
    if len(values) >= ENOUGH and 2 * len(names) > len(values):
        raise ValueError(
            f"{shown(path)} names {len(names):,} classes for {len(values):,} images, as captions "
            "would: give it columns of path and class, or take it away"
        )
    number = {name: place for place, name in enumerate(names)}
    return [number[str(value)] for value in values], tuple(names)


def _counted(path: Path, numbers: list[int]) -> tuple[list[int], tuple[str, ...]]:
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= MOST_CLASSES:
        raise ValueError(
            f"classes in {shown(path)} go from {low} to {high}: count them from 0 to below "
            f"{MOST_CLASSES:,}"
        )
    return numbers, tuple(str(number) for number in range(high + 1))


def of_array(path: Path, count: int) -> tuple[list[int], tuple[str, ...]]:
    """Classes of `count` images, in their order, from an array file; no names where it has none.

    Raises:
        ValueError: it cannot be read, or does not hold so many classes or one-hot rows.
    """

    def check(shape: tuple[int, ...], dtype: np.dtype) -> None:
        if len(shape) not in (1, 2) or shape[0] != count or dtype.kind not in "iuf":
            raise ValueError(f"it holds {dtype} of shape {shape} for {count:,} images")

    try:
        with open_regular(path) as file:
            stored = read_array(file, os.fstat(file.fileno()).st_size, check)
        if stored.ndim == 2 and stored.shape[1] == 0:
            return [-1] * count, ()
        if stored.ndim == 2:
            if not ((stored == stored.max(1, keepdims=True)).sum(1) == 1).all():
                raise ValueError("its rows are not one-hot")
            return stored.argmax(1).tolist(), tuple(map(str, range(stored.shape[1])))
        if (stored != np.floor(stored)).any():
            raise ValueError("its classes are no whole numbers")
    except Exception as error:  # NumPy raises all kinds for what others wrote
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{shown(path)} cannot be read as labels ({reason}): give an .npy file of classes "
            "(N,) or one-hot rows (N, K), or take it away"
        ) from error
    return _counted(path, stored.astype(np.int64).tolist())
