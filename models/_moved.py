"""How modules of the release whose content is elsewhere now say so, once a name is used."""

from collections.abc import Callable


def refuse(module: str, instead: str) -> Callable[[str], object]:
    """A module's `__getattr__` that refuses every public name in one sentence.

    Args:
        module: the module's name.
        instead: what to use now; ends the sentence.

    Raises:
        ImportError: from what is returned, which both `module.name` and `from module import name`
            show as it is. Names that begin with _ are what Python itself asks for.
    """

    def __getattr__(name: str) -> object:  # noqa: N807, it is one
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(f"{module}.{name} of the 2021 release is not here: {instead}")

    return __getattr__
