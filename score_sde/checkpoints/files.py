"""Files of tensors, numbers and strings: written wholly or not at all, read without running them.

Reading is `torch.load(weights_only=True)`. Old training scripts also left numpy numbers in their
files (a learning rate that went through `np.minimum`); those, and nothing else of numpy, are read
as numbers of Python.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from score_sde import atomic

# How files begin: archives, and what torch wrote before version 1.6 (the pickle of a long number).
_ARCHIVE = b"PK\x03\x04"
_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class CheckpointError(ValueError):
    """A file that is damaged, is not a checkpoint, or does not fit."""


def write(path: Path, content: object) -> None:
    """Writes under a temporary name, flushes to the disk, renames.

    Raises:
        OSError: the file can't be written, in one sentence; what lay under the name is untouched.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise OSError(
            f"cannot save {path} ({error.strerror or error}): free some space or choose another "
            "work directory; what was saved before is untouched"
        ) from error


def read(path: Path) -> Any:
    """What a file holds, on the CPU; checksums are verified, and no code of the file is run.

    Raises:
        OSError: the file can't be opened.
        CheckpointError: it is damaged, or holds more than tensors, numbers and strings.
    """
    with path.open("rb") as file:
        try:
            _check_whole(file)
            with torch.serialization.safe_globals(_NUMPY_NUMBERS):  # type: ignore[arg-type]
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is refused, as it holds more than tensors, numbers and strings, which "
                "could run code when read: use a checkpoint that this library or the 2021 release "
                "wrote"
            ) from error
        except Exception as error:  # damaged bytes can end in an error of almost any type
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise CheckpointError(
                f"{path} is damaged or not a checkpoint ({reason}): use another one"
            ) from error


def _check_whole(file: BinaryIO) -> None:
    """Refuses damaged archives, since torch itself does not compare their checksums.

    A flipped bit would quietly become a weight. The format before torch 1.6 has no checksums.
    """
    beginning = file.read(len(_BEFORE_1_6))
    if beginning != _BEFORE_1_6:
        if not beginning.startswith(_ARCHIVE):
            raise zipfile.BadZipFile("it does not begin as files of torch do")
        with zipfile.ZipFile(file) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{broken} has another checksum than when written")
    file.seek(0)


class _Number:
    """Stands in for `numpy.dtype`: kinds of numbers only, so that nothing else can be made."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
            raise pickle.UnpicklingError(f"a numpy {code!r} is no number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Of what numpy keeps for a kind of number only the order of the bytes matters."""
        self.dtype = self.dtype.newbyteorder("=" if state[1] == "|" else state[1])


def _scalar(kind: _Number, content: bytes) -> int | float | bool:
    """Stands in for numpy's constructor of scalars."""
    if type(kind) is not _Number or type(content) is not bytes:
        raise pickle.UnpicklingError("a numpy scalar is no number")
    (value,) = np.frombuffer(content, kind.dtype)
    return value.item()


_NUMPY_NUMBERS = [
    (_Number, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),  # numpy 1
    (_scalar, "numpy._core.multiarray.scalar"),  # numpy 2
]


def _write(path: Path, content: object) -> None:
    try:
        atomic.write(path, lambda file: torch.save(content, file))
    except RuntimeError as error:
        # torch's writer turns a full disk into a broken assertion: give the system's own error.
        if isinstance(error.__context__, OSError):
            raise OSError(*error.__context__.args) from error
        raise
