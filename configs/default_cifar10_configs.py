"""Defaults of the recipes for CIFAR-10, which forks of the 2021 release begin with."""

from ml_collections import ConfigDict

from score_sde.config import parts


def get_default_configs() -> ConfigDict:
    """The recipe without SDE and network, unlocked."""
    return parts.recipe(parts.CIFAR10, {"model.dropout": 0.1, "model.embedding_type": "fourier"})
