"""Which folders are images to train on, and which are held out, by their names.

A folder that has a sub-folder `train` (or `training`) and one of `HELD_OUT` beside it uses these
two and nothing else; letters may be large or small. Whatever looks like splits and is none of that
kind is refused: images held out for testing must not be trained on by mistake.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from score_sde.atomic import shown

TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "validation", "valid", "dev", "eval")
"""Names of folders of images that are held out; where there are several, the first one is used."""


@dataclass(frozen=True)
class SplitFolders:
    """The folders of both splits, and what a run should say of them."""

    train: Path
    test: Path
    notes: tuple[str, ...]


def split_folders(root: Path) -> SplitFolders | None:
    """The split folders right under a folder, None where it has none.

    Raises:
        ValueError: folders that look like splits and aren't understood, naming them.
    """
    return choose_splits(root, subfolders(root))


def choose_splits(root: Path, names: list[str], option: str = "data.root") -> SplitFolders | None:
    """`split_folders`, of a folder or archive whose sub-folders are known.

    Args:
        root: of what.
        names: of the sub-folders.
        option: that names it, for the messages.
    """
    train = [name for name in names if name.lower() in TRAIN]
    held_out = sorted(
        (name for name in names if name.lower() in HELD_OUT),
        key=lambda name: HELD_OUT.index(name.lower()),
    )
    others = [name for name in names if name not in train and name not in held_out]
    looks_held_out = [name for name in others if _words(name) & set(HELD_OUT)]
    looks_like_train = [name for name in others if _words(name) & set(TRAIN)]
    remedy = "call the folder to train on train/ and the one held out test/"
    if len(train) > 1 or len({name.lower() for name in held_out}) < len(held_out):
        raise ValueError(
            f"{shown(root)} has {_listed([*train, *held_out])}, and which of them to take isn't "
            f"clear: {remedy}, and move the others away"
        )
    if held_out and not train:
        raise ValueError(
            f"{shown(root)} has a folder {shown(held_out[0])}/ but none called train/"
            f"{_beside(looks_like_train)}: put the images to train on into train/, or give "
            f"{shown(held_out[0])}/ another name to choose from all"
        )
    if (train or looks_like_train) and not held_out and looks_held_out:
        raise ValueError(
            f"{shown(root)} has {_listed([*train, *looks_like_train])} beside "
            f"{_listed(looks_held_out)}, which look like splits: {remedy}"
        )
    if not train:
        return None
    if not held_out:
        if len(others) == 1:
            raise ValueError(
                f"{shown(root)} has {shown(train[0])}/ beside {shown(others[0])}/, and whether "
                f"that is held out isn't clear: call it test/ if it is, or set {option} to the "
                "folder to train on, of which a share is held out then"
            )
        return None
    notes = ()
    if len(held_out) > 1:
        notes = (f"held out are the images of {held_out[0]}/, not {_listed(held_out[1:])}",)
    if others:
        notes += (f"beside the splits, {_listed(others)} is left out",)
    return SplitFolders(root / train[0], root / held_out[0], notes)


def refuse_splits_below(root: Path, folders: set[str], option: str = "data.root") -> None:
    """Refuses splits that lie deeper, as in `images/train/` and `images/val/`.

    Args:
        root: where the folders lie.
        folders: paths of folders with images below it, with forward slashes.
        option: that names the root, for the message.

    Raises:
        ValueError: a folder below holds both images to train on and such to hold out.
    """
    children: dict[str, set[str]] = {}
    for folder in folders:
        parts = folder.split("/")
        for depth in range(1, len(parts)):
            children.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    for parent, names in sorted(children.items()):
        train = sorted(name for name in names if name.lower() in TRAIN)
        held_out = sorted(name for name in names if name.lower() in HELD_OUT)
        if train and held_out:
            raise ValueError(
                f"{shown(root)} has its splits one below: {shown(parent)}/ holds "
                f"{_listed([*train, *held_out])}; set {option} to {shown(root / parent)}"
            )


def held_out_of(names: list[str], test_fraction: float) -> list[bool]:
    """Which images are for testing, by a hash of their names: of several at least one.

    Args:
        names: such as their paths, or their numbers.
        test_fraction: share to hold out.
    """
    digests = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    places = [int.from_bytes(digest, "big") / 2**64 for digest in digests]
    least = min(places) if test_fraction and len(places) > 1 else -1.0
    return [place < test_fraction or place == least for place in places]


def subfolders(root: Path) -> list[str]:
    """The names of the folders right under one, sorted; what begins with a dot is left out.

    Raises:
        ValueError: it can't be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and os.path.isdir(entry.path)
            )
    except OSError as error:
        raise unreadable(root, error) from error


def unreadable(path: str | Path, error: OSError) -> ValueError:
    """The sentence for a file or folder that can't be read."""
    return ValueError(
        f"{shown(path)} cannot be read ({error.strerror or error}): repair the link or remove it, "
        "or allow reading"
    )


def _words(name: str) -> set[str]:
    """`train`, `images` of `trainImages_2017`; `test` of `testset` and `tests`."""
    words = (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))
    return {word.removesuffix("s").removesuffix("set") for word in words}


def _beside(names: list[str]) -> str:
    return f" (it has {_listed(names)})" if names else ""


def _listed(names: list[str]) -> str:
    few = [f"{shown(name)}/" for name in names[:5]]
    return " and ".join([", ".join(few[:-1]), few[-1]] if len(few) > 1 else few) + (
        " and others" if len(names) > 5 else ""
    )
