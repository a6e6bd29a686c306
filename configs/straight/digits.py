"""A small DDPM++ on the embedded digits (8×8) with the straight path of flow matching.

Command:   python main.py --config configs/straight/digits.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.STRAIGHT, parts.SMALL)
