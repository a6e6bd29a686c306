"""Networks divided among processes, for those that do not fit on one device.

Each process holds its rows of every weight, and so of gradients, moments and averages. The weights
of a piece of the network are put together just before it computes, and dropped after it; gradients
are averaged over the processes and divided again as soon as they are there (fully sharded data
parallelism; Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel";
Rajbhandari et al. 2020, "ZeRO", stage 3). What is computed is what DistributedDataParallel does.

A network may say which are its pieces by a method `pieces`; one that does not is a single one.
Each piece must be called as a module, and what it is given must not be changed in place.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import parallel


def divide(network: nn.Module, device: torch.device) -> nn.Module:
    """Divides a network among all processes, in place; every process must hold the same one.

    Args:
        network: on the CPU, so that no device has to hold all of it.
        device: where each process computes.

    Raises:
        ValueError: a weight is a single number without an axis, which can't be divided.
    """
    # Here: a torch that is built without processes has none.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if scalars := [name for name, p in network.named_parameters() if p.ndim == 0]:
        raise ValueError(
            f"training.sharding='full': the weight {scalars[0]} is a single number without an "
            "axis, which cannot be divided; give it the shape (1,), or set 'none'"
        )
    mesh = init_device_mesh(device.type, (parallel.count(),))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # Also the whole of it is divided again at once: an evaluation between two steps changes
    # weights that would else be kept from the last one.
    options: Any = {"mesh": mesh, "reshard_after_forward": True}
    for piece in getattr(network, "pieces", list)():
        if any(True for _ in piece.parameters()):
            fully_shard(piece, **options)
    fully_shard(network, **options)
    # A U-Net cuts its output to the size of the image; nothing of ours changes it in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    return network


def whole_at_once(network: nn.Module) -> int:
    """The most weights of a divided network that each process has whole at a time.

    They are those of two neighbouring pieces, of which one computes while the next is put
    together, and those that belong to no piece. Their gradients are whole with them.
    """
    sizes = [_weights(piece) for piece in getattr(network, "pieces", list)()]
    pairs = [here + after for here, after in zip(sizes, [*sizes[1:], 0], strict=True)]
    return max(pairs, default=0) + _weights(network) - sum(sizes)


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def is_divided(network: nn.Module) -> bool:
    """Whether each process holds a part of the network."""
    first = next(network.parameters(), None)
    return first is not None and parallel.is_divided(first)


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts whole tensors into a network by its own names, also into a divided one."""
    current = network.state_dict()
    network.load_state_dict(
        {name: parallel.divided_as(value, current[name]) for name, value in weights.items()}
    )
