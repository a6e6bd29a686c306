"""What goes with a network's weights in a file: its average, and what Adam keeps of each weight.

Files come from others: each part is checked by its kind, names, shapes and numbers before it is
used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from score_sde.atomic.weights import fit, misfit, short, without_wrappers

_MEANS = ("exp_avg", "exp_avg_sq")
_MOMENTS = (*_MEANS, "max_exp_avg_sq")


def count(value: object, what: str) -> int:
    """A count from a file, which may be a number or a tensor of one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, Tensor) and not misfit(value, (), value.dtype):
        value = value.item()
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{what} is {short(value)}: a whole number from 0 up is needed")
    return value


def decay_and_updates(given: Mapping[str, Any], what: str) -> tuple[float, int | None]:
    """Decay of an average, and its number of updates: None where the decay does not warm up.

    Raises:
        ValueError: they are missing, or no such numbers.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {short(given)} instead of decay, num_updates and weights")
    decay, updates = given.get("decay"), given.get("num_updates")
    if not isinstance(decay, int | float) or not 0 <= decay <= 1:
        raise ValueError(f"the decay of {what} is {short(decay)}: it lies between 0 and 1")
    return float(decay), None if updates is None else count(updates, f"num_updates of {what}")


def fit_average(weights: Mapping[str, Tensor], given: Any, what: str) -> dict[str, Any]:
    """The state of an average by name, as that of a network.

    Args:
        weights: of the network by name; they may be on the meta device.
        given: `decay`, `num_updates` and `shadow`.
        what: the file and its entry, to begin a message with.

    Raises:
        ValueError: something is missing, or is not what is needed.
    """
    decay, updates = decay_and_updates(given, what)
    return {
        "decay": decay,
        "num_updates": updates,
        "shadow": fit(weights, given.get("shadow"), what),
    }


def fit_averages(
    weights: Mapping[str, Tensor], given: Any, what: str
) -> dict[str, dict[str, Any]]:
    """The states of averages by their lengths, as those of a network.

    Args:
        weights: of the network by name; they may be on the meta device.
        given: a dict by length of `num_updates` and `shadow`.
        what: the file and its entry, to begin a message with.

    Raises:
        ValueError: something is missing, or is not what is needed.
    """
    fitted: dict[str, dict[str, Any]] = {}
    for length, state in given.items():
        where = f"{what}, of length {short(length)},"
        if not (isinstance(length, str) and isinstance(state, Mapping)):
            raise ValueError(f"{where} is {short(state)} instead of num_updates and weights")
        fitted[length] = {
            "num_updates": count(state.get("num_updates"), f"num_updates of {where}"),
            "shadow": fit(weights, state.get("shadow"), where),
        }
    return fitted


def fit_moments(weights: Mapping[str, Tensor], given: Any, what: str) -> dict[str, dict[str, Any]]:
    """What Adam keeps of each weight, by name: empty where a weight had no gradient yet.

    Args:
        weights: the trained ones by name; they may be on the meta device.
        given: a dict by name of dicts.
        what: the file and its entry, to begin a message with.

    Raises:
        ValueError: something is missing, or is not what is needed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {short(given)} instead of what Adam keeps of each weight")
    named = without_wrappers(given, weights)
    for name, kept in named.items():
        if not isinstance(kept, Mapping):
            raise ValueError(f"{what} has {short(kept)} for {short(name)}: use a whole one")
    # The mean of the gradients has the weight's shape; where there is none, there is no state.
    none = {name: torch.zeros(()).expand(weight.shape) for name, weight in weights.items()}
    fit(weights, {name: kept.get("exp_avg", none.get(name)) for name, kept in named.items()}, what)
    return {name: _fit_moments_of(name, weights[name], named[name], what) for name in weights}


def _fit_moments_of(
    name: str, weight: Tensor, kept: Mapping[str, Any], what: str
) -> dict[str, Any]:
    missing = [key for key in (*_MEANS, "step") if kept and key not in kept]
    if missing:
        raise ValueError(f"{what} lacks {missing[0]} of {name}: use a whole one")
    result: dict[str, Any] = {}
    for key, value in kept.items():
        where = f"{what} has for {name} {short(key)}, which"
        if key == "step":  # a plain number before torch 1.12
            result[key] = torch.tensor(float(count(value, where)))
        elif key not in _MOMENTS:
            raise ValueError(f"{where} Adam does not keep: only its state can be taken over")
        elif reason := misfit(value, tuple(weight.shape), weight.dtype):
            raise ValueError(f"{where} {reason}: use a whole one")
        else:
            result[key] = value.detach().to(weight.dtype)
    return result
