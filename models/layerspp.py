"""Imports like the release's `models.layerspp`, whose names are refused when they are used."""

from models._moved import refuse

__getattr__ = refuse(
    __name__,
    "take GaussianFourierProjection of score_sde.networks.layers, ResidualBlock, BigGANBlock and "
    "AttentionBlock of score_sde.networks.blocks, and score_sde.networks.resampling",
)
