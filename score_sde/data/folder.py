"""Images from the user's own files: a folder, or one array file.

**Splits.** A folder with a sub-folder `train` and a sub-folder `test` (or `val` or the like, see
`score_sde.data.splits`) uses these two and nothing beside them. Otherwise a share of
`test_fraction` of the files is the test split: those whose relative path has a small hash, so that
adding or removing files never moves others between the splits.

**Labels.** Where every image of both splits lies exactly one folder deep and there are at least
two such folders, the folders are the classes, sorted by name. Otherwise there are no labels.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde.atomic import regular_file, shown
from score_sde.data import formats, jpeg
from score_sde.data.arrays import ARRAY_EXTENSIONS, read_images
from score_sde.data.fits import FITS, Size, SizeError, inside
from score_sde.data.numbers import check_alike, is_picture, kept, open_array
from score_sde.data.pixels import (
    MODES,
    SAMPLE,
    FileDecoder,
    check_channels,
    conform_array,
    dark,
    policy,
)
from score_sde.data.scaling import Range
from score_sde.data.scan import ImageFile, Scan, class_folders, folder_of, scan
from score_sde.data.sources import (
    DatasetInfo,
    MemorySource,
    Request,
    Source,
    StreamingSource,
    in_order,
)
from score_sde.data.splits import held_out_of, refuse_splits_below, split_folders

WORKERS_FROM_BYTES = 64 * 2**20
"""Files of fewer bytes are decoded here: that is done before worker processes have started."""


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
        return open_array(request, root)
    check_channels(request.num_channels)
    splits = split_folders(root)
    if splits is None:
        contents = scan(root)
        refuse_splits_below(root, {folder_of(file.path) for file in contents.files})
        classes = class_folders(contents.files)
        held_out = held_out_of([file.path for file in contents.files], request.test_fraction)
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


class Pictures(MemorySource):
    """Pictures of a user's own.

    Attributes:
        inside: bool (N, 1, H, W), which pixels are the pictures' own; None where no picture was
            padded, and all are.
    """

    def __init__(
        self,
        path: Path,
        images: Tensor,
        names: Sequence[str],
        sizes: list[Size],
        fit: str,
        notes: tuple[str, ...] = (),
        range: Range = (),
    ) -> None:
        _, channels, height, width = images.shape
        info = DatasetInfo(
            name=shown(path),
            split="test",
            num_images=len(images),
            shape=(channels, height, width),
            levels=0 if range else 256,
            num_classes=0,
            class_names=(),
            fingerprint="",
            policy="",
            notes=notes,
            range=range,
        )
        super().__init__(info, images, names=names)
        padded = fit == "pad" and set(sizes) != {(height, width)}
        owned = [inside(size, (height, width)) for size in sizes] if padded else []
        self.inside = torch.stack(owned) if padded else None


def open_pictures(
    path: Path,
    image_size: tuple[int, int],
    num_channels: int,
    count: int = 1,
    fit: str = "resize",
    range: Range = (),
) -> Pictures:
    """The first images of a user's own, in the order of their names: no splits, no labels.

    Args:
        path: an image, a folder of images, or a `.npy` or `.npz` file.
        image_size: (H, W) to give.
        num_channels: 1, 3 or 4.
        count: how many, at most.
        fit: how they are brought to that size, a name of `fits.FITS`. Where they keep their own,
            it must be the same for all.
        range: (low, high) where floats are to be given, which only array files hold, in the units
            of the range; () for pictures.

    Raises:
        OSError: where there is nothing at the path.
        ValueError: where it holds no images, or one that cannot be decoded or has a size that does
            not fit; pictures in the place of floats, or the other way round.
    """
    notes: tuple[str, ...] = ()
    is_array = path.suffix.lower() in ARRAY_EXTENSIONS
    if (range or num_channels not in MODES) and os.path.exists(path):
        if os.path.isdir(path) or not is_array:
            known = f"numbers from {range[0]:g} to {range[1]:g}" if range else "levels of 8 bits"
            raise ValueError(
                f"{shown(path)} is no array file, and this network knows {known} in "
                f"{num_channels} channels: give these in one .npy or .npz file (numpy.stack), "
                "(N, H, W, C)"
            )
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
        if is_array:
            stored, _ = read_images(path)
            try:
                images = _of_array(stored[:count], image_size, num_channels, fit, range)
            except SizeError as error:
                raise ValueError(f"each image of {shown(path)} {error}") from error
            names = tuple(f"{path.name}[{k}]" for k, _ in enumerate(images))
            sizes = [stored.shape[1:3]] * len(images)
            return Pictures(path, images, names, sizes, fit, range=range)
        if not formats.is_picture(path.name):
            raise ValueError(
                f"{shown(path)} is no image: give one that ends in {formats.endings()}, a folder "
                "of them, or a .npy or .npz file"
            )
    decode = FileDecoder(root, names, image_size, num_channels, fit=fit)
    decoded = [decode.with_size(index) for index, _ in enumerate(names)]
    if FITS[fit].keeps:
        _refuse_many_sizes(root, names, [size for _, size in decoded], fit)
    images, sizes = zip(*decoded, strict=True)
    return Pictures(path, torch.stack(images), names, list(sizes), fit, notes)


def _of_array(
    stored: np.ndarray, image_size: Size, num_channels: int, fit: str, range: Range
) -> Tensor:
    """Images of an array file: pictures brought to a size, other numbers as they are."""
    height, width = stored.shape[1:3]
    channels = stored.shape[3] if stored.ndim == 4 else 1
    if not range and is_picture(stored.dtype, channels) and num_channels in MODES:
        return conform_array(stored, image_size, num_channels, fit)
    if not range and stored.dtype != np.uint8:
        raise SizeError(
            f"holds {stored.dtype}, and this network knows pictures of 8 bits: give uint8"
        )
    if FITS[fit].keeps and height >= image_size[0] and width >= image_size[1]:
        image_size = height, width
    check_alike((height, width, channels), (num_channels, *image_size), "give such")
    images = kept(stored)
    images = images.float() if range else images
    finite = images.isfinite().flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise SizeError(f"must be finite, and [{first}] is not: leave it out")
    return images


def _refuse_many_sizes(root: Path, names: Sequence[str], sizes: list[Size], fit: str) -> None:
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            (h, w), (height, width) = size, sizes[0]
            raise ValueError(
                f"{shown(root / name)} has {h}x{w} pixels and {shown(root / names[0])} "
                f"{height}x{width}: with fit={fit} images keep their size, so give those of one "
                "size at a time, or take fit=resize"
            )


def read_mask(path: Path, image_size: tuple[int, int], fit: str = "resize") -> Tensor:
    """A picture as a mask: bool (1, H, W), True where it is white; else as `read_soft_mask`."""
    return read_soft_mask(path, image_size, fit) > 0.5


def read_soft_mask(path: Path, image_size: tuple[int, int], fit: str = "resize") -> Tensor:
    """A picture as a mask, brought to its size as images are: float32 (1, H, W), 1 where white.

    Args:
        path: the picture.
        image_size: (H, W) to give.
        fit: as of the images. Where they keep their size, the mask must have it.

    Raises:
        ValueError: no picture, or of a size that does not fit, or with transparent parts, which
            some editors mean as hidden and others as known.
    """
    if not formats.is_picture(path.name):
        raise ValueError(f"{shown(path)} is no picture: give one that ends in {formats.endings()}")
    keeps = FITS[fit].keeps
    wanted = (1, 1) if keeps else image_size  # which takes any, to be compared with the images'
    pixels, (h, w) = FileDecoder(path.parent, (path.name,), wanted, 4, fit=fit).with_size(0)
    if keeps and (h, w) != image_size:
        raise ValueError(
            f"{shown(path)} has {h}x{w} pixels, and with fit={fit} the images keep their "
            f"{image_size[0]}x{image_size[1]}: give a mask of that size"
        )
    if (pixels[3] < 255).any():
        raise ValueError(
            f"{shown(path)} has transparent parts: save it without, white where images are known "
            "and black where they are hidden"
        )
    return FileDecoder(path.parent, (path.name,), image_size, 1, fit=fit)(0) / 255


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
    streamed = len(files) * math.prod(info.shape) > request.memory_limit_bytes
    few = not streamed and sum(file.size for file in files) < WORKERS_FROM_BYTES
    photographs = any(file.path.lower().endswith(jpeg.ENDINGS) for file in files)
    quick = replace(decoder, quick=not few and photographs and jpeg.is_ready())
    if streamed:
        _refuse_cut_off(decoder)
        return StreamingSource(info, quick, labels)
    return StreamingSource(info, quick, labels, num_workers=0 if few else None).decoded()


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
