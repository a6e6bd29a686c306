"""Tensors that are divided among processes, each of which holds some of the rows.

They are torch's `DTensor`, with the shape of the whole. All other tensors pass through here
unchanged, so that who saves and loads weights need not ask which of them it has.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """How many processes there are in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0 up."""
    return dist.get_rank() if count() > 1 else 0


def is_divided(tensor: Tensor) -> bool:
    """Whether each process holds a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process must call it, for the same one."""
    divided: Any = tensor
    return divided.full_tensor() if is_divided(tensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; the two share their memory."""
    divided: Any = tensor
    return divided.to_local() if is_divided(tensor) else tensor


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as another one is; nothing is exchanged, as all hold all of it."""
    if not is_divided(like) or is_divided(tensor):
        return tensor
    # Here: a torch that is built without processes has none.
    from torch.distributed.tensor import distribute_tensor

    other: Any = like
    there = tensor.to(like.device)
    return distribute_tensor(there, other.device_mesh, other.placements, src_data_rank=None)


def take_part(content: object) -> None:
    """Gives the others this process's parts of all tensors of nested dicts, lists and tuples.

    It is what the others do while the main process makes `whole` ones of them, in their order.
    """
    if isinstance(content, Tensor):
        whole(content.detach())
    elif isinstance(content, dict):
        for value in content.values():
            take_part(value)
    elif isinstance(content, list | tuple):
        for value in content:
            take_part(value)
