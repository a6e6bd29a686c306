"""bits/dim of 64 images of mixed stiffness: ours against the route of the 2021 release.

    python -m benchmarks.bits_per_dim --checkpoint runs/vp/digits/checkpoints/step_00002000.pt

Three quarters of the images are test images, the others uniform noise, on whose way a trained
score is stiff. The release's route is scipy's RK45 on the host with one error norm for the batch,
and two forward passes an evaluation: one for the drift, one for its divergence. All routes get the
same images and probes, run interleaved, and are held against a solution at a hundredth of the
tolerance, for an equal tolerance is not an equal error.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ml_collections
import torch
from torch import Tensor

import assembly
import checkpoints
import datasets
import likelihood
import noise
from likelihood.flow import LogLikelihood, integrate
from run_lib.sampling_run import network_of
from sde_lib import SDE, Score
from solvers.ode import solve_scipy

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


def routes(sde: SDE, score: Score, x: Tensor, probe: Tensor, eps: float) -> dict[str, Route]:
    """The routes by name."""

    def release(tolerance: float) -> tuple[LogLikelihood, int]:
        solver = partial(solve_scipy, rtol=tolerance, atol=tolerance)
        twice = TwoForwardPasses(score)
        result, calls = integrate(sde, lambda row: twice, x, probe, eps, solver)
        return result, 2 * calls * len(x)

    def ours(batch_size: int, tolerance: float) -> tuple[LogLikelihood, int]:
        seen = 0

        def score_for(row: Tensor) -> Score:
            nonlocal seen
            seen += len(row)
            return score

        result = likelihood.log_likelihood(
            sde,
            score_for,
            x,
            probes=probe,
            rtol=tolerance,
            atol=tolerance,
            eps=eps,
            batch_size=batch_size,
        )
        return result, seen

    sizes = (len(x), len(x) // 4)
    return {"2021 release": release} | {
        f"ours, {size} at a time": partial(ours, size) for size in sizes
    }


def images(config: assembly.Config, count: int, seed: int) -> Tensor:
    """Test images and uniform noise, dequantised, as the network sees them."""
    source = datasets.open_from_config(config, "test")
    index = torch.arange(count)
    stored = source.images(index)
    u = noise.uniform(seed, index, 0, source.info.shape, stream=noise.Stream.DEQUANTISE)
    unit = datasets.dequantise(stored, source.info.levels, u)
    unit[::4] = u[::4]
    return datasets.get_data_scaler(config)(unit)


def main(words: Sequence[str] | None = None) -> None:
    """Times the routes and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="one of ours")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="rtol and atol")
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(words)

    state = checkpoints.load(given.checkpoint)
    config: assembly.Config = ml_collections.ConfigDict(json.loads(state["config"]))
    device, sde = assembly.build_device(config), assembly.build_sde(config)
    score = assembly.build_score(config, network_of(config, state, raw=False), sde, None)
    x = images(config, given.count, config.seed).to(device)
    index = torch.arange(given.count, device=device)
    probe = likelihood.hutchinson_probes("Rademacher", x.shape[1:], index, seed=config.seed)
    every = routes(sde, score, x, probe, 1e-5)

    exact, _ = every[list(every)[-1]](given.tolerance / 100)
    dimensions = math.prod(x.shape[1:])
    times: dict[str, list[float]] = {name: [] for name in every}
    found = {}
    for _ in range(given.repeats):
        for name, route in every.items():
            start = time.perf_counter()
            found[name] = route(given.tolerance)
            times[name].append(time.perf_counter() - start)
    print(
        f"{given.count} images of {dimensions} dimensions, tolerance {given.tolerance:g}, {device}"
    )
    row = "{:<24}{:>15}{:>8}{:>15}{:>20}{:>18}"
    titles = ("s/image (min)", "ratio", "forward/image", "evaluations", "error, bits/dim")
    print(row.format("route", *titles))
    slowest = min(times["2021 release"])
    for name, (result, seen) in found.items():
        best, nfe = min(times[name]), result.nfe
        error = (result.logp - exact.logp).abs().max().item() / (dimensions * math.log(2))
        cells = (
            f"{best / given.count:.4f}",
            f"{slowest / best:.2f}x",
            f"{seen / given.count:.0f}",
            f"{nfe.float().mean():.0f} ({nfe.min()} to {nfe.max()})",
            f"{error:.2g}",
        )
        print(row.format(name, *cells))


if __name__ == "__main__":
    main()
