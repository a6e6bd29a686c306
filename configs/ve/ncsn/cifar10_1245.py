"""NCSN on CIFAR-10 with techniques 1, 2, 4 and 5 of Song & Ermon 2020.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsn/cifar10_1245.py --mode train
Cost:      39.8 M parameters, 1.3 M steps of 128 images; made for a GPU.

232 noise levels and averaged weights; the network is still told the level.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSN,
        parts.CIFAR10,
        parts.ANNEALED_LANGEVIN,
        parts.CIFAR10_LEVELS,
        {"model.ema_rate": 0.999},
    )
