"""What the adaptive solvers cost and give, where the score is known exactly.

    python -m benchmarks.adaptive_solvers ode      samples and bits/dim of a mixture of digits
    python -m benchmarks.adaptive_solvers sde      beside Euler–Maruyama, on the same mixture
    python -m benchmarks.adaptive_solvers bias     a rejected step's noise, kept or fresh

The mixture has 300 digits of 64 pixels as its means and the std 0.05. Errors of the ODE are root
mean squares, per dimension, against a solution at a tolerance of 1e-10. FD is the Fréchet distance
of pixels to the mixture's own moments; `var` is the variance about the nearest mean, in units of
0.05².
"""

import argparse
import itertools
import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from score_sde import likelihoods
from score_sde.samplers import AdaptiveSDESampler, GridSampler, Sampler
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers import adaptive_sde, kept_path
from score_sde.solvers.grids import time_grid
from score_sde.solvers.ode import ODE_SOLVERS, STEP_CONTROLS, ODEResult
from score_sde.solvers.predictors import EulerMaruyamaPredictor
from score_sde.tensor_ops import expand_to

STD = 0.05
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)


class Mixture:
    """Equal Gaussians of one std about the first 300 digits, in the SDE's usual range."""

    def __init__(self, sde: SDE, dtype: torch.dtype) -> None:
        self.sde = sde
        means = torch.tensor(load_digits(return_X_y=True)[0][:300] / 16, dtype=dtype)
        self.means = means if sde.name == "vesde" else 2 * means - 1

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x): x (B, 64), t (B,)."""
        alpha, std = expand_to(self.sde.mean_scale(t), x), expand_to(self.sde.std(t), x)
        variance = (alpha * STD) ** 2 + std**2
        squares = x.square().sum(1, keepdim=True) + alpha**2 * self.means.square().sum(1)
        weights = (-0.5 * (squares - 2 * alpha * (x @ self.means.T)) / variance).softmax(1)
        return (alpha * (weights @ self.means) - x) / variance

    def sample(self, n: int) -> Tensor:
        """n draws, those of a fixed generator."""
        generator = torch.Generator().manual_seed(0)
        which = torch.randint(len(self.means), (n,), generator=generator)
        z = torch.randn(n, 64, generator=generator, dtype=self.means.dtype)
        return self.means[which] + STD * z

    def quality(self, x: Tensor) -> str:
        """FD and the variance about the nearest mean."""
        mean = self.means.double().mean(0)
        covariance = torch.cov(self.means.double().T, correction=0) + STD**2 * torch.eye(64)
        own, of = x.double().mean(0), torch.cov(x.double().T)
        cross = torch.linalg.eigvals(of @ covariance).sqrt().real.sum()
        fd = (own - mean).square().sum() + of.trace() + covariance.trace() - 2 * cross
        nearest = self.means[torch.cdist(x, self.means).argmin(1)]
        return f"FD {fd:6.3f}  var {(x - nearest).square().mean() / STD**2:7.3f}"


def ode(n: int) -> None:
    """NFE, rejected steps and error for every method and controller."""
    for process in (VPSDE(), VESDE()):
        data = Mixture(process, torch.float64)
        best: dict = {"rtol": 1e-10, "atol": 1e-10, "method": "dop853"}
        truth, true_bits = _samples(data, n, best).y, _bits(data, n, best)[0]
        for method, control, tol in itertools.product(ODE_SOLVERS, STEP_CONTROLS, TOLERANCES):
            how: dict = {"rtol": tol, "atol": tol, "method": method, "control": control}
            drawn, (value, nfe) = _samples(data, n, how), _bits(data, n, how)
            print(
                f"{process.name} {method:6} {control:2} {tol:.0e}  "
                f"samples: NFE {drawn.nfe.double().mean():6.1f}, "
                f"{drawn.rejected.double().mean():4.1f} rejected, "
                f"error {(drawn.y - truth).square().mean().sqrt():.1e}  "
                f"bits/dim: NFE {nfe.double().mean():6.1f}, "
                f"error {(value - true_bits).square().mean().sqrt():.1e}",
                flush=True,
            )


def _samples(data: Mixture, n: int, how: dict) -> ODEResult:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, 64, generator=generator, dtype=torch.float64) * data.sde.prior_std
    return likelihoods.decode(data.sde, lambda _: data.score, z, eps=data.sde.eps, **how)


def _bits(data: Mixture, n: int, how: dict) -> tuple[Tensor, Tensor]:
    """bits/dim of the same images with the same probes, and their NFE."""
    probes = likelihoods.hutchinson_probes(
        "Rademacher", (64,), torch.arange(n), seed=0, n_probes=1
    )
    found = likelihoods.log_likelihood(
        data.sde, lambda _: data.score, data.sample(n), probes=probes.double(), **how
    )
    return found.logp / (64 * math.log(2)), found.nfe


def sde(n: int) -> None:
    """NFE and quality of Euler–Maruyama and of the adaptive solver."""
    for process in (VPSDE(), VESDE()):
        data = Mixture(process, torch.float32)
        print(f"{process.name} {n} exact samples      {data.quality(data.sample(n))}")
        samplers: dict[str, Sampler] = {}
        for steps in (25, 50, 100, 200, 400, 1000):
            predictor = EulerMaruyamaPredictor(process)
            grid = time_grid(process, steps)
            samplers[f"Euler–Maruyama {steps}"] = GridSampler(
                process, grid, predictor, tweedie=True
            )
        grey = (1 if process.name == "vesde" else 2) / 256
        for rtol in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            samplers[f"adaptive {rtol}"] = AdaptiveSDESampler(process, rtol, grey, tweedie=True)
        for name, sampler in samplers.items():
            options: dict = {"seed": 1, "batch_size": 100, "device": "cpu"}
            parts = list(
                sampler.draw(lambda _, of=data: of.score, torch.arange(n), (64,), **options)
            )
            x, nfe = torch.cat([p.x for p in parts]), torch.cat([p.nfe for p in parts])
            print(
                f"{process.name} {name:20} NFE {nfe.double().mean():5.0f} ({nfe.min():4} to "
                f"{nfe.max():4})  {data.quality(x)}",
                flush=True,
            )


class _Fresh(kept_path.KeptPaths):
    """The paper's own: what is known of a path is forgotten after each step."""

    def advance(self, samples: list, moved: list[bool], w: Tensor) -> None:
        super().advance(samples, moved, w)
        for sample in samples:
            sample.ahead = []


def bias(n: int) -> None:
    """The variance of samples of N(0, 0.05²) on VP, of `n` numbers, where it should be 1."""
    process = VPSDE()

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, std = process.mean_scale(t), process.std(t)
        return -x / expand_to((alpha * STD) ** 2 + std**2, x)

    end = torch.tensor([process.eps], dtype=torch.float64)
    exact = ((process.mean_scale(end) * STD) ** 2 + process.std(end) ** 2).item()
    kept = adaptive_sde.KeptPaths
    for dimensions in (1, 2, 64):
        for rtol in (0.2, 0.05):
            for name, paths in (("kept", kept), ("fresh", _Fresh)):
                adaptive_sde.KeptPaths = paths  # type: ignore[misc]
                count = n // dimensions
                options: dict = {"seed": 0, "batch_size": count, "device": "cpu"}
                (part,) = AdaptiveSDESampler(process, rtol).draw(
                    lambda _: score, torch.arange(count), (dimensions,), **options
                )
                print(
                    f"{dimensions}-D, ε_rel {rtol}, {name:5}: {part.x.var() / exact:.3f} ± "
                    f"{math.sqrt(2 / part.x.numel()):.3f}, NFE {part.nfe.double().mean():.0f}",
                    flush=True,
                )
    adaptive_sde.KeptPaths = kept  # type: ignore[misc]


if __name__ == "__main__":
    COMMANDS = {"ode": (ode, 16), "sde": (sde, 600), "bias": (bias, 2000)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    function, count = COMMANDS[parser.parse_args().what]
    torch.set_num_threads(1)
    function(count)
