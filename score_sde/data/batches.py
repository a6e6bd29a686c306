"""From sources to batches of floats.

**Levels.** Pixels are integers k = 0 … L - 1. Plain floats are k / (L - 1), so black is 0 and
white 1. Dequantised ones are (k + u) / L with u uniform in (0, 1): then the mean negative log
density bounds the code length of the integers from above (Theis et al. 2016, "A note on the
evaluation of generative models", section 3.1). Likelihoods need this noise, sampling does not.

**Order.** Training images come in the permutations of epochs 0, 1, 2, … one after another; each
batch takes the next B places of that endless order, so batches cross from epoch to epoch and no
image is dropped. Flips, dequantisation noise and whether its label is left out belong to an image
in an epoch. So a batch is a function of (seed, place) alone, and training resumes at any place, in
batches of any size.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor

from score_sde import noise, parallel
from score_sde.data.sources import Source, in_order, opened
from score_sde.noise import Stream
from score_sde.tensor_ops import expand_to

Batch = dict[str, Tensor]
"""`image` float32 (B, C, H, W) in [0, 1], `label` int64 (B,), `index` int64 (B,) in the split.

Where labels are left out, that of no class is the number of classes."""


def to_unit(images: Tensor, levels: int) -> Tensor:
    """uint8 levels k = 0 … L - 1 → float32 k / (L - 1) in [0, 1], of the same shape."""
    return images.float() / (levels - 1)


def dequantise(images: Tensor, levels: int, u: Tensor) -> Tensor:
    """uint8 levels k and noise u → float32 (k + u) / L, from which floor(x L) gives k back.

    Args:
        images: (B, C, H, W), levels 0 … L - 1.
        levels: L, at most 256.
        u: uniform in [0, 1), of the same shape. It is kept 2⁻¹⁶ away from 0 and 1, so that the sum
            never rounds to a neighbouring level in float32.
    """
    return (images + u.clamp(2**-16, 1 - 2**-16)) / levels


class EpochOrder:
    """The endless order of training images: the permutations of all epochs, one after another.

    Args:
        num_images: N ≥ 1.
        seed: the run's seed.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self._num_images = num_images
        # Two epochs are kept: a batch seldom touches more.
        self._permutation = lru_cache(maxsize=2)(partial(noise.permutation, num_images, seed))

    def __call__(self, places: range) -> tuple[Tensor, Tensor]:
        """What stands at some places.

        Args:
            places: numbers from 0 up, without end, in steps of 1.

        Returns:
            Image indices int64 (B,) and their epochs int64 (B,), both on the CPU.
        """
        place = torch.arange(places.start, places.stop)
        epoch, row = place // self._num_images, place % self._num_images
        index = torch.empty_like(place)
        for number in epoch.unique().tolist():
            here = epoch == number
            index[here] = self._permutation(number % noise.MAX_DRAWS)[row[here]]
        return index, epoch


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    device: torch.device | str = "cpu",
    random_flip: bool = False,
    dequantise: bool = False,
    label_dropout: float = 0.0,
    rank: int = 0,
    world: int = 1,
) -> Generator[Batch]:
    """Training batches without end, from the image at place `start` of their order on.

    Images that are streamed come from worker processes, which end when the batches are closed
    (`contextlib.closing`).

    Args:
        source: the training split.
        batch_size: images of all processes together; it may exceed the number of images.
        seed: the run's seed: order, flips and dequantisation noise follow from it.
        start: images that were taken before; resuming gives what an uninterrupted run would have
            seen.
        device: where batches are made: images go there whole where they fit, else batch by batch
            as uint8.
        random_flip: mirror every image left to right with probability 1/2, anew in every epoch.
        dequantise: (k + u) / L instead of k / (L - 1).
        label_dropout: probability with which an image is of no class, anew in every epoch.
        rank: number of this process.
        world: number of processes; each gets its own contiguous part of every batch.

    Raises:
        ValueError: for a batch size below the number of processes, an empty source, or labels to
            be left out where there are none.
    """
    if batch_size < world:
        raise ValueError(
            f"training.batch_size={batch_size} over {world} processes leaves some of them without "
            f"an image: use at least {world}"
        )
    if not len(source):
        raise ValueError(
            f"the {source.info.split} split of {source.info.name} holds no images to train on"
        )
    if label_dropout and not source.info.num_classes:
        raise ValueError(
            f"label_dropout={label_dropout:g}: {source.info.name} has no labels to leave out: "
            "give 0"
        )
    source = source.to(torch.device(device))
    mine = parallel.shard(batch_size, rank, world)
    order = EpochOrder(len(source), seed)
    plan = (
        order(range(first + mine.start, first + mine.stop))
        for first in itertools.count(start, batch_size)
    )
    return _train(source, plan, torch.device(device), random_flip, seed, dequantise, label_dropout)


def _train(
    source: Source,
    plan: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    random_flip: bool,
    seed: int,
    dequantised: bool,
    label_dropout: float,
) -> Generator[Batch]:
    plan, ahead = itertools.tee(plan)  # the stream reads ahead of the batches it has given
    with opened(source, (index for index, _ in ahead)) as stream:
        for (index, epoch), images in zip(plan, stream, strict=True):
            label, images, index = (
                source.labels(index).to(device),
                images.to(device),
                index.to(device),
            )
            # One sample number for each image in each epoch, so that one call serves a batch of
            # several epochs.
            sample = index + epoch.to(device) * len(source)
            if random_flip:
                heads = noise.uniform(seed, sample, 0, (), stream=Stream.AUGMENT) < 0.5
                images = torch.where(expand_to(heads, images), images.flip(-1), images)
            if label_dropout:
                left_out = noise.uniform(seed, sample, 0, (), stream=Stream.LABEL) < label_dropout
                label = label.masked_fill(left_out, source.info.num_classes)
            image = _floats(images, source.info.levels, sample, seed if dequantised else None)
            yield {"image": image, "label": label, "index": index}


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    dequantise_seed: int | None = None,
    draw: int = 0,
) -> Generator[Batch]:
    """Every image once, in order; the last batch holds what is left.

    Args:
        source: any split.
        batch_size: images in a batch.
        device: where batches are made.
        dequantise_seed: gives (k + u) / L, u following from this seed, the image's index and
            `draw`. None gives k / (L - 1).
        draw: number of the dequantisation, for repeated ones.

    Raises:
        ValueError: for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"eval.batch_size={batch_size}: use at least 1")
    return _evaluate(
        source,
        in_order(len(source), batch_size),
        torch.device(device),
        dequantise_seed,
        draw,
    )


def _evaluate(
    source: Source,
    plan: Iterable[Tensor],
    device: torch.device,
    dequantise_seed: int | None,
    draw: int,
) -> Generator[Batch]:
    with opened(source, plan) as stream:
        for index, images in zip(plan, stream, strict=True):
            label, images, index = (
                source.labels(index).to(device),
                images.to(device),
                index.to(device),
            )
            image = _floats(images, source.info.levels, index, dequantise_seed, draw)
            yield {"image": image, "label": label, "index": index}


def _floats(
    images: Tensor, levels: int, sample: Tensor, seed: int | None, draw: int = 0
) -> Tensor:
    if seed is None:
        return to_unit(images, levels)
    u = noise.uniform(seed, sample, draw, images.shape[1:], stream=Stream.DEQUANTISE)
    return dequantise(images, levels, u)
