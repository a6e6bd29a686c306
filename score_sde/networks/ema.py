"""Exponential moving average of a network's weights.

    shadow ← shadow + (1 − decay_n) (weights − shadow),    decay_n = min(decay, (1 + n)/(10 + n))

after the n-th update, n = 1, 2, …: the average follows the weights closely at first and forgets
where they started. Samples are drawn with the averaged weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import parallel
from score_sde.atomic.weights import listed
from score_sde.networks.saved import fit_average

Parameters = nn.Module | Iterable[Tensor]


def bare_name(name: str) -> str:
    """A tensor's name without the `_orig_mod.` and `module.` of compiled and DDP modules."""
    parts = (part for part in name.split(".") if part != "_orig_mod")
    return ".".join(parts).removeprefix("module.")


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Compares names and shapes.

    Args:
        expected: tensors by name, to be filled.
        given: tensors by name, to fill them with.
        what: what is given, to begin the message with.

    Raises:
        ValueError: they differ; one sentence that lists how.
    """
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": shapes,
    }
    differences = "; ".join(f"{kind}: {listed(names)}" for kind, names in faults.items() if names)
    if differences:
        raise ValueError(
            f"{what} does not fit ({differences}): use what belongs to the same network"
        )


class ExponentialMovingAverage:
    """The moving average of trainable weights, in float32 or better, on their device.

    Given a module, it goes by name, whether the module is compiled, wrapped for DDP or bare. What
    is not trained (buffers, frozen weights) is copied, so that the shadow is a whole network.
    Given an iterable of parameters, it goes by order, as the 2021 release did. Its methods take
    either.

    Args:
        parameters: a module, or an iterable of parameters, of which it keeps the trainable ones.
        decay: the share of the shadow that an update keeps, 0 … 1.
        use_num_updates: whether the decay warms up.

    Raises:
        ValueError: the decay is outside [0, 1].
    """

    def __init__(self, parameters: Parameters, decay: float, use_num_updates: bool = True) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: the decay of an average lies between 0 and 1")
        self.decay = decay
        self.num_updates = 0 if use_num_updates else None
        self.by_name = isinstance(parameters, nn.Module)
        self._stored: list[Tensor] | None = None
        trained, fixed = _trained_and_fixed(parameters)
        self._names = [*trained, *fixed]
        self._trained = len(trained)
        # Averaged tensors first, then the copied ones.
        self._shadow = [
            *(value.detach().to(_precise(value.dtype), copy=True) for value in trained.values()),
            *(value.detach().clone() for value in fixed.values()),
        ]

    @property
    def shadow_params(self) -> list[Tensor]:
        """The averaged tensors, in the order of the parameters."""
        return self._shadow[: self._trained]

    @torch.no_grad()
    def update(self, parameters: Parameters) -> None:
        """Moves the average towards the weights; to be called after each optimiser step."""
        decay = self.decay
        if self.num_updates is not None:
            self.num_updates += 1
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        values = self._partners(parameters)
        for k, value in enumerate(values):  # the shadow follows a network that was moved
            self._shadow[k] = self._shadow[k].to(value.device)
        # Of divided tensors each process averages its own rows: a list of both kinds is refused.
        shadow = [parallel.here(value) for value in self._shadow]
        values = [parallel.here(value) for value in values]
        weights = [value.to(_precise(value.dtype)) for value in values[: self._trained]]
        # Few launches for many tensors, and no reading back; the foreach functions refuse [].
        if weights:
            torch._foreach_lerp_(shadow[: self._trained], weights, 1 - decay)  # pyright: ignore
        if fixed := values[self._trained :]:
            torch._foreach_copy_(shadow[self._trained :], fixed)  # pyright: ignore

    @torch.no_grad()
    def copy_to(self, parameters: Parameters) -> None:
        """Overwrites the weights with the average."""
        _overwrite(self._partners(parameters), self._shadow)

    @torch.no_grad()
    def store(self, parameters: Parameters) -> None:
        """Keeps a copy of the weights for `restore`."""
        self._stored = [value.clone() for value in self._partners(parameters)]

    @torch.no_grad()
    def restore(self, parameters: Parameters) -> None:
        """Puts the weights back that `store` kept, and forgets them.

        Raises:
            ValueError: nothing is stored.
        """
        if self._stored is None:
            raise ValueError("no weights are stored: call store before restore")
        _overwrite(self._partners(parameters), self._stored)
        self._stored = None

    @contextmanager
    def applied(self, parameters: Parameters) -> Iterator[None]:
        """Within this context the weights are the average; afterwards they are as before."""
        with torch.no_grad():
            values = self._partners(parameters)
            kept = [value.clone() for value in values]
            _overwrite(values, self._shadow)
        try:
            yield
        finally:
            with torch.no_grad():
                _overwrite(values, kept)

    def state_dict(self) -> dict[str, Any]:
        """`decay`, `num_updates` (None without warm-up) and the live tensors of the shadow.

        They are `shadow`, a dict by name, for an average that was made of a module, and
        `shadow_params`, a list in the order of the parameters, as in 2021, for the others.
        """
        state = {"decay": self.decay, "num_updates": self.num_updates}
        if self.by_name:
            return state | {"shadow": dict(zip(self._names, self._shadow, strict=True))}
        return state | {"shadow_params": self._shadow}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the state of another average of the same network.

        Raises:
            ValueError: names or shapes differ, or what it holds are no finite numbers, all of them
                listed; nothing is changed then.
        """
        entry = "shadow" if self.by_name else "shadow_params"
        if entry not in state_dict:
            raise ValueError(
                f"the state of the average has {', '.join(state_dict)} but no {entry}: "
                "make the average of a module for states by name, else of its parameters"
            )
        given = state_dict[entry]
        if not self.by_name and isinstance(given, list | tuple):
            given = {str(k): value for k, value in enumerate(given)}
        shadow = dict(zip(self._names, self._shadow, strict=True))
        state = fit_average(shadow, {**state_dict, "shadow": given}, "the average")
        for name, value in shadow.items():
            value.copy_(parallel.divided_as(state["shadow"][name], value))
        self.decay, self.num_updates = state["decay"], state["num_updates"]

    def _partners(self, parameters: Parameters) -> list[Tensor]:
        """The tensors that belong to those of the shadow, in its order.

        All of them, given a module and matching by name; else those that are averaged, by order.
        """
        trained, fixed = _trained_and_fixed(parameters)
        if self.by_name and isinstance(parameters, nn.Module):
            named = trained | fixed
            # By the names alone: what is trained may be frozen later, as for sampling.
            check_fit(dict(zip(self._names, self._shadow, strict=True)), named, "the network")
            return [named[name] for name in self._names]
        shadow = dict(zip(map(str, range(self._trained)), self.shadow_params, strict=True))
        values = {str(k): value for k, value in enumerate(trained.values())}
        check_fit(shadow, values, "the list of parameters")
        return list(values.values())


def _trained_and_fixed(parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    # Parameters without a module get their position as a name.
    if not isinstance(parameters, nn.Module):
        values = [value for value in parameters if value.requires_grad]
        return {str(k): value for k, value in enumerate(values)}, {}
    tensors = parameters.state_dict(keep_vars=True)
    named = {bare_name(name): value for name, value in tensors.items()}
    trained = {name: value for name, value in named.items() if value.requires_grad}
    return trained, {name: value for name, value in named.items() if name not in trained}


def _precise(dtype: torch.dtype) -> torch.dtype:
    # In bfloat16 a small step of the average would round away.
    return torch.promote_types(dtype, torch.float32)


def _overwrite(targets: list[Tensor], values: list[Tensor]) -> None:
    # There may be more values than targets: those that only a module has a place for come last.
    for target, value in zip(targets, values, strict=False):
        target.copy_(value)
