"""What `training.sharding` saves and costs.

    python -m benchmarks.sharding --counts             # memory of each process, counted
    python -m benchmarks.sharding --rounds 10          # steps of two gloo processes on a CPU

Counted is what lasts: 4 bytes each for a weight, its gradient, Adam's two moments and the average,
over the number of processes, and 8 bytes (with its gradient) for each weight that is whole at a
time. Measured are, in turn and in the same processes, steps of a network that each has whole
(DistributedDataParallel) and of the same one divided; and the update of the average, of which the
arithmetic on rows alone stands beside the same through torch's DTensor. The clock is that of the
process (all its threads), as processes wait for each other.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

from benchmarks.timing import table, write
from score_sde import parallel
from score_sde.config import parts
from score_sde.config.build import Config, build_objective, build_sde, build_state, empty_network
from score_sde.config.build.objects import build_train_step
from score_sde.training import Share, whole_at_once

PROCESSES = (1, 2, 8, 32)


def counted() -> str:
    """Gigabytes of each process, by the width of NCSN++ at 256x256."""
    rows = []
    for nf in (128, 512, 1024):
        recipe: Any = parts.recipe(parts.NCSNPP_256, parts.FFHQ, parts.VE)
        recipe.model.nf = nf
        network = empty_network(recipe)
        weights, at_once = _numbers(network), whole_at_once(network)
        held = [20 * weights / k + (8 * at_once if k > 1 else 0) for k in PROCESSES]
        rows.append([nf, f"{weights / 1e6:,.0f}", f"{at_once / 1e6:,.0f}", *map(_gib, held)])
    titles = ["nf", "weights, 10⁶", "whole at a time, 10⁶", *(f"{k} processes" for k in PROCESSES)]
    return table(titles, rows)


def _numbers(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _gib(count: float) -> str:
    return f"{count / 2**30:,.2f} GB"


def small(sharding: str) -> Config:
    """NCSN++ of 8x8 images, with clipping."""
    config: Any = parts.recipe(parts.NCSNPP, parts.CIFAR10, parts.VE)
    config.model.nf, config.model.ch_mult, config.data.image_size = 32, (1, 2), 8
    config.model.attn_resolutions, config.model.num_res_blocks = (4,), 2
    config.training.batch_size, config.training.compile = 8, "off"
    config.training.sharding, config.device = sharding, "cpu"
    return config


def measure(rank: int, port: int, rounds: int, path: Path | None) -> None:
    """One of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    with parallel.together():
        world = parallel.init()
        routes: dict[str, Callable[[], object]] = {}
        for name, sharding in (("whole", "none"), ("divided", "full")):
            config = small(sharding)
            torch.manual_seed(0)
            state = build_state(config)
            step = build_train_step(config, build_objective(config, build_sde(config)))
            step.share = Share(world, 8)
            x_0 = torch.rand(4, 3, 8, 8)
            routes[f"step, {name}"] = lambda step=step, state=state, x_0=x_0: step(state, x_0)
            routes[f"average, {name}"] = lambda state=state: state.ema.update(state.network)
        shadow = state.ema.shadow_params
        weights = [p for p in state.network.parameters() if p.requires_grad]

        @torch.no_grad()
        def through_dtensor() -> None:
            torch._foreach_lerp_(shadow, weights, 1e-4)  # pyright: ignore

        @torch.no_grad()
        def on_rows() -> None:
            here = [[parallel.here(value) for value in values] for values in (shadow, weights)]
            torch._foreach_lerp_(*here, 1e-4)  # pyright: ignore

        routes["of which the arithmetic, on rows"] = on_rows
        routes["the same through DTensor"] = through_dtensor
        times: dict[str, list[float]] = {name: [] for name in routes}
        for round_ in range(rounds + 2):
            for name, route in routes.items():
                start = time.process_time()
                route()
                if round_ > 1:
                    times[name].append(time.process_time() - start)
    if rank == 0:
        found = {name: statistics.median(values) for name, values in times.items()}
        rows = [[name, f"{1e3 * seconds:.1f}"] for name, seconds in found.items()]
        sys.stdout.write(f"{table(['of each process', 'ms'], rows)}\n")
        write(path, {"seconds": found, "weights": _numbers(state.network)})


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", action="store_true", help="count, and measure nothing")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--port", type=int, default=29_513)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    if given.counts:
        sys.stdout.write(f"{counted()}\n")
        return
    mp.spawn(measure, (given.port, given.rounds, given.json), nprocs=2)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
