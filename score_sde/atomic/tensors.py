"""Files of tensors, read whole and without running code of them.

They are read by `torch.load(weights_only=True)`, after what they claim to hold is compared with
what they are.
"""

import hashlib
import io
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from score_sde.atomic.reading import open_regular, special_kind

if TYPE_CHECKING:
    from torch import Tensor

# How files begin: archives, and what torch wrote before version 1.6 (the pickle of a long number).
_ARCHIVE = b"PK\x03\x04"
_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# How files begin that often lie where weights should be; in capitals, as some are written either
# way.
_OTHERS = (
    (b"VERSION HTTPS://GIT-LFS", "is a pointer of git-lfs instead of the file (git lfs pull)"),
    (b"<", "is a page of the web, as a download that went wrong leaves"),
    (b"{", "is a text of JSON"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\x93NUMPY", "is an array of numpy"),
    (b"\x89HDF", "is an HDF5 file"),
)
_MIB = 2**20


class UnreadableError(ValueError):
    """No file of tensors; the text goes on from "the file", as in "is empty"."""


class RunsCodeError(UnreadableError):
    """A file that holds, or may hold, more than tensors, numbers and strings."""


def read_tensors(path: Path) -> tuple[Any, str]:
    """What a file of torch holds, on the CPU, and the SHA-256 of the file.

    Both are of one file, whole, though another process may replace it meanwhile.

    Raises:
        OSError: the file can't be opened.
        UnreadableError: it is damaged or something else.
        RunsCodeError: it could run code when read otherwise.
    """
    if kind := special_kind(os.stat(path)):
        raise UnreadableError(f"is a {kind}, not a file")
    with open_regular(path) as file:
        before = _stamp(file)
        content = _content(file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(file) != before:
            raise UnreadableError("was written to while it was read")
    return content, digest


def tensor_of(content: bytes) -> "Tensor":
    """What a file of torch holds that holds one tensor alone, on the CPU.

    Raises:
        UnreadableError, RunsCodeError: as `read_tensors`, or it is no tensor.
    """
    import torch  # here, as --help reads recipes, and needs no torch

    tensor = _content(io.BytesIO(content))
    if type(tensor) is not torch.Tensor:
        raise UnreadableError("holds something else than a tensor")
    return tensor


def _stamp(file: io.BufferedReader) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _content(file: IO[bytes]) -> Any:
    import torch  # here, as --help reads recipes, and needs no torch

    try:
        _check_whole(file)
        file.seek(0)
        with (
            torch.serialization.safe_globals(_NUMPY_NUMBERS),  # type: ignore[arg-type]
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # on kinds of tensors that are refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnreadableError:
        raise
    except pickle.UnpicklingError as error:
        raise RunsCodeError(
            "holds more than tensors, numbers and strings, which could run code when read"
        ) from error
    except Exception as error:  # damaged bytes can end in an error of almost any type
        reason = (str(error).splitlines() or [""])[0].rstrip(".")[:200]
        # Advice of torch's is how to run the code after all.
        if not reason or "weights_only" in reason:
            reason = type(error).__name__
        raise UnreadableError(f"can't be read: {reason}") from error


def _check_whole(file: IO[bytes]) -> None:
    """Refuses what is no file of torch, or a damaged one, before much of it is read.

    torch itself does not compare checksums: a flipped bit would quietly become a weight. The
    format before torch 1.6 has none.
    """
    beginning = file.read(1024)
    if beginning.startswith(_BEFORE_1_6):
        return
    if not beginning.startswith(_ARCHIVE):
        raise UnreadableError(_no_archive(beginning))
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.partition("/")[2] for member in members]
        if "data.pkl" not in names:
            raise UnreadableError("is an archive of something else")
        if "constants.pkl" in names:
            raise RunsCodeError("is a TorchScript archive, which holds a program, too")
        # torch does not compress: what is a little larger was packed again by somebody.
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(4 * size, 64 * _MIB):
            raise UnreadableError(
                f"would unpack from {size / _MIB:.3g} MiB to {unpacked / _MIB:.6g} MiB, which no "
                "file of torch does"
            )
        # What is no tensor: some hundred bytes for each. As objects it takes many times the room.
        if members[names.index("data.pkl")].file_size > 16 * _MIB:
            raise UnreadableError("holds little else than names and numbers")
        if len(set(names)) < len(names):
            raise UnreadableError("has two parts of one name")
        if (broken := archive.testzip()) is not None:
            raise UnreadableError(f"has in {broken} another checksum than when written")


def begins_as_safetensors(beginning: bytes) -> bool:
    """Whether the first bytes of a file are those of safetensors: a header's length, and it."""
    return beginning[8:9] == b"{" and not any(beginning[4:8])


def _no_archive(beginning: bytes) -> str:
    """What a file is that begins neither as an archive nor as old files of torch do."""
    if not beginning.strip():
        return "is empty"
    if begins_as_safetensors(beginning):
        return "is a file of safetensors"
    if beginning[257:262] == b"ustar":
        return "is an archive of tar"
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().upper()
    for start, what in _OTHERS:
        if text.startswith(start.upper()):
            return what
    return "does not begin as files of torch do"


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
    """Stands in for numpy's constructor of scalars.

    Old training scripts left numpy numbers in their files (a learning rate that went through
    `np.minimum`); those, and nothing else of numpy, are read as numbers of Python.
    """
    if type(kind) is not _Number or type(content) is not bytes:
        raise pickle.UnpicklingError("a numpy scalar is no number")
    (value,) = np.frombuffer(content, kind.dtype)
    return value.item()


_NUMPY_NUMBERS = [
    (_Number, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),  # numpy 1
    (_scalar, "numpy._core.multiarray.scalar"),  # numpy 2
]
