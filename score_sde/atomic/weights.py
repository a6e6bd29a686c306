"""Tensors that were read from a file, held against those of a network before they are used."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_WRAPPERS = ("module", "_orig_mod")
# Half precision stands for full; numbers of 8 bits are not weights without what scales them.
_REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Value = TypeVar("Value")


def short(value: object, at_most: int = 60) -> str:
    """What somebody gave, for a message: its kind, and its beginning if it is long."""
    if isinstance(value, int) and value.bit_length() > 8 * at_most:
        return "a huge number"  # Python refuses to write it
    if isinstance(value, Tensor | Mapping | list | tuple | set):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= at_most else f"{text[:at_most]}..."


def short_name(name: object) -> str:
    """A name that somebody gave, for a message."""
    return short(name, 100).strip("'\"")


def without_wrappers(given: Mapping[Any, Value], wanted: Collection[str] = ()) -> dict[Any, Value]:
    """Names without the `module.` and `_orig_mod.` of parallel and compiled modules.

    Args:
        given: values by name.
        wanted: names that stay as they are, and to which others lose their prefixes; where there
            are none, no name has a part that is called so.

    Raises:
        ValueError: two names become one.
    """
    targets = {_bare(name): name for name in wanted}
    named: dict[Any, Value] = {}
    for key, value in given.items():
        name = key
        if isinstance(key, str) and key not in wanted:
            name = _bare(key) if not wanted else targets.get(_bare(key), key)
        if name in named:
            raise ValueError(f"two entries are called {short(name)}, prefixes of wrappers aside")
        named[name] = value
    return named


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def misfit(value: object, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Why what was read from a file is not the tensor that is needed; empty where it is.

    Args:
        value: anything.
        shape: that is needed.
        dtype: that is needed. Real numbers of any precision from half up fit one another; whole
            numbers have it exactly.
    """
    if reason := no_plain_tensor(value):
        return reason
    assert isinstance(value, Tensor)
    if tuple(value.shape) != tuple(shape):
        return f"has shape {short_shape(value)} instead of {tuple(shape)}"
    if value.dtype != dtype and not (dtype in _REALS and value.dtype in _REALS):
        return f"is of {value.dtype} instead of {dtype}"
    if dtype in _REALS and not torch.isfinite(value.detach().to(dtype)).all():
        return "holds numbers that are not finite"
    return ""


def no_plain_tensor(value: object) -> str:
    """Why a value is no tensor of numbers in rows; empty where it is."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"is {short(value)} instead of a tensor"
    assert isinstance(value, Tensor)
    if value.is_nested or value.layout != torch.strided:
        return "is a sparse or nested tensor"
    if value.is_quantized or value.is_meta:
        return f"is a {'quantised' if value.is_quantized else 'meta'} tensor, without its numbers"
    return ""


def short_shape(value: Tensor) -> str:
    """A shape, for a message."""
    text = str(tuple(value.shape))
    return text if len(text) <= 60 else f"of {value.ndim} axes"


def fit(expected: Mapping[str, Tensor], given: object, what: str) -> dict[str, Tensor]:
    """Tensors from a file as those of a network: by its names, in its dtypes.

    Args:
        expected: the network's tensors by name; they may be on the meta device.
        given: what a file holds in their place; names may have prefixes of wrappers.
        what: the file and its entry, to begin the message with.

    Returns:
        In the order of `expected`, on the device of `given`.

    Raises:
        ValueError: something is missing, left over, or no such tensor; one sentence that lists it.
    """
    remedy = "use what belongs to the same network"
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {short(given)} instead of tensors by name: {remedy}")
    try:
        named = without_wrappers(given, expected)
    except ValueError as error:
        raise ValueError(f"{what} does not fit ({error}): {remedy}") from error
    reasons = {
        name: misfit(named[name], tuple(value.shape), value.dtype)
        for name, value in expected.items()
        if name in named
    }
    faults = {
        "missing": [name for name in expected if name not in named],
        "unexpected": [short_name(name) for name in named if name not in expected],
        "not as needed": [
            f"{name} {reason.removeprefix('has shape ')}"
            for name, reason in reasons.items()
            if reason
        ],
    }
    differences = "; ".join(f"{kind}: {listed(names)}" for kind, names in faults.items() if names)
    if differences:
        raise ValueError(f"{what} does not fit ({differences}): {remedy}")
    return {name: named[name].detach().to(value.dtype) for name, value in expected.items()}


def listed(names: list[str], at_most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
