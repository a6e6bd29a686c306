"""What an optimizer keeps of each weight, by the weight's name and by its place in a file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.ema import as_kept

SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad")
"""What the release's file has of Adam besides its state."""


def state_by_name(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, dict[str, Any]]:
    """What the optimizer keeps of each weight of a network, by the weight's name."""
    return {name: dict(optimizer.state.get(weight, {})) for name, weight in net.named_parameters()}


def load_by_name(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    state: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    """The inverse of `state_by_name`.

    Args:
        optimizer: of the network's weights, all or some.
        net: gives the names.
        state: by name.
        settings: of `SETTINGS`, for an optimizer of one group.
    """
    names = {id(weight): name for name, weight in net.named_parameters()}
    whole = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    whole["state"] = {
        number: state[names[id(weight)]]
        for number, weight in enumerate(weights)
        if state.get(names.get(id(weight), ""))
    }
    if len(whole["param_groups"]) == 1:
        known = {key: settings[key] for key in SETTINGS if key in settings}
        whole["param_groups"] = [{**whole["param_groups"][0], **known}]
    optimizer.load_state_dict(fit_state(optimizer, whole) or whole)


def fit_state(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]
) -> dict[str, Any] | None:
    """Puts what an optimizer's file keeps of each weight into the weight's shape and layout.

    The release's file also counts frozen weights, of which it keeps nothing.

    Raises:
        ValueError: it keeps something of another number of weights, or of other shapes.
    """
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    groups = state_dict["param_groups"]
    places = [place for group in groups for place in group["params"]]
    if len(groups) == 1 and len(places) != len(trained):
        places = [place for place in places if state_dict["state"].get(place)]
    if len(places) != len(trained):
        raise ValueError(
            f"the optimizer's state is of {len(places)} weights where {len(trained)} are trained "
            "here: use the same network, or load the file by utils.restore_checkpoint"
        )
    state = {}
    for number, (place, weight) in enumerate(zip(places, trained, strict=True)):
        kept = state_dict["state"].get(place, {})
        state[number] = {key: _fitted(key, value, weight) for key, value in kept.items()}
    numbers = iter(range(len(trained)))
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if len(groups) != len(sizes):
        return None  # torch says so
    groups = [
        {**group, "params": [next(numbers) for _ in range(size)]}
        for group, size in zip(groups, sizes, strict=True)
    ]
    return {**state_dict, "state": state, "param_groups": groups}


def _fitted(key: str, value: Any, weight: Tensor) -> Any:
    if key == "step":  # a plain number before torch 1.12
        return torch.as_tensor(value, dtype=torch.float32)
    if not isinstance(value, Tensor):
        return value
    value = as_kept(value, weight)
    if value.shape != weight.shape:
        raise ValueError(
            f"{key} of a weight has shape {tuple(value.shape)} where the weight has "
            f"{tuple(weight.shape)}: use the same network, or load the file by "
            "utils.restore_checkpoint"
        )
    # Adam goes through both by their place in memory.
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)
