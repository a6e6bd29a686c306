"""Public sets that cost the user no work: the embedded one, and those that can be fetched."""

import dataclasses
import gzip
import http.client
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score_sde.atomic import open_regular, regular_file, shown
from score_sde.data.arrays import refuse_beyond_deflate
from score_sde.data.memory import refuse_beyond_memory
from score_sde.data.pixels import conform_array, policy
from score_sde.data.sources import MemorySource, Request

DIGITS = tuple(str(digit) for digit in range(10))
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of MNIST and of the sets that share its format."""
TORCHVISION_FILES = {
    "CIFAR10": tuple(
        f"cifar-10-batches-py/{name}"
        for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta")
    ),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
}
"""What torchvision opens of the sets that it reads, below the root."""
MOST_BYTES = 2**30


def open_digits(request: Request) -> MemorySource:
    """Scikit-learn's 8x8 digits with levels 0 … 16; the test split is every sixth, from 0 on."""
    _check_shape(request, 1)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    in_test = np.arange(len(pixels)) % 6 == 0
    chosen = in_test if request.split == "test" else ~in_test
    images = torch.from_numpy(pixels[chosen].astype(np.uint8)).reshape(-1, 1, 8, 8)
    info = request.info(len(images), "8x8 as stored, grey", levels=17, class_names=DIGITS)
    return MemorySource(info, images, torch.from_numpy(labels[chosen].astype(np.int64)))


def open_colour_digits(request: Request) -> MemorySource:
    """The same digits in colours, whose mean of the channels is the grey digit at half brightness.

    A class has two opposite hues, in every other image the one and the other, which it shares with
    the class five further: to give a grey image its colour, one has to read the digit.
    """
    _check_shape(request, 3)
    grey = open_digits(dataclasses.replace(request, num_channels=1))
    every = torch.arange(len(grey))
    turns = grey.labels(every) / 10 + every % 2 / 2
    hue = 2 * math.pi * (turns[:, None] - torch.arange(3) / 3)
    colour = (1 + hue.cos()) / 2
    ink = grey.images(every) / (grey.info.levels - 1)
    images = (255 * ink * colour[:, :, None, None]).round().to(torch.uint8)
    info = request.info(len(images), "8x8, coloured by class", class_names=DIGITS)
    return MemorySource(info, images, grey.labels(every))


def _check_shape(request: Request, channels: int) -> None:
    if request.shape != (channels, 8, 8):
        raise ValueError(
            f"{request.name} have {channels} channels and 8x8 pixels, not {request.num_channels} "
            f"and {request.image_size[0]}x{request.image_size[1]}: "
            f"set data.num_channels={channels}, data.image_size=8 and data.image_width=0"
        )


def open_mnist(request: Request) -> MemorySource:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey 28x28 digits."""
    return _open_idx_set(request, "MNIST", DIGITS)


def open_fashion_mnist(request: Request) -> MemorySource:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 grey 28x28 garments."""
    return _open_idx_set(request, "FashionMNIST", GARMENTS)


def _open_idx_set(request: Request, folder: str, class_names: tuple[str, ...]) -> MemorySource:
    """MNIST and its like, read here: `.gz` files need no unpacking, and torchvision no import."""
    home = request.root / folder
    if request.root.name == folder and not home.is_dir():  # the set's own folder was given
        home = request.root
    raw = home / "raw"
    names = IDX_FILES[request.split]
    if any(_idx_path(raw, name) is None for name in names):
        wanted = ", ".join(f"{name}.gz" for split in IDX_FILES.values() for name in split)
        _torchvision(request, folder, home.parent, f"{wanted} into {shown(raw.absolute())}")
    paths = [_idx_path(raw, name) or raw / name for name in names]
    pixels, labels = read_idx(paths[0], axes=3), read_idx(paths[1], axes=1)
    if len(pixels) != len(labels) or not pixels.size or labels.max() >= len(class_names):
        raise ValueError(
            f"{shown(paths[0])} and {paths[1].name} contradict each other or themselves: images "
            f"of shape {pixels.shape} with {len(labels)} labels up to {labels.max(initial=0)} of "
            f"{len(class_names)} classes; remove both and copy or fetch them again"
        )
    return _array_source(request, pixels, labels, class_names)


def open_cifar10(request: Request) -> MemorySource:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour images, 32x32, of ten classes."""
    place = shown(request.root.absolute())
    where = f"the folder cifar-10-batches-py of cifar-10-python.tar.gz into {place}"
    cifar = _torchvision(request, "CIFAR10", request.root, where, train=request.split == "train")
    return _array_source(request, cifar.data, np.array(cifar.targets), tuple(cifar.classes))


def open_svhn(request: Request) -> MemorySource:
    """SVHN (Netzer et al. 2011), cropped: 73,257 and 26,032 colour 32x32 house numbers."""
    where = f"{request.split}_32x32.mat into {shown(request.root.absolute())}"
    svhn = _torchvision(request, "SVHN", request.root, where, split=request.split)
    return _array_source(request, np.moveaxis(svhn.data, 1, -1), svhn.labels, DIGITS)


def _array_source(
    request: Request, pixels: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> MemorySource:
    """A set that comes as one array uint8 (N, H, W[, C]) with labels (N,)."""
    words = policy(request.image_size, request.num_channels, (pixels.shape[1], pixels.shape[2]))
    images = conform_array(pixels, request.image_size, request.num_channels)
    info = request.info(len(images), words, class_names=class_names)
    return MemorySource(info, images, torch.from_numpy(labels.astype(np.int64)))


def _torchvision(request: Request, class_name: str, root: Path, where: str, **choice: Any) -> Any:
    """A set as torchvision loads it, fetched first where it is missing and that is allowed."""
    from torchvision import datasets as torchvision_datasets

    names = TORCHVISION_FILES.get(class_name, ())
    for path in filter(os.path.exists, (root / name for name in names)):
        if regular_file(path).st_size > MOST_BYTES:  # torchvision would read it to its end
            raise ValueError(
                f"{shown(path)} is too large for a file of {request.name}: remove it, and put "
                f"{where}"
            )
    load = getattr(torchvision_datasets, class_name)
    try:
        return load(root, download=False, **choice)
    except RuntimeError:  # torchvision's word for missing or damaged files
        if not request.download:
            raise FileNotFoundError(
                f"{request.name} is not there or damaged: put {where}, "
                "or allow fetching with data.download=True"
            ) from None
    try:
        return load(root, download=True, **choice)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{request.name} could not be fetched ({reason}): put {where}") from error


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def read_idx(path: Path, axes: int | None = None) -> np.ndarray:
    """Reads bytes in MNIST's idx format, gzipped or not: uint8 of the shape that the file states.

    Args:
        path: the file.
        axes: how many it must have; any number by default.

    Raises:
        ValueError: where the file is no such file, incomplete, or of another number of axes.
    """
    remedy = "remove it and copy or fetch it again"
    try:
        with open_regular(path) as raw:
            stored = os.fstat(raw.fileno()).st_size
            with gzip.open(raw) if path.suffix == ".gz" else raw as file:
                head = file.read(4)
                if head[:3] != b"\x00\x00\x08" or len(head) < 4:  # 8: unsigned bytes
                    raise ValueError("it is not an idx file of bytes")
                if axes is not None and head[3] != axes:
                    raise ValueError(f"it has {head[3]} axes, not {axes}")
                shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
                count = math.prod(shape)
                refuse_beyond_deflate(count, stored)
                refuse_beyond_memory(f"an array of {count:,} bytes", count)
                content = file.read(count + 1)
        if len(content) != count:
            raise ValueError(f"incomplete: {count:,} bytes are announced and others there")
    except (ValueError, EOFError, OSError, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{shown(path)} is damaged ({reason}): {remedy}") from error
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
