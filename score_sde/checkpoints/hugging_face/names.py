"""Weights under the names of `UNet2DModel`, to and fro.

Its plain blocks attend after every residual block of an attended level on the way up, DDPM of the
2021 release after the last one only. There the attention that is too much is *idle*: its output
projection is zero, so that it adds nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.atomic.weights import misfit, short_name, without_wrappers
from score_sde.networks.blocks import Attended
from score_sde.networks.unet import UNet

_BLOCK = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "dense": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
# Paths here and there; the first that fits counts. What is left of a name is a part of a block.
_PATHS = (
    (r"embedding\.frequencies", "time_proj.weight"),
    (r"conditioning\.dense_0", "time_embedding.linear_1"),
    (r"conditioning\.dense_1", "time_embedding.linear_2"),
    (r"conditioning\.classes", "class_embedding"),
    (r"head\.norm", "conv_norm_out"),
    (r"head\.conv", "conv_out"),
    (r"down\.(\d+)\.downsample\.conv\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"up\.(\d+)\.upsample\.conv\.", r"up_blocks.\1.upsamplers.0.conv."),
    (r"down\.(\d+)\.downsample\.", r"down_blocks.\1.resnet_down."),
    (r"up\.(\d+)\.upsample\.", r"up_blocks.\1.resnet_up."),
    (r"down\.(\d+)\.pyramid\.project\.", r"down_blocks.\1.skip_conv."),
    (r"up\.(\d+)\.pyramid\.head\.(norm|conv)", r"up_blocks.\1.skip_\2"),
    (r"(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"(down|up)\.(\d+)\.blocks\.(\d+)\.(?:block\.)?", r"\1_blocks.\2.resnets.\3."),
    (r"middle\.(\d)\.attention\.", r"mid_block.attentions.\1."),
    (r"middle\.(\d)\.(?:block\.)?", r"mid_block.resnets.\1."),
)
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LISTED = 20  # misfits that an error names


@dataclass(frozen=True)
class _Entry:
    """One key of the class's state dict: its name, our name (None for idle ones), its shape."""

    name: str
    ours: str | None
    shape: tuple[int, ...]


def _entries(net: UNet) -> Iterator[_Entry]:
    """The class's keys for a network that `unet2d_config` does not refuse."""
    for key, value in net.state_dict().items():
        name = _name(key, last_level=len(net.up) - 1, skip=net.head is None)
        # A linear layer there is a 1×1 convolution here.
        linear = ".attentions." in name and value.ndim == 4
        yield _Entry(name, key, tuple(value.shape[:2] if linear else value.shape))
    for place in _idle(net):
        width = net.get_parameter(f"{place.ours}.conv_1.weight").shape[0]
        for part in _ATTENTION.values():
            shape = (width,) if part == "group_norm" else (width, width)
            yield _Entry(f"{place.name}.{part}.weight", None, shape)
            yield _Entry(f"{place.name}.{part}.bias", None, (width,))


def _idle(net: UNet) -> Iterator[_Entry]:
    """Attention that the plain blocks have and a network has not, behind the block `ours`."""
    if net.head is None:
        return
    for i, level in enumerate(net.up):
        blocks = list(level.get_submodule("blocks").children())
        if isinstance(blocks[-1], Attended):
            for j, block in enumerate(blocks):
                if not isinstance(block, Attended):
                    yield _Entry(f"up_blocks.{i}.attentions.{j}", f"up.{i}.blocks.{j}", ())


def _name(key: str, *, last_level: int, skip: bool) -> str:
    """Translates a name of ours; `skip` for networks in Skip blocks."""
    # The head of the full resolution is the class's own output; the others belong to its levels.
    key = key.replace(f"up.{last_level}.pyramid.head.", "head.")
    for ours, theirs in _PATHS:
        if re.match(ours, key):
            key = re.sub(f"^{ours}", theirs, key)
            break
    if skip:  # these attend once on the way up, at the end
        key = re.sub(r"^(up_blocks\.\d+\.attentions)\.\d+", r"\1.0", key)
    parts = _ATTENTION if ".attentions." in key else _BLOCK
    return re.sub(r"\.(\w+)\.(\w+)$", lambda m: f".{parts.get(m[1], m[1])}.{m[2]}", key)


def to_theirs(net: UNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a network under the class's names, in its shapes.

    Args:
        net: of options that `unet2d_config` does not refuse; it may be on the meta device.
        weights: under the network's names.

    Returns:
        Contiguous tensors on the device of `weights`; idle attention (see the top) is zero.
    """
    like = next(iter(weights.values()))
    return {
        entry.name: like.new_zeros(entry.shape)
        if entry.ours is None
        else weights[entry.ours].reshape(entry.shape).contiguous()
        for entry in _entries(net)
    }


def to_ours(net: UNet, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the class under the names, in the shapes and dtypes of a network, strictly.

    Args:
        net: of options that `unet2d_config` does not refuse; it may be on the meta device.
        state_dict: under the class's names, the earlier ones of attention included.

    Raises:
        ValueError: keys are missing, left over, of the wrong shape or no weights, or
            attention that the network has not is not idle; the sentence lists them.
    """
    bare = without_wrappers(state_dict)
    given = {_newer(key) if isinstance(key, str) else key: value for key, value in bare.items()}
    entries = list(_entries(net))
    problems = _problems(net, entries, given)
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"the weights do not fit this {type(net).__name__}: "
            f"{'; '.join(problems[:_LISTED])}{more}"
        )
    tensors = net.state_dict()
    return {
        entry.ours: given[entry.name]
        .detach()
        .reshape(tensors[entry.ours].shape)
        .to(tensors[entry.ours].dtype)
        for entry in entries
        if entry.ours is not None
    }


def _newer(name: str) -> str:
    """The present name of a part of an attention layer."""
    path, _, part = name.partition(".attentions.")
    place, _, rest = part.partition(".")
    old, _, leaf = rest.partition(".")
    return f"{path}.attentions.{place}.{_EARLIER[old]}.{leaf}" if old in _EARLIER else name


def _problems(net: UNet, entries: list[_Entry], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting, in words, each weight by both names."""
    names = {entry.name for entry in entries}
    kinds = {name: value.dtype for name, value in net.state_dict().items()}
    problems = [f"{short_name(name)} is left over" for name in given if name not in names]
    for entry in entries:
        name, ours = entry.name, entry.ours or "unused"
        if name not in given:
            problems.append(f"{name} ({ours} here) is missing")
        elif reason := misfit(given[name], entry.shape, kinds.get(ours, torch.float32)):
            problems.append(f"{name} ({ours} here) {reason}")
    if not problems:
        problems = [
            f"{place.name} is at work behind {place.ours}, where this network, as in the 2021 "
            "release, attends after the last block of a level only: set model.attn_every_up=True"
            for place in _idle(net)
            if any(
                torch.any(given[f"{place.name}.to_out.0.{leaf}"]) for leaf in ("weight", "bias")
            )
        ]
    return problems
