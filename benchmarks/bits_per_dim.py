"""bits/dim of 64 images of mixed stiffness: ours against the route of the 2021 release.

    python -m benchmarks.bits_per_dim --checkpoint runs/vp/digits/checkpoints/step_00002000.pt

The score of every eighth image has a steep linear term added, which makes its flow stiff: one
error norm for the batch then drags all the others along. The release's route is scipy's RK45 on
the host with one such norm, and two forward passes an evaluation: one for the drift, one for its
divergence. All routes get the same images and probes, run interleaved, and are held against a
solution at a hundredth of the tolerance, for an equal tolerance is not an equal error.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ml_collections
import torch
from torch import Tensor

from benchmarks.timing import CLOCKS, interleaved, medians, table, write
from score_sde import checkpoints, likelihoods, noise
from score_sde.commands.weights import network_of
from score_sde.config.build import (
    Config,
    allow_tf32,
    build_device,
    build_scaler,
    build_score,
    build_sde,
    open_split,
)
from score_sde.data import dequantise
from score_sde.likelihoods.flow import LogLikelihood, integrate
from score_sde.score import ScoreFor
from score_sde.sde import SDE, Score
from score_sde.solvers.ode import solve_scipy
from score_sde.tensor_ops import expand_to

RELEASE, EPS = "2021 release", 1e-5

Route = Callable[[float], tuple[LogLikelihood, int]]
"""A tolerance → the result, and how often images went through the network forward."""


class TwoForwardPasses:
    """A score as the release uses it: evaluated once more for the drift, without a graph."""

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x), at the cost of two."""
        with torch.no_grad():
            self.score(x.detach(), t)
        return self.score(x, t)


def routes(sde: SDE, score_for: ScoreFor, x: Tensor, probe: Tensor) -> dict[str, Route]:
    """The routes by name."""

    def release(tolerance: float) -> tuple[LogLikelihood, int]:
        solver = partial(solve_scipy, rtol=tolerance, atol=tolerance)
        result, calls = integrate(
            sde, lambda row: TwoForwardPasses(score_for(row)), x, probe, EPS, solver
        )
        return result, 2 * calls * len(x)

    def ours(batch_size: int, tolerance: float) -> tuple[LogLikelihood, int]:
        seen = 0

        def counted(row: Tensor) -> Score:
            nonlocal seen
            seen += len(row)
            return score_for(row)

        result = likelihoods.log_likelihood(
            sde,
            counted,
            x,
            probes=probe,
            rtol=tolerance,
            atol=tolerance,
            eps=EPS,
            batch_size=batch_size,
        )
        return result, seen

    sizes = (len(x), len(x) // 4)
    named = {f"ours, {size} at a time": partial(ours, size) for size in sizes}
    return {RELEASE: release} | named


def images(config: Config, count: int) -> Tensor:
    """Test images, dequantised, as the network sees them."""
    source = open_split(config, "test")
    index = torch.arange(count)
    shape, levels = source.info.shape, source.info.levels
    u = noise.uniform(config.seed, index, 0, shape, stream=noise.Stream.DEQUANTISE)
    return build_scaler(config)(dequantise(source.images(index), levels, u))


def main(words: Sequence[str] | None = None) -> None:
    """Times the routes and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="one of ours")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="rtol and atol")
    parser.add_argument("--steep", type=float, default=30.0, help="of every eighth image")
    parser.add_argument(
        "--root", default="", help="where the data lie, instead of the recipe's place"
    )
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="of each route")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(words)

    state = checkpoints.load(given.checkpoint)
    config: Config = ml_collections.ConfigDict(json.loads(state["config"]))
    config.data.root = given.root or config.data.root
    allow_tf32(False)
    device, sde = build_device(config), build_sde(config)
    score = build_score(config, network_of(config, state, raw=False), sde, None)
    x = images(config, given.count).to(device)
    steepness = torch.zeros(given.count, device=device)
    steepness[::8] = given.steep

    def score_for(row: Tensor) -> Score:
        steep = expand_to(steepness[row], x)
        return lambda x, t: score(x, t) + steep * x

    index = torch.arange(given.count, device=device)
    probe = likelihoods.hutchinson_probes("Rademacher", x.shape[1:], index, seed=config.seed)
    every = routes(sde, score_for, x, probe)

    exact, _ = every[list(every)[-1]](given.tolerance / 100)
    dimensions = math.prod(x.shape[1:])
    found: dict[str, tuple[LogLikelihood, int]] = {}

    def run(name: str) -> None:
        found[name] = every[name](given.tolerance)

    times = interleaved({name: partial(run, name) for name in every}, given.rounds, given.clock)
    middle, rows, figures = medians(times), [], {}
    for name, (result, seen) in found.items():
        sec, nfe = middle[name] / given.count, result.nfe
        error = (result.logp - exact.logp).abs().max().item() / (dimensions * math.log(2))
        figures[name] = {
            "seconds_an_image": [value / given.count for value in times[name]],
            "forward_an_image": seen / given.count,
            "evaluations": nfe.tolist(),
            "largest_error_bits_per_dim": error,
        }
        rows.append(
            (
                name,
                f"{sec:.4f}",
                f"{middle[RELEASE] / middle[name]:.2f}",
                f"{seen / given.count:.0f}",
                f"{nfe.float().mean():.0f} ({nfe.min()} to {nfe.max()})",
                f"{error:.2g}",
            )
        )
    what = f"{given.count} images of {dimensions} dimensions, tolerance {given.tolerance:g}"
    print(f"{what}, {device}, {given.rounds} rounds, {given.clock} time\n")
    titles = ("route", "s/image", "times faster", "forward/image", "evaluations", "bits/dim off")
    print(table(titles, rows))
    write(
        given.json,
        {"what": what, "clock": given.clock, "torch": torch.__version__, "routes": figures},
    )


if __name__ == "__main__":
    main()
