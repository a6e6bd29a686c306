"""Results by sample, computed in parts: kept through a kill, shared between processes.

A shard is one `.npz` file of arrays whose first axis counts samples. Its folder is named after
everything that the numbers depend on, so that shards of another checkpoint, config or data set are
never mixed in.
"""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import parallel
from logbook import Logbook
from run_lib.files import write_whole

Arrays = dict[str, np.ndarray]

FORMAT = 2
"""To be raised when code changes the numbers: shards of an earlier one are then not taken."""

_INDEX, _SEC = "index", "sec"


@dataclass(frozen=True)
class Results:
    """Arrays over all samples, and how long they took.

    Attributes:
        arrays: by name, (N, ...), or the first rows of them.
        sec: time of computation, of all processes together and over all interruptions.
    """

    arrays: Arrays
    sec: float

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


@dataclass(frozen=True)
class Shards:
    """Where shards lie and who computes which.

    Attributes:
        folder: of all shards.
        facts: what every number depends on: weights, data, seed, options.
        world: the processes that share the work.
        log: told of the progress.
    """

    folder: Path
    facts: Mapping[str, Any]
    world: parallel.World
    log: Logbook

    def results(
        self,
        name: str,
        index: Tensor,
        size: int,
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        *,
        first: Mapping[str, int] | None = None,
        **facts: Any,
    ) -> Results:
        """What `compute` gives for all samples, from shards where they are there.

        Every process must call it, and gets everything.

        Args:
            name: of the figure.
            index: int64 (N,) the samples.
            size: samples in a shard; the same for any number of processes.
            compute: int64 (n,) some of `index` → arrays (n, ...).
            first: arrays of which only so many rows are wanted: images fill the memory.
            **facts: what else the numbers depend on.

        Raises:
            OSError: a shard that cannot be written.
        """
        home = self.folder / f"{name}_{_fingerprint({**self.facts, **facts, 'size': size})}"
        parts = [
            _Part(home / _name(k * size, part), part) for k, part in enumerate(index.split(size))
        ]
        mine = parts[self.world.rank :: self.world.size]
        to_do = [part for part in mine if not part.is_there()]
        ahead = sum(len(part.index) for part in mine)
        done = ahead - sum(len(part.index) for part in to_do)
        with self.log.progress(ahead, done, unit="image") as bar:
            for part in to_do:
                start = time.monotonic()
                found = compute(part.index)
                arrays = {key: value.cpu().numpy() for key, value in found.items()}
                part.write(arrays, time.monotonic() - start)
                bar.update(len(part.index))
        parallel.barrier()
        return _joined(parts, dict(first or {}), home)


@dataclass(frozen=True)
class _Part:
    """A shard: its file, and the samples that belong into it."""

    path: Path
    index: Tensor

    def write(self, arrays: Arrays, sec: float) -> None:
        whole = {_INDEX: self.index.numpy(), _SEC: np.float64(sec), **arrays}
        write_whole(self.path, partial(np.savez, **whole), "--eval_folder")

    def is_there(self) -> bool:
        """Whether it is whole and of these samples; nothing is kept in memory."""
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.testzip() is None and self.read(()) is not None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return False

    def read(self, names: Sequence[str] | None = None) -> Arrays | None:
        """Its arrays, or those of some names; None where it is missing, damaged or of others."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if not np.array_equal(file[_INDEX], self.index.numpy()):
                    return None
                return {key: file[key] for key in (file.files if names is None else names)}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None


def _joined(parts: Sequence[_Part], wanted: dict[str, int], home: Path) -> Results:
    collected: dict[str, list[np.ndarray]] = {}
    sec, names = 0.0, None
    for part in parts:
        arrays = part.read(names)
        if arrays is None:
            raise OSError(
                f"{home} lacks shards that were just written: does every process see it?"
            )
        sec += float(arrays.pop(_SEC))
        arrays.pop(_INDEX, None)
        for key, value in arrays.items():
            rows = value[: wanted[key]] if key in wanted else value
            wanted |= {key: wanted[key] - len(rows)} if key in wanted else {}
            collected.setdefault(key, []).append(rows)
        names = [_SEC, *(key for key in collected if wanted.get(key, 1))]
    return Results({key: np.concatenate(values) for key, values in collected.items()}, sec)


def _name(start: int, index: Tensor) -> str:
    """Another name for another number of samples: a shorter evaluation takes nothing away."""
    return f"{start:06d}_{len(index)}.npz"


def _fingerprint(facts: Mapping[str, Any]) -> str:
    text = json.dumps({**facts, "format": FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
