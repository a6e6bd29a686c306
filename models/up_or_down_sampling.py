"""Imports like the release's `up_or_down_sampling`, whose names are refused when they are used."""

from models._moved import refuse

__getattr__ = refuse(
    __name__,
    "take upfirdn2d, FIRUp, FIRDown, NearestUp and AverageDown of score_sde.networks.resampling",
)
