"""Weights under the names of the 2021 release, to and fro.

The release keeps the parts of a U-Net in one list and names weights by their place in it
(`all_modules.37.Conv_0.weight`). The networks here register their parts in that same order, so
walking one of them gives the names. NCSN and NCSNv2 had named parts; for them the names here are
translated.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from score_sde.atomic.weights import misfit, short_name, without_wrappers
from score_sde.networks.blocks import Attended, AttentionBlock, BigGANBlock, ResidualBlock
from score_sde.networks.layers import GaussianFourierProjection, descending_sigmas
from score_sde.networks.ncsnpp import InputSkip
from score_sde.networks.refinenet import RefineNet
from score_sde.networks.resampling import FIRDownConv, FIRUpConv, NearestUpConv, StridedDownConv
from score_sde.networks.unet import UNet

_RESIDUAL = (
    ("GroupNorm_0", "norm_0"),
    ("Conv_0", "conv_0"),
    ("Dense_0", "dense"),
    ("GroupNorm_1", "norm_1"),
    ("Conv_1", "conv_1"),
)
# One entry per kind of module that is one member of the release's list: its parts by their names
# there and here. A part called NIN there is a matrix (in, out) there and a 1×1 convolution here.
_PARTS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    nn.Conv2d: (("", ""),),
    nn.Linear: (("", ""),),
    nn.GroupNorm: (("", ""),),
    GaussianFourierProjection: (("", ""),),
    ResidualBlock: (*_RESIDUAL, ("NIN_0", "shortcut")),
    BigGANBlock: (*_RESIDUAL, ("Conv_2", "shortcut")),
    AttentionBlock: (
        ("GroupNorm_0", "norm"),
        ("NIN_0", "query"),
        ("NIN_1", "key"),
        ("NIN_2", "value"),
        ("NIN_3", "out"),
    ),
    InputSkip: (("Conv_0", "project"),),
    NearestUpConv: (("Conv_0", "conv"),),
    StridedDownConv: (("Conv_0", "conv"),),
    FIRUpConv: (("Conv2d_0", "conv"),),
    FIRDownConv: (("Conv2d_0", "conv"),),
}
# Children that have a place in the list even where they hold no weights.
_ALWAYS_LISTED = ("downsample", "upsample")
_REFINE_NAMES = {"adapt": "adapt_convs", "output": "output_convs", "fuse": "msf", "pooling": "crp"}
# The numbers that stages of NCSN and NCSNv2 bear on the way down, and refine blocks on the way up.
# The 256 px network has one stage more, "31", without renumbering; its refine block is walked
# ahead of the third and stored behind it.
_DOWN_NUMBERS = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5")}
_DOWN_NUMBERS[6] = ("1", "2", "3", "31", "4", "5")
_UP_NUMBERS = _DOWN_NUMBERS | {6: ("1", "2", "31", "3", "4", "5")}
_LISTED = 20  # misfits that an error names; with the wrong recipe there are hundreds


@dataclass(frozen=True)
class Entry:
    """One key of the release's state dict.

    Attributes:
        name: The release's name.
        ours: Name in this network's state dict; None for what carries no information here.
        shape: The release's shape.
        matrix: Whether the release holds the transpose (in, out) of our 1×1 convolution.
        trainable: Whether the release trains it.
    """

    name: str
    ours: str | None
    shape: tuple[int, ...]
    matrix: bool = False
    trainable: bool = True

    def to_ours(self, value: Tensor) -> Tensor:
        """The release's tensor in our shape; anything that goes with a weight, as a gradient."""
        return value.t()[..., None, None] if self.matrix else value

    def to_theirs(self, value: Tensor) -> Tensor:
        """The inverse of `to_ours`; contiguous."""
        return (value[..., 0, 0].t() if self.matrix else value).contiguous()


@singledispatch
def entries(net: nn.Module) -> list[Entry]:
    """The release's keys for this network, in the release's order, without `sigmas`.

    Args:
        net: NCSNpp, DDPM, NCSN or NCSNv2.

    Raises:
        ValueError: The release has no such network, or none with class labels.
    """
    raise ValueError(
        f"the 2021 release has no {type(net).__name__}: it has NCSNpp, DDPM, NCSN and NCSNv2"
    )


@entries.register
def _(net: UNet) -> list[Entry]:
    if net.conditioning is not None and net.conditioning.num_classes:
        raise ValueError(
            f"the 2021 release has no class labels, but this network has "
            f"{net.conditioning.num_classes} classes: build it with num_classes=0"
        )
    if net.upsampling_factor:
        raise ValueError(
            "the 2021 release has no network that upsamples, and this one does: build it with "
            "upsampling_factor=0"
        )
    if net.inputs:
        raise ValueError(
            "the 2021 release has no augmentation, and this network is told of it: build it with "
            "augment_dim=0"
        )
    on_the_way_up = [list(level.get_submodule("blocks").children()) for level in net.up]
    if any(isinstance(block, Attended) for blocks in on_the_way_up for block in blocks[:-1]):
        raise ValueError(
            "the 2021 release attends after the last block of a level on the way up only: "
            "build the network with attn_every_up=False"
        )
    keys = []
    for place, (path, module) in enumerate(listed(net)):
        for theirs, ours in _PARTS.get(type(module), ()):
            keys.extend(_part_entries(net, f"all_modules.{place}", theirs, path, module, ours))
    return keys


@entries.register
def _(net: RefineNet) -> list[Entry]:
    keys = [
        Entry(_refinenet_name(key, len(net.stages)), key, tuple(value.shape))
        for key, value in net.state_dict().items()
    ]
    stored = {f"refine{n}": place for place, n in enumerate(_DOWN_NUMBERS[len(net.stages)])}
    # A stable sort: what is no refine block comes first, as it is.
    return sorted(keys, key=lambda entry: stored.get(entry.name.partition(".")[0], -1))


def listed(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The members of the release's list, in order, with their paths here."""
    for name, child in module.named_children():
        if type(child) in _PARTS or name in _ALWAYS_LISTED:
            yield path + name, child
        else:
            yield from listed(child, f"{path}{name}.")


def _part_entries(
    net: UNet, place: str, theirs: str, path: str, module: nn.Module, ours: str
) -> Iterator[Entry]:
    """The keys of one part of one member: its weight and its bias."""
    their_path = ".".join(filter(None, [place, theirs]))
    our_path = ".".join(filter(None, [path, ours]))
    part = getattr(module, ours) if ours else module
    if part is None:
        # The release's unconditional blocks keep their projection of the time; nothing reaches it.
        width = module.get_submodule("conv_0").get_parameter("weight").shape[0]
        yield Entry(f"{their_path}.weight", None, (width, net.temb_dim))
        yield Entry(f"{their_path}.bias", None, (width,))
        return
    nin = theirs.startswith("NIN")
    names = {"frequencies": "W"} | ({"weight": "W", "bias": "b"} if nin else {})
    for key, value in part.state_dict().items():
        matrix = nin and key == "weight"
        shape = (value.shape[1], value.shape[0]) if matrix else tuple(value.shape)
        yield Entry(
            name=f"{their_path}.{names.get(key, key)}",
            ours=f"{our_path}.{key}",
            shape=shape,
            matrix=matrix,
            trainable=key != "frequencies",
        )


def _refinenet_name(key: str, num_stages: int) -> str:
    """Translates a name of NCSN or NCSNv2."""
    down, up = _DOWN_NUMBERS[num_stages], _UP_NUMBERS[num_stages]
    key = re.sub(r"^stages\.(\d)", lambda m: f"res{down[int(m[1])]}", key)
    key = re.sub(r"^refine\.(\d)", lambda m: f"refine{up[int(m[1])]}", key)
    key = re.sub(r"pairs\.(\d)\.(\d)\.", lambda m: f"{int(m[1]) + 1}_{int(m[2]) + 1}_", key)
    for ours, theirs in _REFINE_NAMES.items():
        key = key.replace(f".{ours}.", f".{theirs}.")
    return key


def trainable_order(net: nn.Module) -> list[str]:
    """The release's names of what it trains, in order: `shadow_params` of its EMA go by this."""
    return [entry.name for entry in entries(net) if entry.trainable]


def uninformative(net: nn.Module) -> list[str]:
    """The release's names of weights without effect, which do not exist here and `dump` zeroes."""
    return [entry.name for entry in entries(net) if entry.ours is None]


def to_ours(net: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the 2021 release under the names, in the shapes and dtypes of a network.

    Args:
        net: NCSNpp, DDPM, NCSN or NCSNv2; only its shapes count, so it may be on the meta device.
        state_dict: Under the release's names, with or without `module.` and `_orig_mod.`.

    Raises:
        ValueError: Keys are missing, left over, of the wrong shape or no finite weights, or the
            table of noise levels is another one; the sentence lists them.
    """
    given = without_wrappers(state_dict)
    problems = _problems(net, given)
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"the weights do not fit this {type(net).__name__}, build it with the configuration "
            f"they were trained with: {'; '.join(problems[:_LISTED])}{more}"
        )
    kinds = _kinds(net)
    return {
        entry.ours: entry.to_ours(given[entry.name].detach().to(kinds[entry.ours]))
        for entry in entries(net)
        if entry.ours is not None
    }


def load(net: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Fills a network from a state dict of the 2021 release, strictly.

    Args:
        net: NCSNpp, DDPM, NCSN or NCSNv2.
        state_dict: Under the release's names, with or without the prefix `module.`.

    Raises:
        ValueError: As `to_ours`; nothing is changed then.
    """
    tensors = net.state_dict()
    with torch.no_grad():
        for name, value in to_ours(net, state_dict).items():
            tensors[name].copy_(value)


def to_theirs(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a network under the release's names, in its shapes, order and dtypes.

    The buffer `sigmas` is computed anew, in float64; what carries no information (`uninformative`)
    is zero.

    Args:
        net: NCSNpp, DDPM, NCSN or NCSNv2; only its shapes count, so it may be on the meta device.
        weights: Under the network's names.

    Returns:
        Tensors on the device of `weights` (`sigmas` on the CPU), copied only where needed.
    """
    state = _sigmas(net)
    for entry in entries(net):
        if entry.ours is None:
            state[entry.name] = next(iter(weights.values())).new_zeros(entry.shape)
        else:
            state[entry.name] = entry.to_theirs(weights[entry.ours])
    return state


def dump(net: nn.Module) -> dict[str, Tensor]:
    """The network's own state as `to_theirs` gives it, in a copy.

    Args:
        net: NCSNpp, DDPM, NCSN or NCSNv2.
    """
    state = to_theirs(net, net.state_dict())
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()
    }


def _sigmas(net: nn.Module) -> dict[str, Tensor]:
    """The release's buffer of noise levels, if the network has one there."""
    table = getattr(net, "sigma_table", None)
    return {} if table is None else {"sigmas": descending_sigmas(*table)}


def _problems(net: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting, in words, each weight by both names."""
    sigmas, kinds = _sigmas(net), _kinds(net)
    needed = {name: (tuple(value.shape), "derived", value.dtype) for name, value in sigmas.items()}
    for entry in entries(net):
        kind = torch.float32 if entry.ours is None else kinds[entry.ours]
        needed[entry.name] = (entry.shape, entry.ours or "unused", kind)
    problems = [f"{short_name(name)} is left over" for name in given if name not in needed]
    for name, (shape, ours, kind) in needed.items():
        if name not in given:
            problems.append(f"{name} ({ours} here) is missing")
        elif reason := misfit(given[name], shape, kind):
            problems.append(f"{name} ({ours} here) {reason}")
        elif name in sigmas and not _same_levels(given[name], sigmas[name]):
            first, last = given[name][0].item(), given[name][-1].item()
            problems.append(f"{name} runs from {first:g} to {last:g} instead of {net.sigma_table}")
    return problems


def _same_levels(given: Tensor, expected: Tensor) -> bool:
    """Whether noise levels are the same, as far as the type tells that they were saved in."""
    tolerance = max(1e-4, torch.finfo(given.dtype).eps)
    return torch.allclose(given.detach().double().cpu(), expected, rtol=tolerance, atol=0)


def _kinds(net: nn.Module) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in net.state_dict().items()}
