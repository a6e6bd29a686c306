"""From sources to batches of floats.

**Levels.** Pixels are integers k = 0 … L - 1. Plain floats are k / (L - 1), so black is 0 and
white 1 (`scaling`, which says as well what becomes of stored floats). Dequantised pixels are
(k + u) / L with u uniform in (0, 1): then the mean negative log density bounds the code length of
the integers from above (Theis et al. 2016, "A note on the evaluation of generative models",
section 3.1). Likelihoods of integers need this noise, sampling does not.

**Order.** Training images come in the permutations of epochs 0, 1, 2, … one after another; each
batch takes the next B places of that endless order, so batches cross from epoch to epoch and no
image is dropped. Flips, dequantisation noise and whether its label is left out belong to an image
in an epoch. So a batch is a function of (seed, place) alone, and training resumes at any place, in
batches of any size.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from score_sde import noise, parallel
from score_sde.data.scaling import refuse_dequantisation
from score_sde.data.sources import DatasetInfo, Source, in_order, opened
from score_sde.noise import Stream
from score_sde.tensor_ops import expand_to, sent_to

AT_ONCE = 4096
"""Images whose order, flips and labels are drawn at once: the words of a few take as long."""

Batch = dict[str, Tensor]
"""`image` float32 (B, C, H, W) in [0, 1], `label` int64 (B,), `index` int64 (B,) in the split.

Where labels are left out, that of no class is the number of classes."""


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
            as they are stored.
        random_flip: mirror every image left to right with probability 1/2, anew in every epoch.
        dequantise: (k + u) / L instead of k / (L - 1), of grey levels alone.
        label_dropout: probability with which an image is of no class, anew in every epoch.
        rank: number of this process.
        world: number of processes; each gets its own contiguous part of every batch.

    Raises:
        ValueError: for a batch size below the number of processes, an empty source, labels to be
            left out where there are none, or floats to be dequantised.
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
    if dequantise:
        refuse_dequantisation(source.info.range, source.info.name)
    source = source.to(torch.device(device))
    plan = _plan(
        source,
        batch_size,
        parallel.shard(batch_size, rank, world),
        seed,
        start,
        random_flip,
        label_dropout,
    )
    return _train(source, plan, torch.device(device), seed if dequantise else None)


@dataclass(frozen=True)
class _Places:
    """What is drawn for the images of a batch, on the CPU, each (B,).

    `sample` numbers each image in each epoch, so that one call serves a batch of several epochs.
    """

    index: Tensor
    sample: Tensor
    flipped: Tensor | None
    left_out: Tensor | None


def _plan(
    source: Source,
    batch_size: int,
    mine: range,
    seed: int,
    start: int,
    random_flip: bool,
    label_dropout: float,
) -> Generator[_Places]:
    """The places of batch after batch, drawn for many batches at once."""
    order, count = EpochOrder(len(source), seed), -(-AT_ONCE // batch_size)
    for first in itertools.count(start, count * batch_size):
        index, epoch = order(range(first, first + count * batch_size))
        sample = index + epoch * len(source)
        flipped = left_out = None
        if random_flip:
            flipped = noise.uniform(seed, sample, 0, (), stream=Stream.AUGMENT) < 0.5
        if label_dropout:
            left_out = noise.uniform(seed, sample, 0, (), stream=Stream.LABEL) < label_dropout
        for place in range(0, len(index), batch_size):
            rows = slice(place + mine.start, place + mine.stop)
            yield _Places(
                index[rows],
                sample[rows],
                None if flipped is None else flipped[rows],
                None if left_out is None else left_out[rows],
            )


def _train(
    source: Source, plan: Iterator[_Places], device: torch.device, dequantise_seed: int | None
) -> Generator[Batch]:
    plan, ahead = itertools.tee(plan)  # the stream reads ahead of the batches it has given
    with opened(source, (places.index for places in ahead)) as stream:
        for places, images in zip(plan, stream, strict=True):
            images = _sent_images(device, images)
            if places.flipped is not None:
                images = _mirrored(images, sent_to(device, places.flipped))
            label = sent_to(device, source.labels(places.index))
            if places.left_out is not None:
                label = label.masked_fill(
                    sent_to(device, places.left_out), source.info.num_classes
                )
            sample = places.sample if dequantise_seed is None else sent_to(device, places.sample)
            yield {
                "image": _floats(images, source.info, sample, dequantise_seed),
                "label": label,
                "index": sent_to(device, places.index),
            }


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Images (B, C, H, W), uint8 or float32, those of `which` bool (B,) left to right.

    The bits in which an image and its mirror image differ change or stay: on a CPU that takes a
    fifth of the time of `torch.where`, and on no device the host has to know which.
    """
    bits = images.view(torch.int32) if images.is_floating_point() else images
    change = expand_to(which.to(bits.dtype).neg_(), bits)
    mirrored = bits.flip(-1).bitwise_xor_(bits).bitwise_and_(change).bitwise_xor_(bits)
    return mirrored.view(images.dtype)


def _sent_images(device: torch.device, images: Tensor) -> Tensor:
    """Images on a device, without the host waiting for it; a GPU reads pinned memory alone so."""
    if device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()
    return sent_to(device, images)


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
        ValueError: for a batch size below 1, or floats to be dequantised.
    """
    if batch_size < 1:
        raise ValueError(f"eval.batch_size={batch_size}: use at least 1")
    if dequantise_seed is not None:
        refuse_dequantisation(source.info.range, source.info.name)
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
                sent_to(device, source.labels(index)),
                _sent_images(device, images),
                sent_to(device, index),
            )
            image = _floats(images, source.info, index, dequantise_seed, draw)
            yield {"image": image, "label": label, "index": index}


def _floats(
    images: Tensor, info: DatasetInfo, sample: Tensor, seed: int | None, draw: int = 0
) -> Tensor:
    if seed is None:
        return info.to_unit(images)
    u = noise.uniform(seed, sample, draw, images.shape[1:], stream=Stream.DEQUANTISE)
    return dequantise(images, info.levels, u)
