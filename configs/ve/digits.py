"""A small NCSN++ on the embedded digits (8×8) with the VE SDE.

Command:   python main.py --config configs/ve/digits.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

The largest noise level is about the largest distance between two digits (Song & Ermon 2020).
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP, parts.DIGITS, parts.VE, parts.SMALL, {"model.sigma_max": 6.0}
    )
