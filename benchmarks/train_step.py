"""A training step of NCSN++ (62.8 M parameters): ours, the naive formulation, diffusers.

    python -m benchmarks.train_step --json train_step.json      # ten minutes on two cores
    python -m benchmarks.train_step --nf 32 --blocks 1 --batch 2 --rounds 1    # a trial

The recipe is `ve/cifar10_ncsnpp_continuous` in float32 on the CPU: times and noise, forward and
backward pass, clipping, Adam, moving average. The routes (`benchmarks.routes`) are timed
interleaved, and medians told with the least and the largest; in the same run each convolution of
the network is timed by itself (`benchmarks.convolutions`), of which the sum is the floor. A share
of 100 % would be a step that does nothing but convolve. `--profile` tells what else it does.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.convolutions import PASSES, convolutions_of, floor, measured, rates
from benchmarks.routes import OURS, Route, check_equal, machine, recipe, routes
from benchmarks.timing import CLOCKS, interleaved, medians, spread, table, write
from score_sde.commands.first_screen import kept_bytes


def options(doc: str | None) -> argparse.ArgumentParser:
    """What `train_step` and `forward` take."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each route")
    parser.add_argument("--nf", type=int, default=128, help="width of the network")
    parser.add_argument("--blocks", type=int, default=4, help="residual blocks of a level")
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="ours")
    parser.add_argument(
        "--layout",
        choices=("auto", "on", "off"),
        default="auto",
        help="training.channels_last of ours",
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--profile", action="store_true", help="of ours, by operation")
    return parser


def prepared(given: argparse.Namespace) -> tuple[dict[str, Route], Tensor, Tensor]:
    """The routes, images (B, 3, 32, 32) and noise levels (B,)."""
    torch.manual_seed(0)
    config = recipe(given.nf, given.blocks)
    config.training.compile, config.training.channels_last = given.compile, given.layout
    config.training.batch_size = given.batch
    every = routes(config)
    x = torch.rand(given.batch, 3, config.data.image_size, config.data.image_size)
    sigma = torch.logspace(-2, 1.5, given.batch)
    print(f"ours and the naive network agree to {check_equal(every, x, sigma):.1g}")
    return every, x, sigma


def report(
    given: argparse.Namespace,
    every: dict[str, Route],
    times: dict[str, list[float]],
    convolutions: list[dict[str, Any]],
    passes: Sequence[str],
) -> dict[str, Any]:
    """Prints the tables; the figures for the file."""
    middle, passes = medians(times), tuple(passes)
    print(f"\nbatch {given.batch}, {given.rounds} rounds, {given.clock} time, {machine()}\n")
    rows = [
        (
            name,
            f"{sum(p.numel() for p in every[name].network.parameters()) / 1e6:.1f}",
            spread(values),
            f"{middle[name] / middle[OURS]:.2f}",
        )
        for name, values in times.items()
    ]
    print(table(("route", "parameters, 10⁶", "ms (least to largest)", "times ours"), rows))
    shares, speeds = {}, {}
    for layout in ("channels_last", "channels_first", "fastest"):
        shares[layout] = floor(convolutions, layout, passes) / middle[OURS]
        speeds[layout] = rates(convolutions, layout)
    print()
    print(
        table(
            ("convolutions alone", *(f"{kind}, GFLOP/s" for kind in PASSES), "ms", "of our time"),
            [
                (
                    layout.replace("_", "-"),
                    *(f"{speeds[layout][kind]:.0f}" for kind in PASSES),
                    f"{1e3 * shares[layout] * middle[OURS]:.0f}",
                    f"{100 * shares[layout]:.0f} %",
                )
                for layout in shares
            ],
        )
    )
    return {
        "batch": given.batch,
        "clock": given.clock,
        **machine(),
        "seconds": times,
        "share_of_convolutions": shares,
        "gflop_per_second": speeds,
        "convolutions": convolutions,
    }


def profiled(step: Any) -> str:
    """What a call spends its time in, by operation, in shares of the whole."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    rows = [
        (event.key, event.count, f"{100 * event.self_cpu_time_total / whole:.1f} %")
        for event in events[:16]
    ]
    return table(("operation", "calls", "share"), rows)


def main() -> None:
    """Runs the benchmark."""
    given = options(__doc__).parse_args()
    every, x, sigma = prepared(given)
    found = convolutions_of(lambda: every[OURS].forward(x, sigma))
    kept = {}
    for name, route in every.items():
        kept[name] = kept_bytes(route.network, lambda _, route=route: route.forward(x, sigma))
        route.network.train()
    steps = {name: (lambda route=route: route.step(x)) for name, route in every.items()}
    times = interleaved(steps, given.rounds, given.clock)
    figures = report(given, every, times, measured(found, given.rounds, given.clock), PASSES)
    megabytes = {name: round(value / given.batch / 1e6, 1) for name, value in kept.items()}
    print()
    print(table(("kept for the backward pass", "MB an image"), list(megabytes.items())))
    if given.profile:
        print("\n" + profiled(steps[OURS]))
    write(given.json, figures | {"kept_megabytes_an_image": megabytes})


if __name__ == "__main__":
    main()
