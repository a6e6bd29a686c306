"""Data sets by name, and `open_source`, the one door to all of them.

Where the sets lie under `root`, and what happens where they do not:

| name | place | fetched where missing |
|---|---|---|
| `digits`, `colour_digits` | scikit-learn carries them | — |
| `mnist`, `fashion_mnist` | `MNIST/raw/`, `FashionMNIST/raw/`: four idx files, also `.gz` | yes |
| `cifar10` | `cifar-10-batches-py/` | yes |
| `svhn` | `train_32x32.mat`, `test_32x32.mat` | yes |
| `celeba` | `celeba/img_align_celeba/*.jpg`, `celeba/list_eval_partition.txt` | no |
| `lsun` | `lsun/<category>_train/`, `lsun/<category>_val/`: folders of images | no |
| `celebahq`, `ffhq` | `celebahq/`, `ffhq/`: folders of images | no |
| `folder` | `root` itself: a folder of images, or a `.npy` or `.npz` file | no |
| `shards` | `root` itself: what `--mode prepare` wrote | no |
"""

from collections.abc import Callable
from pathlib import Path

from score_sde.atomic import expanded, read_whole, shown
from score_sde.data.folder import open_folder, source_of_files
from score_sde.data.pixels import check_channels
from score_sde.data.public import (
    open_cifar10,
    open_colour_digits,
    open_digits,
    open_fashion_mnist,
    open_mnist,
    open_svhn,
)
from score_sde.data.scaling import Range, check_range, refuse_dequantisation
from score_sde.data.scan import ImageFile, scan
from score_sde.data.shards import open_shards
from score_sde.data.sources import Request, Source, memory_limit
from score_sde.tensor_ops import check_name

SPLITS = ("train", "test")
OF_THE_USER = frozenset({"folder", "shards"})
"""Names that stand for images of the user's own: which, `root` alone says."""
CELEBA_CENTRE = 140
"""Side of the square that the 2021 release cuts out of CelebA's 178x218 images."""


def open_source(
    name: str,
    split: str,
    *,
    root: str | Path,
    image_size: tuple[int, int],
    num_channels: int,
    download: bool = True,
    test_fraction: float = 0.1,
    memory_limit_bytes: int | None = None,
    category: str = "",
    range: Range = (),
    dequantised: bool = False,
) -> Source:
    """Opens one split of a data set.

    Args:
        name: one of the names in this module's table; case, `-` and `_` do not matter.
        split: `train` or `test`.
        root: the folder that the sets lie in, or for `folder` the folder of images or the array
            file.
        image_size: (H, W) to give.
        num_channels: 1, 3 or 4; of arrays (`folder`, `shards`) as many as they have.
        download: fetch a set of torchvision's where it is missing.
        test_fraction: share of the files that are the test split, where a folder has no splits of
            its own.
        memory_limit_bytes: decoded images up to this size are kept in memory, more are streamed;
            by default 4 GiB, or less where several processes of one machine share its memory.
        category: LSUN's category, such as `church_outdoor`.
        range: of arrays that are not uint8, the numbers (low, high) that become 0 and 1; by
            default their own least and largest, of all splits.
        dequantised: whether noise is to be added to grey levels, which such arrays have none of.

    Raises:
        ValueError: for a bad argument (before anything is read) or a damaged file.
        OSError: where files are missing, saying which go where.
    """
    request = Request(
        name=canonical_name(name),
        split=split,
        root=expanded(root),
        image_size=image_size,
        num_channels=num_channels,
        download=download,
        test_fraction=test_fraction,
        memory_limit_bytes=memory_limit() if memory_limit_bytes is None else memory_limit_bytes,
        category=category,
        range=range,
        dequantised=dequantised,
    )
    _check(request)
    source = DATASETS[request.name](request)
    if not hasattr(source, "info"):
        raise ValueError(
            f"DATASETS[{request.name!r}] gives {source!r:.60} where it must give a Source, such "
            "as score_sde.data.MemorySource"
        )
    return source


def canonical_name(name: str) -> str:
    """A data set's name as this library spells it: `Fashion-MNIST` → `fashion_mnist`.

    Raises:
        UnknownName: there is no such data set; lists those that there are.
    """
    spelled = {_plain(known): known for known in DATASETS}
    if _plain(name) not in spelled:
        check_name(name, DATASETS, "data.dataset")
    return spelled[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _check(request: Request) -> None:
    check_name(request.split, SPLITS, "split")
    if request.name in _PICTURES:
        check_channels(request.num_channels)
    if request.range:
        check_range(request.range, "data.range: numbers")
        if request.name in _PICTURES:
            raise ValueError(
                f"data.range={request.range}: {request.name} holds pictures of 8 bits, whose "
                "levels are known: set ()"
            )
    if request.dequantised:
        refuse_dequantisation(request.range, request.name)
    if min(request.image_size) < 1:
        height, width = request.image_size
        raise ValueError(f"images of {height}x{width} pixels: data.image_size must be at least 1")
    if not 0 <= request.test_fraction < 1:
        raise ValueError(
            f"data.test_fraction={request.test_fraction:g}: use a number from 0 to below 1"
        )


def _open_celeba(request: Request) -> Source:
    """CelebA, cropped as by the 2021 release; the test split is the official one of 19,962."""
    home = request.root / "celeba"
    table, folder = home / "list_eval_partition.txt", home / "img_align_celeba"
    if not table.is_file() or not folder.is_dir():
        raise FileNotFoundError(
            f"celeba cannot be fetched: put the folder img_align_celeba (unpacked, of jpg files) "
            f"and list_eval_partition.txt into {shown(home.absolute())}"
        )
    part = {"train": "0", "test": "2"}[request.split]
    lines = read_whole(table).decode(errors="replace").splitlines()
    rows = [line.split() for line in lines]
    names = sorted(row[0] for row in rows if row and row[-1] == part)
    sizes = {file.path: file.size for file in scan(folder).files}
    missing = [name for name in names if name not in sizes]
    if not names:
        raise ValueError(
            f"{shown(table)} lists no {request.split} images: copy CelebA's own file there"
        )
    if missing:
        raise FileNotFoundError(
            f"{shown(folder.absolute())} lacks {len(missing)} of the {len(names)} "
            f"{request.split} images that {table.name} lists, first {shown(missing[0])}: "
            "unpack img_align_celeba.zip again"
        )
    files = [ImageFile(name, sizes[name]) for name in names]
    return source_of_files(request, folder, files, centre=CELEBA_CENTRE)


def _open_lsun(request: Request) -> Source:
    if not request.category:
        raise ValueError(
            "lsun needs a category: set data.category to one such as bedroom or church_outdoor"
        )
    part = {"train": "train", "test": "val"}[request.split]
    folder = request.root / "lsun" / f"{request.category}_{part}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"lsun cannot be fetched: export the images of {request.category}_{part}_lmdb "
            f"(LSUN's own tool does it) into {shown(folder.absolute())}"
        )
    contents = scan(folder)
    return source_of_files(request, folder, contents.files, notes=contents.notes())


def _open_faces(request: Request) -> Source:
    """CelebA-HQ and FFHQ, folders of images; numbered sub-folders, as in FFHQ, are no classes."""
    folder = request.root / request.name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{request.name} cannot be fetched: put its images (png, jpg) into "
            f"{shown(folder.absolute())}"
        )
    return open_folder(request, folder, labelled=False)


DATASETS: dict[str, Callable[[Request], Source]] = {
    "digits": open_digits,
    "colour_digits": open_colour_digits,
    "cifar10": open_cifar10,
    "svhn": open_svhn,
    "mnist": open_mnist,
    "fashion_mnist": open_fashion_mnist,
    "celeba": _open_celeba,
    "lsun": _open_lsun,
    "celebahq": _open_faces,
    "ffhq": _open_faces,
    "folder": open_folder,
    "shards": open_shards,
}
"""Name in configs (`data.dataset`) → what opens a split: a `Request` to a `Source`."""

_PICTURES = frozenset(DATASETS) - OF_THE_USER
"""Of these `conform` makes images; of the user's own some are arrays."""
