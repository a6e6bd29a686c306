"""Which images these are: a digest of all that they depend on."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from score_sde.config import history
from score_sde.config.build import Config, led_by


def origin_of(
    config: Config,
    tensors: Mapping[str, Tensor],
    *,
    times: Tensor | None = None,
    **facts: object,
) -> str:
    """A digest of all that an image depends on beside its number, which PNG files carry.

    Args:
        config: of the checkpoint, with seed and sampler.
        tensors: the network's, and others that count, by name.
        times: of a grid that was found for the network, if any.
        **facts: what else there is, as JSON can hold it.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    sampling = {**history.of_group(config, "sampling"), **led_by(config)}  # not their places
    if sampling.get("norms") != "batch":
        sampling.pop("batch_size", None)  # how many are drawn at a time changes none
    settings = {"seed": config.seed, "sampling": sampling, **facts}
    if times is not None:
        settings["times"] = times.tolist()
    settings["recipe"] = history.of_checkpoint(config)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]
