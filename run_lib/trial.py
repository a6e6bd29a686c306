"""`--smoke`: a whole recipe, small."""

import shutil
import tempfile
from pathlib import Path

import assembly
from assembly import Config
from run_lib.sampling_run import sample
from run_lib.training_run import train


def smoke(config: Config) -> None:
    """Goes through a recipe at reduced width: train, save, restore, sample; in under a minute.

    Everything is written to a temporary folder. Where the recipe's data are not at hand, random
    images of its shape stand in.

    Raises:
        ValueError: what the recipe itself would be refused for.
    """
    assembly.check(config)
    small = assembly.reduced(config)
    try:
        with small.unlocked():
            small.data.download = False
        sources = assembly.build_sources(small)
    except (OSError, ValueError):
        sources = assembly.synthetic_sources(small)
    folder = Path(tempfile.mkdtemp(prefix="smoke-"))
    try:
        train(small, folder, sources=sources)
        longer = small.copy_and_resolve_references()
        with longer.unlocked():
            longer.training.n_iters = small.training.n_iters + 1
        train(longer, folder, sources=sources)
        sample(longer, folder, num_samples=4)
    finally:
        shutil.rmtree(folder)
