"""What the sampling loop costs beside the network: ours, and a loop written by hand.

    python -m benchmarks.sampler_overhead --json sampler_overhead.json     # a minute

The network is replaced by a trivial one, x ↦ −x, on the VE SDE at 64×3×32×32. The loop by hand
has one method in it and nothing else: its coefficients are numbers, computed before it begins,
and its noise is torch's own. Ours is `samplers.GridSampler` with the noise of
`--mode sample` (a function of seed, sample and draw), and with torch's own, which tells apart what
the loop costs and what the noise does. Both are checked to draw the same samples of the same noise
before they are timed. Rows are methods; times are of one step, medians of interleaved runs.

On Linux MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at 1000000000 keep the C library from
giving memory back between two steps, which costs more than some of them.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import CLOCKS, interleaved, medians, table, write
from score_sde.noise import Noise, SampleNoise, torch_noise
from score_sde.samplers import GridSampler
from score_sde.sde import VESDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import DDIM, DPMSolverPP2M, Heun
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import (
    AncestralSamplingPredictor,
    EulerMaruyamaPredictor,
    ReverseDiffusionPredictor,
)
from score_sde.solvers.step import Step

SHAPE, SNR = (3, 32, 32), 0.16


def score(x: Tensor, t: Tensor) -> Tensor:
    """Of N(0, I), at every time."""
    return -x


def sigmas(sde: VESDE, times: Tensor) -> list[float]:
    """Noise levels of a grid."""
    return sde.std(times.double()).tolist()


def first_order(
    x: Tensor, t: Tensor, steps: list[tuple[float, float]], noise: Noise, corrected: bool = False
) -> Tensor:
    """x + w ∇ + s z for each w and s: every predictor of first order, as VE keeps the mean.

    Where it is corrected, a Langevin step comes first (Song et al. 2021, algorithm 4).
    """
    x_mean = x
    for weight, std in steps:
        if corrected:
            grad, z = score(x, t), noise(x.shape)
            ratio = z.flatten(1).norm(dim=1) / grad.flatten(1).norm(dim=1)
            size = (2 * (SNR * ratio) ** 2)[:, None, None, None]
            x = x + size * grad + (2 * size).sqrt() * z
        x_mean = torch.add(x, score(x, t), alpha=weight)
        x = torch.add(x_mean, noise(x.shape), alpha=std)
    return x_mean


def reverse_diffusion_steps(levels: list[float]) -> list[tuple[float, float]]:
    """G² and G (Song et al. 2021, eq. 46 for VE)."""
    squares = [level**2 - after**2 for level, after in itertools.pairwise(levels)]
    return [(G2, math.sqrt(G2)) for G2 in squares]


def euler_maruyama_steps(sde: VESDE, times: list[float]) -> list[tuple[float, float]]:
    """g² Δt and its root."""
    levels = sigmas(sde, torch.tensor(times))
    pairs = zip(levels, itertools.pairwise(times), strict=False)
    squares = [2 * sde.log_ratio * level**2 * (t - s) for level, (t, s) in pairs]
    return [(h, math.sqrt(h)) for h in squares]


def ancestral_steps(levels: list[float]) -> list[tuple[float, float]]:
    """G² and the posterior's std (Song et al. 2021, appendix F)."""
    pairs = zip(reverse_diffusion_steps(levels), itertools.pairwise(levels), strict=True)
    return [(G2, G * after / level) for (G2, G), (level, after) in pairs]


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


def dpm_solver(x: Tensor, t: Tensor, levels: list[float], noise: Noise) -> Tensor:
    """DPM-Solver++(2M), whose first and last steps are DDIM's (Lu et al. 2022b, algorithm 2)."""
    before, denoised_before = math.nan, x
    for k, (level, after) in enumerate(itertools.pairwise(levels)):
        denoised = torch.add(x, score(x, t), alpha=level**2)
        x, h = torch.lerp(denoised, x, after / level), math.log(level / after)
        if 0 < k < len(levels) - 2:
            weight = (1 - after / level) * h / (2 * before)
            x = torch.add(x, denoised, alpha=weight)
            x = torch.add(x, denoised_before, alpha=-weight)
        before, denoised_before = h, denoised
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
    levels, numbers = sigmas(sde, times), times.tolist()
    reverse, euler = reverse_diffusion_steps(levels), euler_maruyama_steps(sde, numbers)
    langevin = partial(first_order, corrected=True)

    def ours(step: Step, corrector: Step | None = None) -> GridSampler:
        return GridSampler(sde, times, step, corrector)

    by_hand: dict[str, tuple[Callable[..., Tensor], list[Any], GridSampler]] = {
        "reverse diffusion": (first_order, reverse, ours(ReverseDiffusionPredictor(sde))),
        "… and Langevin": (
            langevin,
            reverse,
            ours(ReverseDiffusionPredictor(sde), LangevinCorrector(sde, SNR)),
        ),
        "Euler–Maruyama": (first_order, euler, ours(EulerMaruyamaPredictor(sde))),
        "ancestral": (
            first_order,
            ancestral_steps(levels),
            ours(AncestralSamplingPredictor(sde)),
        ),
        "DDIM": (ddim, levels, ours(DDIM(sde))),
        "Heun": (heun, levels, ours(Heun(sde))),
        "DPM-Solver++(2M)": (dpm_solver, levels, ours(DPMSolverPP2M(sde))),
    }
    x, t = torch.randn(given.batch, *SHAPE), torch.ones(given.batch)
    rows, figures = [], {}
    for name, (make, known, sampler) in by_hand.items():
        loop = partial(make, x, t, known)
        seen = [
            run(SampleNoise(1, index))
            for run in (
                loop,
                lambda noise, sampler=sampler: sampler.run(x, score, noise)[0],
            )
        ]
        off = ((seen[0] - seen[1]).abs().max() / seen[0].abs().max()).item()
        assert off < 1e-3, f"{name}: the two loops differ by {off:.2g}"
        counted, own = SampleNoise(1, index), torch_noise()
        found = interleaved(
            {
                "by hand": partial(loop, own),
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
