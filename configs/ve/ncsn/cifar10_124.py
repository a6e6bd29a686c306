"""NCSN on CIFAR-10 with techniques 1, 2 and 4 of Song & Ermon 2020: 232 noise levels.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsn/cifar10_124.py --mode train
Cost:      39.8 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSN, parts.CIFAR10, parts.ANNEALED_LANGEVIN, parts.CIFAR10_LEVELS)
