"""What the norms in the Langevin step do to the variance of samples, by number of dimensions.

    python -m benchmarks.langevin_norms            # D = 1, 2, 8, 64 and 192, in two minutes
    python -m benchmarks.langevin_norms 2 64

Data are N(0, I/4) with their exact score; samples come from 200 steps of reverse diffusion with
one Langevin step of snr 0.16 at each. Printed are relative errors of the variance, VE / VP.
"""

import sys

import torch
from torch import Tensor

from score_sde.samplers import GridSampler
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import correctors
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import ReverseDiffusionPredictor
from score_sde.tensor_ops import expand_to

VARIANCE, STEPS, SNR = 0.25, 200, 0.16


class OwnNorms(correctors.LangevinCorrector):
    """Each sample's own norms, in few dimensions too."""

    name = "own norms"

    def step_size(self, grad: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """ε from the norms of score and noise."""
        ratio = z.flatten(1).norm(dim=1) / grad.flatten(1).norm(dim=1)
        return 2 * self.sde.chain_alpha(t) * (self.snr * ratio) ** 2


class CappedNorms(OwnNorms):
    """The same, at most the step of annealed Langevin dynamics."""

    name = "own norms, at most the step of ald"

    def step_size(self, grad: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The lesser of the two."""
        annealed = 2 * self.sde.chain_alpha(t) * (self.snr * self.sde.std(t)) ** 2
        return torch.minimum(super().step_size(grad, z, t), annealed)


ROWS = {
    "no corrector": lambda sde: None,
    OwnNorms.name: lambda sde: OwnNorms(sde, SNR),
    CappedNorms.name: lambda sde: CappedNorms(sde, SNR),
    "the step of ald": lambda sde: correctors.AnnealedLangevinDynamics(sde, SNR),
    "the batch's norms": lambda sde: correctors.LangevinCorrector(sde, SNR, norms="batch"),
}


def error(sde: SDE, corrector: correctors.Corrector | None, dimensions: int) -> float:
    """Relative error of the variance, over 20,000 samples or 120,000 numbers."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / expand_to(sde.mean_scale(t) ** 2 * VARIANCE + sde.std(t) ** 2, x)

    torch.manual_seed(1)
    step, times = ReverseDiffusionPredictor(sde), time_grid(sde, STEPS)
    x = sde.prior_sampling((min(20_000, 120_000 // dimensions), dimensions))
    x, _ = GridSampler(sde, times, step, corrector).run(x, score, lambda shape: torch.randn(shape))
    return (x.square().mean() / VARIANCE - 1).item()


def main(dimensions: list[int]) -> None:
    """Prints a line for each row of `ROWS`."""
    print(f"{'D':<36}" + "".join(f"{d:>20}" for d in dimensions))
    for name, make in ROWS.items():
        cells = [
            " / ".join(f"{error(sde, make(sde), d):.3g}" for sde in (VESDE(), VPSDE()))
            for d in dimensions
        ]
        print(f"{name:<36}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 2, 8, 64, 192])
