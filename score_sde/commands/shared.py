"""Samples that several processes draw together: each some of them, and the main one writes all.

Which process draws a sample depends on its batch: batch k is that of process k mod K. So every
batch is composed as a single process would compose it, and the images are the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from score_sde import parallel
from score_sde.samplers import Samples


def draw_together(
    world: parallel.World,
    total: int,
    batch_size: int,
    draw: Callable[[Tensor], Iterable[Samples]],
) -> Iterator[Samples]:
    """All samples, for the main process, in the order of their indices; nothing for the others.

    Every process must go through it to its end. A single process draws them one after the other.

    Args:
        world: this process.
        total: how many samples there are.
        batch_size: that of the sampler.
        draw: sample indices int64 (n,) → the samples, part by part.
    """
    mine = part_of(world, total, batch_size)
    if world.size == 1:
        yield from draw(mine)
        return
    waiting: dict[int, Samples] = {}
    following = 0
    for given in parallel.rounds(map(_on_cpu, draw(mine) if len(mine) else ())):
        for part in given if world.is_main else ():
            waiting |= {k: _row(part, row) for row, k in enumerate(part.index.tolist())}
        ready = []
        while following in waiting:
            ready.append(waiting.pop(following))
            following += 1
        if ready:
            yield _joined(ready)


def part_of(world: parallel.World, total: int, batch_size: int) -> Tensor:
    """Indices int64 (n,) of the samples that a process draws: every K-th batch."""
    mine = torch.arange(total).split(batch_size)[world.rank :: world.size]
    return torch.cat(mine) if mine else torch.arange(0)


def for_all(
    world: parallel.World,
    total: int,
    batch_size: int,
    compute: Callable[[Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """What all processes need of all samples, each of them computing some; every one must call it.

    Args:
        world: this process.
        total: how many samples there are.
        batch_size: in which they are computed.
        compute: sample indices int64 (n,), n ≥ 1 → tensors (n, ...).

    Returns:
        The tensors (total, ...); those of several processes on the CPU.
    """
    if world.size == 1:
        return compute(torch.arange(total))
    mine = part_of(world, total, batch_size)
    made = tuple(part.cpu() for part in compute(mine)) if len(mine) else ()
    given: list[tuple[Tensor, ...]] = parallel.gather_objects(made)  # type: ignore[assignment]
    everyone = [replace(world, rank=rank) for rank in range(world.size)]
    order = torch.cat([part_of(one, total, batch_size) for one in everyone]).argsort()
    return tuple(torch.cat(parts)[order] for parts in zip(*filter(None, given), strict=True))


def _on_cpu(part: Samples) -> Samples:
    status = None if part.status is None else part.status.cpu()
    return Samples(part.index.cpu(), part.x.cpu(), part.nfe.cpu(), status)


def _row(part: Samples, row: int) -> Samples:
    here = slice(row, row + 1)
    status = None if part.status is None else part.status[here]
    return Samples(part.index[here], part.x[here], part.nfe[here], status)


def _joined(rows: list[Samples]) -> Samples:
    status = [row.status for row in rows if row.status is not None]
    return Samples(
        torch.cat([row.index for row in rows]),
        torch.cat([row.x for row in rows]),
        torch.cat([row.nfe for row in rows]),
        torch.cat(status) if status else None,
    )


def join(path: Path, step: int) -> parallel.World:
    """This process among those that draw from one checkpoint, which have to agree on it."""
    world = parallel.init()
    parallel.check_agreed(world, {"checkpoint": path.name, "step": step})
    return world


def take_part(parts: Iterable[Samples]) -> None:
    """What a process does that is not the main one: it draws its samples, and writes nothing."""
    for _ in parts:
        pass
