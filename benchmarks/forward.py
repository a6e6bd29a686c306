"""A forward pass of NCSN++ (62.8 M parameters): ours, the naive formulation, diffusers.

    python -m benchmarks.forward --json forward.json      # five minutes on two cores

As `benchmarks.train_step`, of an evaluation without gradients, as sampling makes them.
"""

import torch

from benchmarks.convolutions import convolutions_of, measured
from benchmarks.routes import OURS
from benchmarks.timing import interleaved, write
from benchmarks.train_step import options, prepared, profiled, report


def main() -> None:
    """Runs the benchmark."""
    given = options(__doc__).parse_args()
    every, x, sigma = prepared(given)
    found = convolutions_of(lambda: every[OURS].forward(x, sigma))
    calls = {n: (lambda route=route: route.forward(x, sigma)) for n, route in every.items()}
    with torch.inference_mode():
        times = interleaved(calls, given.rounds, given.clock)
    convolutions = measured(found, given.rounds, given.clock)
    figures = report(given, every, times, convolutions, ("forward",))
    if given.profile:
        with torch.inference_mode():
            print("\n" + profiled(calls[OURS]))
    write(given.json, figures)


if __name__ == "__main__":
    main()
