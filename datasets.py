"""Data sets by the names of the 2021 release; sources and batches are in `score_sde.data`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from score_sde.config.build import build_inverse_scaler as get_data_inverse_scaler
from score_sde.config.build import build_scaler as get_data_scaler
from score_sde.config.build import open_split
from score_sde.data import Batch, DatasetInfo, eval_batches, train_batches

__all__ = ["get_data_inverse_scaler", "get_data_scaler", "get_dataset"]


@dataclass(frozen=True)
class Batches:
    """Batches that can be gone through again from the start, by calling `start`."""

    start: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        return self.start()


def get_dataset(
    config: Any, uniform_dequantization: bool = False, evaluation: bool = False
) -> tuple[Iterable[Batch], Iterable[Batch], DatasetInfo]:
    """Batches for training and for testing, as the 2021 release names them.

    Args:
        config: an `ml_collections.ConfigDict` with `data`, `training.batch_size`,
            `eval.batch_size` and `seed`.
        uniform_dequantization: (k + u) / L instead of k / (L - 1).
        evaluation: go through the training images once, in order and unflipped, in batches of
            `eval.batch_size`.

    Returns:
        (train, test, info): dicts of CPU tensors with `image` (float32, B C H W, in [0, 1]),
        `label` and `index`, and the training split's description. `train` has no end unless
        `evaluation`; `test` is one pass in order with every image in it. Each starts anew with
        every `iter`.
    """
    train, test = open_split(config, "train"), open_split(config, "test")
    seed = config.get("seed", 42)
    in_order = partial(
        eval_batches,
        batch_size=config.eval.batch_size,
        dequantise_seed=seed if uniform_dequantization else None,
    )
    shuffled = partial(
        train_batches,
        batch_size=config.training.batch_size,
        seed=seed,
        random_flip=config.data.get("random_flip", False),
        dequantise=uniform_dequantization,
    )
    first = partial(in_order if evaluation else shuffled, train)
    return Batches(first), Batches(partial(in_order, test)), train.info
