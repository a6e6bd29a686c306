"""`--smoke`: a whole recipe, small."""

import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from score_sde import noise, parallel
from score_sde.commands.evaluate import evaluate
from score_sde.commands.sample import sample
from score_sde.commands.terminal import show
from score_sde.commands.train import train
from score_sde.config.build import (
    Config,
    build_sde,
    build_sources,
    data_range,
    empty_network,
    image_shape,
    num_classes,
    upsampling_factor,
)
from score_sde.config.check import check_config
from score_sde.data import DatasetInfo, MemorySource, Source, from_unit

WIDTHS = (8, 32)
"""Widths that `reduced` tries, in this order."""
SCALES = (25,)
"""Numbers of scales that it tries."""


def smoke(config: Config) -> None:
    """Goes through a recipe at reduced width: train, save, restore, sample, evaluate; in a minute.

    Everything is written to a temporary folder. Where the recipe's data are not at hand, random
    images of its shape stand in.

    Raises:
        ValueError: what the recipe itself would be refused for.
    """
    check_config(config)
    world = parallel.init()
    small = reduced(config, world.size)
    try:
        with small.unlocked():
            small.data.download = False
        sources = build_sources(small)
    except (OSError, ValueError):
        sources = synthetic_sources(small)
    folder = _folder(world)
    try:
        train(small, folder, sources=sources)
        longer = small.copy_and_resolve_references()
        with longer.unlocked():
            longer.training.n_iters = small.training.n_iters + 1
        train(longer, folder, sources=sources)
        if not upsampling_factor(longer):  # which draws in snapshots and in the evaluation
            sample(longer, folder, num_samples=4)
        with longer.unlocked():
            longer.eval.stats_folder = str(folder / "stats")
        if len(sources[1]):
            evaluate(longer, folder, sources=(_first(sources[0]), _first(sources[1])))
        parallel.barrier()
    finally:
        if world.is_main:
            shutil.rmtree(folder, ignore_errors=world.size > 1)


def _folder(world: parallel.World) -> Path:
    """A new folder that all processes write to."""
    made = tempfile.mkdtemp(prefix="smoke-") if world.is_main else ""
    folder = Path(str(parallel.gather_objects(made)[0]))
    parallel.check_seen_by_all(world, folder, "set TMPDIR to a folder")
    if world.is_main:
        show(f"all of this is written to {folder}, which is removed at the end\n")
    return folder


def synthetic_sources(config: Config) -> tuple[Source, Source]:
    """Random images of the recipe's shape, where only the machinery is to be tried."""
    shape, classes = image_shape(config), num_classes(config)

    def source(split: str, n: int) -> Source:
        index = torch.arange(n)
        unit, floats = noise.uniform(config.seed, index, 0, shape), data_range(config)
        images = from_unit(unit, floats) if floats else unit.mul(256).to(torch.uint8)
        names = tuple(str(label) for label in range(classes))
        info = DatasetInfo(
            "synthetic",
            split,
            n,
            shape,
            0 if floats else 256,
            classes,
            names,
            "synthetic",
            "random pixels",
            range=floats,
        )
        return MemorySource(info, images, index % classes if classes else None)

    return source("train", 16), source("test", 8)


def _first(source: Source, count: int = 8) -> Source:
    """The first images of a source."""
    index = torch.arange(min(count, len(source)))
    few = {"num_images": len(index), "fingerprint": f"{source.info.fingerprint}-{count}"}
    return MemorySource(replace(source.info, **few), source.images(index), source.labels(index))


def reduced(config: Config, processes: int = 1) -> Config:
    """The recipe at the least width and length that still goes through everything: `--smoke`."""
    small = copy.deepcopy(config)
    with small.unlocked():
        if "num_res_blocks" in small.model:
            small.model.num_res_blocks = 1
        if "ch_mult" in small.model:
            small.model.ch_mult = tuple(min(factor, 2) for factor in small.model.ch_mult)
        _lower(small, "nf", WIDTHS, empty_network)
        _lower(small, "num_scales", SCALES, build_sde)
        small.data.image_size = min(small.data.image_size, 64)
        small.data.image_width = min(small.data.image_width, 64)
        small.training.update(
            batch_size=2 * processes,
            accumulation=1,
            n_iters=2,
            log_freq=1,
            eval_freq=1,
            snapshot_freq=2,
            snapshot_freq_for_preemption=1,
            snapshot_images=2,
            compile="off",
        )
        small.sampling.update(num_steps=3, n_steps_each=1, batch_size=2)
        small.eval.update(
            batch_size=4,
            num_samples=4,
            bpd_batch_size=2,
            bpd_images=2,
            bpd_draws=1,
            bpd_probes=1,
            hutchinson_type="Rademacher",
            bpd_dataset="test",
            rtol=0.1,
            atol=0.1,
            reference="",
            begin_ckpt=0,
            end_ckpt=0,
        )
    return small


def _lower(
    config: Config, field: str, values: tuple[int, ...], build: Callable[[Config], object]
) -> None:
    """Sets a field of `model` to the first of these lower values that its object accepts."""
    before = config.model.get(field, 0)
    for value in values:
        if value >= before:
            return
        config.model[field] = value
        try:
            build(config)
            return
        except ValueError:
            config.model[field] = before
