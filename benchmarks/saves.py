"""What a save costs the step that it is made in: written there, or copied and written by a thread.

    python -m benchmarks.saves --json saves.json      # a minute on two cores

The state is that of a training run (weights, average, two moments of Adam) with as many weights as
asked for. Beside both ways stands a copy of the same tensors into memory that is there, which is
the least that a save can cost. Each is made in turn; the thread's end is waited for outside of the
time, and its own time is told: on few cores the next steps pay for it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.timing import CLOCKS, interleaved, medians, spread, table, write
from score_sde import checkpoints
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.training import TrainState
from score_sde.training.optimizer import make_optimizer

LAYERS, ENDLESS = 16, float("inf")


def state_of(weights: int) -> dict[str, Any]:
    """The entries of a checkpoint of about so many weights, after an update."""
    width = round((weights / LAYERS) ** 0.5)
    network = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(LAYERS)])
    optimizer = make_optimizer(network.named_parameters(), name="Adam", lr=2e-4)
    network(torch.randn(1, width)).sum().backward()
    optimizer.step()
    state = TrainState(network, ExponentialMovingAverage(network, 0.999), optimizer)
    rest = {"rng": checkpoints.rng_state(), "data": {}, "config": "{}", "versions": ""}
    return {**state.state_dict(), **rest}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=62_800_000, help="NCSN++ has 62.8 million")
    parser.add_argument("--rounds", type=int, default=7, help="saves of each kind")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--folder", type=Path, help="on the disk that is asked about")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()

    state = state_of(given.weights)
    copies = [torch.empty_like(x) for x in tensors(state)]
    by_thread: list[float] = []
    with (
        tempfile.TemporaryDirectory(dir=given.folder) as place,
        checkpoints.Saves(lambda: ENDLESS) as saves,
    ):

        def written(content: Any) -> None:
            checkpoints.save(Path(place), content, keep=1)

        def timed(content: Any) -> None:
            start = time.perf_counter()
            written(content)
            by_thread.append(time.perf_counter() - start)

        routes: dict[str, Callable[[], object]] = {
            "written in the step": lambda: written(state),
            "copied, a thread writes": lambda: saves.save("checkpoint", state, timed),
            "a copy in memory": lambda: [
                held.copy_(x) for held, x in zip(copies, tensors(state), strict=True)
            ],
        }
        times = interleaved(routes, given.rounds, given.clock, after=saves.wait)
    megabytes = sum(x.numel() * x.element_size() for x in tensors(state)) / 1e6
    print(f"{megabytes:,.0f} MB, {given.rounds} rounds, {given.clock} time\n")
    rows = [(name, spread(values)) for name, values in times.items()]
    print(table(("a save", "ms (least to largest)"), rows))
    print(f"\nthe thread took {medians({'': by_thread})['']:.2f} s for each, wall time")
    figures = {"megabytes": megabytes, "clock": given.clock, "seconds": times}
    write(given.json, figures | {"thread_seconds": by_thread, "torch": torch.__version__})


def tensors(value: Any) -> list[torch.Tensor]:
    """All that a state holds."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [x for item in items for x in tensors(item)] if isinstance(value, dict | list) else []


if __name__ == "__main__":
    main()
