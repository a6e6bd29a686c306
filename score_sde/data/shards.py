"""Prepared images in tar shards: their layout on the disk, and training from them.

A folder that `--mode prepare` wrote holds

- `train-00000.tar`, `test-00000.tar`, …: shards in the layout of WebDataset. The image with the
  number 123 is `00000123.png` (of an array that is no picture `00000123.npy`), followed by
  `00000123.json` with its `label`. No name of the user's stands in them.
- `train-00000.json`, …: beside each shard its table, by columns: `number`, `item` (place in the
  source), `source` (its name there), `label`, `offset` and `bytes` (where the image's file lies in
  the shard); and the shard's own `sha256`.
- `index.json`: what was prepared and how, how many images each split has, the shards with their
  sizes and checksums, the classes, and what was left out and why.

Offsets make every image readable by itself, so the order of training is a function of (seed,
epoch) alone, as for any other source. Images of the wanted size pass unchanged: training sees the
stored pixels.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from score_sde.atomic import open_regular, read_json, regular_file, shown
from score_sde.data.arrays import read_array
from score_sde.data.fits import SizeError
from score_sde.data.folder import WORKERS_FROM_BYTES
from score_sde.data.numbers import check_alike, kept, stated, words
from score_sde.data.pixels import COLOURS, SAMPLE, check_channels, conform, dark
from score_sde.data.scaling import Range
from score_sde.data.sources import MemorySource, Request, StreamingSource

INDEX = "index.json"
FORMAT = "score_sde shards 1"
_OF_A_WHOLE = {"kind", "size", "policy", "splits", "classes", "range", "dtype"}
AGAIN = "give the command of --mode prepare again, which goes on with what is there"


def shard_name(split: str, number: int) -> str:
    """`train-00003.tar`."""
    return f"{split}-{number:05d}.tar"


def read_index(root: Path) -> dict[str, Any]:
    """What `index.json` of a folder says.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or none of ours.
    """
    path = root / INDEX
    try:
        index = read_json(path)
    except OSError as error:
        raise FileNotFoundError(
            f"no prepared images at {shown(root.absolute())} ({INDEX}: {error.strerror}): write "
            "them with --mode prepare --output, or set data.root to that folder"
        ) from error
    known = isinstance(index, dict) and index.get("format") == FORMAT
    if not known or (index.get("complete") and not index.keys() >= _OF_A_WHOLE):
        raise ValueError(f"{shown(path)} is no index of shards: write it anew by --mode prepare")
    return index


def read_table(path: Path) -> dict[str, Any]:
    """The table beside a shard, whose path is given.

    Raises:
        OSError, ValueError: it is not there or damaged.
    """
    table = read_json(path.with_suffix(".json"))
    if not (isinstance(table, dict) and _is_table(table)):
        raise ValueError(f"{shown(path.with_suffix('.json'))} is damaged: {AGAIN}")
    return table


def _is_table(table: dict[str, Any]) -> bool:
    numbers = [table.get(name) for name in ("number", "item", "label", "offset", "bytes")]
    count = len(table["source"]) if isinstance(table.get("source"), list) else -1
    return isinstance(table.get("sha256"), str) and all(
        isinstance(column, list)
        and len(column) == count
        and all(type(value) is int and -1 <= value < 2**62 for value in column)
        for column in numbers
    )


@dataclass(frozen=True)
class ShardDecoder:
    """Index → image of a split's shards.

    Attributes:
        root: their folder.
        shards: their names.
        place: int64 (N, 3), for each image its shard, offset and bytes.
        image_size: (H, W) of the images.
        num_channels: to give: 1, 3 or 4; of arrays those that they have.
        arrays: whether they are arrays and no pictures.
    """

    root: Path
    shards: tuple[str, ...]
    place: np.ndarray
    image_size: tuple[int, int]
    num_channels: int
    arrays: bool = False

    def __call__(self, index: int) -> Tensor:
        """Decodes image `index`: (C, H, W), uint8, or float32 of arrays of other types.

        Raises:
            ValueError: naming the shard, where the image is damaged or of another size.
        """
        shard, offset, length = self.place[index].tolist()
        path = self.root / self.shards[shard]
        try:
            with open_regular(path) as file:
                file.seek(offset)
                content = file.read(length)
            if self.arrays:
                return kept(read_array(io.BytesIO(content), length, self._check_array)[None])[0]
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if (image.height, image.width) != self.image_size:
                    raise ValueError(f"it has {image.height}x{image.width} pixels")
                return conform(image, self.image_size, self.num_channels)
        except Exception as error:  # Pillow raises all kinds for what is damaged
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"image {index} of {shown(path)} cannot be decoded ({reason}): {AGAIN}"
            ) from error

    def _check_array(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if shape != (*self.image_size, self.num_channels) or dtype.kind not in "uif":
            raise ValueError(f"it holds {dtype} of shape {str(shape)[:100]}")


def open_shards(request: Request) -> MemorySource | StreamingSource:
    """Opens a split of what `--mode prepare` wrote into `request.root`.

    Raises:
        FileNotFoundError: there is nothing of that kind, or a shard is missing.
        ValueError: the images have another size, arrays another number of channels, or they are
            not whole.
    """
    root = request.root
    index = read_index(root)
    found, how = _check(request, root, index)
    names, tables = [], []
    for shard in index["splits"][request.split]["shards"]:
        path = root / shard["name"]
        if regular_file(path).st_size != shard["bytes"]:
            raise ValueError(
                f"{shown(path)} has {path.stat().st_size:,} bytes, and {INDEX} says "
                f"{shard['bytes']:,}: {AGAIN}"
            )
        table = read_table(path)
        if table["sha256"] != shard["sha256"]:
            raise ValueError(f"{shown(path)} is of another preparation than {INDEX}: {AGAIN}")
        names.append(path.name)
        tables.append(table)
    places = [
        (number, offset, length)
        for number, table in enumerate(tables)
        for offset, length in zip(table["offset"], table["bytes"], strict=True)
    ]
    if not places and request.split == "train":
        raise ValueError(f"{shown(root)} holds no images to train on: prepare more than one")
    place = np.array(places, np.int64).reshape(-1, 3)
    arrays = index["kind"] != "pictures"
    decoder = ShardDecoder(
        root, tuple(names), place, request.image_size, request.num_channels, arrays
    )
    classes = tuple(index["classes"])
    labels = [label for table in tables for label in table["label"]] if classes else None
    sample = [] if found or request.split != "train" else _some(len(places))
    info = request.info(
        len(places),
        f"{index['policy']}, {how}",
        class_names=classes,
        content=[table["sha256"] for table in tables],
        notes=dark([decoder(k) for k in sample]),
        range=found,
    )
    numbers = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    if len(places) * math.prod(info.shape) * info.dtype.itemsize > request.memory_limit_bytes:
        return StreamingSource(info, decoder, numbers)
    few = int(place[:, 2].sum()) < WORKERS_FROM_BYTES
    return StreamingSource(info, decoder, numbers, num_workers=0 if few else None).decoded()


def _some(count: int) -> range:
    """Which images are looked at."""
    return range(0, count, -(-count // SAMPLE) or 1)


def _check(request: Request, root: Path, index: dict[str, Any]) -> tuple[Range, str]:
    """Refuses what is not whole, or not what was asked for.

    Returns:
        The range, of arrays of other types than uint8; and what images are in words.
    """
    if not index.get("complete"):
        raise ValueError(f"{shown(root)} is not prepared to its end: {AGAIN}")
    height, width = index["size"]
    if (height, width) != request.image_size:
        wanted = "x".join(map(str, request.image_size))
        fields = f"data.image_size={height}" + (
            f" and data.image_width={width}" if width != height else ""
        )
        raise ValueError(
            f"{shown(root)} holds images of {height}x{width}, and {wanted} are asked for: set "
            f"{fields}, or prepare them again with --size {wanted}"
        )
    if index["kind"] == "pictures":
        check_channels(request.num_channels)
        return (), COLOURS[request.num_channels]
    dtype, channels = str(index["dtype"]), index.get("channels", 0)
    try:
        check_alike((height, width, channels), request.shape)
    except SizeError as error:
        raise ValueError(f"each array in {shown(root)} {error}") from error
    low, high = index["range"]
    found = () if dtype == "uint8" else stated(request, (low, high), shown(root))
    return found, words(dtype, found, channels)
