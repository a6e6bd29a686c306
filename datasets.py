"""Data sets by the names of the 2021 release; sources and batches are in `score_sde.data`."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models._release import complete
from score_sde.config.build import build_inverse_scaler as get_data_inverse_scaler
from score_sde.config.build import build_scaler as get_data_scaler
from score_sde.config.build import open_split
from score_sde.data import Batch, DatasetInfo, Source, eval_batches, train_batches

__all__ = [
    "central_crop",
    "crop_resize",
    "get_data_inverse_scaler",
    "get_data_scaler",
    "get_dataset",
    "resize_small",
]


@dataclass(frozen=True)
class Batches:
    """Batches that are gone through from the start by each `iter`.

    Attributes:
        start: gives them.
        num_batches: in one pass through the images, which is the length.
    """

    start: Callable[[], Iterator[Batch]]
    num_batches: int

    def __iter__(self) -> Iterator[Batch]:
        return self.start()

    def __len__(self) -> int:
        return self.num_batches


def get_dataset(
    config: Any, uniform_dequantization: bool = False, evaluation: bool = False
) -> tuple[Batches, Batches, DatasetInfo]:
    """Batches for training and for testing, as the 2021 release names them.

    Args:
        config: an `ml_collections.ConfigDict` with `data`, `training.batch_size`,
            `eval.batch_size` and `seed`.
        uniform_dequantization: (k + u) / L instead of k / (L - 1).
        evaluation: go through both splits once, in order and unflipped, in batches of
            `eval.batch_size`, of which the last holds what is left.

    Returns:
        (train, test, info): dicts of CPU tensors with `image` (float32, B C H W, in [0, 1]),
        `label` and `index`, and the training split's description. Unless `evaluation`, neither has
        an end, both are shuffled, and batches have `training.batch_size` and `eval.batch_size`.
        Each starts anew with every `iter`; its `len` is the number of batches in one pass.
    """
    config = complete(config)
    train, test = open_split(config, "train"), open_split(config, "test")
    for note in dict.fromkeys(train.info.notes + test.info.notes):
        warnings.warn(note, stacklevel=2)

    def batches(source: Source, batch_size: int) -> Batches:
        def start() -> Iterator[Batch]:
            if evaluation:
                seed = config.seed if uniform_dequantization else None
                return eval_batches(source, batch_size=batch_size, dequantise_seed=seed)
            return train_batches(
                source,
                batch_size=batch_size,
                seed=config.seed,
                random_flip=config.data.random_flip,
                dequantise=uniform_dequantization,
            )

        return Batches(start, -(-len(source) // max(batch_size, 1)))

    sizes = config.eval.batch_size, config.eval.batch_size
    if not evaluation:
        sizes = config.training.batch_size, config.eval.batch_size
    return batches(train, sizes[0]), batches(test, sizes[1]), train.info


def central_crop(image: Any, size: int) -> Any:
    """The middle (size, size, C) of an image (H, W, C), an array or a tensor."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def crop_resize(image: Any, resolution: int) -> Any:
    """The middle square of an image (H, W, C), as (resolution, resolution, C) by bicubics.

    Of integers it gives uint8, of floats floats; an array of an array, a tensor of a tensor.
    """
    side = min(image.shape[0], image.shape[1])
    return _resized(central_crop(image, side), (resolution, resolution), "bicubic")


def resize_small(image: Any, resolution: int) -> Any:
    """An image (H, W, C) whose shorter side becomes `resolution`, bilinearly; as `crop_resize`."""
    ratio = resolution / min(image.shape[0], image.shape[1])
    height, width = (round(side * ratio) for side in image.shape[:2])
    return _resized(image, (height, width), "bilinear")


def _resized(image: Any, size: tuple[int, int], mode: str) -> Any:
    given = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
    whole = not given.is_floating_point()
    x = given.float().movedim(-1, 0)[None]
    x = F.interpolate(x, size, mode=mode, antialias=True)[0].movedim(0, -1)
    x = x.round().clamp(0, 255).to(torch.uint8) if whole else x.to(given.dtype)
    return x if isinstance(image, Tensor) else x.numpy()
