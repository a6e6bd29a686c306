"""Processes that share one run: their numbers, their shares of the work, and what they exchange.

`torchrun` starts the processes and describes them in the environment. A single process needs
neither a launcher nor a process group: every function here then does nothing, or returns what it
was given.
"""

import itertools
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from score_sde.parallel import watch

Item = TypeVar("Item")

PATIENCE = timedelta(days=30)
"""How long processes wait for one another. A share of an evaluation takes hours; that one of them
has ended is seen by other means (`watch`)."""

JOINING = timedelta(minutes=5)
"""How long they wait for one another at the start."""

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """The place of this process among all of them.

    Attributes:
        rank: number of this process, 0 ≤ rank < size.
        size: number of processes.
        device_index: number of this process on its own machine, and so of its accelerator.
    """

    rank: int = 0
    size: int = 1
    device_index: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def init() -> World:
    """Joins the processes that torchrun started, or stays alone where there is no launcher.

    Tensors on the CPU travel through gloo; those on a GPU through NCCL, or through gloo where
    NCCL is not built in (Windows).

    Raises:
        ValueError: if the environment describes the processes only in part, not in integers or
            as none that there can be, or they do not find each other.
    """
    given = [name for name in _ENVIRONMENT if name in os.environ]
    if not given:
        return World()
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in _ENVIRONMENT)
        if not (0 <= rank < size < 2**31 and local_rank >= 0):
            raise ValueError("no process is numbered so")
    except (KeyError, ValueError) as error:
        values = ", ".join(f"{name}={os.environ[name]}" for name in given)
        raise ValueError(
            f"the environment has {values}, where {', '.join(_ENVIRONMENT)} are needed together, "
            "as integers, the rank from 0 to below the size: start several processes with "
            "torchrun, or unset these for a single one"
        ) from error
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    if size > 1 and not dist.is_initialized():
        _join(rank, size)
    return World(rank, size, local_rank)


def _join(rank: int, size: int) -> None:
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    try:
        store, *_ = next(rendezvous("env://", rank, size, timeout=JOINING))
        watch.begin(store, rank, size)
        dist.init_process_group(
            backend,
            store=watch.of_this_start(store, "group"),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    except (ValueError, RuntimeError) as error:  # no address, no such host, a taken port
        raise ValueError(
            f"process {rank} of {size} does not find the others ({error}): start them with "
            "torchrun, which says where, or unset WORLD_SIZE for a single one"
        ) from error


def shard(n: int, rank: int, size: int) -> range:
    """The part of `range(n)` that belongs to one process.

    The parts are contiguous, cover everything once, and their lengths differ by at most 1 (the
    first are the longer).

    Args:
        n: number of things to share out.
        rank: number of the process.
        size: number of processes.

    Raises:
        ValueError: unless n ≥ 0 and 0 ≤ rank < size.
    """
    if n < 0 or not 0 <= rank < size:
        raise ValueError(
            f"no shard {rank} of {size} over {n} items: give n >= 0 and 0 <= rank < size"
        )
    length, longer = divmod(n, size)
    start = rank * length + min(rank, longer)
    return range(start, start + length + (rank < longer))


@dataclass(frozen=True)
class Part:
    """Neighbouring rows of a batch, which one process computes.

    Attributes:
        rows: which.
        whole: rows of the batch.
    """

    rows: range
    whole: int

    def of(self, batch: Tensor) -> Tensor:
        """Its rows of a whole batch (whole, ...)."""
        return batch[self.rows.start : self.rows.stop]

    def normal(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Its rows of the noise that a whole batch is given, with shape and layout of `like`.

        All of it is drawn, so that each process goes on in the stream where all the others do.
        """
        if len(like) == self.whole:
            return torch.empty_like(like).normal_(generator=generator)
        shape, strides = like.shape[1:], like.stride()[1:]
        batch = torch.empty_strided(
            (self.whole, *shape), (shape.numel(), *strides), dtype=like.dtype, device=like.device
        )
        return self.of(batch.normal_(generator=generator)).clone()


def device_index() -> int:
    """The number of this process among those of this machine, without joining them."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    given = os.environ.get("LOCAL_RANK", "") if several else ""
    return int(given) if given.isdecimal() else 0


def on_this_machine() -> int:
    """How many processes of the run this machine has, which share its cores and its memory."""
    given = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(int(given), 1) if given.isdecimal() else 1


def gather_objects(item: object) -> list[object]:
    """What each process gave, in order of rank, on every process. Every process must call it."""
    if not dist.is_initialized():
        return [item]
    items: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def rounds(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The first item of each process, in order of rank, then the second, until none has one left.

    Every process must go through it to its end.
    """
    own = iter(items)
    while True:
        given = gather_objects([*itertools.islice(own, 1)])
        if not any(given):
            return
        yield [item for part in given for item in part]  # type: ignore[union-attr]


def barrier() -> None:
    """Waits until every process has come here."""
    if dist.is_initialized():
        # A sum on the CPU goes through gloo: unlike `dist.barrier`, it never has to guess a GPU.
        dist.all_reduce(torch.zeros(1))


def largest(number: int) -> int:
    """The largest of the numbers that the processes give. Every process must call it."""
    if not dist.is_initialized():
        return number
    found = torch.tensor([number])
    dist.all_reduce(found, dist.ReduceOp.MAX)  # of the CPU: no device is waited for
    return int(found)


def leave() -> None:
    """Parts from the other processes, once all have come here; where a command ends.

    A process that ends while its group still stands takes gloo's threads down with it, which now
    and then abort: the run then counts as failed, although all its work is done.
    """
    if dist.is_initialized():
        barrier()
        watch.end()
        dist.destroy_process_group()


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """The main process goes through the body before the others, which find what it has made.

    Every process must enter it.
    """
    if not world.is_main:
        barrier()
    try:
        yield
    finally:
        if world.is_main:
            barrier()


def check_agreed(world: World, what: dict[str, object]) -> None:
    """Holds what each process has found against what the main one has.

    Every process must call it.

    Args:
        world: this process.
        what: by its name in words.

    Raises:
        ValueError: on all of them, where one differs.
    """
    given: list[dict[str, object]] = gather_objects(what)  # type: ignore[assignment]
    for rank, other in enumerate(given):
        for name, value in other.items():
            if value != given[0][name]:
                raise ValueError(
                    f"the {name} is {value} for process {rank} of {world.size} and "
                    f"{given[0][name]} for process 0: start all with the same command, on the "
                    "same files"
                )


def check_seen_by_all(
    world: World, folder: Path, remedy: str = "choose a --workdir", seconds: float = 10.0
) -> None:
    """Makes sure that all processes see the folder in which the main one writes.

    Every process must call it.

    Args:
        world: this process.
        folder: in which the main process can write.
        remedy: how another one is named, for the message.
        seconds: how long a file may take to be seen elsewhere.

    Raises:
        ValueError: on all of them, where one does not see it.
    """
    if world.size == 1:
        return
    path = folder / f".seen_by_all_{gather_objects(secrets.token_hex(8))[0]}"
    if world.is_main:
        path.touch()
    barrier()
    deadline = time.monotonic() + seconds
    while not (seen := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    blind = [name for name in gather_objects("" if seen else _name(world)) if name]
    if world.is_main:
        path.unlink()
    if blind:
        raise ValueError(
            f"{', '.join(map(str, blind))} of {world.size} does not see {folder.absolute()}, in "
            f"which process 0 writes: {remedy} on a disk that all machines share"
        )


def _name(world: World) -> str:
    return f"process {world.rank} (on {socket.gethostname()})"
