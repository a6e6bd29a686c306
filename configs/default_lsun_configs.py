"""Defaults of the recipes for images of 256 pixels, which forks of the 2021 release begin with."""

from ml_collections import ConfigDict

from score_sde.config import parts


def get_default_configs() -> ConfigDict:
    """The recipe without SDE and network, unlocked; LSUN's, as the other data sets override it."""
    return parts.recipe(
        parts.LARGE_IMAGES,
        {
            "data.dataset": "LSUN",
            "model.num_scales": 2000,
            "model.dropout": 0.0,
            "model.embedding_type": "fourier",
        },
    )
