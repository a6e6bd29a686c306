"""What blended tiles cost, where the score is known, and what seams they leave.

    python -m benchmarks.tiles gaussian
    python -m benchmarks.tiles constant runs/vp/digits/checkpoints/step_00002000.pt

`gaussian`: data are stationary Gaussians on a line of 64 pixels, of variance 1, whose correlation
falls off with a length; tiles of 16 pixels have their exact scores. Hard tiles (no overlap), the
blend, and DiffCollage's sum of tiles less overlaps are compared with the exact score of the whole:
the root mean square error of the score over that of the score, at three noise levels, and the
error of the covariance that the converged probability-flow ODE ends with, in the Frobenius norm.
All are linear maps of x, so that both are computed without sampling.

`constant`: a network denoises constant images of four times its sides, black, grey and white, at
three noise levels: 16 draws of the noise. Printed are the root mean squares of the jumps from
pixel to pixel in the mean of these draws, across the borders of hard tiles and elsewhere, in units
of the range from black to white: for hard tiles, for the blend, and for the network given the
whole image, where it takes that; and how far that mean is off the constant.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from score_sde import checkpoints, noise
from score_sde.commands.weights import network_of
from score_sde.config import history
from score_sde.config.build import build_scaler, build_score_for, build_sde, image_shape
from score_sde.score import TiledScore, Tiling, denoised_from_score
from score_sde.sde import VPSDE, Score
from score_sde.solvers.grids import time_grid
from score_sde.tensor_ops import expand_to

SIDE, TILE = 64, 16
LEVELS = (3.0, 0.5, 0.1)
DATA = (("markov", 1), ("markov", 4), ("smooth", 1), ("smooth", 2), ("smooth", 4))
GREYS = (0.0, 0.5, 1.0)


def covariance(kind: str, length: float) -> Tensor:
    """Of the data, float64 (SIDE, SIDE): "markov" e^(−d/ℓ), or "smooth" e^(−d²/(2 ℓ²))."""
    d = torch.arange(SIDE, dtype=torch.float64)
    d = (d[:, None] - d).abs() / length
    return torch.exp(-d) if kind == "markov" else torch.exp(-(d**2) / 2)


Precision = Callable[[Tensor], Tensor]
"""Covariance of x_t (SIDE, SIDE) → the matrix P of a score −P x."""


def blended(overlap: float) -> Precision:
    """The matrix of blended tiles."""
    tiling = Tiling((SIDE,), (TILE,), overlap)

    def of(total: Tensor) -> Tensor:
        rows = torch.eye(SIDE, dtype=torch.float64)
        tiles = [
            part @ torch.linalg.inv(total[a : a + TILE, a : a + TILE])
            for part, (a,) in zip(tiling.cut(rows), tiling.starts, strict=True)
        ]
        return tiling.blend(torch.stack(tiles)).T

    return of


def collage(overlap: float) -> Precision:
    """The matrix of DiffCollage: the scores of the tiles less those of their overlaps."""
    starts = [a for (a,) in Tiling((SIDE,), (TILE,), overlap).starts]

    def of(total: Tensor) -> Tensor:
        P = torch.zeros_like(total)
        parts = [(slice(a, a + TILE), 1) for a in starts]
        parts += [(slice(b, a + TILE), -1) for a, b in itertools.pairwise(starts)]
        for part, sign in parts:
            P[part, part] += sign * torch.linalg.inv(total[part, part])
        return P

    return of


def score_error(P: Precision, data: Tensor, level: float) -> float:
    """Relative root mean square error of the score over p_t, at a noise level σ/α, for α = 1."""
    total = data + level**2 * torch.eye(SIDE, dtype=torch.float64)
    exact = torch.linalg.inv(total)
    off = P(total) - exact
    return (torch.trace(off @ total @ off.T) / torch.trace(exact)).sqrt().item()


def drawn_error(P: Precision, data: Tensor, steps: int = 400) -> float:
    """Relative error of the covariance that the probability-flow ODE of VP ends with."""
    sde = VPSDE()
    times = time_grid(sde, steps, "log_snr", sde.eps).double()
    alpha, sigma = sde.mean_scale(times), sde.std(times)
    eye = torch.eye(SIDE, dtype=torch.float64)
    # In u = x/α and l = σ/α the flow is du/dl = l P u, here by the midpoint rule.
    M, levels = eye / alpha[0], sigma / alpha
    for level, after in itertools.pairwise(levels):
        middle = (level * after).sqrt()
        A = middle * P(data + middle**2 * eye) * (after - level)
        M = torch.linalg.solve(eye - A / 2, (eye + A / 2) @ M)
    drawn = M @ M.T
    return ((drawn - data).norm() / data.norm()).item()


def gaussian() -> None:
    """Prints a row for each data and method."""
    methods = {
        "hard tiles": blended(0),
        "blend, 1/4": blended(0.25),
        "blend, 1/2": blended(0.5),
        "blend, 3/4": blended(0.75),
        "collage, 1/4": collage(0.25),
        "collage, 1/2": collage(0.5),
    }
    print(f"{'':28}" + "".join(f"  σ/α={level:<5g}" for level in LEVELS) + "  drawn")
    for kind, length in (
        ("markov", 1),
        ("markov", 4),
        ("smooth", 1),
        ("smooth", 2),
        ("smooth", 4),
    ):
        data = covariance(kind, length)
        for name, P in methods.items():
            errors = [score_error(P, data, level) for level in LEVELS]
            print(
                f"{kind:7} {length:2} {name:17}"
                + "".join(f"  {error:9.4f}" for error in errors)
                + f"  {drawn_error(P, data):9.4f}"
            )


def jumps(image: Tensor, side: int) -> tuple[float, float]:
    """Root mean squares of an image's jumps, (C, H, W): across borders of tiles, and elsewhere."""
    at, elsewhere = [], []
    for axis in (1, 2):
        jump = image.diff(dim=axis).square()
        border = (torch.arange(jump.shape[axis]) + 1) % side == 0
        at.append(jump.index_select(axis, border.nonzero()[:, 0]).flatten())
        elsewhere.append(jump.index_select(axis, (~border).nonzero()[:, 0]).flatten())
    across, within = (torch.cat(v).mean().sqrt().item() for v in (at, elsewhere))
    return across, within


@torch.no_grad()
def constant(checkpoint: Path, draws: int = 16) -> None:
    """Prints a row for each grey, noise level and way of tiling."""
    state = checkpoints.load(checkpoint)
    config = history.adopt(history.from_json(state["config"]), state["config"], {}, checkpoint)
    network, sde = network_of(config, state), build_sde(config)
    (channels, *tile), scale = image_shape(config), build_scaler(config)
    size = tuple(4 * side for side in tile)
    index, black_to_white = torch.arange(draws), (scale(torch.ones(1)) - scale(torch.zeros(1)))
    score_for = build_score_for(config, network, sde)
    ways: dict[str, Score] = {
        f"{name} tiles": TiledScore(score_for, index, Tiling(size, tuple(tile), overlap), 256)
        for name, overlap in (("hard", 0.0), ("blended", 0.5))
    }
    ways["whole image"] = score_for(index)
    z = noise.normal(0, index, 0, (channels, *size))
    for grey, level, (name, score) in itertools.product(GREYS, LEVELS, ways.items()):
        t = sde.time_of_noise_level(torch.full((draws,), level))
        mean, std = sde.marginal_prob(scale(torch.full_like(z, grey)), t)
        x = mean + expand_to(std, z) * z
        image = denoised_from_score(sde, x, score(x, t), t).mean(0) / black_to_white
        across, within = jumps(image, tile[0])
        off = (image - scale(torch.tensor(grey)) / black_to_white).square().mean().sqrt()
        print(
            f"grey {grey:3g}  σ/α={level:<4g} {name:13}: across {across:.4f}  "
            f"elsewhere {within:.4f}  off {off:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["gaussian"]:
        gaussian()
    elif len(sys.argv) == 3 and sys.argv[1] == "constant":
        constant(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
