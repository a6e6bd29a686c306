"""What lets the front's networks and runs take the release's configs and weight names."""

import copy
from collections.abc import Mapping
from typing import Any

import ml_collections
import torch
from torch import Tensor, nn

from score_sde.checkpoints import release_2021
from score_sde.config import parts
from score_sde.config.build import build_network
from score_sde.networks.layers import descending_sigmas
from score_sde.networks.unet import UNet

_NETWORK_DEFAULTS: Mapping[str, parts.Part] = {
    "ddpm": parts.DDPM,
    "ncsn": parts.NCSN,
    "ncsnv2_64": parts.NCSNV2,
    "ncsnv2_128": parts.NCSNV2,
    "ncsnv2_256": parts.NCSNV2,
}
_PREFIX = "module."


def complete(config: Any) -> ml_collections.ConfigDict:
    """A copy of a config in the library's types, with defaults for the fields that it lacks.

    Lists become tuples, whole numbers reals where the library has reals, the device its name.

    Args:
        config: of the release, of a fork or ours; it is left as it is.
    """
    model = config.get("model", {})
    result: Any = parts.recipe(_NETWORK_DEFAULTS.get(model.get("name", ""), parts.NCSNPP))
    for name, value in config.items():
        if not hasattr(value, "items"):
            result[name] = _plain(value, result.get(name))
            continue
        defaults = result.get(name, ml_collections.ConfigDict())
        group: Any = ml_collections.ConfigDict(defaults, type_safe=False)
        for leaf, given in value.items():
            group[leaf] = _plain(given, defaults.get(leaf))
        result[name] = ml_collections.ConfigDict(group.to_dict())
    return result


def _plain(value: Any, default: Any) -> Any:
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    return copy.deepcopy(value)


class FromConfig(nn.Module):
    """What the front's network classes add to those of the library: they take a config.

    Args:
        config: its `model` and `data` are read. The network is made on the CPU.
    """

    model_name: str
    sigma_table: tuple[float, float, int]

    def __init__(self, config: Any) -> None:
        whole: Any = complete(config)
        whole.model.name, whole.device = self.model_name, "cpu"
        net = build_network(whole)
        if not isinstance(self, type(net)):
            raise ValueError(
                f"the row {self.model_name!r} of NETWORKS was replaced, and makes a "
                f"{type(net).__name__}: call models.utils.create_model(config), which takes it"
            )
        vars(self).update(vars(net))
        finish(self)

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of the chain from the largest down, float64 (num_scales,)."""
        device = next(self.parameters()).device
        levels = descending_sigmas(*self.sigma_table)
        return levels.float().to(device) if device.type == "mps" else levels.to(device)

    @property
    def all_modules(self) -> "AllModules":
        """The parts of a U-Net at their places in the release's list."""
        if not isinstance(self, UNet):
            raise AttributeError(f"{type(self).__name__} has named parts: see named_children()")
        return AllModules(self)


class AllModules(nn.ModuleList):
    """A view of a U-Net's parts as the release's list of them; one that is replaced is replaced.

    Args:
        net: NCSNpp or DDPM.
    """

    def __init__(self, net: nn.Module) -> None:
        listed = list(release_2021.listed(net))
        super().__init__(module for _, module in listed)
        self.__dict__["_net"] = net  # beside the parts, not one of them
        self._paths = [path for path, _ in listed]

    def __setitem__(self, index: int, module: nn.Module) -> None:
        """Replaces a part, here and in the network."""
        super().__setitem__(index, module)
        self.__dict__["_net"].set_submodule(self._paths[index], module)


def finish(net: nn.Module) -> None:
    """Lets a network of the library take the release's weight names and be used as in the release.

    What it puts out is contiguous, so that `output.view(B, -1)` works.
    """
    take_release_names(net)
    net.register_forward_hook(_contiguous)


def take_release_names(net: nn.Module) -> None:
    """Lets any network be used and filled as the release's, which come in DataParallel."""
    reachable_as_module(net)
    net.register_load_state_dict_pre_hook(_translate)


def reachable_as_module(net: nn.Module) -> None:
    """`net.module` is `net`, as the release's networks come wrapped in DataParallel."""
    if not hasattr(net, "module"):
        vars(net)["module"] = net  # not a part: names and parameters stay as they are


def defined_again(before: Any, now: Any) -> bool:
    """Whether two classes are one that was defined twice: a command runs its recipe repeatedly."""
    places = [
        (getattr(kind, "__module__", None), getattr(kind, "__qualname__", None))
        for kind in (before, now)
    ]
    return before is now or (None not in places[0] and places[0] == places[1])


def without_module(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by their names without DataParallel's `module.`."""
    return {name.removeprefix(_PREFIX): value for name, value in weights.items()}


def bare(model: Any) -> Any:
    """The network inside DataParallel or the like."""
    return getattr(model, "module", model)


def _contiguous(net: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.contiguous()


def _translate(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Puts weights under the release's names, with or without `module.`, under the network's.

    Raises:
        ValueError: there are weights, and none is this network's; strict=False would drop all.
    """
    own = {prefix + name for name in net.state_dict()}
    try:
        theirs = {entry.name: entry for entry in release_2021.entries(net)}
    except ValueError:  # a network that the release does not have
        theirs = {}
    for key in [key for key in state_dict if key.startswith(prefix) and key not in own]:
        name = key.removeprefix(prefix).removeprefix(_PREFIX)
        if name == "sigmas":
            del state_dict[key]
        elif name in theirs:
            entry, value = theirs[name], state_dict.pop(key)
            if entry.ours is not None:
                fits = tuple(value.shape) == entry.shape
                state_dict[prefix + entry.ours] = entry.to_ours(value) if fits else value
        elif prefix + name in own:
            state_dict[prefix + name] = state_dict.pop(key)
    if (state_dict or prefix == _PREFIX) and own.isdisjoint(state_dict):
        raise ValueError(
            f"none of the {len(state_dict)} names given is a weight of this {type(net).__name__}: "
            "give its state dict, or the entry model of the release's checkpoint"
        )
