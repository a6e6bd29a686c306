"""The numbers that `reference.json` holds, computed by the library; run it to make them anew.

They pin results where no closed form does, on machines without the reference folder of the 2021
release. `python tests/reference.py` rewrites the file; do so only when a change of numbers is
meant, and say why in the commit.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde import noise
from score_sde.networks.ddpm import DDPM
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.ncsnv2 import NCSNv2
from score_sde.objectives import make_objective
from score_sde.samplers import GridSampler, ODESampler
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import PREDICTORS

FILE = Path(__file__).with_name("reference.json")
SDES: dict[str, SDE] = {sde.name: sde for sde in (VESDE(), VPSDE(), subVPSDE())}
INDEX = torch.arange(4)
MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.25]])


def mixture_score(sde: SDE):
    """The exact score of two Gaussians of variance 0.04 in the plane."""

    def score(x, t):
        alpha, sigma = sde.mean_scale(t)[:, None], sde.std(t)[:, None]
        variance = 0.04 * alpha**2 + sigma**2
        offset = x[:, None] - alpha[..., None] * MEANS.to(x)
        weight = (-(offset**2).sum(-1) / (2 * variance)).softmax(1)
        return -(weight[..., None] * offset).sum(1) / variance

    return score


def numbers(x) -> list[float]:
    return [float(f"{value:.9g}") for value in torch.as_tensor(x).flatten().tolist()]


def sde_numbers(sde: SDE) -> dict[str, list[float]]:
    t = torch.tensor([0.001, 0.3, 1.0], dtype=torch.float64)
    s = torch.tensor([0.0005, 0.2, 0.999], dtype=torch.float64)
    r, G = sde.transition(t, s)
    f, G_chain = sde.discretize(torch.ones(3, 1, dtype=torch.float64), t)
    return {
        "mean_scale": numbers(sde.mean_scale(t)),
        "std": numbers(sde.std(t)),
        "diffusion_squared": numbers(sde.diffusion_squared(t)),
        "transition": numbers(torch.stack([r, G])),
        "chain": numbers(torch.stack([f[:, 0], G_chain])),
        "index": numbers(sde.index(t)),
        "prior_logp": numbers(sde.prior_logp(torch.ones(1, 5, dtype=torch.float64))),
    }


def drawn(sampler, sde: SDE) -> list[float]:
    parts = sampler.draw(
        lambda _: mixture_score(sde),
        INDEX,
        (2,),
        seed=7,
        batch_size=4,
        device="cpu",
        dtype=torch.float64,
    )
    return numbers(torch.cat([part.x for part in parts]))


def sampler_numbers(sde: SDE) -> dict[str, list[float]]:
    found = {}
    for predictor, corrector in [(p, c) for p in PREDICTORS for c in CORRECTORS]:
        # In the plane the Langevin step has norms of its own in a batch only.
        steps = PREDICTORS[predictor](sde), CORRECTORS[corrector](sde, snr=0.1, norms="batch")
        found[f"{predictor}+{corrector}"] = drawn(
            GridSampler(sde, time_grid(sde, 12), *steps), sde
        )
    for name in ("ddim", "heun", "dpm_solver++"):  # others have orders, and those of diffusers
        solver = FEW_STEP[name](sde)
        found[name] = drawn(GridSampler(sde, time_grid(sde, 12, "edm"), solver), sde)
    found["ode"] = drawn(ODESampler(sde, rtol=1e-9, atol=1e-9), sde)
    return found


def loss_numbers(sde: SDE) -> dict[str, list[float]]:
    x_0 = noise.normal(3, INDEX, 0, (6,), dtype=torch.float64)
    z = noise.normal(3, INDEX, 1, (6,), dtype=torch.float64)
    t = torch.tensor([0.01, 0.2, 0.6, 1.0], dtype=torch.float64)

    def net(x, cond):
        return 0.3 * x + 0.001 * cond[:, None]

    found = {}
    for mean in (False, True):
        for weighted in (False, True):
            objective = make_objective(sde, reduce_mean=mean, likelihood_weighting=weighted)
            found[f"mean={mean}, likelihood={weighted}"] = numbers(objective(net, x_0, t, z))
    return found


def set_weights(net: torch.nn.Module) -> torch.nn.Module:
    """Weights by a formula: noise by the place of the parameter in the network."""
    for place, parameter in enumerate(net.parameters()):
        values = noise.normal(11, torch.tensor([place]), 0, parameter.shape)[0]
        parameter.data = 0.1 * values + (1.0 if parameter.ndim == 1 else 0.0)
    return net.eval()


@torch.no_grad()
def network_numbers() -> dict[str, list[float]]:
    torch.manual_seed(0)  # of NCSN++'s frozen frequencies
    common = {"image_size": 8, "num_channels": 1, "ch_mult": (1, 2), "num_res_blocks": 1}
    nets = {
        "ddpm++": (NCSNpp(**common, nf=8, attn_resolutions=(4,)), 500.0),
        "ncsn++": (
            NCSNpp(
                **common,
                nf=8,
                attn_resolutions=(4,),
                fir=True,
                embedding_type="fourier",
                progressive="output_skip",
                progressive_input="input_skip",
                scale_by_sigma=True,
            ),
            3.0,
        ),
        "ddpm": (DDPM(**common, nf=32, attn_resolutions=(4,)), 500.0),
        "ncsnv2": (NCSNv2(num_channels=1, nf=8), 100),
    }
    x = noise.uniform(5, torch.arange(1), 0, (1, 8, 8))
    found = {}
    for name, (net, cond) in nets.items():
        for buffer_name, buffer in net.named_buffers():
            if buffer_name.endswith("frequencies"):
                buffer.copy_(noise.normal(11, torch.tensor([0]), 1, buffer.shape)[0])
        y = set_weights(net)(x, torch.tensor([cond]))
        found[name] = numbers(torch.stack([y.mean(), y.std(), y[0, 0, 2, 3], y[0, 0, 7, 0]]))
    return found


def compute() -> dict:
    """All numbers, by subject."""
    return {
        "noise": {
            "normal": numbers(noise.normal(2**63 + 5, INDEX, 3, (3,))),
            "uniform": numbers(noise.uniform(1, INDEX, 0, (3,))),
            "permutation": numbers(noise.permutation(9, 1, 2)),
        },
        "networks": network_numbers(),
        **{f"{name}: sde": sde_numbers(sde) for name, sde in SDES.items()},
        **{f"{name}: loss": loss_numbers(sde) for name, sde in SDES.items()},
        **{f"{name}: samplers": sampler_numbers(sde) for name, sde in SDES.items()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(compute(), indent=1) + "\n")
