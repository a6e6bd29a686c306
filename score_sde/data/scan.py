"""What a folder holds: its images at any depth, and what is left out.

Nothing is opened but folders. Links are followed, once each; what can't be read, or is a pipe
under an image's name, is refused at once, as it would end the run later.
"""

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from score_sde.atomic import regular_file, shown
from score_sde.data import formats
from score_sde.data.splits import unreadable


@dataclass(frozen=True)
class ImageFile:
    """An image file: its path below the split's root, with forward slashes, and its bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Scan:
    """What a folder holds: its images, sorted by path, and how many other files by ending."""

    files: list[ImageFile]
    others: Counter[str]

    def notes(self) -> tuple[str, ...]:
        """One line that counts the files left out, where there are any."""
        return left_out(self.others)


def left_out(others: Counter[str]) -> tuple[str, ...]:
    """One line that counts files by their endings, where there are any."""
    if not others:
        return ()
    kinds = [f"{count} {ending}" for ending, count in others.most_common(6)]
    more = ", ..." if len(others) > len(kinds) else ""
    return (f"left out as no images: {others.total():,} file(s) ({', '.join(kinds)}{more})",)


def scan(root: Path) -> Scan:
    """All images under `root` at any depth; what begins with a dot is left out.

    Raises:
        ValueError: where there are none, saying what was looked for and what was seen; or where a
            folder or an image can't be read, or what has an image's name is no file.
    """
    files: list[ImageFile] = []
    others: Counter[str] = Counter()
    example = ""
    seen_folders: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()  # with a slash at its end, or empty
        whole = os.path.join(root, folder)
        try:
            itself = os.stat(whole)
            if (itself.st_dev, itself.st_ino) in seen_folders:  # a link may lead back up
                continue
            seen_folders.add((itself.st_dev, itself.st_ino))
            with os.scandir(whole) as entries:
                here = [
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError as error:
            raise unreadable(whole, error) from error
        below = []
        for name, is_folder in here:
            path = folder + name
            image = formats.is_picture(name)
            kind, size = stat.S_IFDIR, 0
            if not is_folder:
                kind, size = _looked_at(whole + name, image)
            if kind == stat.S_IFDIR:
                below += [] if name == "lost+found" else [f"{path}/"]
            elif image:
                files.append(ImageFile(path, size))
            else:
                others[ending(name)] += 1
                example = example or path
        # Of several ways to one folder the first by name counts.
        waiting += sorted(below, reverse=True)
    if not files:
        seen = (
            f"it has {others.total()} other file(s), such as {shown(example)}"
            if others
            else "it is empty"
        )
        raise ValueError(
            f"no images in {shown(root.absolute())}: {seen}, and files that end in "
            f"{formats.endings()} are looked for; put images there or set data.root to their "
            "folder"
        )
    return Scan(sorted(files, key=lambda file: file.path), others)


def _looked_at(path: str, image: bool) -> tuple[int, int]:
    """What lies at a path, as `stat.S_IFMT` says, and its bytes; 0 for a link to nothing.

    Raises:
        ValueError: it can't be told, or it has the name of an image and is neither a folder nor a
            file.
    """
    try:
        status = os.stat(path)
        if image and not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            regular_file(path)  # raises
    except OSError as error:
        if not image and error.errno in (errno.ENOENT, errno.ELOOP):
            return 0, 0
        raise unreadable(path, error) from error
    return stat.S_IFMT(status.st_mode), status.st_size


def ending(name: str) -> str:
    """That of a file's name, in words."""
    return shown(PurePosixPath(name).suffix.lower()[:20]) or "without ending"


def class_folders(files: list[ImageFile]) -> tuple[str, ...]:
    """The names of classes, by the rule of `score_sde.data.folder`; none where there are none."""
    folders = {folder_of(file.path) for file in files}
    one_deep = all(folder != "." and "/" not in folder for folder in folders)
    return tuple(sorted(folders)) if one_deep and len(folders) > 1 else ()


def folder_of(path: str) -> str:
    """The folder of a file, by their paths; `.` right under the root."""
    return PurePosixPath(path).parent.as_posix()
