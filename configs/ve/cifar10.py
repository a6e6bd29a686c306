"""Short for `configs/ve/cifar10_ncsnpp_continuous.py`, the first VE recipe for CIFAR-10."""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNPP, parts.CIFAR10, parts.VE)
