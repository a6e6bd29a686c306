"""A small NCSN++ on the embedded digits (8×8) with σ(t) = t, the SDE of Karras et al. 2022.

Command:   python main.py --config configs/karras/digits.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    levels = {"training.time_sampling": parts.KARRAS["training.time_sampling"]}  # SMALL has others
    return parts.recipe(parts.NCSNPP, parts.DIGITS, parts.KARRAS, parts.SMALL, levels)
