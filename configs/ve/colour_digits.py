"""A small NCSN++ on coloured digits (8×8, embedded) with the VE SDE, to inpaint and colourise.

Command:   python main.py --config configs/ve/colour_digits.py --mode train
           python main.py --config configs/ve/colour_digits.py --mode colorize
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

A class has two opposite colours, so that a grey digit has two right answers. The corrector mixes
what is drawn with what is known (docs/design.md).
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP,
        parts.COLOUR_DIGITS,
        parts.VE,
        parts.SMALL,
        {
            "model.sigma_max": 6.0,
            "sampling.predictor": "reverse_diffusion",
            "sampling.corrector": "langevin",
            "sampling.num_steps": 200,
        },
    )
