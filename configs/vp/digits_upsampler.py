"""A small DDPM++ that makes 8×8 digits of 4×4 pixels: the second model of a cascade.

Command:   python main.py --config configs/vp/digits_upsampler.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

In training the small image is the means of 2×2 pixels of the large one, with noise; snapshots draw
from test images. --config configs/vp/digits_4x4.py --mode cascade --upsampler FILE draws from what
that base model draws.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, parts.UPSAMPLER)
