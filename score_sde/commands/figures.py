"""`--mode figures`: figures of the papers that need no network, computed and drawn.

What a network is needed for has modes of its own: `--mode compare` with the presets `figure9`
(computation split between predictor and corrector) and `temperature`, and `--mode interpolate`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from score_sde.atomic import cannot_write, check_writable
from score_sde.noise import SampleNoise
from score_sde.pictures.papers import Kernel, Paths, kernel_plot, path_plot
from score_sde.samplers import GridSampler
from score_sde.score.exact import ExactScore, Points
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import EulerMaruyamaPredictor

STEPS = 500
"""Of paths."""

_ENDS = (0.06, 0.2, 0.35, 0.5, 0.65, 0.8, 0.94)
"""Where the paths of the ODE stand among the draws of the prior: quantiles, the same for all."""


def figures(output: Path) -> list[Path]:
    """Draws every row of `PAPER_FIGURES`.

    Args:
        output: a folder, made where missing.

    Returns:
        The files.

    Raises:
        OSError: a file can't be written.
    """
    made = []
    for name, draw in PAPER_FIGURES.items():
        path = output / f"{name}.png"
        try:
            check_writable(path)
        except OSError as error:
            raise cannot_write(path, error, "--output") from error
        draw(path)
        made.append(path)
    return made


def kernels(N: int = 1000) -> list[Kernel]:
    """Perturbation kernels of SMLD's and DDPM's chains of N scales, and of their SDEs.

    Song et al. 2021, appendix C, figure 5: SMLD's variances σ_i² beside VE's σ²(t) at
    t = (i − 1)/(N − 1), DDPM's scales √ᾱ_i and variances 1 − ᾱ_i beside VP's α(t) and σ²(t) at
    t = i/N.
    """
    ve, vp = VESDE(N=N), VPSDE(N=N)
    places = torch.arange(N, dtype=torch.float64)
    t_ve, t_vp = places / (N - 1), (places + 1) / N
    _, sigmas = ve.chain_scales()
    alphas, stds = vp.chain_scales()
    smld, ddpm = ("SMLD", "VE SDE"), ("DDPM", "VP SDE")

    def kernel(
        title: str, t: Tensor, chain: Tensor, sde: Tensor, names: tuple[str, str]
    ) -> Kernel:
        at, of_chain, of_sde = (x.double().numpy() for x in (t, chain, sde))
        words = f"{title}: {names[0]}, {names[1]}"
        return Kernel(words, at, of_chain, of_sde, names, log=names == smld)

    return [
        kernel("variance σ²", t_ve, sigmas.double() ** 2, ve.std(t_ve) ** 2, smld),
        kernel("mean scale α", t_vp, alphas, vp.mean_scale(t_vp), ddpm),
        kernel("variance σ²", t_vp, stds.double() ** 2, vp.std(t_vp) ** 2, ddpm),
    ]


def sdes() -> dict[str, SDE]:
    """The paper's SDEs, VE with levels that the eye can follow."""
    return {
        "VE, σ from 0.01 to 8": VESDE(sigma_min=0.01, sigma_max=8.0),
        "VP": VPSDE(),
        "sub-VP": subVPSDE(),
    }


def mixture() -> Points:
    """The data of the paths: two narrow Gaussians of unlike weights."""
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    return Points(means, 0.15, torch.tensor([0.4, 0.6], dtype=torch.float64))


def paths(sde: SDE, seed: int = 0, count: int = 7) -> tuple[Paths, Paths]:
    """Forward and reverse paths of an SDE and its probability-flow ODE (Song 2021, figure 2).

    The score is exact. The ODE's paths are the same both ways.

    Args:
        sde: the SDE.
        seed: of data and noise.
        count: how many paths of the SDE.

    Returns:
        From the data to the prior, and back.
    """
    data = mixture()
    score, times = ExactScore(data, sde), time_grid(sde, STEPS)
    places = torch.arange(count)
    quantiles = torch.tensor(_ENDS, dtype=torch.float64)
    begin = sde.prior_std * torch.special.ndtri(quantiles)[:, None]
    flow = _walked(sde, times, begin, score, places, seed, probability_flow=True)
    prior = sde.prior_sampling((count, 1), noise=SampleNoise(seed, places)).double()
    reverse = _walked(sde, times, prior, score, places, seed + 1, probability_flow=False)
    forward = _forward(sde, times.flip(0), data.sample(places, seed).double(), seed + 2)
    edge = 1.15 * max(float(x.abs().max()) for x in (flow, reverse, forward))
    x = torch.linspace(-edge, edge, 301, dtype=torch.float64)
    everywhere = x.repeat(len(times))[:, None]
    at = times.double().repeat_interleave(len(x))
    density = score.log_density(everywhere, at).exp().reshape(len(times), len(x))
    down = [times, x, density, reverse, flow]
    up = [times.flip(0), x, density.flip(0), forward, flow.flip(0)]
    return Paths(*(a.numpy() for a in up)), Paths(*(a.numpy() for a in down))


def _walked(
    sde: SDE,
    times: Tensor,
    x: Tensor,
    score: ExactScore,
    index: Tensor,
    seed: int,
    *,
    probability_flow: bool,
) -> Tensor:
    """The states of Euler–Maruyama down a grid: (T, n) from x (n, 1)."""
    states = []
    sampler = GridSampler(sde, times, EulerMaruyamaPredictor(sde, probability_flow))
    noise = SampleNoise(seed, index, dtype=torch.float64)
    sampler.run(x, score, noise, on_step=lambda k, of, t, x, mean: states.append(x[:, 0].clone()))
    return torch.stack(states)


def _forward(sde: SDE, times: Tensor, x: Tensor, seed: int) -> Tensor:
    """The forward SDE by its own transitions, which have no error: (T, n) from x_0 (n, 1)."""
    noise = SampleNoise(seed, torch.arange(len(x)), dtype=torch.float64)
    levels = times.double()
    x, std = sde.marginal_prob(x, levels[:1].expand(len(x)))
    x = x + std[:, None] * noise(x.shape)
    states = [x[:, 0]]
    for s, t in zip(levels[:-1, None], levels[1:, None], strict=True):
        r, G = sde.transition(t, s)
        x = r * x + G * noise(x.shape)
        states.append(x[:, 0])
    return torch.stack(states)


def _draw_kernels(path: Path) -> None:
    title = "Perturbation kernels of the chains and of the SDEs that continue them"
    kernel_plot(path, title, kernels())


def _draw_paths(path: Path) -> None:
    rows = {name: paths(sde) for name, sde in sdes().items()}
    path_plot(path, "Paths of SDEs and of their probability-flow ODEs, with the exact score", rows)


PAPER_FIGURES: dict[str, Callable[[Path], None]] = {
    "kernels": _draw_kernels,
    "paths": _draw_paths,
}
"""Name of the file → what draws it: figures 5 and 2 of Song et al. 2021."""
