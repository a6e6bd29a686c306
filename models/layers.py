"""Imports like the release's `models.layers`, whose names are refused when they are used."""

from models._moved import refuse

__getattr__ = refuse(
    __name__,
    "take activation, conv3x3, conv1x1, dense and SinusoidalEmbedding of "
    "score_sde.networks.layers, and the blocks of score_sde.networks.blocks",
)
