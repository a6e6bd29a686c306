"""Per-sample arithmetic on batches of any rank, and rows of tables.

The first axis of a batch counts samples. Whatever belongs to a sample as a whole (a time, a noise
level, a norm) has shape (B,). Tables are looked up by index (`look_up`) or by name (`choose`).
"""

import difflib
from collections.abc import Collection, Hashable, Mapping, MutableMapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Key = TypeVar("Key")
Row = TypeVar("Row")


class UnknownName(ValueError):  # noqa: N818, it says what happened
    """A name, or another choice, that is none of those allowed.

    Attributes:
        what: the option that takes it, such as "config.training.sde".
    """

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what


def check_name(name: object, allowed: Collection[object], what: str) -> None:
    """Refuses a choice that is not among those allowed.

    Args:
        name: the choice.
        allowed: what it may be; of a table, its keys.
        what: the option that takes it, such as "config.training.sde".

    Raises:
        UnknownName: it is none of them; lists them, and says which is nearest.
    """
    if name in allowed:
        return
    names = [str(other) for other in allowed]
    alike = {other.lower(): other for other in names}
    near = difflib.get_close_matches(str(name).lower(), alike, n=1, cutoff=0.4)
    hint = f"; did you mean {alike[near[0]]!r}?" if near and isinstance(name, str) else ""
    raise UnknownName(f"{what}={name!r}: it must be one of {', '.join(names)}{hint}", what)


def choose(table: Mapping[Key, Row], name: Key, what: str) -> Row:
    """The row of a table, as it is filled now.

    Args:
        table: name → row.
        name: which one.
        what: the option that takes the name, such as "config.training.sde".

    Raises:
        UnknownName: there is no such row; lists those that there are, and says which is nearest.
    """
    check_name(name, table.keys(), what)
    return table[name]


def expand_to(v: Tensor, x: Tensor) -> Tensor:
    """Reshapes per-sample values so that they broadcast over a batch.

    Args:
        v: (B,) or a scalar tensor, or with the rank of `x` already.
        x: (B, ...) of any rank.

    Returns:
        `v` as (B, 1, ..., 1) with the rank of `x`; the others come back as they are.
    """
    return v if v.ndim in (0, x.ndim) else v.reshape(-1, *[1] * (x.ndim - 1))


def added(fresh: Tensor, x: Tensor) -> Tensor:
    """fresh + x, in the memory of `fresh` where it holds the sum.

    It does not where `x` has a wider dtype or more numbers: the sum has those of both, as ever.

    Args:
        fresh: a tensor that was just computed and that nobody else has.
        x: of any shape that broadcasts with it.
    """
    held = fresh.shape == x.shape and torch.result_type(fresh, x) == fresh.dtype
    return fresh.add_(x) if held else fresh + x


def check_losses(losses: Tensor, n: int, objective: object) -> None:
    """Refuses what an objective gave for a batch, where it is not one loss for each sample.

    Args:
        losses: that it gave.
        n: how many samples the batch has.
        objective: whose class is named.

    Raises:
        ValueError: another shape than (n,).
    """
    if losses.shape != (n,):
        raise ValueError(
            f"the objective {type(objective).__name__} gave a loss of shape {tuple(losses.shape)} "
            f"for {n} images: give one loss for each, shape ({n},), the mean or half the sum over "
            "that image's own numbers"
        )


def times_for(x: Tensor, t: Tensor | float) -> Tensor:
    """Times of a batch from what a caller gives: a time for each sample, or one for all.

    Args:
        x: (B, ...) of any rank.
        t: (B,), or a number or a tensor of one element that all samples share.

    Returns:
        (B,) on the device of `x`; of its dtype where one number was given.

    Raises:
        ValueError: where the times are of another shape.
    """
    if not isinstance(t, Tensor):
        return x.new_full((len(x),), t)
    if t.shape == x.shape[:1]:
        return t
    if t.numel() == 1 and t.ndim <= 1:
        return t.to(x).reshape(1).repeat(len(x))
    raise ValueError(
        f"times of shape {tuple(t.shape)} for a batch of shape {tuple(x.shape)}: give one number, "
        f"or one for each sample, ({len(x)},)"
    )


def sent_to(device: torch.device | str, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that was made on the CPU, on a device, without the host waiting for that device.

    A plain `value.to(device)` waits until all is computed that was asked of the device before.

    Args:
        device: where it is sent.
        value: of any shape.
        dtype: that it is given before it is sent; its own by default.
    """
    value = value if dtype is None else value.to(dtype)
    # MPS reads what it is sent later, when the host may have given the memory back.
    return value.to(device, non_blocking=torch.device(device).type != "mps")


_KEPT: MutableMapping[Tensor, dict[Hashable, tuple[int, Tensor]]] = WeakTensorKeyDictionary()
"""Of tables that were made on the CPU, their copies on other devices and in other dtypes."""


def kept_on(device: torch.device | str, table: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A table that was made on the CPU, on a device: sent there once, and kept while it lives.

    So steps that need a table send nothing but the first time. What is changed in the table in
    place, or put in its place, is sent again.

    Args:
        device: where it is needed.
        table: of any shape.
        dtype: that it is given before it is sent; its own by default.
    """
    dtype = table.dtype if dtype is None else dtype
    if table.device == torch.device(device) and table.dtype == dtype:
        return table
    if torch.compiler.is_compiling():  # a graph has the copy in it, and knows no dictionary
        return sent_to(device, table, dtype)
    copies = _KEPT.setdefault(table, {})
    version = 0 if table.is_inference() else table._version
    place = str(device), dtype
    if place not in copies or copies[place][0] != version:  # the older one is let go
        with torch.inference_mode(False):  # it may take part in a gradient later
            copies[place] = version, sent_to(device, table, dtype)
    return copies[place][1]


def look_up(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Entries of a table that was made on the CPU, with the device and dtype of `like`.

    Args:
        table: (N,).
        index: int64 (B,).
        like: any tensor.

    Returns:
        (B,).
    """
    return kept_on(like.device, table, like.dtype)[index]


def sum_per_sample(x: Tensor) -> Tensor:
    """Sums everything but the first axis: (B, ...) → (B,)."""
    return x.flatten(1).sum(1)


def mean_per_sample(x: Tensor) -> Tensor:
    """Averages everything but the first axis: (B, ...) → (B,)."""
    return x.flatten(1).mean(1)


def norm_per_sample(x: Tensor) -> Tensor:
    """Euclidean norm of each sample: (B, ...) → (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
