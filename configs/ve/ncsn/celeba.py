"""NCSN (Song & Ermon 2019) on CelebA at 64×64, with ten noise levels.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsn/celeba.py --mode train
Cost:      30.1 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSN, parts.CELEBA, parts.ANNEALED_LANGEVIN, parts.TEN_LEVELS)
