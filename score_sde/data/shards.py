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
from score_sde.data.folder import SAMPLE, WORKERS_FROM_BYTES, dark
from score_sde.data.pixels import COLOURS, conform
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
        num_channels: to give: 1, 3 or 4.
    """

    root: Path
    shards: tuple[str, ...]
    place: np.ndarray
    image_size: tuple[int, int]
    num_channels: int

    def __call__(self, index: int) -> Tensor:
        """Decodes image `index` to uint8 (C, H, W).

        Raises:
            ValueError: naming the shard, where the image is damaged or of another size.
        """
        shard, offset, length = self.place[index].tolist()
        path = self.root / self.shards[shard]
        try:
            with open_regular(path) as file:
                file.seek(offset)
                content = file.read(length)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if (image.height, image.width) != self.image_size:
                    raise ValueError(f"it has {image.height}x{image.width} pixels")
                return conform(image, self.image_size, self.num_channels)
        except Exception as error:  # Pillow raises all kinds for what is damaged
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"image {index} of {shown(path)} cannot be decoded ({reason}): {AGAIN}"
            ) from error


def open_shards(request: Request) -> MemorySource | StreamingSource:
    """Opens a split of what `--mode prepare` wrote into `request.root`.

    Raises:
        FileNotFoundError: there is nothing of that kind, or a shard is missing.
        ValueError: the images have another size, are no pictures, or not whole.
    """
    root = request.root
    index = read_index(root)
    _check(request, root, index)
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
    decoder = ShardDecoder(root, tuple(names), place, request.image_size, request.num_channels)
    classes = tuple(index["classes"])
    labels = [label for table in tables for label in table["label"]] if classes else None
    sample = range(0, len(places), -(-len(places) // SAMPLE) or 1)
    info = request.info(
        len(places),
        f"{index['policy']}, {COLOURS[request.num_channels]}",
        class_names=classes,
        content=[table["sha256"] for table in tables],
        notes=dark([decoder(k) for k in sample]) if request.split == "train" else (),
    )
    numbers = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    if len(places) * math.prod(info.shape) > request.memory_limit_bytes:
        return StreamingSource(info, decoder, numbers)
    few = int(place[:, 2].sum()) < WORKERS_FROM_BYTES
    return StreamingSource(info, decoder, numbers, num_workers=0 if few else None).decoded()


def _check(request: Request, root: Path, index: dict[str, Any]) -> None:
    """Refuses what is not whole, or not what was asked for."""
    if not index.get("complete"):
        raise ValueError(f"{shown(root)} is not prepared to its end: {AGAIN}")
    if index["kind"] != "pictures":
        low, high = index["range"]
        raise ValueError(
            f"{shown(root)} holds arrays of {index['channels']} channels of {index['dtype']} from "
            f"{low:g} to {high:g}, and training takes pictures (8 bits; 1 or 3 channels): prepare "
            "such, or read the .npy files of the shards in a data set of your own"
        )
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
