"""How twisted particles come to the posterior, where it is known, as they and their steps grow.

    python -m benchmarks.twisted_particles

Data are a mixture of three Gaussians in the plane; the first coordinate is measured with a std
of 0.5. The posterior is a mixture too, with its mean in closed form. Printed are the root mean
square, over runs, of the distance between it and the particles' mean; the length of the average
distance, the bias; and the standard error of that. VP, a grid even in log-SNR.
"""

import itertools

import torch
from torch import Tensor

from score_sde.posteriors.measurements import Mask
from score_sde.posteriors.scores import DPS, GaussianLikelihood, PiGDM
from score_sde.posteriors.twisted import TwistedSMC
from score_sde.score.exact import ExactScore, Points
from score_sde.sde import VPSDE
from score_sde.solvers.grids import time_grid

MEANS = ((-1.0, -1.0), (0.2, 1.0), (1.0, -0.4))
WEIGHTS = (0.3, 0.3, 0.4)
STD, NOISE, Y = 0.25, 0.5, 0.3
SHAPE = (1, 1, 2)


def posterior_mean() -> Tensor:
    """E[x_0 | y], float64 (2,)."""
    means, weights = torch.tensor(MEANS).double(), torch.tensor(WEIGHTS).double()
    total = STD**2 + NOISE**2
    off = Y - means[:, 0]
    share = (weights.log() - off**2 / (2 * total)).softmax(0)
    moved = means.clone()
    moved[:, 0] += STD**2 / total * off
    return share @ moved


def run(kind: type[GaussianLikelihood], particles: int, steps: int, runs: int) -> Tensor:
    """Means of the particles of each run, float64 (runs, 2)."""
    sde = VPSDE()
    mixture = Points(torch.tensor(MEANS).reshape(3, *SHAPE), STD, torch.tensor(WEIGHTS))
    score = ExactScore(mixture, sde)
    measurement = Mask(SHAPE, NOISE, torch.tensor([[1, 0]]))
    y = torch.tensor([Y, 0.0], dtype=torch.float64).reshape(1, *SHAPE)
    options = {"data_std": 1.0} if kind is PiGDM else {}
    posterior = kind(score, sde, measurement, y, **options)
    smc = TwistedSMC(sde, time_grid(sde, steps, "log_snr"), particles)
    drawn = smc.draw(
        lambda _: posterior,
        torch.arange(runs),
        SHAPE,
        seed=0,
        batch_size=8192,
        device="cpu",
        dtype=torch.float64,
    )
    return torch.stack([one.mean.flatten() for one in drawn])


def main() -> None:
    """Prints a row for each twist and number of particles and steps."""
    truth = posterior_mean()
    number = (1, 8, 64, 512)
    rows = [*itertools.product((PiGDM,), number, (50, 200, 800))]
    for kind, particles, steps in [*rows, *itertools.product((DPS,), number, (200,))]:
        runs = max(16, min(1000, 20_000_000 // (particles * steps), 60_000 // particles))
        means = run(kind, particles, steps, runs)
        error = (means - truth).square().sum(1).mean().sqrt()
        bias = (means.mean(0) - truth).square().sum().sqrt()
        spread = (means.var(0).sum() / runs).sqrt()
        print(
            f"{kind.name:6} {particles:4} particles {steps:4} steps {runs:4} runs: "
            f"error {error:.4f}  bias {bias:.4f} ± {spread:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
