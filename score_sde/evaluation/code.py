"""A fingerprint of code that users write, so that what an earlier version computed is not taken.

Installed code, and the library's own, count as fixed: what changes the library's numbers raises
`shards.FORMAT`.
"""

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CellType, CodeType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def fingerprint(what: Any) -> str:
    """Text that changes with the code of a function, class or object, and of what it uses.

    It is empty where none of that is a user's.
    """
    words = list(_words(what, set()))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16] if words else ""


def _words(what: Any, seen: set[int]) -> Iterator[str]:
    if id(what) in seen:
        return
    seen.add(id(what))
    if isinstance(what, functools.partial):
        parts = [what.func, *what.args, *(what.keywords[key] for key in sorted(what.keywords))]
        yield from _all(parts, seen)
    elif isinstance(what, property):
        yield from _all([what.fget], seen)
    elif isinstance(what, staticmethod | classmethod) or hasattr(what, "__func__"):
        yield from _all([what.__func__], seen)
    elif isinstance(what, type):
        if _is_users(what):
            parts = {name: vars(what)[name] for name in sorted(vars(what))}
            known = ("__module__", "__doc__", "__dict__", "__weakref__", "__firstlineno__")
            yield from _all([part for name, part in parts.items() if name not in known], seen)
            yield from _all(list(what.__bases__), seen)
    elif isinstance(getattr(what, "__code__", None), CodeType):
        if _is_users(what):
            yield from _of_function(what, seen)
    elif _is_users(type(what)):
        state = getattr(what, "__dict__", {})
        yield from _all([type(what), *(state[name] for name in sorted(state))], seen)


def _all(parts: list[Any], seen: set[int]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, _PLAIN):
            yield repr(part)
        elif isinstance(part, list | tuple):
            yield from _all(list(part), seen)
        elif isinstance(part, dict):
            yield from _all([item for pair in part.items() for item in pair], seen)
        else:
            yield from _words(part, seen)


def _of_function(function: Any, seen: set[int]) -> Iterator[str]:
    yield from _of_code(function.__code__)
    kept = [_content(cell) for cell in function.__closure__ or ()]
    by_name = function.__kwdefaults__ or {}
    yield from _all([*(function.__defaults__ or ()), *by_name.values(), *kept], seen)
    used = [name for name in sorted(_names(function.__code__)) if name in function.__globals__]
    yield from _all([function.__globals__[name] for name in used], seen)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return None


def _of_code(code: CodeType) -> Iterator[str]:
    yield repr((code.co_code.hex(), code.co_names))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        elif isinstance(constant, frozenset):  # in an order that changes with the process
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_users(what: Any) -> bool:
    """Whether a class or function lies neither in this library nor in what is installed."""
    name = str(getattr(what, "__module__", None) or "builtins")
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return False
    module = sys.modules.get(name)
    if module is None:  # of a recipe that was run
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # built in, or a notebook
        return name == "__main__"
    return not any(Path(file).is_relative_to(place) for place in _INSTALLED)
