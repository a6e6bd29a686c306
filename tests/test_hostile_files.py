"""Whatever lies where a data file should: its content comes, or one sentence, soon."""

import ast
import contextlib
import gzip
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import hostile_files as hostile
import numpy as np
import pytest
import torch
from hostile_files import KINDS, MARK, clear

from score_sde.atomic import open_regular, read_json, read_whole, regular_file, shown
from score_sde.commands.report import report
from score_sde.data import DATASETS, open_pictures, open_source, read_mask
from score_sde.data.formats import opened
from score_sde.data.prepare import prepare
from score_sde.data.public import read_idx
from score_sde.data.scan import scan

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


def shards(root: Path) -> None:
    source = root.parent / f"{root.name} source"
    lay_out("train/1.png", "train/2.png", "test/3.png")(source)
    prepare(
        source,
        root,
        (8, 8),
        bar=lambda total: contextlib.nullcontext(SimpleNamespace(update=lambda n: None)),
        num_workers=0,
    )


OF_A_RUN = ("samples/step_00000001.png", "metrics.jsonl", "eval/step_00000001.json")
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
    "shards": Reader(
        shards,
        ("index.json", "train-00000.json", "train-00000.tar", "test-00000.tar"),
        pixels_of("shards"),
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
    "a run that is reported": Reader(lay_out("samples/step_00000002.png"), OF_A_RUN, report),
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


def test_a_picture_that_is_stored_as_it_is_is_held_against_its_file(tmp_path):
    KINDS["ppm of 10^9 pixels"](tmp_path / "a.ppm")
    with (
        pytest.raises(ValueError, match="claims 100000x10000 pixels, and holds less than a bit"),
        opened(tmp_path / "a.ppm"),
    ):
        pass


def test_folders_deeper_than_a_path_may_be_long_are_refused(tmp_path):
    lay_out("1.png")(tmp_path)
    hostile.deep_folders(tmp_path / "deep")
    try:
        with pytest.raises(ValueError, match=r"^.{50,500} cannot be read \(File name too long\)"):
            scan(tmp_path)
    finally:
        clear(tmp_path / "deep")


PLAIN_WORDS = {
    "npy of 10^12 bytes": r"claims 1,000,000,000,000 bytes and it holds 100",
    "npy of objects": "type object: give numbers",
    "npy without a side": "at least one pixel",
    "npy cut off": r"claims 192 bytes and it holds 182",
    "npz encrypted": r"cannot be read \(it is encrypted\)",
    "npz compressed by method 99": r"cannot be read \(.*compression.*write it again",
    "npz lying about its size": "compressed ones can't be",
    "labels of 2^40": r"go from 0 to 1099511627776: give integers from 0 to below 1,048,576",
    "labels of 2^64 - 1": "go from 0 to 18446744073709551615",
    "labels below 0": "go from -1 to 2",
    "labels of fractions": r"are float64 of shape \(4,\): give integers",
    "pipe": "is a pipe",
    "socket": "is a socket",
    "link to a device without end": "is a device",
}


@pytest.mark.parametrize("kind", PLAIN_WORDS)
def test_the_sentence_says_what_is_wrong_with_an_array(kind, tmp_path):
    path = tmp_path / ("a.npy" if kind.startswith("npy") else "a.npz")
    KINDS[kind](path)
    with pytest.raises(ValueError, match=PLAIN_WORDS[kind]) as caught:
        open_source("folder", "train", root=path, image_size=(4, 4), num_channels=3)
    assert str(path) in str(caught.value)


def test_an_array_by_columns_is_read_as_it_was_written(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    labels = np.arange(6, dtype=">i4")
    for name, array in (("rows", pixels), ("columns", np.asfortranarray(pixels))):
        np.save(tmp_path / f"{name}.npy", array)
        np.savez_compressed(tmp_path / f"{name}.npz", images=array, labels=labels)
        for ending in ("npy", "npz"):
            source = open_source(
                "folder",
                "train",
                root=tmp_path / f"{name}.{ending}",
                image_size=(4, 5),
                num_channels=3,
                test_fraction=0.0,
            )
            everything = source.images(torch.arange(6)).numpy()
            assert np.array_equal(everything, np.moveaxis(pixels, -1, 1))
    assert source.labels(torch.arange(6)).tolist() == list(range(6))


def test_what_exceeds_the_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("score_sde.data.memory.free_bytes", lambda: 1000)
    np.save(tmp_path / "a.npy", np.zeros((10, 8, 8, 3), np.uint8))
    monkeypatch.setattr("score_sde.data.formats.LARGE", 100)
    (tmp_path / "b.png").write_bytes(hostile.picture("PNG"))
    for name in ("a.npy", "b.png"):
        with pytest.raises(ValueError, match=r"GiB of memory, of which .* free: make it smaller"):
            open_pictures(tmp_path / name, (8, 8), 3)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (hostile.idx((5, 4), bytes(20)), None, "it has 2 axes, not 3"),
        (None, hostile.idx((5, 1), bytes(5)), "it has 2 axes, not 1"),
        (None, hostile.idx((4,), bytes(4)), r"shape \(5, 4, 4\) with 4 labels"),
        (None, hostile.idx((5,), b"\x0a" * 5), "labels up to 10 of 10 classes"),
        (hostile.idx((5, 0, 4), b""), None, "contradict"),
        (hostile.idx((0, 4, 4), b""), hostile.idx((0,), b""), "contradict"),
        (hostile.idx((5, 2**16, 2**31), b""), None, "compressed ones can't be"),
        (hostile.idx((5, 4, 4), bytes(81)), None, "incomplete: 80 bytes are announced"),
    ],
)
def test_idx_files_that_contradict_themselves_are_refused(tmp_path, images, labels, message):
    idx_files("MNIST")(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    if images is not None:
        (raw / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(ValueError, match=message):
        pixels_of("mnist")(tmp_path)


# The one way to open a file


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "folder"])
def test_only_regular_files_are_opened(kind, tmp_path):
    KINDS[kind](tmp_path / "a")
    for look in (regular_file, open_regular, read_whole, read_json):
        with pytest.raises(ValueError, match=r"a is a (pipe|socket|folder): a file is needed"):
            look(tmp_path / "a")
    with pytest.raises(ValueError, match="/dev/zero is a device"):
        open_regular("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_json_is_read_or_refused_in_a_sentence(tmp_path):
    (tmp_path / "a").write_text('{"σ": [1, 2]}', encoding="utf-8")
    assert read_json(tmp_path / "a") == {"σ": [1, 2]}
    for content in (b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"{", b"", b"1" * 5000):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match=r"a cannot be read as JSON \(.*repair it or remove"):
            read_json(tmp_path / "a")


def test_paths_are_quoted_on_one_printable_line():
    assert shown("/home/σ/a b.png") == "/home/σ/a b.png"
    for path in (os.fsdecode(b"/a/\xff.png"), "/a\n/b", "/a\x1b[31m", "/" + "x" * 5000):
        assert shown(path).isprintable()
        assert len(shown(path)) < 250
        shown(path).encode("utf-8")


OPENED_OTHERWISE = {
    "data/memory.py open": "what Linux says of its memory",
    "data/formats.py os.open": "the null device",
    "commands/terminal.py open": "the null device",
    "commands/terminal.py os.open": "the null device",
    "commands/signals.py os.open": "the null device",
    "commands/errors.py open": "to append to the log",
    "logbook.py open": "to append, after a pipe is refused",
    "logbook.py os.open": "to append, after a pipe is refused",
    "checkpoints/hugging_face/folder.py path.open": "to write into a folder just made",
}
IN_A_FILE = ("Image.open", "gzip.open", "archive.open", "tarfile.open")
"""What is opened within a file that is open already."""


def test_no_file_is_opened_another_way():
    atomic = Path(open_regular.__code__.co_filename).parent
    unused = set(OPENED_OTHERWISE)
    for file in atomic.parent.rglob("*.py"):
        if file.parent == atomic or "recipes" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                name = call.rpartition(".")[2]
                place = f"{file.relative_to(atomic.parent).as_posix()} {call}"
                opens = name in ("open", "read_text", "read_bytes", "fromfile", "memmap")
                reads = call in ("np.load", "torch.load", "json.load", "loadmat", "np.loadtxt")
                if (opens and call not in IN_A_FILE) or reads:
                    assert place in OPENED_OTHERWISE, f"{place}, line {node.lineno}"
                    unused.discard(place)
    assert not unused
