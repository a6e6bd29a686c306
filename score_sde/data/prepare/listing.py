"""What a corpus holds: its images in order, each with its split and its class.

A folder and a zip of the same files give the same list: paths with forward slashes, sorted;
folders that hold everything else are passed through; what begins with a dot is left out, and so is
`__MACOSX`, where macOS's archiver keeps notes. Splits and class folders are found by the rules of
`score_sde.data.splits` and `score_sde.data.scan`.
"""

import os
import posixpath
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from score_sde.atomic import open_regular, shown
from score_sde.atomic.reading import special_kind
from score_sde.data import formats
from score_sde.data.arrays import ARRAY_EXTENSIONS, refuse_beyond_deflate
from score_sde.data.memory import refuse_beyond_memory
from score_sde.data.prepare import labels, tfrecords
from score_sde.data.scan import ImageFile, class_folders, ending, folder_of, left_out
from score_sde.data.splits import choose_splits, refuse_splits_below

Reader = Callable[[Any], "bytes | np.ndarray"]
"""Place of an item → the bytes of its file, or its pixels uint8 (H, W, C)."""
_UNIX = 3
"""The system that a member of a zip says it is from."""
LEFT_OUT_FOLDERS = frozenset({"__MACOSX", "lost+found"})


@dataclass(frozen=True)
class Item:
    """One image of a corpus.

    Attributes:
        name: its path in the corpus, with forward slashes.
        place: where its reader finds it.
        size: bytes as stored.
        mark: what changes with its content: a checksum, or for files the time of their change.
        split: `train` or `test`; empty where the corpus has no splits.
        label: its class, or -1.
    """

    name: str
    place: Any
    size: int
    mark: int
    split: str = ""
    label: int = -1


@dataclass(frozen=True)
class Listing:
    """A corpus.

    Attributes:
        items: its images, in the order of their numbers.
        read: gives what an item's place holds; it travels to worker processes.
        classes: names of classes, in the order of the labels; none where it has no labels.
        labels_from: where the labels come from, in words.
        problems: name and reason of what can't be read, as far as that is known by now.
        notes: what a user should know of the choice.
        arrays: whether the images are array files.
    """

    items: list[Item]
    read: Reader
    classes: tuple[str, ...] = ()
    labels_from: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    arrays: bool = False


_Stored = tuple[Any, int, int]
"""Place, size and mark of a file, as of an item."""


@dataclass(frozen=True)
class _Files:
    """The files of a folder or an archive by their paths: each as `_Stored`."""

    root: Path
    files: dict[str, _Stored]
    problems: dict[str, str]
    read: Reader


def listed(source: Path) -> Listing:
    """Lists a corpus.

    Args:
        source: a folder of images, a zip of them, a TFRecord file, or a folder of these.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: no corpus, or none whose splits and labels are clear.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is nothing at {shown(source)}: check --input")
    if source.is_dir():
        records = sorted(name for name in os.listdir(source) if name.endswith(tfrecords.ENDING))
        if records:
            return _of_records(tfrecords.choose_file(source, records))
        return _of_files(_in_folder(source))
    if source.name.endswith(tfrecords.ENDING):
        return _of_records(source)
    with open_regular(source) as file:
        if zipfile.is_zipfile(file):
            return _of_files(_in_zip(source))
    raise ValueError(
        f"{shown(source)} is no folder, no zip and no file that ends in {tfrecords.ENDING}: give "
        "one of these as --input"
    )


@dataclass(frozen=True)
class _FolderReader:
    root: Path

    def __call__(self, place: str) -> bytes:
        with open_regular(self.root / place) as file:
            size = os.fstat(file.fileno()).st_size
            refuse_beyond_memory(f"a file of {size:,} bytes", size)
            return file.read()


class _ZipReader:
    """Opens the archive once in each process: forked ones would share one place in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process, self._archive = 0, None

    def __call__(self, place: int) -> bytes:
        if self._archive is None or self._process != os.getpid():
            self._process, self._archive = os.getpid(), zipfile.ZipFile(self.path)
        info = self._archive.infolist()[place]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            refuse_beyond_deflate(info.file_size, info.compress_size)
        refuse_beyond_memory(f"a file of {info.file_size:,} bytes", info.file_size)
        return self._archive.read(info)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_process": 0, "_archive": None}


def _in_folder(root: Path) -> _Files:
    files: dict[str, _Stored] = {}
    problems: dict[str, str] = {}
    seen, waiting = set[tuple[int, int]](), [""]
    while waiting:
        folder = waiting.pop()  # with a slash at its end, or empty
        try:
            itself = os.stat(root / folder)
            if (itself.st_dev, itself.st_ino) in seen:  # a link may lead back up
                continue
            seen.add((itself.st_dev, itself.st_ino))
            names = sorted(os.listdir(root / folder))
        except OSError as error:
            problems[folder or "."] = error.strerror or str(error)
            continue
        below = []
        for name in names:
            if name.startswith(".") or name in LEFT_OUT_FOLDERS:
                continue
            path = folder + name
            try:
                status = os.stat(root / path)
            except OSError as error:  # a link to nothing
                problems[path] = error.strerror or str(error)
                continue
            if stat.S_ISDIR(status.st_mode):
                below.append(f"{path}/")
            elif kind := special_kind(status):
                problems[path] = f"it is a {kind}"
            else:
                files[path] = (path, status.st_size, status.st_mtime_ns)
        # Of several ways to one folder the first by name counts.
        waiting += reversed(below)
    return _Files(root, files, problems, _FolderReader(root))


def _in_zip(path: Path) -> _Files:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{shown(path)} cannot be read ({reason}): write it again") from error
    files: dict[str, _Stored] = {}
    problems: dict[str, str] = {}
    for place, info in enumerate(members):
        parts = [part for part in _name_of(info).split("/") if part not in ("", ".", "..")]
        hidden = any(part.startswith(".") or part in LEFT_OUT_FOLDERS for part in parts)
        if info.is_dir() or hidden or not parts:
            continue
        name = "/".join(parts)
        if info.flag_bits & 1:
            problems[name] = "it is encrypted"
            continue
        if name in files and files[name][1:] != (info.file_size, info.CRC):
            problems[name] = "a later file of this name is taken in its place"  # as by unzip
        files[name] = (place, info.file_size, info.CRC)
    return _Files(path, files, problems, _ZipReader(path))


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name of a member: in UTF-8 where it can be, with forward slashes."""
    name = info.orig_filename
    if not info.flag_bits & 0x800:  # it isn't said to be UTF-8, which many archivers forget
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    # Archivers of Windows write backslashes; of Unix they are a letter of the name.
    return name if info.create_system == _UNIX else name.replace("\\", "/")


def _of_files(found: _Files) -> Listing:
    root, read = found.root, found.read
    names, others, arrays = _images(found)
    problems = {
        name: reason
        for name, reason in found.problems.items()
        if arrays
        or formats.is_picture(name)
        or name.endswith("/")  # a folder, whatever it held
        or "." not in PurePosixPath(name).name
    }
    prefix = _common_folder(names)
    file = labels.find(prefix, found.files)
    notes = left_out(Counter(ending(name) for name in sorted(others - {file})))
    below = {name: name[len(prefix) :] for name in names}
    folders = sorted({path.partition("/")[0] for path in below.values() if "/" in path})
    inside = root / prefix
    splits = choose_splits(inside, folders, "--input")
    split_of = dict.fromkeys(names, "")
    if splits is None:
        refuse_splits_below(inside, {folder_of(path) for path in below.values()}, "--input")
    else:
        parts = {splits.train.name: "train", splits.test.name: "test"}
        heads = {name: path.partition("/")[0] for name, path in below.items()}
        beside = sum("/" not in below[name] for name in names)
        if beside:
            notes += (f"beside the splits, {beside:,} image(s) in no folder are left out",)
        names = [name for name in names if heads[name] in parts and "/" in below[name]]
        split_of = {name: parts[heads[name]] for name in names}
        names.sort(key=lambda name: split_of[name] == "test")
        below = {name: below[name].partition("/")[2] for name in names}
        notes += splits.notes
    if file is not None:
        content = read(found.files[file][0])
        assert isinstance(content, bytes)
        numbers, classes = labels.read(root / file, content, folder_of(file), names)
        labels_from = PurePosixPath(file).name
    else:
        classes = class_folders([ImageFile(path, 0) for path in below.values()])
        place_of = {name: number for number, name in enumerate(classes)}
        numbers = [place_of.get(folder_of(below[name]), -1) for name in names]
        labels_from = "the sub-folders" if classes else ""
    items = [
        Item(name, *found.files[name], split_of[name], number if classes else -1)
        for name, number in zip(names, numbers, strict=True)
    ]
    return Listing(items, read, classes, labels_from, sorted(problems.items()), notes, arrays)


def _images(found: _Files) -> tuple[list[str], set[str], bool]:
    """The images' names, those of all other files, and whether the images are arrays."""
    for arrays in (False, True):
        names = sorted(
            name
            for name in found.files
            if (PurePosixPath(name).suffix.lower() in ARRAY_EXTENSIONS) == arrays
            and (arrays or formats.is_picture(name))
        )
        if names:
            return names, found.files.keys() - set(names), arrays
    seen = f"it has {len(found.files)} other file(s)" if found.files else "it is empty"
    raise ValueError(
        f"no images in {shown(found.root.absolute())}: {seen}, and files that end in "
        f"{formats.endings()}, .npy or .npz are looked for; name the folder or zip that holds "
        "them as --input"
    )


def _common_folder(names: list[str]) -> str:
    """The folder that all names share, with a slash at its end, or empty."""
    shared = posixpath.commonpath([folder_of(name) for name in names])
    return f"{shared}/" if shared else ""


def _of_records(path: Path) -> Listing:
    with open_regular(path) as file:
        records, damage = tfrecords.scan_records(file)
    if not records:
        raise ValueError(
            f"{shown(path)} holds no TFRecords ({damage or 'it is empty'}): it may be compressed, "
            "or of another format"
        )
    numbers, classes, labels_from = [-1] * len(records), (), ""
    beside = tfrecords.labels_file(path)
    if beside is not None and damage:
        raise ValueError(
            f"{shown(path)} cannot be read beyond its first {len(records):,} records ({damage}), "
            f"and {shown(beside.name)} holds the classes of all: fetch it again, or take the "
            "labels away"
        )
    if beside is not None:
        numbers, classes = labels.of_array(beside, len(records))
        labels_from = beside.name if classes else ""
    items = [
        Item(f"{path.name}[{k}]", record[:2], *record[1:], label=number)
        for k, (record, number) in enumerate(zip(records, numbers, strict=True))
    ]
    problems = [(f"{path.name}[{len(records)}] and what follows", damage)] if damage else []
    return Listing(items, tfrecords.RecordReader(path), classes, labels_from, problems)
