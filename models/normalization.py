"""Imports like the release's `normalization`, whose names are refused when they are used."""

from models._moved import refuse

__getattr__ = refuse(
    __name__,
    "take group_norm of score_sde.networks.layers, and the instance norms of "
    "score_sde.networks.ncsnv2",
)
