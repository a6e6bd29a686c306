"""Whatever lies where a data file should: its content comes, or one sentence, soon."""

import contextlib
import gzip
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hostile_files as hostile
import numpy as np
import pytest
import torch
from hostile_files import KINDS, MARK, clear
from PIL import Image

from score_sde.atomic import open_regular, read_json, regular_file, shown
from score_sde.data import DATASETS, open_pictures, open_source, read_mask
from score_sde.data.public import read_idx

SECONDS = 60
"""After which a reader is said to hang; it takes milliseconds."""
BYTES = 2 * 2**30
"""What all that is read here may add to the memory; the largest claims are 2^80."""


@dataclass(frozen=True)
class Reader:
    """A way to read files: how its files are laid out, those that may be hostile, and the call."""

    lay_out: Callable[[Path], object]
    places: tuple[str, ...]
    read: Callable[[Path], object]


def pixels_of(name: str, memory_limit_bytes: int = 2**30, root: str = "", **options):
    def read(folder: Path) -> object:
        for split in ("train", "test"):
            source = open_source(
                name,
                split,
                root=folder / root,
                image_size=(8, 8),
                num_channels=3,
                download=False,
                memory_limit_bytes=memory_limit_bytes,
                **options,
            )
            for row in range(len(source)):
                source.images(torch.tensor([row]))

    return read


def lay_out(*names: str, **others: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(hostile.picture("PNG"))
        for name, content in others.items():
            name = name.replace("__", "/").replace("_dot_", ".")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return make


def idx_files(folder: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        for stem in ("train", "t10k"):
            pixels = hostile.idx((5, 4, 4), bytes(80))
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(pixels)
            labels = gzip.compress(hostile.idx((5,), bytes(range(5))))
            (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(labels)

    return make


def cifar10(root: Path) -> None:
    (root / "cifar-10-batches-py").mkdir()


def celeba(root: Path) -> None:
    names = [f"celeba/img_align_celeba/{number}.png" for number in range(4)]
    lay_out(*names)(root)
    rows = "".join(f"{number}.png {part}\n" for number, part in enumerate((0, 0, 1, 2)))
    (root / "celeba/list_eval_partition.txt").write_text(rows)


IDX_PLACES = ("raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte.gz")
OF_SETS = {
    "digits": Reader(lay_out(), (), pixels_of("digits")),  # has no files
    "colour_digits": Reader(lay_out(), (), pixels_of("colour_digits")),
    "mnist": Reader(
        idx_files("MNIST"), tuple(f"MNIST/{place}" for place in IDX_PLACES), pixels_of("mnist")
    ),
    "fashion_mnist": Reader(
        idx_files("FashionMNIST"),
        tuple(f"FashionMNIST/{place}" for place in IDX_PLACES),
        pixels_of("fashion_mnist"),
    ),
    "cifar10": Reader(
        cifar10,
        ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"),
        pixels_of("cifar10"),
    ),
    "svhn": Reader(lay_out(), ("train_32x32.mat",), pixels_of("svhn")),
    "celeba": Reader(
        celeba,
        ("celeba/list_eval_partition.txt", "celeba/img_align_celeba/0.png"),
        pixels_of("celeba"),
    ),
    "lsun": Reader(
        lay_out("lsun/church_train/a/1.png", "lsun/church_val/1.png"),
        ("lsun/church_train/a/2.jpg",),
        pixels_of("lsun", category="church"),
    ),
    "celebahq": Reader(
        lay_out("celebahq/1.png", "celebahq/2.png"), ("celebahq/3.webp",), pixels_of("celebahq")
    ),
    "ffhq": Reader(lay_out("ffhq/1.png", "ffhq/2.png"), ("ffhq/00/3.png",), pixels_of("ffhq")),
    "folder": Reader(
        lay_out("1.png", "2.png"), ("3.png", "4.tif", "5.tga", "6.pgm"), pixels_of("folder")
    ),
}
READERS = OF_SETS | {
    "a streamed folder": Reader(
        lay_out("1.png", "2.png"), ("3.jpg", "4.tiff"), pixels_of("folder", 0)
    ),
    "split folders": Reader(
        lay_out("train/1.png", "val/2.png"), ("train/3.gif", "val/4.jp2"), pixels_of("folder")
    ),
    "other files": Reader(lay_out("1.png", "2.png"), ("notes.txt",), pixels_of("folder")),
    "a root of .npy": Reader(lay_out(), ("a.npy",), pixels_of("folder", root="a.npy")),
    "a root of .npz": Reader(lay_out(), ("a.npz",), pixels_of("folder", root="a.npz")),
    "a root": Reader(lay_out(), ("a",), pixels_of("folder", root="a")),
    "a picture": Reader(
        lay_out(), ("a.png",), lambda folder: open_pictures(folder / "a.png", (8, 8), 3)
    ),
    "pictures of an array": Reader(
        lay_out(), ("a.npz",), lambda folder: open_pictures(folder / "a.npz", (8, 8), 3)
    ),
    "a mask": Reader(lay_out(), ("a.bmp",), lambda folder: read_mask(folder / "a.bmp", (8, 8))),
    "idx": Reader(lay_out(), ("a",), lambda folder: read_idx(folder / "a")),
    "json": Reader(lay_out(), ("a.json",), lambda folder: read_json(folder / "a.json")),
}


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_every_data_set_is_among_the_readers():
    assert OF_SETS.keys() == DATASETS.keys()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("files") for name in READERS}
    for name, reader in READERS.items():
        reader.lay_out(folders[name])
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_lies_there_is_read_or_answered_in_a_sentence(kind, layouts, capfd):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, reader in READERS.items():
        for place in reader.places:
            path = layouts[name] / place
            whole = path.read_bytes() if path.is_file() else None
            clear(path)
            path.parent.mkdir(exist_ok=True)
            KINDS[kind](path)
            try:
                with no_longer_than(SECONDS):
                    reader.read(layouts[name])
            except (ValueError, OSError) as error:
                sentence = str(error)
                assert sentence.isprintable(), (name, place, sentence)
                assert 20 < len(sentence) < 1000, (name, place, sentence)
            finally:
                clear(path)
                if whole is not None:
                    path.write_bytes(whole)
    assert not MARK.exists()
    assert capfd.readouterr() == ("", "")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < BYTES
