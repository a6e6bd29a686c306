"""Figures of a checkpoint: each a mean over images with its standard error, computed in shards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde import likelihoods, noise
from score_sde.commands.shards import Results, Shards
from score_sde.config.build import (
    Config,
    build_inverse_scaler,
    build_objective,
    build_scaler,
    build_score,
)
from score_sde.data import Source, dequantise, to_unit
from score_sde.noise import Stream
from score_sde.sde import SDE, VPSDE, Score
from score_sde.solvers.ode import Status

SHARDS, SHARD_BATCHES = 32, 4
"""How many shards a figure should have, to be resumed and shared, and the most batches in one.
In more than one batch the slot that a finished image leaves is filled with the next."""

SDE_DRAWS, SDE_TIMES, CHAIN_DRAWS = 2, 16, 16
"""Of the bounds' estimates. All steps of a chain would be a thousand evaluations an image, and say
no more: images differ among one another by more than these draws."""

Figure = dict[str, Any]
"""`value`, its standard error `se` (None where it is not known), the number `n` that it is a mean
of, and how it was made."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        config: of the checkpoint, with the evaluation's own options.
        network: with its weights in place.
        sde: the forward SDE.
        device: of the network.
        shards: where results are kept.
    """

    config: Config
    network: nn.Module
    sde: SDE
    device: torch.device
    shards: Shards

    def score_for(self, labels: Tensor | None) -> Callable[[Tensor], Score]:
        """Rows → the score for the labels of these rows."""

        def of(row: Tensor) -> Score:
            label = None if labels is None else labels[row]
            return build_score(self.config, self.network, self.sde, label)

        return of

    def labels(self, source: Source, index: Tensor) -> Tensor | None:
        """Labels on the device, where the network has classes."""
        classes = self.config.model.get("num_classes", 0)
        return source.labels(index).to(self.device) if classes else None


def mean_figure(values: np.ndarray, **how: Any) -> Figure:
    """The mean of one number per image, with its standard error over images.

    An error that is not known is None, as in every figure.
    """
    n = len(values)
    se = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"value": float(values.mean()), "se": se, "n": n, **how}


def subset(source: Source, count: int) -> Tensor:
    """Which images stand for a data set: the first of a random order, which is always the same.

    Folders and many sets lie sorted by class: their first images are no sample of them.
    """
    return noise.permutation(len(source), 0, 0)[:count]


def shard_size(count: int, batch_size: int) -> int:
    """Samples in a shard: whole batches, for any number of processes the same."""
    return batch_size * max(1, min(SHARD_BATCHES, math.ceil(count / (SHARDS * batch_size))))


def no_likelihood(config: Config, sde: SDE) -> str:
    """Why a checkpoint can have no bits/dim by the ODE; empty if it can."""
    if sde.has_chain and not config.training.continuous:
        return "its network knows the times of a discrete chain only, and the ODE needs all times"
    return ""


@torch.no_grad()
def held_out_loss(subject: Subject, source: Source) -> Figure:
    """The training objective, per dimension, on every image, each at a time of its own."""
    config, seed = subject.config, subject.config.seed
    objective = build_objective(config, subject.sde)
    scale = build_scaler(config)
    # Drawn for all images at once: an image's time depends on neither shard nor process.
    times = objective.times(len(source), generator=_generator(seed))
    index, size = torch.arange(len(source)), shard_size(len(source), config.eval.batch_size)

    def compute(index: Tensor) -> dict[str, Tensor]:
        losses = [compute_batch(part) for part in index.split(config.eval.batch_size)]
        return {"loss": torch.cat(losses), "t": objective.time(times[index]).double()}

    def compute_batch(index: Tensor) -> Tensor:
        images = to_unit(source.images(index).to(subject.device), source.info.levels)
        x_0, t = scale(images), times[index].to(subject.device)
        sample = index.to(subject.device)
        z = noise.normal(seed, sample, 0, x_0.shape[1:], stream=Stream.HELD_OUT)
        return objective(subject.network, x_0, t, z, subject.labels(source, index)).cpu().double()

    shards = subject.shards.results("loss", index, size, compute, data=source.info.fingerprint)
    per_dimension = objective.per_dimension(math.prod(source.info.shape))
    return mean_figure(
        shards["loss"] * per_dimension,
        split=source.info.split,
        per="dimension",
        by_level=_by_level(shards["t"], shards["loss"] * per_dimension, subject.sde.T),
        sec=shards.sec,
    )


def _generator(seed: int) -> torch.Generator:
    """Torch's generator on the CPU keeps 32 bits of a seed: here all 64 of ours decide on them."""
    u = noise.uniform(
        seed, torch.zeros(1, dtype=torch.int64), 0, (), stream=Stream.HELD_OUT, dtype=torch.float64
    )
    return torch.Generator().manual_seed(int(u.item() * 2**32))


def bits_per_dim(subject: Subject, source: Source, count: int) -> tuple[Figure, np.ndarray] | str:
    """Bits per dimension of images, uniformly dequantised, by the probability-flow ODE.

    Args:
        subject: what is evaluated.
        source: the images.
        count: how many of them, chosen by `subset`.

    Returns:
        The figure, and the bits of each image (mean over the draws of dequantisation); or why
        there is none.
    """
    config, options, seed = subject.config, subject.config.eval, subject.config.seed
    shape, levels = source.info.shape, source.info.levels
    scale = build_scaler(config)
    width = likelihoods.bin_width(build_inverse_scaler(config), levels)
    draws, probes = options.bpd_draws, options.bpd_probes
    exact = options.hutchinson_type == "exact"
    chosen = subset(source, count)
    batch_size = min(options.bpd_batch_size, len(chosen))

    def compute(index: Tensor) -> dict[str, Tensor]:
        images, index = source.images(index).to(subject.device), index.to(subject.device)
        x, probe = [], []
        for draw in range(draws):
            u = noise.uniform(seed, index, draw, shape, stream=Stream.DEQUANTISE)
            x.append(scale(dequantise(images, levels, u)))
            if not exact:
                kind, first = options.hutchinson_type, draw * probes
                probe.append(
                    likelihoods.hutchinson_probes(
                        kind, shape, index, seed=seed, n_probes=probes, first=first
                    )
                )
        labels = subject.labels(source, index.cpu())
        result = likelihoods.log_likelihood(
            subject.sde,
            subject.score_for(None if labels is None else labels.repeat(draws)),
            torch.cat(x),
            probes=None if exact else torch.cat(probe, dim=1),
            rtol=options.rtol,
            atol=options.atol,
            eps=options.bpd_eps,
            batch_size=batch_size,
            max_steps=options.max_steps,
        )
        bits = likelihoods.bits_per_dim(result.logp, math.prod(shape), width)
        rows = {"bits": bits.cpu().double(), "nfe": result.nfe, "status": result.status}
        return {name: value.view(draws, -1).T for name, value in rows.items()}

    names = ("bpd_draws", "hutchinson_type", "rtol", "atol", "bpd_eps", "max_steps")
    how = {name: options[name] for name in (*names, *(() if exact else ("bpd_probes",)))}
    shards = subject.shards.results(
        "bits",
        chosen,
        shard_size(len(chosen), batch_size),
        compute,
        data=source.info.fingerprint,
        batch_size=batch_size,
        **how,
    )
    how |= {"method": "Dormand–Prince 5(4), an error norm for each image"}
    if figure := _bits_figure(shards, source, how):
        return figure, shards["bits"].mean(1)
    return (
        "the ODE reached the prior for no image: check the weights, or raise eval.rtol, "
        "eval.atol or eval.bpd_eps"
    )


def no_bound(config: Config, sde: SDE) -> str:
    """Why a checkpoint has no bound; empty if it has."""
    if sde.has_chain and not config.training.continuous and not isinstance(sde, VPSDE):
        return "SMLD's chain has none, and its network knows no other times"
    chain = _chain(config, sde)
    if chain and chain.discrete_betas.max() >= 1:
        return "the last step of its chain leaves nothing of an image: beta_max is num_scales"
    return ""


def _chain(config: Config, sde: SDE) -> VPSDE | None:
    """DDPM's chain, where the model is that and not a reverse-time SDE."""
    return sde if isinstance(sde, VPSDE) and not config.training.continuous else None


@torch.no_grad()
def bound(subject: Subject, source: Source, count: int) -> Figure:
    """Upper bound on bits/dim, of the reverse-time SDE or of DDPM's chain.

    With a learnt score that is another model than the ODE, so that the bound may lie below the
    ODE's bits/dim.

    Args:
        subject: what is evaluated.
        source: the images.
        count: how many of them, chosen by `subset`.
    """
    config, options, seed = subject.config, subject.config.eval, subject.config.seed
    shape, levels = source.info.shape, source.info.levels
    scale = build_scaler(config)
    inverse_scale = build_inverse_scaler(config)
    width, dimensions = likelihoods.bin_width(inverse_scale, levels), math.prod(shape)
    chain, chosen = _chain(config, subject.sde), subset(source, count)
    batch_size = min(options.bpd_batch_size, len(chosen))

    def compute(index: Tensor) -> dict[str, Tensor]:
        images, row = source.images(index).to(subject.device), index.to(subject.device)
        score_for = subject.score_for(subject.labels(source, index))
        shared: Any = {"index": row, "seed": seed, "batch_size": batch_size}
        if chain:
            x = scale(to_unit(images, levels))
            shared |= {"inverse_scaler": inverse_scale, "levels": levels}
            shared |= {"n_draws": CHAIN_DRAWS, "all_steps": False}
            found = likelihoods.discrete_bound(chain, score_for, x, **shared)
            bits = found.nats / (dimensions * math.log(2))
        else:
            u = noise.uniform(seed, row, 0, shape, stream=Stream.DEQUANTISE)
            x = scale(dequantise(images, levels, u))
            shared |= {"eps": options.bpd_eps, "n_draws": SDE_DRAWS, "n_times": SDE_TIMES}
            found = likelihoods.continuous_bound(subject.sde, score_for, x, **shared)
            bits = likelihoods.bits_per_dim(-found.nats, dimensions, width)
        error = found.error / (dimensions * math.log(2))
        return {"bits": bits.cpu().double(), "error": error.cpu().double()}

    how: dict[str, Any] = {"draws": CHAIN_DRAWS}
    if not chain:
        how = {"draws": SDE_DRAWS, "times": SDE_TIMES, "bpd_eps": options.bpd_eps}
    shards = subject.shards.results(
        "bound",
        chosen,
        shard_size(len(chosen), batch_size),
        compute,
        data=source.info.fingerprint,
        chain=bool(chain),
        **how,
    )
    return mean_figure(
        shards["bits"],
        # Of the mean over all images, what comes from times, steps and noise alone.
        se_draws=float(np.sqrt(np.square(shards["error"]).sum()) / len(chosen)),
        split=source.info.split,
        levels=levels,
        model="DDPM's chain" if chain else "the reverse-time SDE",
        nfe=float(2 * CHAIN_DRAWS if chain else SDE_DRAWS * SDE_TIMES),
        sec=shards.sec,
        **how,
    )


def _bits_figure(shards: Results, source: Source, how: dict[str, Any]) -> Figure | None:
    """The figure over the images that the ODE carried to the prior; None if there are none."""
    done = (shards["status"] == Status.DONE).all(1)
    bits = shards["bits"][done]
    if not len(bits):
        return None
    draws = bits.shape[1]
    # Of the mean over all images, what comes from dequantisation and probes alone.
    se_draws = float(np.sqrt(bits.var(1, ddof=1).sum() / draws) / len(bits)) if draws > 1 else None
    return mean_figure(
        bits.mean(1),
        se_draws=se_draws,
        split=source.info.split,
        levels=source.info.levels,
        nfe=float(shards["nfe"].mean()),
        given_up=int((~done).sum()),
        sec=shards.sec,
        **how,
    )


def _by_level(t: np.ndarray, losses: np.ndarray, end: float, parts: int = 10) -> list[Figure]:
    """Mean losses in equal parts of [0, T]."""
    part = np.minimum((t / end * parts).astype(int), parts - 1)
    return [
        mean_figure(losses[part == k], t=[k * end / parts, (k + 1) * end / parts])
        for k in range(parts)
        if (part == k).any()
    ]
