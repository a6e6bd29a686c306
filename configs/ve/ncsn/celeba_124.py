"""NCSN on CelebA at 64×64 with techniques 1, 2 and 4 of Song & Ermon 2020: 500 noise levels.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsn/celeba_124.py --mode train
Cost:      51.4 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSN, parts.CELEBA, parts.ANNEALED_LANGEVIN, parts.CELEBA_LEVELS)
