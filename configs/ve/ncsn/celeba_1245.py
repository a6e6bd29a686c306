"""NCSN on CelebA at 64×64 with techniques 1, 2, 4 and 5 of Song & Ermon 2020.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsn/celeba_1245.py --mode train
Cost:      51.4 M parameters, 1.3 M steps of 128 images; made for a GPU.

500 noise levels and averaged weights; the network is still told the level.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSN,
        parts.CELEBA,
        parts.ANNEALED_LANGEVIN,
        parts.CELEBA_LEVELS,
        {"model.ema_rate": 0.999},
    )
