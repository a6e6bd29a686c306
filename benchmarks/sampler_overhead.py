"""What the sampling loop costs beside the network: ours, and a loop written by hand.

    python -m benchmarks.sampler_overhead --json sampler_overhead.json     # a minute

The network is replaced by a trivial one, x ↦ −x, on the VE SDE at 64×3×32×32. The loop by hand
has one method in it and nothing else: its coefficients are numbers, computed before it begins,
and its noise is torch's own. Ours is `samplers.GridSampler` with the noise of
`--mode sample` (a function of seed, sample and draw), and with torch's own, which tells apart what
the loop costs and what the noise does. Both are checked to draw the same samples of the same noise
before they are timed. Rows are methods; times are of one step, medians of interleaved runs.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import CLOCKS, interleaved, medians, table, write
from score_sde.noise import Noise, SampleNoise, torch_noise
from score_sde.samplers import GridSampler
from score_sde.sde import VESDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import DDIM, Heun
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import ReverseDiffusionPredictor

SHAPE, SNR = (3, 32, 32), 0.16


def score(x: Tensor, t: Tensor) -> Tensor:
    """Of N(0, I), at every time."""
    return -x


def sigmas(sde: VESDE, times: Tensor) -> list[float]:
    """Noise levels of a grid."""
    return sde.std(times.double()).tolist()


def reverse_diffusion(x: Tensor, t: Tensor, levels: list[float], noise: Noise) -> Tensor:
    """x_s = x + G² ∇ + G z (Song et al. 2021, eq. 46 for VE)."""
    x_mean = x
    for level, after in itertools.pairwise(levels):
        G2 = level**2 - after**2
        x_mean = torch.add(x, score(x, t), alpha=G2)
        x = torch.add(x_mean, noise(x.shape), alpha=math.sqrt(G2))
    return x_mean


def langevin(x: Tensor, t: Tensor, levels: list[float], noise: Noise) -> Tensor:
    """The same behind a Langevin step at each level (Song et al. 2021, algorithm 4)."""
    x_mean = x
    for level, after in itertools.pairwise(levels):
        grad, z = score(x, t), noise(x.shape)
        ratio = z.flatten(1).norm(dim=1) / grad.flatten(1).norm(dim=1)
        size = (2 * (SNR * ratio) ** 2)[:, None, None, None]
        x = x + size * grad + (2 * size).sqrt() * z
        G2 = level**2 - after**2
        x_mean = torch.add(x, score(x, t), alpha=G2)
        x = torch.add(x_mean, noise(x.shape), alpha=math.sqrt(G2))
    return x_mean


def ddim(x: Tensor, t: Tensor, levels: list[float], noise: Noise) -> Tensor:
    """Euler's steps in the noise level."""
    for level, after in itertools.pairwise(levels):
        x = torch.add(x, score(x, t), alpha=level * (level - after))
    return x


def heun(x: Tensor, t: Tensor, levels: list[float], noise: Noise) -> Tensor:
    """Heun's steps in the noise level (Karras et al. 2022, algorithm 1)."""
    for level, after in itertools.pairwise(levels):
        slope = -level * score(x, t)
        ahead = torch.add(x, slope, alpha=after - level)
        slope = torch.add(slope, score(ahead, t), alpha=-after)
        x = torch.add(x, slope, alpha=(after - level) / 2)
    return x


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--steps", type=int, default=20, help="of a run")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each route")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    sde, index = VESDE(), torch.arange(given.batch)
    times = time_grid(sde, given.steps, "uniform", sde.eps)
    by_hand: dict[str, tuple[Callable[..., Tensor], GridSampler]] = {
        "reverse diffusion": (
            reverse_diffusion,
            GridSampler(sde, times, ReverseDiffusionPredictor(sde)),
        ),
        "… and Langevin": (
            langevin,
            GridSampler(sde, times, ReverseDiffusionPredictor(sde), LangevinCorrector(sde, SNR)),
        ),
        "DDIM": (ddim, GridSampler(sde, times, DDIM(sde))),
        "Heun": (heun, GridSampler(sde, times, Heun(sde))),
    }
    x, t, levels = torch.randn(given.batch, *SHAPE), torch.ones(given.batch), sigmas(sde, times)
    rows, figures = [], {}
    for name, (loop, sampler) in by_hand.items():
        seen = [
            run(SampleNoise(1, index))
            for run in (
                lambda noise, loop=loop: loop(x, t, levels, noise),
                lambda noise, sampler=sampler: sampler.run(x, score, noise)[0],
            )
        ]
        off = ((seen[0] - seen[1]).abs().max() / seen[0].abs().max()).item()
        assert off < 1e-3, f"{name}: the two loops differ by {off:.2g}"
        counted, own = SampleNoise(1, index), torch_noise()
        found = interleaved(
            {
                "by hand": lambda loop=loop, own=own: loop(x, t, levels, own),
                "torch": lambda sampler=sampler, own=own: sampler.run(x, score, own),
                "ours": lambda sampler=sampler, counted=counted: sampler.run(x, score, counted),
            },
            given.rounds,
            given.clock,
        )
        each = {route: value / given.steps for route, value in medians(found).items()}
        figures[name] = each
        hand = each["by hand"]
        cells = [f"{1e3 * value:.2f} ({value / hand:.2f})" for value in each.values()]
        rows.append((name, *cells))
    noise, own = SampleNoise(1, index), torch_noise()
    drawn = medians(
        interleaved(
            {"ours": lambda: noise(x.shape), "torch": lambda: own(x.shape)},
            4 * given.rounds,
            given.clock,
        )
    )
    print(f"{given.batch} images, {torch.get_num_threads()} threads, {given.clock} time\n")
    titles = ("ms a step (times by hand)", "by hand", "ours, torch's noise", "ours")
    print(table(titles, rows))
    print(
        f"\na draw of noise: {1e3 * drawn['ours']:.2f} ms, "
        f"torch's own {1e3 * drawn['torch']:.2f} ms ({drawn['ours'] / drawn['torch']:.2f})"
    )
    write(given.json, {"seconds_a_step": figures, "seconds_a_draw": drawn})


if __name__ == "__main__":
    main()
