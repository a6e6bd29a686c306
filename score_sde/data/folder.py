"""Images from the user's own files: a folder, or one array file.

**Splits.** A folder with a sub-folder `train` and a sub-folder `test` (or `val` or the like, see
`score_sde.data.splits`) uses these two and nothing beside them. Otherwise a share of
`test_fraction` of the files is the test split: those whose relative path has a small hash, so that
adding or removing files never moves others between the splits.

**Labels.** Where every image of both splits lies exactly one folder deep and there are at least
two such folders, the folders are the classes, sorted by name. Otherwise there are no labels.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde.atomic import regular_file, shown
from score_sde.data import formats
from score_sde.data.arrays import ARRAY_EXTENSIONS, read_images
from score_sde.data.pixels import FileDecoder, conform_array, policy
from score_sde.data.scan import ImageFile, Scan, class_folders, folder_of, scan
from score_sde.data.sources import (
    DatasetInfo,
    MemorySource,
    Request,
    Source,
    StreamingSource,
    in_order,
)
from score_sde.data.splits import refuse_splits_below, split_folders

WORKERS_FROM_BYTES = 64 * 2**20
"""Files of fewer bytes are decoded here: that is done before worker processes have started."""
SAMPLE = 16
"""Images that are looked at for what a run should say of their pixels."""


def open_folder(request: Request, root: Path | None = None, *, labelled: bool = True) -> Source:
    """Opens a folder of images, or a `.npy` or `.npz` file, by the rules of this module.

    Args:
        request: what was asked for.
        root: the folder or file; by default the request's own root.
        labelled: whether sub-folders may be classes.

    Raises:
        OSError: where the root does not exist.
        ValueError: where it holds no images, or is a file of another kind.
    """
    root = request.root if root is None else root
    if not os.path.isdir(root):
        try:
            regular_file(root)
        except OSError as error:
            raise FileNotFoundError(
                f"no folder of images at {shown(root.absolute())} ({error.strerror}): "
                "put the images there or set data.root to their folder"
            ) from error
        return _open_array(request, root)
    splits = split_folders(root)
    if splits is None:
        contents = scan(root)
        refuse_splits_below(root, {folder_of(file.path) for file in contents.files})
        classes = class_folders(contents.files)
        held_out = _held_out([file.path for file in contents.files], request.test_fraction)
        chosen = [
            file
            for file, is_test in zip(contents.files, held_out, strict=True)
            if is_test == (request.split == "test")
        ]
        notes = contents.notes()
    else:
        train, test = scan(splits.train), scan(splits.test)
        classes = class_folders(train.files + test.files)
        root = splits.train if request.split == "train" else splits.test
        chosen = train.files if request.split == "train" else test.files
        notes = splits.notes + Scan([], train.others + test.others).notes()
    classes = classes if labelled else ()
    return source_of_files(request, root, chosen, class_names=classes, notes=notes)


def open_pictures(
    path: Path, image_size: tuple[int, int], num_channels: int, count: int = 1
) -> MemorySource:
    """The first images of a user's own, in the order of their names: no splits, no labels.

    Args:
        path: an image, a folder of images, or a `.npy` or `.npz` file.
        image_size: (H, W) to give.
        num_channels: 1, 3 or 4.
        count: how many, at most.

    Raises:
        OSError: where there is nothing at the path.
        ValueError: where it holds no images, or one that cannot be decoded.
    """
    notes: tuple[str, ...] = ()
    if os.path.isdir(path):
        contents = scan(path)
        root, notes = path, contents.notes()
        names = tuple(file.path for file in contents.files[:count])
    else:
        try:
            regular_file(path)
        except OSError as error:
            raise FileNotFoundError(
                f"no image and no folder of images at {shown(path)} ({error.strerror}): "
                "check its name"
            ) from error
        root, names = path.parent, (path.name,)
        if path.suffix.lower() in ARRAY_EXTENSIONS:
            stored, _ = read_images(path)
            images = conform_array(stored[:count], image_size, num_channels)
            return _pictures(path, images, [f"{path.name}[{k}]" for k in range(len(images))])
        if not formats.is_picture(path.name):
            raise ValueError(
                f"{shown(path)} is no image: give one that ends in {formats.endings()}, a folder "
                "of them, or a .npy or .npz file"
            )
    decode = FileDecoder(root, names, image_size, num_channels)
    images = torch.stack([decode(index) for index in range(len(names))])
    return _pictures(path, images, names, notes)


def read_mask(path: Path, image_size: tuple[int, int]) -> Tensor:
    """A picture as a mask, resized and cut as images are: bool (1, H, W), True where it is white.

    Raises:
        ValueError: no picture, or one with transparent parts, which some editors mean as hidden
            and others as known.
    """
    if not formats.is_picture(path.name):
        raise ValueError(f"{shown(path)} is no picture: give one that ends in {formats.endings()}")
    pixels = FileDecoder(path.parent, (path.name,), image_size, 4)(0)
    if (pixels[3] < 255).any():
        raise ValueError(
            f"{shown(path)} has transparent parts: save it without, white where images are known "
            "and black where they are hidden"
        )
    return FileDecoder(path.parent, (path.name,), image_size, 1)(0) > 127


def _pictures(
    path: Path, images: Tensor, names: Sequence[str], notes: tuple[str, ...] = ()
) -> MemorySource:
    info = DatasetInfo(
        name=shown(path),
        split="test",
        num_images=len(images),
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        levels=256,
        num_classes=0,
        class_names=(),
        fingerprint="",
        policy="",
        notes=notes,
    )
    return MemorySource(info, images, names=names)


def source_of_files(
    request: Request,
    root: Path,
    files: list[ImageFile],
    *,
    class_names: tuple[str, ...] = (),
    centre: int = 0,
    notes: tuple[str, ...] = (),
) -> Source:
    """A source over image files, in memory where the decoded images fit under the request's limit.

    Args:
        request: what was asked for.
        root: the folder that the files' paths start from.
        files: the images, in the order of their indices.
        class_names: the files' folders, where these are classes.
        centre: side of the centred square cut out of each image first, or 0.
        notes: what a run should say of the choice of files.

    Raises:
        ValueError: where a training split is empty, or a file is found that cannot be decoded: of
            images in memory any, of others one that is cut off, or no image at all.
    """
    if not files and request.split == "train":
        raise ValueError(
            f"all images in {shown(root.absolute())} fall into the test split: "
            f"lower data.test_fraction={request.test_fraction:g} or add images"
        )
    decoder = FileDecoder(
        root, tuple(file.path for file in files), request.image_size, request.num_channels, centre
    )
    words = policy(request.image_size, request.num_channels)
    if centre:
        words = f"centred {centre}x{centre} square, {words}"
    content = [(file.path, file.size) for file in files]
    sample = range(0, len(files), -(-len(files) // SAMPLE) or 1)
    if request.split == "train":
        notes += dark([decoder(index) for index in sample])
    info = request.info(
        len(files),
        words,
        class_names=tuple(map(shown, class_names)),
        content=content,
        notes=notes,
    )
    labels = None
    if class_names:
        number = {name: label for label, name in enumerate(class_names)}
        labels = torch.tensor([number[folder_of(file.path)] for file in files], dtype=torch.int64)
    if len(files) * math.prod(info.shape) > request.memory_limit_bytes:
        _refuse_cut_off(decoder)
        return StreamingSource(info, decoder, labels)
    few = sum(file.size for file in files) < WORKERS_FROM_BYTES
    return StreamingSource(info, decoder, labels, num_workers=0 if few else None).decoded()


def _refuse_cut_off(decoder: FileDecoder) -> None:
    """Finds cut-off files by their ends, in about 50 µs each; what seems cut off is decoded.

    Raises:
        ValueError: naming the first file that cannot be decoded.
    """

    def seems_cut_off(rows: Tensor) -> list[int]:
        return [row for row in rows.tolist() if not decoder.seems_whole(row)]

    with ThreadPoolExecutor(max_workers=16) as pool:  # mostly they wait for the disk
        for rows in pool.map(seems_cut_off, in_order(len(decoder.paths), 256)):
            for row in rows:
                decoder.refuse_cut_off(row)


def dark(images: list[Tensor]) -> tuple[str, ...]:
    """A word where images uint8 use the lowest quarter of the levels only, else nothing.

    Such are 12-bit pixels in 16-bit files, and masks of 0 and 1.
    """
    brightest = max((int(image.max()) for image in images), default=255)
    if brightest >= 64:
        return ()
    return (
        f"the images are nearly black: the brightest pixel of {len(images)} looked at is "
        f"{brightest} of 255; if their files hold fewer bits than they could (12 in 16, or 0 and "
        "1 in 8), multiply the pixels to fill the range",
    )


def _held_out(names: list[str], test_fraction: float) -> list[bool]:
    """Which images are for testing, by a hash of their names: of several at least one."""
    digests = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    places = [int.from_bytes(digest, "big") / 2**64 for digest in digests]
    least = min(places) if test_fraction and len(places) > 1 else -1.0
    return [place < test_fraction or place == least for place in places]


def _open_array(request: Request, path: Path) -> MemorySource:
    images, labels = read_images(path)
    held_out = _held_out([str(row) for row in range(len(images))], request.test_fraction)
    chosen = np.array(held_out, dtype=bool) == (request.split == "test")
    if not chosen.any() and request.split == "train":
        raise ValueError(f"{shown(path)} leaves no image for training: lower data.test_fraction")
    classes = () if labels is None else tuple(str(label) for label in range(int(labels.max()) + 1))
    stored_size = (images.shape[1], images.shape[2])
    pixels = conform_array(images[chosen], request.image_size, request.num_channels)
    digest = hashlib.sha256(np.ascontiguousarray(images).data.cast("B"))
    info = request.info(
        int(chosen.sum()),
        policy(request.image_size, request.num_channels, stored_size),
        class_names=classes,
        content=[digest.hexdigest(), request.test_fraction],
        notes=dark(list(pixels[:SAMPLE])) if request.split == "train" else (),
    )
    return MemorySource(info, pixels, None if labels is None else labels[torch.from_numpy(chosen)])
