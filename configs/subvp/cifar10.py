"""Short for `configs/subvp/cifar10_ddpmpp_continuous.py`, the first sub-VP recipe for CIFAR-10."""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.CIFAR10, parts.SUBVP)
