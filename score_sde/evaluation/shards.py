"""Results by sample, computed in parts: kept through a kill, shared between processes.

A shard is one `.npz` file of arrays whose first axis counts samples. Its folder is named after
everything that the numbers depend on, so that shards of another checkpoint, config or data set are
never mixed in.
"""

import hashlib
import json
import math
import time
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from score_sde import parallel
from score_sde.atomic import write_whole
from score_sde.logbook import Logbook

Arrays = dict[str, np.ndarray]

FORMAT = 3
"""To be raised when code changes the numbers: shards of an earlier one are then not taken."""

SHARDS, SHARD_BATCHES = 32, 4
"""How many shards a figure should have, to be resumed and shared, and the most batches in one.
In more than one batch the slot that a finished image leaves is filled with the next."""

_INDEX, _SEC, _NAMES = "index", "sec", "names"
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile)
"""What reading a damaged archive ends in."""


@dataclass(frozen=True)
class Shards:
    """Where shards lie and who computes which.

    Attributes:
        folder: of all shards.
        facts: what every number depends on: weights, data, seed, options.
        world: the processes that share the work.
        log: shows the progress.
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
        needed: Collection[str] = (),
        **facts: Any,
    ) -> dict[str, Any]:
        """What `compute` gives for all samples, read from shards where these exist.

        Every process must call it, and gets everything.

        Args:
            name: of the figure.
            index: int64 (N,) the samples.
            size: samples in a shard; the same for any number of processes.
            compute: int64 (n,) some of `index` → arrays, of (n, ...) or fewer rows.
            needed: names of arrays that a shard must have. One that lacks an array, since it was
                written before the array was asked for, is computed again.
            **facts: what else the numbers depend on.

        Returns:
            By name, the rows of all shards in order; and `sec`, the time of computation of all
            processes together and over all interruptions.

        Raises:
            OSError: a shard that cannot be written.
        """
        home = self.folder / f"{name}_{_digest({**self.facts, **facts, 'size': size})}"
        parts = [
            _Part(home / _name(k * size, part), part, frozenset(needed))
            for k, part in enumerate(index.split(size))
        ]
        mine = parts[self.world.rank :: self.world.size]
        to_do = [part for part in mine if not part.is_whole()]
        ahead = sum(len(part.index) for part in mine)
        done = ahead - sum(len(part.index) for part in to_do)
        with self.log.progress(ahead, done, unit="image") as bar:
            for part in to_do:
                start = time.monotonic()
                results = compute(part.index)
                arrays = {key: value.cpu().numpy() for key, value in results.items()}
                part.write(arrays, time.monotonic() - start)
                bar.update(len(part.index))
        parallel.barrier()
        return _joined(parts, home)


def shard_size(count: int, batch_size: int) -> int:
    """Samples in a shard: whole batches, the same for any number of processes."""
    return batch_size * max(1, min(SHARD_BATCHES, math.ceil(count / (SHARDS * batch_size))))


@dataclass(frozen=True)
class _Part:
    """A shard: its file, the samples that belong into it, and arrays that it must have."""

    path: Path
    index: Tensor
    needed: frozenset[str]

    def write(self, arrays: Arrays, sec: float) -> None:
        names = np.array(sorted(arrays))
        whole = {_INDEX: self.index.numpy(), _SEC: np.float64(sec), _NAMES: names, **arrays}
        write_whole(self.path, partial(np.savez, **whole), "--eval_folder")

    def is_whole(self) -> bool:
        """Whether it is undamaged, complete and of these samples; nothing is kept in memory."""
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.testzip() is None and self.read() is not None
        except _DAMAGED:
            return False

    def read(self) -> tuple[Arrays, float] | None:
        """Its arrays and seconds; None where it is missing, damaged, incomplete or of others."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                names = file[_NAMES].tolist()
                if not np.array_equal(file[_INDEX], self.index.numpy()):
                    return None
                if not self.needed <= set(names):
                    return None
                return {key: file[key] for key in names}, float(file[_SEC])
        except _DAMAGED:
            return None


def _joined(parts: Sequence[_Part], home: Path) -> dict[str, Any]:
    read = [content for part in parts if (content := part.read())]
    if len(read) < len(parts):
        raise OSError(f"{home} lacks shards that were just written: does every process see it?")
    # Some may have arrays that an earlier evaluation asked for and this one does not.
    common = set.intersection(*(set(arrays) for arrays, _ in read))
    arrays = {key: np.concatenate([arrays[key] for arrays, _ in read]) for key in sorted(common)}
    return {**arrays, "sec": sum(sec for _, sec in read)}


def _name(start: int, index: Tensor) -> str:
    """The first sample's place and the number of samples.

    The last shard of an evaluation may be shorter than the same shard of one with more samples:
    both are kept.
    """
    return f"{start:06d}_{len(index)}.npz"


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps({**facts, "format": FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
