"""Data: sources of uint8 images → batches of floats, ordered by (seed, epoch) alone.

`open_source` opens a split of a data set by name; `train_batches` and `eval_batches` turn it into
batches. The functions here that take a config are the 2021 release's, and `open_from_config`, the
one place that knows the fields' defaults.

A new data set is a function `Request → Source` in `named.py` and its line in the table there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from datasets.batches import Batch, EpochOrder, dequantise, eval_batches, to_unit, train_batches
from datasets.folder import open_pictures, read_mask
from datasets.named import NAMES, canonical_name, open_source
from datasets.pixels import conform
from datasets.sources import DatasetInfo, MemorySource, Source, StreamingSource

__all__ = [
    "NAMES",
    "Batch",
    "Batches",
    "DatasetInfo",
    "EpochOrder",
    "MemorySource",
    "Source",
    "StreamingSource",
    "canonical_name",
    "conform",
    "dequantise",
    "eval_batches",
    "get_data_inverse_scaler",
    "get_data_scaler",
    "get_dataset",
    "inverse_scale",
    "open_from_config",
    "open_pictures",
    "open_source",
    "read_mask",
    "scale",
    "to_unit",
    "train_batches",
]

DEFAULT_ROOT = "data"
"""The folder of data sets where a config names none."""


def scale(image: Tensor) -> Tensor:
    """[0, 1] → [-1, 1]."""
    return image * 2 - 1


def inverse_scale(image: Tensor) -> Tensor:
    """[-1, 1] → [0, 1]."""
    return (image + 1) / 2


def _unchanged(image: Tensor) -> Tensor:
    return image


def get_data_scaler(config: Any) -> Callable[[Tensor], Tensor]:
    """The map from [0, 1] to the network's range: [-1, 1] if `config.data.centered`, or itself."""
    return scale if config.data.centered else _unchanged


def get_data_inverse_scaler(config: Any) -> Callable[[Tensor], Tensor]:
    """The map from the network's range back to [0, 1]; it does not clip."""
    return inverse_scale if config.data.centered else _unchanged


def open_from_config(config: Any, split: str) -> Source:
    """`open_source` by `config.data`, with defaults for the fields that the 2021 release lacks.

    Args:
        config: an `ml_collections.ConfigDict`; `data.image_width=0` stands for square images.
        split: `train` or `test`.
    """
    data = config.data
    return open_source(
        data.dataset,
        split,
        root=data.get("root", DEFAULT_ROOT) or DEFAULT_ROOT,
        image_size=(data.image_size, data.get("image_width", 0) or data.image_size),
        num_channels=data.num_channels,
        download=data.get("download", True),
        test_fraction=data.get("test_fraction", 0.1),
        category=data.get("category", ""),
    )


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
    train, test = open_from_config(config, "train"), open_from_config(config, "test")
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
