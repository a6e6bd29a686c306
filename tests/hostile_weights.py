"""What lies where weights should be: odd tensors in a whole file, files of another kind."""

import copy
import gzip
import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def odd_values(weight: Tensor) -> dict[str, Any]:
    """What may lie in the place of a weight and is none, by kind."""
    weight = weight.detach().clone().float()
    flat = torch.zeros(max(weight.numel(), 1)).reshape(weight.shape)
    nan, huge = flat.clone(), flat.double()
    nan.reshape(-1)[0] = float("nan")
    huge.reshape(-1)[0] = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        values = {
            "number": 1.5,
            "text": "weights",
            "none": None,
            "bytes": b"\0" * 8,
            "list": [0.0] * 4,
            "dict": {"weight": flat},
            "a long text": "x" * 100_000,
            "sparse": flat.to_sparse(),
            "quantised": torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8),
            "meta": flat.to("meta"),
            "complex": flat.to(torch.complex64),
            "nan": nan,
            "infinite": flat + float("inf"),
            "too large for float32": huge,
            "whole numbers": flat.long(),
            "truths": flat.bool(),
            "8 bits": flat.to(torch.float8_e5m2),
            "another shape": torch.zeros(*weight.shape, 2),
            "nothing": torch.zeros(0),
            "expanded": torch.zeros(1).expand(10**12),
            "nested": nested,
        }
        if weight.ndim == 2:
            values["compressed rows"] = flat.to_sparse_csr()
    return values


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested dicts and lists with another value at a place; tensors are shared."""
    if not place:
        return value
    result = copy.copy(content)
    result[place[0]] = replaced(content[place[0]], place[1:], value)
    return result


class Attack:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _deflated(whole: bytes, *, zeros: int) -> bytes:
    """An archive packed again with compression, and with a part of so many zeros."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        with target.open(f"{source.namelist()[0].partition('/')[0]}/data/999", "w") as part:
            for _ in range(zeros // 2**20):
                part.write(bytes(2**20))
    return buffer.getvalue()


def _script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"abcd"))
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(4))
    return buffer.getvalue()


def _deep(levels: int) -> bytes:
    """A list in a list in a list, as the pickle of an archive."""
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def _archive_of(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def odd_files(whole: bytes, content: Any, victim: Path) -> dict[str, Callable[[], bytes]]:
    """What files may hold that are no weights, by kind.

    Args:
        whole: the bytes of a file of torch.
        content: what it holds, a dict.
        victim: a file that code in a file would make.
    """
    key = next(iter(content)) if isinstance(content, dict) else "model"
    evil = {**content, key: Attack(victim)} if isinstance(content, dict) else Attack(victim)
    page = b"<!DOCTYPE html>\n<html><title>Quota exceeded</title></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    safe = struct.pack("<Q", len(header)) + header.encode()
    return {
        "empty": lambda: b"",
        "a line break": lambda: b"\n",
        "text": lambda: b"These are my weights.\n",
        "a page of the web": lambda: page,
        "a page behind a mark and spaces": lambda: b"\xef\xbb\xbf  \n" + page.lower(),
        "a pointer of git-lfs": lambda: pointer,
        "json": lambda: json.dumps({"model": [1, 2]}).encode(),
        "tar": _tar,
        "gzip": lambda: gzip.compress(whole[:1000]),
        "npz": _npz,
        "npy": lambda: b"\x93NUMPY\x01\0" + bytes(100),
        "safetensors that claim 4 TB": lambda: safe,
        "zeros": lambda: bytes(5000),
        "the first half": lambda: whole[: len(whole) // 2],
        "without its end": lambda: whole[:-30],
        "without its beginning": lambda: whole[100:],
        "a bomb": lambda: _deflated(whole, zeros=2**27),
        "torchscript": _script,
        "code": lambda: _saved(evil),
        "code in the old format": lambda: _saved(evil, _use_new_zipfile_serialization=False),
        "code in a pickle": lambda: pickle.dumps(evil),
        "code in protocol 0": lambda: _archive_of(pickle.dumps(Attack(victim), protocol=0)),
        "protocol 5": lambda: _archive_of(pickle.dumps({"a": 1}, protocol=5)),
        "an old file cut off": lambda: _saved(
            {"a": torch.zeros(1000)}, _use_new_zipfile_serialization=False
        )[:400],
        "a deep list": lambda: _archive_of(_deep(100_000)),
        "many lists": lambda: _archive_of(b"\x80\x02" + b"]" * (17 * 2**20) + b"."),
        "an empty pickle": lambda: _archive_of(b""),
        "a number": lambda: _saved(3),
        "a list": lambda: _saved([1, 2, 3]),
        "a tensor": lambda: _saved(torch.zeros(3)),
        "an empty dict": lambda: _saved({}),
        "names that are numbers": lambda: _saved({1: 2, (1, 2): 3}),
        "a bare state dict": lambda: _saved({"conv.weight": torch.zeros(3)}),
    }
