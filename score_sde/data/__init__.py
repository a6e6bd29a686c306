"""Data: sources of images → batches of floats, ordered by (seed, epoch) alone.

Images are grey levels (uint8) or floats of a stated range, and `scaling` brings both to [0, 1].

`open_source` opens a split of a data set by name; `train_batches` and `eval_batches` turn it into
batches.

A new data set is a function `Request → Source` and its row in `DATASETS`.
"""

import torch
from torch import Tensor

from score_sde.data.batches import (
    Batch,
    EpochOrder,
    dequantise,
    eval_batches,
    train_batches,
)
from score_sde.data.downsampled import Downsampled
from score_sde.data.fits import FITS, Fit
from score_sde.data.folder import Pictures, open_pictures, read_mask, read_soft_mask
from score_sde.data.named import DATASETS, OF_THE_USER, canonical_name, open_source
from score_sde.data.pixels import conform
from score_sde.data.scaling import Range, are_pictures, from_unit, to_unit
from score_sde.data.sources import (
    DatasetInfo,
    MemorySource,
    Request,
    Source,
    StreamingSource,
    opened,
)

__all__ = [
    "DATASETS",
    "FITS",
    "OF_THE_USER",
    "Batch",
    "DatasetInfo",
    "Downsampled",
    "EpochOrder",
    "Fit",
    "MemorySource",
    "Pictures",
    "Range",
    "Request",
    "Source",
    "StreamingSource",
    "are_pictures",
    "canonical_name",
    "conform",
    "dequantise",
    "eval_batches",
    "from_unit",
    "inverse_scale",
    "open_pictures",
    "open_source",
    "opened",
    "read_mask",
    "read_soft_mask",
    "scale",
    "to_unit",
    "train_batches",
]


def scale(image: Tensor) -> Tensor:
    """[0, 1] → [-1, 1]."""
    return torch.rsub(image, -1, alpha=-2)  # −1 + 2 x in one pass over memory


def inverse_scale(image: Tensor) -> Tensor:
    """[-1, 1] → [0, 1]."""
    return (image + 1) / 2
