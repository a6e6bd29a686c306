"""Results by sample, computed in parts: kept through a kill, shared between processes.

A shard is one `.npz` file of arrays whose first axis counts samples. Its folder is named after
everything that the numbers depend on, so that shards of another checkpoint, config or data set are
never mixed in.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parallel
from logbook import Logbook
from run_lib.files import write_whole

Arrays = dict[str, np.ndarray]


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
        total: int,
        size: int,
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        **facts: Any,
    ) -> Arrays:
        """What `compute` gives for all samples, from shards where they are there.

        Every process must call it, and gets everything.

        Args:
            name: of the figure.
            total: samples.
            size: samples in a shard; the same for any number of processes.
            compute: int64 (n,) sample indices → arrays (n, ...).
            **facts: what else the numbers depend on.

        Raises:
            OSError: a shard that cannot be written.
        """
        home = self.folder / f"{name}_{_fingerprint({**self.facts, **facts, 'size': size})}"
        parts = torch.arange(total).split(size)
        mine = [
            (home / f"{k:06d}.npz", part)
            for k, part in enumerate(parts)
            if k % self.world.size == self.world.rank
        ]
        to_do = [(path, part) for path, part in mine if _read(path, part) is None]
        ahead = sum(len(part) for _, part in mine)
        done = ahead - sum(len(part) for _, part in to_do)
        with self.log.progress(ahead, done, unit="image") as bar:
            for path, part in to_do:
                arrays = {key: value.cpu().numpy() for key, value in compute(part).items()}
                whole = {"index": part.numpy(), **arrays}
                write_whole(path, partial(np.savez, **whole), "--eval_folder")
                bar.update(len(part))
        parallel.barrier()
        read = [_read(home / f"{k:06d}.npz", part) for k, part in enumerate(parts)]
        whole = [arrays for arrays in read if arrays is not None]
        if len(whole) < len(parts):
            raise OSError(
                f"{home} lacks shards that were just written: does every process see it?"
            )
        return {key: np.concatenate([arrays[key] for arrays in whole]) for key in whole[0]}


def _fingerprint(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, index: Tensor) -> Arrays | None:
    """The arrays of a shard; None where it is missing or of other samples."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays if np.array_equal(arrays.get("index", ()), index.numpy()) else None
