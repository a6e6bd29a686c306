"""What may lie where a file of arrays by name (`.npz`) is looked for."""

import math
import os
import zipfile

import numpy as np


def nothing(path, arrays):
    path.write_bytes(b"")


def half(path, arrays):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path, arrays):
    path.unlink()
    (path / "of somebody").mkdir(parents=True)


def fifo(path, arrays):
    path.unlink()
    os.mkfifo(path)


def single(path, arrays):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


def changed(change):
    """Every array of numbers with rows becomes another."""

    def spoil(path, arrays):
        np.savez(
            path, **{k: change(a) if a.ndim and a.dtype.kind in "uif" else a for k, a in arrays}
        )

    return spoil


def claiming(path, arrays):
    """An array of 2^50 rows, of which nothing is there."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays:
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": (2**50,)}
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)


SPOILT = {
    "an empty file": nothing,
    "four kilobytes of zeros": lambda path, arrays: path.write_bytes(bytes(4096)),
    "half a file": half,
    "a folder": folder,
    "a FIFO": fifo,
    "one array": single,
    "no arrays": lambda path, arrays: np.savez(path, nothing=np.zeros(3)),
    "claims": claiming,
    "objects": changed(lambda a: a.astype(object)),
    "text": changed(lambda a: a.astype(str)),
    "complex numbers": changed(lambda a: a.astype(complex)),
    "another type": changed(lambda a: a.astype(np.float16)),
    "too few rows": changed(lambda a: a[:-1]),
    "too many rows": changed(lambda a: np.concatenate([a, a])),
    "another shape": changed(lambda a: a[..., None, None]),
    "a single number": changed(lambda a: a.reshape(-1)[0]),
    "no rows": changed(lambda a: a[:0]),
    "NaN": changed(lambda a: a * math.nan),
    "infinity": changed(lambda a: a + math.inf),
}


def spoil(path, kind):
    with np.load(path) as file:
        arrays = [(name, file[name]) for name in file.files]
    SPOILT[kind](path, arrays)
