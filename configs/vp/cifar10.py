"""Short for `configs/vp/cifar10_ddpmpp_continuous.py`, the first VP recipe for CIFAR-10."""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.CIFAR10, parts.VP)
