"""Shards on the disk: each appears whole under its name, then its table beside it.

An image's place follows from its number alone: the k-th image of a split lies in the shard
k // (images in a shard). So a second run finds which shards are there, by their tables and
checksums, and makes only the others. Headers hold no time and no owner: the same images give the
same bytes.
"""

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from score_sde.atomic import cannot_write, claimed, open_regular, shown, sweep, write_whole
from score_sde.data.prepare.listing import Item
from score_sde.data.prepare.pictures import Made
from score_sde.data.shards import FORMAT, INDEX, read_index, read_table, shard_name

LOCK = ".lock"
"""A file that a folder holds while images are prepared into it."""
BLOCK_BYTES = 512
"""Of tar."""


@dataclass
class _Open:
    """A shard that is being filled: its columns, and the files to put into it."""

    files: list[tuple[str, bytes]] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: [] for name in ("number", "item", "source", "label", "offset", "bytes")
        }
    )
    low: float = float("inf")
    high: float = float("-inf")
    enlarged: int = 0
    place: int = 0


class SplitWriter:
    """Writes the shards of a split.

    Args:
        root: the folder.
        split: `train` or `test`.
        images_per_shard: in all but the last.
        kept: tables of shards that are there already, by their names.
        plan: digest of all that decides what shards hold.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        images_per_shard: int,
        kept: dict[str, dict[str, Any]],
        plan: str,
    ) -> None:
        self.root, self.split, self._per_shard = root, split, images_per_shard
        self._kept, self._plan = kept, plan
        self._count = 0
        self._open = _Open()
        self.tables: list[tuple[str, dict[str, Any]]] = []

    def add(self, number: int, position: int, item: Item, made: Made | None) -> None:
        """Takes the next image of the split; None for one that lies in a shard already.

        Raises:
            ValueError: the shards that are there hold other images at that place.
            OSError: a shard can't be written.
        """
        name = shard_name(self.split, self._count // self._per_shard)
        row = self._count % self._per_shard
        self._count += 1
        if name in self._kept:
            table = self._kept[name]
            if (number, position) not in zip(
                table["number"][row : row + 1], table["item"][row : row + 1], strict=True
            ):
                raise self._changed()
            if row == 0:
                self.tables.append((name, table))
            return
        if made is None:
            raise self._changed()
        self._put(number, position, item, made)
        if row + 1 == self._per_shard:
            self._close(name)

    def _changed(self) -> ValueError:
        return ValueError(
            f"files that could not be read when {shown(self.root)} was begun can be read now, or "
            "the other way round: delete it, or choose another --output"
        )

    def _put(self, number: int, position: int, item: Item, made: Made) -> None:
        now, key = self._open, f"{number:08d}"
        ending = "png" if made.content.startswith(b"\x89PNG") else "npy"
        label = json.dumps({"label": item.label if item.label >= 0 else None}).encode()
        values = (number, position, item.name, item.label, now.place + BLOCK_BYTES)
        for name, value in zip(now.columns, (*values, len(made.content)), strict=True):
            now.columns[name].append(value)
        for name, content in ((f"{key}.{ending}", made.content), (f"{key}.json", label)):
            now.files.append((name, content))
            now.place += BLOCK_BYTES * (1 - -len(content) // BLOCK_BYTES)
        now.low, now.high = min(now.low, made.low), max(now.high, made.high)
        now.enlarged += made.enlarged

    def finish(self) -> None:
        """Writes the last shard."""
        if self._open.files:
            self._close(shard_name(self.split, (self._count - 1) // self._per_shard))

    def _close(self, name: str) -> None:
        path, done = self.root / name, self._open
        write_whole(path, lambda file: _fill(file, done.files), "--output")
        table = {
            "plan": self._plan,
            "sha256": checksum(path),
            "size": path.stat().st_size,
            "enlarged": done.enlarged,
            "range": [done.low, done.high],
            **done.columns,
        }
        write_json(path.with_suffix(".json"), table)
        self.tables.append((name, table))
        self._open = _Open()


def _fill(file: BinaryIO, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            header = tarfile.TarInfo(name)  # whose time, owner and group are 0
            header.size, header.mode = len(content), 0o644
            archive.addfile(header, io.BytesIO(content))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, in ASCII, as names may be of no encoding."""
    text = json.dumps(content, separators=(",", ":")) + "\n"
    write_whole(path, lambda file: file.write(text.encode()), "--output")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Within this no other process prepares images into a folder; it is made where missing.

    Raises:
        ValueError: it is a file.
        OSError: another process does, or it can't be written to.
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"{shown(root)} is a file: choose a folder as --output")
    with contextlib.ExitStack() as held:
        try:
            mine = held.enter_context(claimed(root / LOCK))
        except OSError as error:
            raise cannot_write(root, error, "--output") from error
        if not mine:
            raise OSError(
                f"another process is preparing images in {shown(root)}: wait until it is done, or "
                "choose another --output"
            )
        yield


def begin(root: Path, plan: str) -> dict[str, dict[str, Any]]:
    """Makes a folder ready.

    Args:
        root: the folder, within `alone_in`.
        plan: digest of all that decides what shards hold.

    Returns:
        The tables of the shards that an earlier run wrote by the same plan, by their names.

    Raises:
        ValueError: it holds anything else.
        OSError: it can't be written to.
    """
    sweep(root)
    if all(path.name == LOCK for path in root.iterdir()):
        write_json(root / INDEX, {"format": FORMAT, "complete": False, "plan": plan})
        return {}
    try:
        index = read_index(root)
    except FileNotFoundError as error:
        raise ValueError(
            f"{shown(root)} holds other files: choose an empty folder, or a new one, as --output"
        ) from error
    if index.get("plan") != plan:
        raise ValueError(
            f"{shown(root)} holds images of another source, or prepared in another way, or the "
            "source has changed since: choose another --output, or delete it"
        )
    kept = {}
    for path in sorted(root.glob("*.tar")):
        try:
            table = read_table(path)
            if table.get("plan") == plan and table["sha256"] == checksum(path):
                kept[path.name] = table
        except (OSError, ValueError):  # written anew
            continue
    return kept
