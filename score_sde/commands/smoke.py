"""`--smoke`: a whole recipe, small."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from score_sde import noise
from score_sde.commands.evaluate import evaluate
from score_sde.commands.sample import sample
from score_sde.commands.train import train
from score_sde.config.build import Config, build_sources, image_shape, num_classes
from score_sde.config.check import check_config, reduced
from score_sde.data import DatasetInfo, MemorySource, Source


def smoke(config: Config) -> None:
    """Goes through a recipe at reduced width: train, save, restore, sample, evaluate; in a minute.

    Everything is written to a temporary folder. Where the recipe's data are not at hand, random
    images of its shape stand in.

    Raises:
        ValueError: what the recipe itself would be refused for.
    """
    check_config(config)
    small = reduced(config)
    try:
        with small.unlocked():
            small.data.download = False
        sources = build_sources(small)
    except (OSError, ValueError):
        sources = synthetic_sources(small)
    folder = Path(tempfile.mkdtemp(prefix="smoke-"))
    try:
        train(small, folder, sources=sources)
        longer = small.copy_and_resolve_references()
        with longer.unlocked():
            longer.training.n_iters = small.training.n_iters + 1
        train(longer, folder, sources=sources)
        sample(longer, folder, num_samples=4)
        with longer.unlocked():
            longer.eval.stats_folder = str(folder / "stats")
        if len(sources[1]):
            evaluate(longer, folder, sources=(_first(sources[0]), _first(sources[1])))
    finally:
        shutil.rmtree(folder)


def synthetic_sources(config: Config) -> tuple[Source, Source]:
    """Random images of the recipe's shape, where only the machinery is to be tried."""
    shape, classes = image_shape(config), num_classes(config)

    def source(split: str, n: int) -> Source:
        index = torch.arange(n)
        images = noise.uniform(config.seed, index, 0, shape).mul(256).to(torch.uint8)
        names = tuple(str(label) for label in range(classes))
        info = DatasetInfo(
            "synthetic", split, n, shape, 256, classes, names, "synthetic", "random pixels"
        )
        return MemorySource(info, images, index % classes if classes else None)

    return source("train", 16), source("test", 8)


def _first(source: Source, count: int = 8) -> Source:
    """The first images of a source."""
    index = torch.arange(min(count, len(source)))
    few = {"num_images": len(index), "fingerprint": f"{source.info.fingerprint}-{count}"}
    return MemorySource(replace(source.info, **few), source.images(index), source.labels(index))
