"""Results by sample, computed in parts: kept through a kill, shared between processes.

A shard is one `.npz` file of arrays whose first axis counts samples. Its folder is named after
everything that the numbers depend on, so that shards of another checkpoint, config or data set are
never mixed in.
"""

import hashlib
import json
import math
import secrets
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from score_sde import parallel
from score_sde.atomic import open_regular, write_whole
from score_sde.data.arrays import read_member
from score_sde.logbook import Logbook
from score_sde.solvers.ode import Status

FORMAT = 3
"""To be raised when code changes the numbers: shards of an earlier one are then not taken."""

SHARDS, SHARD_BATCHES = 32, 4
"""How many shards a figure should have, to be resumed and shared, and the most batches in one.
In more than one batch the slot that a finished image leaves is filled with the next."""


@dataclass(frozen=True)
class Shards:
    """Where shards lie and who computes which.

    Attributes:
        folder: of all shards.
        facts: what every number depends on: weights, data, seed, options.
        world: the processes that share the work.
        log: shows the progress, and says which shards are computed again.
        bars: whether each result has a progress bar of its own.
        option: that names another folder, for the message where this one can't be written to.
    """

    folder: Path
    facts: Mapping[str, Any]
    world: parallel.World
    log: Logbook
    bars: bool = True
    option: str = "--eval_folder"

    def results(
        self,
        name: str,
        index: Tensor,
        batch: int,
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        types: Mapping[str, Any],
        first: Mapping[str, int] = MappingProxyType({}),
        **facts: Any,
    ) -> dict[str, Any]:
        """What `compute` gives for all samples, read from shards where these exist.

        A shard that is damaged, or whose arrays have other types or shapes or are not finite, is
        computed again. Every process must call it, and gets everything.

        Args:
            name: of the figure.
            index: int64 (N,) the samples.
            batch: samples in a batch, of which shards are made.
            compute: int64 (n,) some of `index` → by name, (n, ...).
            types: by name, what an array has for each sample: a numpy type, or (type, shape).
            first: by name, which arrays have rows for samples below a number alone.
            **facts: what else the numbers depend on.

        Returns:
            By name, the rows of all shards in order; and `sec`, the time of computation of all
            processes together and over all interruptions.

        Raises:
            OSError: a shard that cannot be written.
        """
        shards = self.fill(name, index, batch, compute, types, first, **facts)
        parallel.barrier()
        try:
            contents = [shard.read() for shard in shards]
        except FileNotFoundError as error:
            home = shards[0].path.parent
            message = f"{home} lacks shards that were just written: does every process see it?"
            raise OSError(message) from error
        arrays = {key: np.concatenate([each[key] for each in contents]) for key in types}
        return {**arrays, "sec": float(sum(each["sec"] for each in contents))}

    def fill(
        self,
        name: str,
        index: Tensor,
        batch: int,
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        types: Mapping[str, Any],
        first: Mapping[str, int] = MappingProxyType({}),
        turn: int = 0,
        **facts: Any,
    ) -> list["_Shard"]:
        """Computes this process's share of what `results` reads, and waits for no other.

        Of many results with one shard each, all processes compute some so.

        Args:
            name: this and the others as of `results`.
            index: int64 (N,).
            batch: samples in a batch.
            compute: for some of the samples.
            types: of the arrays.
            first: of the arrays that have fewer rows.
            turn: which process takes the first shard.
            **facts: what else the numbers depend on.

        Returns:
            All shards in order, those of other processes too.
        """
        size = shard_size(len(index), batch)
        home = self.folder / f"{name}_{_digest({**self.facts, **facts, 'size': size})}"
        shards = [
            # The last shard may be shorter than the same one of more samples: both are kept.
            _Shard(home / f"{k * size:06d}_{len(part)}.npz", part, types, first)
            for k, part in enumerate(index.split(size))
        ]
        mine = shards[(self.world.rank - turn) % self.world.size :: self.world.size]
        faults = {shard: fault for shard in mine if (fault := shard.fault())}
        if passed_over := [fault for fault in faults.values() if fault != _MISSING]:
            n, why = f"{len(passed_over)} of {len(mine)} shards", passed_over[0]
            self.log.say(f"computed again: {n} in {home}, as {why}")
        ahead = sum(len(shard.index) for shard in mine)
        done = ahead - sum(len(shard.index) for shard in faults)
        with self.log.progress(ahead, done, unit="image") if self.bars else nullcontext() as bar:
            for shard in faults:
                start = time.monotonic()
                results = compute(shard.index)
                shard.write(results, time.monotonic() - start, self.option)
                if bar is not None:
                    bar.update(len(shard.index))
        return shards


def shard_size(count: int, batch: int) -> int:
    """Samples in a shard: whole batches, the same for any number of processes."""
    return batch * max(1, min(SHARD_BATCHES, math.ceil(count / (SHARDS * batch))))


_MISSING = "it is not there"


@dataclass(frozen=True, eq=False)
class _Shard:
    """A file, the samples that belong into it, and the arrays that it must have."""

    path: Path
    index: Tensor
    types: Mapping[str, Any]
    first: Mapping[str, int]

    def write(self, results: Mapping[str, Tensor], sec: float, option: str) -> None:
        arrays = {name: value.cpu().numpy() for name, value in results.items()}
        whole = {"index": self.index.numpy(), "sec": np.float64(sec), **arrays}
        make_way(self.path)
        write_whole(self.path, partial(np.savez, **whole), option)

    def fault(self) -> str:
        """Why it must be computed, empty where it need not. Nothing is kept in memory."""
        try:
            arrays = self.read()
        except FileNotFoundError:
            return _MISSING
        except KeyError as error:
            return f"{self.path.name} lacks the array {error.args[0]!r}, which a figure needs"
        except Exception as error:  # zipfile and numpy meet damage with errors of many types
            return f"{self.path.name} is damaged ({error})"
        if not np.array_equal(arrays["index"], self.index.numpy()):
            return f"{self.path.name} is of other samples"
        # What was given up has no numbers.
        known = arrays.get("status", np.array(Status.DONE)) == Status.DONE
        for name, array in arrays.items():
            finite = np.isfinite(array)
            if not (finite | ~known if array.shape == known.shape else finite).all():
                return f"{self.path.name} has numbers in {name} that are not finite"
        return ""

    def read(self) -> dict[str, np.ndarray]:
        """Its index, seconds and arrays.

        Raises:
            Exception: as `read_arrays`.
        """
        n = len(self.index)
        types: dict[str, tuple[Any, Any]] = {"index": (np.int64, (n,)), "sec": (np.float64, ())}
        for name, of_row in self.types.items():
            rows = int((self.index < self.first[name]).sum()) if name in self.first else n
            types[name] = np.dtype(of_row).base, (rows, *np.dtype(of_row).shape)
        return read_arrays(self.path, types)


def read_arrays(path: Path, types: Mapping[str, tuple[Any, Any]]) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`, of known types and shapes; no more is unpacked of it than these need.

    Args:
        path: the file.
        types: by name, type and shape.

    Raises:
        FileNotFoundError: it is not there.
        KeyError: the name of an array that is not in it.
        Exception: of many types: it is no file, or damaged, or its arrays are others.
    """
    arrays = dict[str, np.ndarray]()
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        inside = archive.namelist()
        for name, expected in types.items():
            if f"{name}.npy" not in inside:
                raise KeyError(name)

            def check(
                shape: tuple[int, ...], dtype: np.dtype, name: str = name, expected: Any = expected
            ) -> None:
                if (dtype, shape) != expected:
                    raise ValueError(f"{name} is {dtype} {shape}, not {np.dtype(expected)}")

            arrays[name] = read_member(archive, archive.getinfo(f"{name}.npy"), check)
    return arrays


def make_way(path: Path) -> None:
    """Renames a folder that lies where a file is to be written."""
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.folder"))


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps({**facts, "format": FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
