"""Whether a device gives what the CPU gives: how far off each of several results is.

`benchmarks.gpu` tells the figures, and `pytest -m gpu` holds each to its limit. The networks are
small and have weights by a formula, so that nothing has to be fetched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.vp import digits
from score_sde import likelihoods, noise
from score_sde.config.build import (
    Config,
    allow_tf32,
    build_network,
    build_objective,
    build_sampler,
    build_score_for,
    build_sde,
    build_state,
    build_train_step,
    image_shape,
)
from score_sde.samplers import Samples

SEED = 5


def small(device: str, **fields: object) -> Config:
    """The digits' recipe with a narrow network, on a device; further fields by `group__name`."""
    config: Config = digits.get_config()
    config.model.nf, config.model.ch_mult = 16, (1, 2)
    config.device, config.training.compile = device, "off"
    for name, value in fields.items():
        group, _, leaf = name.partition("__")
        config[group][leaf] = value
    return config


def network_of(config: Config) -> nn.Module:
    """Its network with weights that follow from their place."""
    network = build_network(config).eval()
    with torch.no_grad():
        for place, weights in enumerate(network.parameters()):
            values = noise.normal(SEED, torch.tensor([place]), 0, weights.shape)[0]
            weights.copy_(0.05 * values + (1.0 if weights.ndim == 1 else 0.0))
    return network


def images_of(config: Config, count: int) -> Tensor:
    """Numbers in the place of images, (count, C, H, W) on the config's device."""
    index = torch.arange(count)
    return noise.uniform(SEED, index, 0, image_shape(config)).to(config.device)


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).abs().max() / expected.abs().max()).item()


def samples_of(config: Config, count: int, batch_size: int) -> Tensor:
    """Samples (count, C, H, W) of the config's sampler and network."""
    sde = build_sde(config)
    score_for = build_score_for(config, network_of(config), sde)
    shape, index = image_shape(config), torch.arange(count)
    parts: Iterator[Samples] = build_sampler(config, sde).draw(
        score_for, index, shape, seed=SEED, batch_size=batch_size, device=config.device
    )
    return torch.cat([part.x for part in parts])


def evaluation(device: str) -> float:
    """A network's output against the CPU's."""
    found = []
    for where in (device, "cpu"):
        config = small(where)
        x, t = images_of(config, 4), torch.linspace(1, 999, 4, device=where)
        with torch.no_grad():
            found.append(network_of(config)(x, t))
    return off(*found)


def evaluation_in_tf32(device: str) -> float:
    """The same with 10 bits of the factors."""
    allow_tf32(True)
    try:
        return evaluation(device)
    finally:
        allow_tf32(False)


def samples(device: str) -> float:
    """Samples of a few steps of a predictor and a corrector against the CPU's."""
    given = {"sampling__method": "pc", "sampling__num_steps": 8, "sampling__corrector": "langevin"}
    return off(*(samples_of(small(where, **given), 4, 4) for where in (device, "cpu")))


def samples_of_the_ode(device: str) -> float:
    """Samples of the adaptive ODE against the CPU's."""
    given = {"sampling__method": "ode", "sampling__rtol": 1e-4, "sampling__atol": 1e-4}
    return off(*(samples_of(small(where, **given), 4, 4) for where in (device, "cpu")))


def batch_sizes(device: str) -> float:
    """The same images for batches of 10 and of 64."""
    config = small(device, sampling__method="pc", sampling__num_steps=4)
    return off(samples_of(config, 24, 10), samples_of(config, 24, 64))


def bits_per_dim(device: str) -> float:
    """Log densities against the CPU's."""
    found = []
    for where in (device, "cpu"):
        config = small(where)
        sde, x = build_sde(config), images_of(config, 4)
        score_for = build_score_for(config, network_of(config), sde)
        index = torch.arange(4, device=where)
        probes = likelihoods.hutchinson_probes("Rademacher", x.shape[1:], index, seed=SEED)
        options: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
        found.append(likelihoods.log_likelihood(sde, score_for, x, probes=probes, **options).logp)
    return off(*found)


@contextmanager
def waiting_refused(device: str) -> Iterator[None]:
    """Within it CUDA raises where the host waits; elsewhere nothing is told."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits_in_training(device: str) -> float:
    """1 where a training step waits, after the first."""
    config = small(device)
    state, sde = build_state(config), build_sde(config)
    step = build_train_step(config, build_objective(config, sde))
    x = images_of(config, 8)
    step(state, x)
    return _waits(device, lambda: step(state, x))


def waits_in_sampling(device: str) -> float:
    """1 where a step of a predictor and a corrector waits, after the first run."""
    config = small(device, sampling__method="pc", sampling__num_steps=2)
    sde = build_sde(config)
    sampler, index = build_sampler(config, sde), torch.arange(4, device=device)
    score = build_score_for(config, network_of(config), sde)(index)
    x = images_of(config, 4)

    def run() -> None:
        sampler.run(x, score, noise.SampleNoise(SEED, index))  # type: ignore[attr-defined]

    run()
    return _waits(device, run)


def _waits(device: str, call: Callable[[], object]) -> float:
    try:
        with waiting_refused(device):
            call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        print(f"a wait: {error}")
        return 1.0
    return 0.0


@dataclass(frozen=True)
class Check:
    """How far off a device is, given its name, and the most that it may be."""

    measure: Callable[[str], float]
    limit: float


CHECKS: dict[str, Check] = {
    "evaluation, float32": Check(evaluation, 1e-4),
    "evaluation, TF32": Check(evaluation_in_tf32, 1e-2),
    "samples, pc": Check(samples, 1e-3),
    "samples, adaptive ODE": Check(samples_of_the_ode, 1e-2),
    "batches of 10 and 64": Check(batch_sizes, 1e-3),
    "log density": Check(bits_per_dim, 1e-3),
    "waits in a training step": Check(waits_in_training, 0.0),
    "waits in a sampling step": Check(waits_in_sampling, 0.0),
}
