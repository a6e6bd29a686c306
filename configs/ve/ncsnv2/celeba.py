"""NCSNv2 (Song & Ermon 2020) on CelebA at 64×64, with 500 noise levels.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsnv2/celeba.py --mode train
Cost:      29.7 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNV2, parts.CELEBA, parts.ANNEALED_LANGEVIN, parts.CELEBA_LEVELS)
