"""Optimiser, its schedule, and its state by the names of the parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from score_sde import parallel
from score_sde.networks.ema import bare_name
from score_sde.networks.saved import fit_moments
from score_sde.tensor_ops import check_name, choose

OPTIMIZERS: dict[str, type[Adam]] = {"Adam": Adam, "AdamW": AdamW}
IMPLEMENTATIONS = ("auto", "fused", "foreach")


def make_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    name: str = "Adam",
    lr: float = 2e-4,
    beta1: float = 0.9,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    implementation: str = "auto",
) -> Optimizer:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019), with β₂ = 0.999.

    Args:
        named_parameters: as a module gives them; the state is saved under these names.
        name: "Adam" or "AdamW".
        lr: learning rate.
        beta1: decay of the mean of the gradients.
        eps: what is added to the root of the mean square.
        weight_decay: added to the gradient by Adam, taken off the weights by AdamW.
        amsgrad: use the largest mean square so far.
        implementation: "fused" (one pass over all weights; the CPU and CUDA), "foreach" (one
            operation at a time on all weights), or "auto": fused where all weights allow it.

    Raises:
        UnknownName: there is no such optimiser or implementation.
    """
    kind = choose(OPTIMIZERS, name, "optimizer")
    check_name(implementation, IMPLEMENTATIONS, "implementation")
    named = [(bare_name(key), parameter) for key, parameter in named_parameters]
    if implementation == "auto":
        can_fuse = all(p.device.type in ("cpu", "cuda") for _, p in named)
        implementation = "fused" if can_fuse else "foreach"
    optimizer = kind(
        named,
        lr=lr,
        betas=(float(beta1), 0.999),
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        **{implementation: True},
    )
    optimizer.register_load_state_dict_post_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: Optimizer) -> None:
    """Gives what belongs to a weight (moments) the memory layout of the weight.

    A state comes from a file or a device where the weights may have lain otherwise: contiguous
    instead of channels-last. The fused optimiser pairs weights and moments by their place in
    memory, without looking at strides.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def learning_rate(step: int, lr: float, warmup: int) -> float:
    """Linear warm-up, lr · min(step/warmup, 1).

    `step` counts the updates made before: as in the 2021 release, the first update of a warm-up
    has a rate of 0, and moves only the optimiser's own state.
    """
    return lr * min(step / warmup, 1.0) if warmup > 0 else lr


def named_state(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """The state of an optimiser made by `make_optimizer`: one dict per parameter, by name.

    A parameter that had no gradient yet has an empty one. Learning rate and other settings belong
    to the config, not to the state.
    """
    return {
        name: dict(optimizer.state.get(parameter, {}))
        for name, parameter in _named_parameters(optimizer).items()
    }


def load_named_state(optimizer: Optimizer, given: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts copies of a `named_state` in place, in whatever order its parameters are now.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    named = _named_parameters(optimizer)
    given = fit_moments(named, given, "the saved optimizer")
    whole = optimizer.state_dict()
    numbers = [number for group in whole["param_groups"] for number in group["params"]]
    whole["state"] = {
        number: {
            key: parallel.divided_as(value.clone(), parameter) if value.ndim else value.clone()
            for key, value in given[name].items()
        }
        for number, (name, parameter) in zip(numbers, named.items(), strict=True)
        if given[name]
    }
    optimizer.load_state_dict(whole)


def _named_parameters(optimizer: Optimizer) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
