"""Saves behind the back of a run: a copy is taken at once, and a thread writes it.

A step so waits for a copy in memory instead of a disk. The files are the same, and appear whole as
ever; what is known only later is whether they could be written.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from score_sde import parallel

SHARE = 0.5
"""A copy takes at most this share of the free memory: the next step needs some, too."""

_DICTS, _LISTS = (dict, OrderedDict), (list, tuple)
_Path = tuple[Any, ...]  # keys and places on the way to a tensor


class HostCopy:
    """A copy of nested dicts, lists and tuples of tensors in the host's memory.

    Its memory is taken once: the next copy of the same names and shapes overwrites this one.
    Of tensors that are divided among processes the copy is whole: all of them take part then,
    this one by making the copy and the others by `parallel.take_part`.
    """

    def __init__(self) -> None:
        self._memory: dict[_Path, Tensor] = {}

    def missing_bytes(self, content: object) -> int:
        """How much memory a copy would take beyond what this one has."""
        return sum(
            tensor.numel() * tensor.element_size()
            for path, tensor in _tensors(content)
            if not _alike(self._memory.get(path), tensor)
        )

    def of(self, content: Any) -> Any:
        """The content as it is now, which later updates don't change."""
        return self._copied(content, ())

    def _copied(self, value: Any, path: _Path) -> Any:
        if isinstance(value, Tensor):
            held, whole = self._memory.get(path), parallel.whole(value.detach())
            if held is None or not _alike(held, value):
                held = self._memory[path] = torch.empty_like(whole, device="cpu")
            return held.copy_(whole)
        if type(value) in _DICTS:
            return {key: self._copied(item, (*path, key)) for key, item in value.items()}
        if type(value) in _LISTS:
            return type(value)(self._copied(v, (*path, k)) for k, v in enumerate(value))
        return value  # a number or a text, or something that a file can't hold, which says so


class Saves:
    """Writes a run's files in a thread, one after the other; a context manager, which waits.

    Of each kind (checkpoints, snapshots) one file is under way at most: the next one waits for it.
    Once a file can't be written, none that was asked for after it is, until the error was raised
    by a call here. What is raised within the context goes before it.

    Args:
        free_bytes: memory that is free. Where a copy would take more than `SHARE` of it, none is
            made, and the run waits for the file instead.
    """

    def __init__(self, free_bytes: Callable[[], float]) -> None:
        self._free_bytes = free_bytes
        self._pool = ThreadPoolExecutor(1, "saves")
        self._copies: dict[str, HostCopy] = {}
        self._under_way: dict[str, Future[None]] = {}
        self._failed = False

    def save(self, kind: str, content: Any, write: Callable[[Any], object]) -> None:
        """Lets `write` write a copy of the content, once what was asked for before is written.

        Raises:
            Exception: what an earlier `write` of this kind raised; of this one, where there was
                no memory for a copy.
        """
        self.wait(kind)
        copy = self._copies.setdefault(kind, HostCopy())
        divided = any(parallel.is_divided(tensor) for _, tensor in _tensors(content))
        # What others have parts of is not this process's to write: it has to be copied.
        room = divided or copy.missing_bytes(content) <= SHARE * self._free_bytes()
        given = copy.of(content) if room else content
        self._under_way[kind] = self._pool.submit(self._write, write, given)
        if not room:
            self.wait(kind)

    def check(self) -> None:
        """Raises what a `write` that has ended meanwhile raised; waits for none."""
        for kind in [kind for kind, future in self._under_way.items() if future.done()]:
            self.wait(kind)

    def wait(self, kind: str = "") -> None:
        """Waits until all files, or those of a kind, are written.

        Raises:
            Exception: what the first of them that failed raised.
        """
        kinds = [kind] if kind else list(self._under_way)
        futures = [self._under_way.pop(one) for one in kinds if one in self._under_way]
        wait(futures)
        for error in filter(None, [future.exception() for future in futures]):
            self._failed = False
            raise error

    def _write(self, write: Callable[[Any], object], content: Any) -> None:
        if self._failed:
            return
        try:
            write(content)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> "Saves":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.wait()
        except BaseException:
            if kind is None:
                raise
        finally:
            self._pool.shutdown()


def _alike(held: Tensor | None, tensor: Tensor) -> bool:
    return held is not None and held.shape == tensor.shape and held.dtype == tensor.dtype


def _tensors(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif type(value) in _DICTS:
        for key, item in value.items():
            yield from _tensors(item, (*path, key))
    elif type(value) in _LISTS:
        for number, item in enumerate(value):
            yield from _tensors(item, (*path, number))
