"""Stochastic differential equations that turn data into noise, and their reversal.

`linear` says what an SDE is and what follows from its mean scale and std; `paper` holds those of
the paper, `exploding` and `interpolating` those added since, `table` their names in configs. A new
one is a child of `SDE` with these two functions, a range for t and a name.
"""

from score_sde.sde.exploding import KarrasVESDE, PowerVESDE
from score_sde.sde.interpolating import CosineVPSDE, StraightSDE
from score_sde.sde.linear import SDE, ReverseSDE, Score
from score_sde.sde.paper import VESDE, VPSDE, subVPSDE
from score_sde.sde.table import SDES

__all__ = [
    "SDE",
    "SDES",
    "VESDE",
    "VPSDE",
    "CosineVPSDE",
    "KarrasVESDE",
    "PowerVESDE",
    "ReverseSDE",
    "Score",
    "StraightSDE",
    "subVPSDE",
]
