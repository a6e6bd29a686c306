"""The states of torch's random generators, as checkpoints hold them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from score_sde.checkpoints.files import CheckpointError


def rng_state() -> dict[str, Any]:
    """The states of torch's own generators: `cpu`, and under `cuda` one for each GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: Any, *, of_main: bool = False) -> None:
    """Puts the generators back to what `rng_state` saw; GPUs that are not there are left out.

    Args:
        state: of a checkpoint.
        of_main: whether each GPU goes on where that of the main process stood, the first one: it
            is another process's, and all draw the same.

    Raises:
        CheckpointError: it holds no such states; no generator has changed then.
    """
    states = generator_states(state, "the checkpoint")
    if of_main and len(states) > 1:
        first = states[1][1]
        states = [states[0], *((f"cuda:{k}", first) for k in range(torch.cuda.device_count()))]
    for device, generator_state in states:
        if device == "cpu":
            torch.set_rng_state(generator_state)
        else:
            torch.cuda.set_rng_state(generator_state, device)


def generator_states(state: Mapping[str, Any], where: str) -> list[tuple[str, Tensor]]:
    """Devices that are there, each with the state of its generator.

    Each is tried on a generator that nothing draws from.

    Raises:
        CheckpointError: one is missing or is no such state; names `where` it was read.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        states = [("cpu", state["cpu"])]
        states += [(f"cuda:{k}", saved) for k, saved in enumerate(state["cuda"][:present])]
        for device, generator_state in states:
            torch.Generator(device).set_state(generator_state)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{where} has as rng something else than the states of torch's random generators, "
            "without which the run would go on otherwise: use another one"
        ) from error
    return states
