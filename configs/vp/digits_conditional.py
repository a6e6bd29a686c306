"""A small DDPM++ on the embedded digits (8×8) that is told which digit, or none: to be guided.

Command:   python main.py --config configs/vp/digits_conditional.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

Beside configs/vp/digits.py it has the ten classes, and leaves one label of ten out, by which it
learns the score of no class as well. --mode sample --label all --guidance 2.0 draws a row a class
by classifier-free guidance.
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
        {"model.num_classes": 10, "model.label_dropout": 0.1},
    )
