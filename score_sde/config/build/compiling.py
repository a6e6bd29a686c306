"""Config → networks under `torch.compile`: for training steps, and for drawing samples."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from score_sde.config.build.objects import Config, field
from score_sde.score import Network
from score_sde.training import is_divided


def compiled(config: Config, network: nn.Module, device: torch.device) -> nn.Module:
    """The network under `torch.compile`, if the config says so.

    "auto" is on CUDA, where it is not divided among processes.
    """
    setting, whole = config.training.compile, not is_divided(network)
    on = setting == "on" or (setting == "auto" and device.type == "cuda" and whole)
    return torch.compile(network) if on else network  # type: ignore[return-value]


def compiled_evaluation(config: Config, network: Network) -> Network:
    """The network that samples are drawn with, under `torch.compile` if the config says so.

    It is then given batches of `sampling.batch_size` alone, as each size would be compiled by
    itself: smaller ones, such as the last, are filled up with copies of their first sample.
    """
    if not field(config, "sampling.compile"):
        return network
    made, size = torch.compile(network, dynamic=False), config.sampling.batch_size

    def full(value: Tensor) -> Tensor:
        missing = max(size - len(value), 0)
        return torch.cat([value, value[:1].expand(missing, *value.shape[1:])])

    def evaluate(x: Tensor, *more: Tensor, **inputs: Tensor) -> Tensor:
        if len(x) < size:
            more = tuple(full(value) for value in more)
            inputs = {name: full(value) for name, value in inputs.items()}
        with compiling("sampling.compile=False"):
            return made(full(x) if len(x) < size else x, *more, **inputs)[: len(x)]

    return evaluate


@contextmanager
def compiling(remedy: str) -> Iterator[None]:
    """Says in one sentence where torch cannot compile; other errors pass.

    Args:
        remedy: the field to set, with its value.

    Raises:
        ValueError: torch cannot, such as without a C++ compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ValueError(
            f"the network cannot be compiled here ({str(error).splitlines()[0]}): "
            f"set --config.{remedy}"
        ) from error
