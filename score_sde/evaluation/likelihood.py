"""Loss and likelihood: figures that are means over images, computed in shards."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde import likelihoods, noise
from score_sde.data import Source, dequantise, to_unit
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.shards import shard_size
from score_sde.evaluation.subject import Subject
from score_sde.noise import Stream
from score_sde.sde import VPSDE
from score_sde.solvers.ode import Status

SDE_DRAWS, SDE_TIMES, CHAIN_DRAWS = 2, 16, 16
"""Of the bounds' estimates. All steps of a chain would be a thousand evaluations an image, for
little: bounds vary more between images than between these draws."""

SPLITS = {"test": ("test",), "train": ("train",), "both": ("test", "train")}
"""The splits that each value of `eval.bpd_dataset` stands for."""


def subset(source: Source, count: int) -> Tensor:
    """Which images stand for a data set: the first of a random order, which is always the same.

    Folders and many sets lie sorted by class: their first images are not representative.
    """
    return noise.permutation(len(source), 0, 0)[:count]


@torch.no_grad()
def held_out_loss(subject: Subject) -> Figure:
    """The training objective, per dimension, on every test image, each at one random time."""
    if not subject.options["enable_loss"]:
        raise LeftOut
    source, seed, objective = subject.sources["test"], subject.seed, subject.objective
    # Drawn for all images at once: an image's time depends on neither shard nor process.
    times = objective.times(len(source), generator=_generator(seed))
    batch_size = subject.options["batch_size"]

    def compute(index: Tensor) -> dict[str, Tensor]:
        losses = [compute_batch(part) for part in index.split(batch_size)]
        return {"loss": torch.cat(losses), "t": objective.time(times[index]).double()}

    def compute_batch(index: Tensor) -> Tensor:
        images = to_unit(source.images(index).to(subject.device), source.info.levels)
        x_0, t = subject.scale(images), times[index].to(subject.device)
        sample = index.to(subject.device)
        z = noise.normal(seed, sample, 0, x_0.shape[1:], stream=Stream.HELD_OUT)
        return objective(subject.network, x_0, t, z, subject.labels(source, index)).cpu().double()

    results = subject.shards.results(
        "loss",
        torch.arange(len(source)),
        shard_size(len(source), batch_size),
        compute,
        ("loss", "t"),
        data=source.info.fingerprint,
    )
    losses = results["loss"] * objective.per_dimension(math.prod(source.info.shape))
    return mean_figure(
        losses,
        split=source.info.split,
        per="dimension",
        by_level=_by_level(results["t"], losses, subject.sde.T),
        sec=results["sec"],
    )


def _generator(seed: int) -> torch.Generator:
    """A generator seeded by all 64 bits: torch's own on the CPU keeps 32 of a seed."""
    u = noise.uniform(
        seed, torch.zeros(1, dtype=torch.int64), 0, (), stream=Stream.HELD_OUT, dtype=torch.float64
    )
    return torch.Generator().manual_seed(int(u.item() * 2**32))


def _by_level(t: np.ndarray, losses: np.ndarray, end: float, parts: int = 10) -> list[Figure]:
    """Mean losses in equal parts of [0, T]."""
    part = np.minimum((t / end * parts).astype(int), parts - 1)
    return [
        mean_figure(losses[part == k], t=[k * end / parts, (k + 1) * end / parts])
        for k in range(parts)
        if (part == k).any()
    ]


def _images(subject: Subject, split: str) -> tuple[Source, Tensor]:
    """A split and which of its images likelihoods are of, where they are asked for."""
    if not subject.options["enable_bpd"] or split not in SPLITS[subject.options["bpd_dataset"]]:
        raise LeftOut
    # As many training images as test images: what is compared has the same error.
    count = subject.options["bpd_images"] or len(subject.sources["test"])
    return subject.sources[split], subset(subject.sources[split], count)


def bits_per_dim(subject: Subject, split: str) -> Figure:
    """Bits per dimension of images, uniformly dequantised, by the probability-flow ODE."""
    source, _ = _images(subject, split)
    results, how = _flow(subject, split)
    done = (results["status"] == Status.DONE).all(1)
    bits = results["bits"][done]
    if not len(bits):
        raise LeftOut(
            "the ODE reached the prior for no image: check the weights, or raise eval.rtol, "
            "eval.atol or eval.bpd_eps"
        )
    draws = bits.shape[1]
    # Of the mean over all images, what comes from dequantisation and probes alone.
    se_draws = float(np.sqrt(bits.var(1, ddof=1).sum() / draws) / len(bits)) if draws > 1 else None
    return mean_figure(
        bits.mean(1),
        se_draws=se_draws,
        split=source.info.split,
        levels=source.info.levels,
        nfe=float(results["nfe"].mean()),
        given_up=int((~done).sum()),
        sec=results["sec"],
        **how,
        method="Dormand–Prince 5(4), an error norm for each image",
    )


def bits_of_images(subject: Subject, split: str) -> np.ndarray:
    """Bits per dimension of each image (N,), the mean over draws of dequantisation.

    Raises:
        LeftOut: as for `bits_per_dim`.
    """
    return _flow(subject, split)[0]["bits"].mean(1)


def _flow(subject: Subject, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bits of the images of a split, (N, draws), and the options that they depend on."""
    source, chosen = _images(subject, split)
    if subject.sde.has_chain and not subject.continuous:
        raise LeftOut(
            "its network knows the times of a discrete chain only, and the ODE needs all times"
        )
    options, seed = subject.options, subject.seed
    shape, levels = source.info.shape, source.info.levels
    width = likelihoods.bin_width(subject.inverse_scale, levels)
    draws, probes = options["bpd_draws"], options["bpd_probes"]
    exact = options["hutchinson_type"] == "exact"
    batch_size = min(options["bpd_batch_size"], len(chosen))

    def compute(index: Tensor) -> dict[str, Tensor]:
        images, row = source.images(index).to(subject.device), index.to(subject.device)
        x, probe = [], []
        for draw in range(draws):
            u = noise.uniform(seed, row, draw, shape, stream=Stream.DEQUANTISE)
            x.append(subject.scale(dequantise(images, levels, u)))
            if not exact:
                kind, first = options["hutchinson_type"], draw * probes
                probe.append(
                    likelihoods.hutchinson_probes(
                        kind, shape, row, seed=seed, n_probes=probes, first=first
                    )
                )
        labels = subject.labels(source, index)
        result = likelihoods.log_likelihood(
            subject.sde,
            subject.score_for(None if labels is None else labels.repeat(draws).__getitem__),
            torch.cat(x),
            probes=None if exact else torch.cat(probe, dim=1),
            rtol=options["rtol"],
            atol=options["atol"],
            eps=options["bpd_eps"],
            batch_size=batch_size,
            max_steps=options["max_steps"],
        )
        bits = likelihoods.bits_per_dim(result.logp, math.prod(shape), width)
        rows = {"bits": bits.cpu().double(), "nfe": result.nfe, "status": result.status}
        return {name: value.view(draws, -1).T for name, value in rows.items()}

    names = ("bpd_draws", "hutchinson_type", "rtol", "atol", "bpd_eps", "max_steps")
    how = {name: options[name] for name in (*names, *(() if exact else ("bpd_probes",)))}
    results = subject.once(
        f"bits {split}",
        lambda: subject.shards.results(
            "bits",
            chosen,
            shard_size(len(chosen), batch_size),
            compute,
            ("bits", "nfe", "status"),
            data=source.info.fingerprint,
            batch_size=batch_size,
            **how,
        ),
    )
    return results, how


def _chain(subject: Subject) -> VPSDE | None:
    """DDPM's chain, where the model is that and not a reverse-time SDE."""
    sde = subject.sde
    if subject.continuous or not sde.has_chain:
        return None
    if not isinstance(sde, VPSDE):
        raise LeftOut("SMLD's chain has none, and its network knows no other times", "bound")
    if sde.discrete_betas.max() >= 1:
        raise LeftOut(
            "the last step of its chain leaves nothing of an image: beta_max is num_scales",
            "bound",
        )
    return sde


@torch.no_grad()
def bound(subject: Subject, split: str) -> Figure:
    """Upper bound on bits/dim, of the reverse-time SDE or of DDPM's chain.

    With a learnt score that is another model than the ODE, so that the bound may lie below the
    ODE's bits/dim.
    """
    source, chosen = _images(subject, split)
    chain, options, seed = _chain(subject), subject.options, subject.seed
    shape, levels = source.info.shape, source.info.levels
    dimensions = math.prod(shape)
    width = likelihoods.bin_width(subject.inverse_scale, levels)
    batch_size = min(options["bpd_batch_size"], len(chosen))

    def compute(index: Tensor) -> dict[str, Tensor]:
        images, row = source.images(index).to(subject.device), index.to(subject.device)
        labels = subject.labels(source, index)
        score_for = subject.score_for(None if labels is None else labels.__getitem__)
        shared: Any = {"index": row, "seed": seed, "batch_size": batch_size}
        if chain:
            x = subject.scale(to_unit(images, levels))
            shared |= {"inverse_scaler": subject.inverse_scale, "levels": levels}
            shared |= {"n_draws": CHAIN_DRAWS, "all_steps": False}
            result = likelihoods.discrete_bound(chain, score_for, x, **shared)
            bits = result.nats / (dimensions * math.log(2))
        else:
            u = noise.uniform(seed, row, 0, shape, stream=Stream.DEQUANTISE)
            x = subject.scale(dequantise(images, levels, u))
            shared |= {"eps": options["bpd_eps"], "n_draws": SDE_DRAWS, "n_times": SDE_TIMES}
            result = likelihoods.continuous_bound(subject.sde, score_for, x, **shared)
            bits = likelihoods.bits_per_dim(-result.nats, dimensions, width)
        error = result.error / (dimensions * math.log(2))
        return {"bits": bits.cpu().double(), "error": error.cpu().double()}

    how: dict[str, Any] = {"draws": CHAIN_DRAWS}
    if not chain:
        how = {"draws": SDE_DRAWS, "times": SDE_TIMES, "bpd_eps": options["bpd_eps"]}
    results = subject.shards.results(
        "bound",
        chosen,
        shard_size(len(chosen), batch_size),
        compute,
        ("bits", "error"),
        data=source.info.fingerprint,
        chain=bool(chain),
        **how,
    )
    return mean_figure(
        results["bits"],
        # Of the mean over all images, what comes from times, steps and noise alone.
        se_draws=float(np.sqrt(np.square(results["error"]).sum()) / len(chosen)),
        split=source.info.split,
        levels=levels,
        model="DDPM's chain" if chain else "the reverse-time SDE",
        nfe=float(2 * CHAIN_DRAWS if chain else SDE_DRAWS * SDE_TIMES),
        sec=results["sec"],
        **how,
    )
