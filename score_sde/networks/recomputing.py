"""What a network keeps for its gradient: all that its parts compute, or what goes into them alone.

Activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): a
part that keeps only its input is computed again in the backward pass, one part at a time, with the
same dropout masks, so that gradients are the same bit for bit.

A network that can do so has the attribute `activation_checkpointing`, False at first, and makes
its parts through `runner`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

Runner = Callable[..., Any]
"""(part, *inputs) → part(*inputs)."""


def _kept(part: Callable[..., Any], *inputs: Any) -> Any:
    return part(*inputs)


def _made_again(part: Callable[..., Any], *inputs: Any) -> Any:
    return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=True)


def runner(network: nn.Module) -> Runner:
    """What computes the parts of a network, as its `activation_checkpointing` says.

    Without training nothing is computed twice: gradients of an evaluation (guidance, divergences)
    are of few samples, and their derivatives may be wanted, too.
    """
    return _made_again if network.activation_checkpointing and network.training else _kept


def recompute(network: nn.Module) -> None:
    """Lets a network keep only what goes into its parts when it is trained.

    Raises:
        ValueError: it has no attribute `activation_checkpointing`.
    """
    if not hasattr(network, "activation_checkpointing"):
        raise ValueError(
            f"training.activation_checkpointing=True: {type(network).__name__} does not divide "
            "itself into parts that could be computed again; set it to False, or raise "
            "training.accumulation to save memory (ncsnpp, ddpm and half_unet can)"
        )
    network.activation_checkpointing = True  # type: ignore[assignment]
