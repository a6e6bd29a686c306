"""Sources: where images come from, all with one face.

A source gives images by index as tensors (B, C, H, W), uint8 grey levels or float32 numbers of a
stated range, and their labels as int64 (B,). Images that fit into memory are decoded once
(`MemorySource`); others are decoded when they are asked for, by worker processes
(`StreamingSource`).
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from score_sde import parallel
from score_sde.data.memory import free_bytes
from score_sde.data.scaling import Range, ends_of, to_unit
from score_sde.data.workers import Workers
from score_sde.tensor_ops import sent_to

MEMORY_LIMIT_BYTES = 4 * 2**30
"""Decoded images up to this size are kept in memory."""

MEMORY_SHARE = 0.5
"""Of the free memory, which the copies of several processes of one machine may take together."""

DEVICE_SHARE = 0.25
"""Images move to a CUDA device if they take at most this share of its free memory."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a run must know about its data.

    Attributes:
        name: the set's name, as `open_source` spells it.
        split: `train` or `test`.
        num_images: images in this split.
        shape: (C, H, W) of every image.
        levels: grey levels L of a channel; pixels are the integers 0 … L - 1. 0 of floats.
        num_classes: classes, or 0 where the images carry no labels (labels are zeros then).
        class_names: one name per class, in the order of the labels.
        fingerprint: text that changes with the files, the split or the image shape.
        policy: how the stored images were cropped, resized and converted, in words.
        notes: sentences that a run should say of its data, such as how many files are left out.
        range: of floats, the numbers (low, high) that become 0 and 1; () of grey levels.
    """

    name: str
    split: str
    num_images: int
    shape: tuple[int, int, int]
    levels: int
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    policy: str
    notes: tuple[str, ...] = ()
    range: Range = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        return torch.float32 if self.range else torch.uint8

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers that become 0 and 1."""
        return ends_of(self.levels, self.range)

    def to_unit(self, images: Tensor) -> Tensor:
        """Images of the source → float32, [0, 1] for what lies within its range."""
        return to_unit(images, self.levels, self.range)


@dataclass(frozen=True)
class Request:
    """What was asked of `open_source`, whose docstring says what each field means."""

    name: str
    split: str
    root: Path
    image_size: tuple[int, int]
    num_channels: int
    download: bool
    test_fraction: float
    memory_limit_bytes: int
    category: str
    range: Range = ()
    dequantised: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images to give."""
        return (self.num_channels, *self.image_size)

    def info(
        self,
        num_images: int,
        policy: str,
        *,
        levels: int = 256,
        class_names: tuple[str, ...] = (),
        content: Iterable[object] = (),
        notes: tuple[str, ...] = (),
        range: Range = (),
    ) -> DatasetInfo:
        """Describes the answer; the fingerprint also follows `content`, such as file sizes."""
        digest = hashlib.sha256(repr((self.name, self.split, self.shape, num_images)).encode())
        for part in content:
            digest.update(repr(part).encode())
        return DatasetInfo(
            name=self.name,
            split=self.split,
            num_images=num_images,
            shape=self.shape,
            levels=0 if range else levels,
            num_classes=len(class_names),
            class_names=class_names,
            fingerprint=digest.hexdigest()[:16],
            policy=policy,
            notes=notes,
            range=range,
        )


class Source(Protocol):
    """Images and labels by index."""

    info: DatasetInfo

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) of `indices` int64 (B,), of the type `info.dtype`."""
        ...

    def labels(self, indices: Tensor) -> Tensor:
        """Labels int64 (B,) of `indices` int64 (B,); zeros where the images have none."""
        ...

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each batch of indices, in order; fetched ahead where that helps."""
        ...

    def to(self, device: torch.device) -> "Source":
        """The same source, with its images on `device` where they fit."""
        ...


class MemorySource:
    """Images decoded once and kept as one tensor.

    Args:
        info: the description.
        images: (N, C, H, W) of the type `info.dtype`.
        labels: int64 (N,), or None for no labels.
        names: of the images, where they have some.

    Raises:
        ValueError: images of another type or shape than the description says.
    """

    def __init__(
        self,
        info: DatasetInfo,
        images: Tensor,
        labels: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> None:
        wanted = (info.num_images, *info.shape)
        _check(images, info.dtype, wanted, f"images of {info.name}")
        self.info = info
        self.names = tuple(names)
        self._images = images
        self._labels = _labels_or_zeros(labels, info)

    def __len__(self) -> int:
        return self.info.num_images

    def images(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) of `indices` int64 (B,), on the device that holds them."""
        # By rows: a general index would look at each of the pixels.
        return self._images.index_select(0, sent_to(self._images.device, indices))

    def labels(self, indices: Tensor) -> Tensor:
        """Labels int64 (B,) of `indices` int64 (B,), on the device that holds the images."""
        return self._labels.index_select(0, sent_to(self._labels.device, indices))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each batch of indices."""
        return map(self.images, batches)

    def to(self, device: torch.device) -> "MemorySource":
        """A source with its images on `device`; itself where they fill too much of a GPU."""
        device = torch.device(device)
        if device.type == "cuda":
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if (
                self._images.device.type != "cuda"
                and self._images.nbytes > DEVICE_SHARE * free_bytes
            ):
                return self
        return MemorySource(
            self.info, self._images.to(device), self._labels.to(device), self.names
        )


class StreamingSource:
    """Images decoded when they are asked for; `stream` decodes ahead in worker processes.

    Args:
        info: the description.
        decode: index → image (C, H, W) of the type `info.dtype`; it travels to the workers, so it
            must pickle. What it raises, such as a `ValueError` for a bad image, reaches the
            caller.
        labels: int64 (N,), or None for no labels.
        num_workers: worker processes; by default one per core, at most eight. 0 decodes in the
            calling process.
    """

    def __init__(
        self,
        info: DatasetInfo,
        decode: Callable[[int], Tensor],
        labels: Tensor | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.info = info
        self._decode = _BatchDecoder(decode, info.shape, info.dtype)
        self._labels = _labels_or_zeros(labels, info)
        self._num_workers = default_workers() if num_workers is None else num_workers

    def __len__(self) -> int:
        return self.info.num_images

    def images(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) of `indices` int64 (B,), decoded here and now."""
        return torch.from_numpy(self._decode[indices.tolist()])

    def labels(self, indices: Tensor) -> Tensor:
        """Labels int64 (B,) of `indices` int64 (B,)."""
        return self._labels[indices.cpu()]

    def stream(self, batches: Iterable[Tensor]) -> Generator[Tensor]:
        """The images of each batch of indices, in order, decoded ahead by the workers.

        They live until the last batch, or until the stream is closed.
        """
        requests = (batch.tolist() for batch in batches)
        with Workers(self._decode.__getitem__, self._num_workers) as workers:
            yield from map(torch.from_numpy, workers.map(requests))

    def decoded(self) -> MemorySource:
        """All images decoded and kept.

        Raises:
            ValueError: naming the file, where one cannot be decoded.
        """
        images = torch.empty(len(self), *self.info.shape, dtype=self.info.dtype)
        batches = in_order(len(self), 256)
        with opened(self, batches) as stream:
            for indices, batch in zip(batches, stream, strict=True):
                images[indices] = batch
        return MemorySource(self.info, images, self._labels)

    def to(self, device: torch.device) -> "StreamingSource":
        """Itself: images are decoded on the host."""
        return self


@contextmanager
def opened(source: Source, batches: Iterable[Tensor]) -> Iterator[Iterator[Tensor]]:
    """A source's stream of the batches, closed at the end: worker processes end with it."""
    stream = source.stream(batches)
    if not isinstance(stream, Generator):  # of memory, or of a source of the user's own
        yield stream
        return
    with closing(stream):
        yield stream


def in_order(count: int, batch_size: int) -> list[Tensor]:
    """0 … count - 1 as batches of int64 indices, the last one with what is left."""
    starts = range(0, count, batch_size)
    return [torch.arange(start, min(start + batch_size, count)) for start in starts]


class _BatchDecoder:
    """Indices → images (B, C, H, W).

    Workers send arrays through their pipes: tensors would go through shared memory, of which
    containers have little.
    """

    def __init__(
        self, decode: Callable[[int], Tensor], shape: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        self.decode = decode
        self.shape = shape
        self.dtype = np.float32 if dtype.is_floating_point else np.uint8

    def __getitem__(self, indices: list[int]) -> np.ndarray:
        images = np.empty((len(indices), *self.shape), dtype=self.dtype)
        for row, index in enumerate(indices):
            images[row] = self.decode(index).numpy()
        return images


def memory_limit() -> int:
    """Bytes of decoded images that are kept in memory, by each of this machine's processes."""
    here = parallel.on_this_machine()
    share = MEMORY_SHARE * free_bytes() / here if here > 1 else MEMORY_LIMIT_BYTES
    return int(min(share, MEMORY_LIMIT_BYTES))


def default_workers() -> int:
    """Worker processes to start: one per core, at most eight.

    Of several processes that a launcher started on this machine each takes its part of the cores.
    """
    # Not every system can tell the cores that this process may use from those that exist.
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return min(max(cores // parallel.on_this_machine(), 1), 8)


def _labels_or_zeros(labels: Tensor | None, info: DatasetInfo) -> Tensor:
    if labels is None:
        return torch.zeros(info.num_images, dtype=torch.int64)
    _check(labels, torch.int64, (info.num_images,), f"labels of {info.name}")
    classes = info.num_classes
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels of {info.name} go from {labels.min()} to {labels.max()}, and it has "
            f"{classes} classes: count them from 0"
        )
    return labels


def _check(given: Any, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> None:
    """Refuses what is no tensor of a type and shape."""
    fits = isinstance(given, Tensor) and given.dtype == dtype and given.shape == shape
    if not fits:
        kind = getattr(given, "dtype", type(given).__name__)
        raise ValueError(
            f"{what} are {kind} of shape {tuple(getattr(given, 'shape', ()))}, where a tensor of "
            f"{dtype} and shape {shape} is needed: the description says how many there are, and "
            "their shape"
        )
