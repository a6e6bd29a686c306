"""Images from the user's own files: a folder, or one array file.

**Splits.** A folder with a sub-folder `train` and a sub-folder `test` (or `val`) uses these two
and nothing beside them. Otherwise a share of `test_fraction` of the files is the test split: those
whose relative path has a small hash, so that adding or removing files never moves others between
the splits.

**Labels.** Where every image of both splits lies exactly one folder deep and there are at least
two such folders, the folders are the classes, sorted by name. Otherwise there are no labels.
"""

import hashlib
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from score_sde.data.pixels import FileDecoder, conform_array, policy
from score_sde.data.sources import DatasetInfo, MemorySource, Request, Source, StreamingSource

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
ARRAY_EXTENSIONS = frozenset({".npy", ".npz"})
WORKERS_FROM_BYTES = 64 * 2**20
"""Files of fewer bytes are decoded here: that is done before worker processes have started."""


@dataclass(frozen=True)
class ImageFile:
    """An image file: its path below the split's root, with forward slashes, and its bytes."""

    path: str
    size: int


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
    if root.is_file():
        return _open_array(request, root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder of images at {root.resolve()}: "
            "put the images there or set data.root to their folder"
        )
    folders = _split_folders(root)
    if folders is None:
        files = scan(root)
        classes = class_folders(files)
        held_out = _held_out([file.path for file in files], request.test_fraction)
        chosen = [
            file
            for file, is_test in zip(files, held_out, strict=True)
            if is_test == (request.split == "test")
        ]
    else:
        by_split = {split: scan(folder) for split, folder in folders.items()}
        classes = class_folders(by_split["train"] + by_split["test"])
        root, chosen = folders[request.split], by_split[request.split]
    return source_of_files(request, root, chosen, class_names=classes if labelled else ())


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
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        root, names = path.parent, (path.name,)
    elif path.is_dir():
        root, names = path, tuple(file.path for file in scan(path)[:count])
    elif path.is_file():
        if path.suffix.lower() not in ARRAY_EXTENSIONS:
            raise ValueError(
                f"{path} is no image: give one of {', '.join(sorted(EXTENSIONS))}, a folder of "
                "them, or a .npy or .npz file"
            )
        stored, _ = _read_array(path)
        return _pictures(path, conform_array(stored[:count], image_size, num_channels))
    else:
        raise FileNotFoundError(f"no image and no folder of images at {path}: check its name")
    decode = FileDecoder(root, names, image_size, num_channels)
    return _pictures(path, torch.stack([decode(index) for index in range(len(names))]))


def read_mask(path: Path, image_size: tuple[int, int]) -> Tensor:
    """A picture as a mask, resized and cut as images are: bool (1, H, W), True where it is white.

    Raises:
        ValueError: no picture, or one with transparent parts, which some editors mean as hidden
            and others as known.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"{path} is no picture: give one of {', '.join(sorted(EXTENSIONS))}")
    pixels = FileDecoder(path.parent, (path.name,), image_size, 4)(0)
    if (pixels[3] < 255).any():
        raise ValueError(
            f"{path} has transparent parts: save it without, white where images are known and "
            "black where they are hidden"
        )
    return FileDecoder(path.parent, (path.name,), image_size, 1)(0) > 127


def _pictures(path: Path, images: Tensor) -> MemorySource:
    info = DatasetInfo(
        name=str(path),
        split="test",
        num_images=len(images),
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        levels=256,
        num_classes=0,
        class_names=(),
        fingerprint="",
        policy="",
    )
    return MemorySource(info, images)


def source_of_files(
    request: Request,
    root: Path,
    files: list[ImageFile],
    *,
    class_names: tuple[str, ...] = (),
    centre: int = 0,
) -> Source:
    """A source over image files, in memory where the decoded images fit under the request's limit.

    Args:
        request: what was asked for.
        root: the folder that the files' paths start from.
        files: the images, in the order of their indices.
        class_names: the files' folders, where these are classes.
        centre: side of the centred square cut out of each image first, or 0.

    Raises:
        ValueError: where a training split is empty, or (images in memory only) a file cannot be
            decoded.
    """
    if not files and request.split == "train":
        raise ValueError(
            f"all images in {root.resolve()} fall into the test split: "
            f"lower data.test_fraction={request.test_fraction:g} or add images"
        )
    decoder = FileDecoder(
        root, tuple(file.path for file in files), request.image_size, request.num_channels, centre
    )
    words = policy(request.image_size, request.num_channels)
    if centre:
        words = f"centred {centre}x{centre} square, {words}"
    content = [(file.path, file.size) for file in files]
    info = request.info(len(files), words, class_names=class_names, content=content)
    labels = None
    if class_names:
        number = {name: label for label, name in enumerate(class_names)}
        labels = torch.tensor([number[_folder(file.path)] for file in files], dtype=torch.int64)
    if len(files) * math.prod(info.shape) > request.memory_limit_bytes:
        return StreamingSource(info, decoder, labels)
    few = sum(file.size for file in files) < WORKERS_FROM_BYTES
    return StreamingSource(info, decoder, labels, num_workers=0 if few else None).decoded()


def scan(root: Path) -> list[ImageFile]:
    """All images under `root` at any depth, sorted by path; what begins with a dot is left out.

    Raises:
        ValueError: where there are none, saying what was looked for and what was seen.
    """
    files, others = [], []
    seen_folders: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if os.path.realpath(folder) in seen_folders:  # a link may lead back up
            subfolders.clear()
            continue
        seen_folders.add(os.path.realpath(folder))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in EXTENSIONS:
                files.append(ImageFile(path.relative_to(root).as_posix(), _size(path)))
            else:
                others.append(path.relative_to(root).as_posix())
    if not files:
        seen = (
            f"it has {len(others)} other file(s), such as {min(others)}"
            if others
            else "it is empty"
        )
        raise ValueError(
            f"no images in {root.resolve()}: {seen}, and files that end in "
            f"{', '.join(sorted(EXTENSIONS))} are looked for; put images there or set data.root "
            "to their folder"
        )
    return sorted(files, key=lambda file: file.path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}): repair the link or remove it"
        ) from error


def class_folders(files: list[ImageFile]) -> tuple[str, ...]:
    """The class names by this module's rule; none where the folders are no classes."""
    folders = {_folder(file.path) for file in files}
    one_deep = all(folder != "." and "/" not in folder for folder in folders)
    return tuple(sorted(folders)) if one_deep and len(folders) > 1 else ()


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.as_posix()


def _split_folders(root: Path) -> dict[str, Path] | None:
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    test = folders.get("test") or folders.get("val")
    if test and "train" not in folders:
        raise ValueError(
            f"{root.resolve()} has a folder {test.name}/ but none called train/: put the images "
            f"to train on into train/, or give {test.name}/ another name to choose from all"
        )
    return {"train": folders["train"], "test": test} if "train" in folders and test else None


def _held_out(names: list[str], test_fraction: float) -> list[bool]:
    """Which images are for testing, by a hash of their names: of several at least one."""
    digests = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    places = [int.from_bytes(digest, "big") / 2**64 for digest in digests]
    least = min(places) if test_fraction and len(places) > 1 else -1.0
    return [place < test_fraction or place == least for place in places]


def _open_array(request: Request, path: Path) -> MemorySource:
    images, labels = _read_array(path)
    held_out = _held_out([str(row) for row in range(len(images))], request.test_fraction)
    chosen = np.array(held_out, dtype=bool) == (request.split == "test")
    if not chosen.any() and request.split == "train":
        raise ValueError(f"{path} leaves no image for training: lower data.test_fraction")
    classes = () if labels is None else tuple(str(label) for label in range(int(labels.max()) + 1))
    stored_size = (images.shape[1], images.shape[2])
    digest = hashlib.sha256(np.ascontiguousarray(images).data.cast("B"))
    info = request.info(
        int(chosen.sum()),
        policy(request.image_size, request.num_channels, stored_size),
        class_names=classes,
        content=[digest.hexdigest(), request.test_fraction],
    )
    pixels = conform_array(images[chosen], request.image_size, request.num_channels)
    return MemorySource(info, pixels, None if labels is None else labels[torch.from_numpy(chosen)])


def _read_array(path: Path) -> tuple[np.ndarray, Tensor | None]:
    """Images uint8 (N, H, W[, C]) and labels int64 (N,) or None."""
    if path.suffix.lower() not in ARRAY_EXTENSIONS:
        raise ValueError(
            f"{path} is neither a folder nor a .npy or .npz file: set data.root to one of these"
        )
    try:
        with path.open("rb") as file:
            loaded = np.load(file)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): write it again with numpy.savez"
        ) from error
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None:
        raise ValueError(f"{path} holds {sorted(arrays)}: name the array of images 'images'")
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in (1, 3, 4):
        raise ValueError(
            f"{path} holds images of shape {images.shape} and type {images.dtype}: "
            "give uint8 (N, H, W, C) with 1, 3 or 4 channels"
        )
    if images.ndim == 3 and images.shape[2] in (3, 4):
        raise ValueError(
            f"{path} holds an array of shape {images.shape}, like one colour image: "
            "store images[None], or images[..., None] if these are grey"
        )
    if not len(images):
        raise ValueError(f"{path} holds no images: write at least one into it")
    if labels is None:
        return images, None
    whole = np.issubdtype(labels.dtype, np.integer) and labels.shape == (len(images),)
    if not whole or labels.min() < 0:
        raise ValueError(
            f"labels in {path} are {labels.dtype} of shape {labels.shape}: "
            f"give integers from 0 up, one for each of its {len(images)} images"
        )
    return images, torch.from_numpy(labels.astype(np.int64))
