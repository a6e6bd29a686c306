"""Loss and likelihood: figures that are means over images, computed in shards."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde import likelihoods, noise
from score_sde.data import Source, dequantise
from score_sde.evaluation.densities import unit_of
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.subject import Subject
from score_sde.noise import Stream
from score_sde.sde import SDE, Score
from score_sde.solvers.grids import level_parts
from score_sde.solvers.ode import ODE_SOLVERS, STEP_CONTROLS, Status
from score_sde.tensor_ops import check_losses

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


@dataclass(frozen=True)
class _Images:
    """Images of a split: all that a figure is of, or those of a shard.

    Attributes:
        subject: what is evaluated.
        source: the split.
        index: int64 (n,) which images.
        size: of a batch.
    """

    subject: Subject
    source: Source
    index: Tensor
    size: int

    @property
    def row(self) -> Tensor:
        """`index` on the device."""
        return self.index.to(self.subject.device)

    @property
    def labels(self) -> Tensor | None:
        """The classes, int64 (n,) on the device; None for a network without."""
        classes = self.subject.num_classes
        return self.source.labels(self.index).to(self.subject.device) if classes else None

    def pixels(self, draw: int | None = None) -> Tensor:
        """As the network sees them, (n, C, H, W): plain, or dequantised by one draw of noise.

        Floats have no levels that noise could fill, and are always plain.
        """
        subject, info = self.subject, self.source.info
        stored = self.source.images(self.index).to(subject.device)
        if draw is None or info.range:
            return subject.scale(info.to_unit(stored))
        shape, seed = stored.shape[1:], subject.seed
        u = noise.uniform(seed, self.row, draw, shape, stream=Stream.DEQUANTISE)
        return subject.scale(dequantise(stored, info.levels, u))

    def score_for(self, draws: int = 1) -> Callable[[Tensor], Score]:
        """Rows of the images, those of each draw after one another, → their score."""
        labels = self.labels
        return self.subject.score_for(None if labels is None else labels.repeat(draws).__getitem__)

    def results(
        self,
        name: str,
        compute: Callable[["_Images"], dict[str, Tensor]],
        arrays: tuple[str, ...],
        *row: int,
        **facts: Any,
    ) -> dict[str, Any]:
        """What `compute` gives for all, shard by shard: `arrays` by name, (n, *row).

        `facts` are what the numbers depend on beside subject and images. `nfe` and `status` are
        int64, others float64.
        """

        def of_shard(index: Tensor) -> dict[str, Tensor]:
            made = compute(replace(self, index=index)).items()
            return {key: x.cpu().double() if x.is_floating_point() else x for key, x in made}

        counts = ("nfe", "status")
        types = {key: (np.int64 if key in counts else np.float64, row) for key in arrays}
        facts["data"] = self.source.info.fingerprint
        shards = self.subject.shards
        return shards.results(name, self.index, self.size, of_shard, types, **facts)


@torch.no_grad()
def held_out_loss(subject: Subject) -> Figure:
    """The training objective, per dimension, on every test image, each at one random time."""
    if not subject.options["enable_loss"]:
        raise LeftOut
    source, objective = subject.sources["test"], subject.objective
    images = _Images(subject, source, torch.arange(len(source)), subject.options["batch_size"])
    # Drawn for all images at once: an image's time depends on neither shard nor process.
    times = objective.times(len(source), generator=_generator(subject.seed))
    shape = source.info.shape

    def of_batch(batch: _Images) -> Tensor:
        t = times[batch.index].to(subject.device)
        z = noise.normal(subject.seed, batch.row, 0, shape, stream=Stream.HELD_OUT)
        x_0 = batch.pixels()
        inputs = subject.held_out_inputs(x_0, batch.row)
        losses = objective(subject.network, x_0, t, z, batch.labels, **inputs)
        check_losses(losses, len(t), objective)
        return losses

    def compute(shard: _Images) -> dict[str, Tensor]:
        losses = [of_batch(replace(shard, index=k)) for k in shard.index.split(shard.size)]
        return {"loss": torch.cat(losses), "t": objective.time(times[shard.index])}

    results = images.results("loss", compute, ("loss", "t"))
    losses = results["loss"] * objective.per_dimension(math.prod(shape))
    return mean_figure(
        losses,
        split=source.info.split,
        per="dimension",
        by_level=_by_level(results["t"], losses, subject.sde),
        sec=results["sec"],
    )


def _generator(seed: int) -> torch.Generator:
    """A generator seeded by all 64 bits: torch's own on the CPU keeps 32 of a seed."""
    u = noise.uniform(
        seed, torch.zeros(1, dtype=torch.int64), 0, (), stream=Stream.HELD_OUT, dtype=torch.float64
    )
    return torch.Generator().manual_seed(int(u.item() * 2**32))


def _by_level(t: np.ndarray, losses: np.ndarray, sde: SDE, parts: int = 10) -> list[Figure]:
    """Mean losses in the parts of [0, T] that `level_parts` makes."""
    ends = level_parts(sde, parts).tolist()
    part = np.searchsorted(ends[1:-1], t, side="right")
    return [
        mean_figure(losses[part == k], t=[ends[k], ends[k + 1]])
        for k in range(parts)
        if (part == k).any()
    ]


def _images(subject: Subject, split: str, unit: str) -> _Images:
    """Those that likelihoods are of, where they are asked for, and told in the unit."""
    options, sources = subject.options, subject.sources
    if not options["enable_bpd"] or split not in SPLITS[options["bpd_dataset"]]:
        raise LeftOut
    floats = sources[split].info.range
    if floats and unit == "bits":
        raise LeftOut(
            f"the data are numbers from {floats[0]:g} to {floats[1]:g} and have no grey levels: "
            "see nats_per_dim and bound_nats, of the density of the numbers themselves",
            "bits/dim",
        )
    if not floats and unit == "nats":
        raise LeftOut
    if "image" in getattr(subject.network, "inputs", ()):
        raise LeftOut(
            "this network upsamples, and knows only the density of images whose low resolution "
            "is given",
            f"{unit}/dim",
        )
    # As many training images as test images: what is compared has the same error.
    index = subset(sources[split], options["bpd_images"] or len(sources["test"]))
    return _Images(subject, sources[split], index, min(options["bpd_batch_size"], len(index)))


def bits_per_dim(subject: Subject, split: str) -> Figure:
    """Bits per dimension of images, uniformly dequantised, by the probability-flow ODE.

    `subject.results` then has `bits` and the split, those of each image (N,).
    """
    return _of_flow(subject, split, "bits")


def nats_per_dim(subject: Subject, split: str) -> Figure:
    """−log density per dimension of floats in their own units, by the probability-flow ODE.

    It is that of the numbers x that (x − low)/(high − low) and the network's scaling made of them,
    plus the logarithm of what these divide by; it may lie below 0. `subject.results` then has
    `nats` and the split, those of each image (N,).
    """
    return _of_flow(subject, split, "nats")


def _of_flow(subject: Subject, split: str, unit: str) -> Figure:
    images = _images(subject, split, unit)
    if subject.sde.has_chain and not subject.continuous:
        raise LeftOut(
            "its network knows the times of a discrete chain only, and the ODE needs all times"
        )
    options, info = subject.options, images.source.info
    told = unit_of(info, subject.inverse_scale)
    draws, kind = options["bpd_draws"], options["hutchinson_type"]
    names = ("bpd_draws", "hutchinson_type", "rtol", "atol", "bpd_eps", "max_steps")
    how = {name: options[name] for name in names}
    if kind != "exact":
        how["bpd_probes"] = options["bpd_probes"]
    solver, control = options["ode_solver"], options["step_control"]

    def compute(shard: _Images) -> dict[str, Tensor]:
        probes, n = None, options["bpd_probes"]
        if kind != "exact":  # n for each draw
            probes = likelihoods.hutchinson_probes(
                kind, info.shape, shard.row, seed=subject.seed, n_probes=draws * n
            )
            probes = probes.unflatten(0, (draws, n)).transpose(0, 1).flatten(1, 2)
        result = likelihoods.log_likelihood(
            subject.sde,
            shard.score_for(draws),
            torch.cat([shard.pixels(k) for k in range(draws)]),
            probes=probes,
            rtol=options["rtol"],
            atol=options["atol"],
            eps=options["bpd_eps"],
            batch_size=images.size,
            max_steps=options["max_steps"],
            method=solver,
            control=control,
        )
        made = {told.name: told.per_dim(result.logp), "nfe": result.nfe, "status": result.status}
        return {name: value.view(draws, -1).T for name, value in made.items()}

    arrays, facts = (told.name, "nfe", "status"), {"batch_size": images.size, **how}
    # Shards of the first solver and control have been kept that name neither.
    facts |= {} if solver == "rk45" else {"ode_solver": repr(ODE_SOLVERS[solver])}
    facts |= {} if control == "i" else {"step_control": STEP_CONTROLS[control]}
    results = images.results(told.name, compute, arrays, draws, **facts)
    subject.results[f"{told.name} {split}"] = results[told.name].mean(1)
    done = (results["status"] == Status.DONE).all(1)
    values = results[told.name][done]
    if not len(values):
        raise LeftOut(
            "the ODE reached the prior for no image: check the weights, or raise eval.rtol, "
            "eval.atol or eval.bpd_eps"
        )
    # Of the mean over all images, what comes from dequantisation and probes alone.
    within = values.var(1, ddof=1).sum() if draws > 1 else 0.0
    se_draws = float(np.sqrt(within / draws) / len(values)) if draws > 1 else None
    return mean_figure(
        values.mean(1),
        se_draws=se_draws,
        split=info.split,
        **told.facts,
        nfe=float(results["nfe"].mean()),
        given_up=int((~done).sum()),
        sec=results["sec"],
        **how,
        method=f"{ODE_SOLVERS[solver].title}, an error norm for each image",
    )


@torch.no_grad()
def bound(subject: Subject, split: str, unit: str = "bits") -> Figure:
    """Upper bound on bits/dim, of the reverse-time SDE or of DDPM's chain; of floats on nats/dim.

    DDPM's chain has a bound for grey levels alone. With a learnt score that is another model than
    the ODE, so that the bound may lie below the ODE's bits/dim.
    """
    images, sde = _images(subject, split, unit), subject.sde
    chain = sde.has_chain and not subject.continuous
    if chain and sde.network_output == "score":
        raise LeftOut("SMLD's chain has none, and its network knows no other times", "bound")
    if chain and sde.chain_betas().max() >= 1:
        why = "the last step of its chain leaves nothing of an image: beta_max is num_scales"
        raise LeftOut(why, "bound")
    info, to_unit_range = images.source.info, subject.inverse_scale
    if chain and info.range:
        raise LeftOut("that of DDPM's chain is of grey levels: train in continuous time", "bound")
    dimensions, told = math.prod(info.shape), unit_of(info, subject.inverse_scale)
    how: dict[str, Any] = {"draws": CHAIN_DRAWS}
    if not chain:
        how = {"draws": SDE_DRAWS, "times": SDE_TIMES, "bpd_eps": subject.options["bpd_eps"]}

    def compute(shard: _Images) -> dict[str, Tensor]:
        score_for = shard.score_for()
        more: Any = {"index": shard.row, "seed": subject.seed, "batch_size": shard.size}
        more["n_draws"] = how["draws"]
        if chain:
            more |= {"inverse_scaler": to_unit_range, "levels": info.levels, "all_steps": False}
            result = likelihoods.discrete_bound(sde, score_for, shard.pixels(), **more)
            value = result.nats / (dimensions * math.log(2))
        else:
            more |= {"n_times": how["times"], "eps": how["bpd_eps"]}
            result = likelihoods.continuous_bound(sde, score_for, shard.pixels(draw=0), **more)
            value = told.per_dim(-result.nats)
        return {told.name: value, "error": result.error / (dimensions * told.nats)}

    results = images.results("bound", compute, (told.name, "error"), chain=chain, **how)
    return mean_figure(
        results[told.name],
        # Of the mean over all images, what comes from times, steps and noise alone.
        se_draws=float(np.sqrt(np.square(results["error"]).sum()) / len(images.index)),
        split=info.split,
        **told.facts,
        model="DDPM's chain" if chain else "the reverse-time SDE",
        nfe=float(2 * CHAIN_DRAWS if chain else SDE_DRAWS * SDE_TIMES),
        sec=results["sec"],
        **how,
    )
