"""A small DDPM++ on the embedded digits at 4×4 pixels, means of 2×2: the base model of a cascade.

Command:   python main.py --config configs/vp/digits_4x4.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

configs/vp/digits_upsampler.py makes 8×8 pixels of what it draws (--mode cascade).
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.DIGITS,
        parts.VP,
        parts.SMALL,
        {"data.image_size": 4, "data.downsampling": 2},
    )
