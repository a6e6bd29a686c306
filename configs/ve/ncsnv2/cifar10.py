"""NCSNv2 (Song & Ermon 2020) on CIFAR-10, with 232 noise levels.

Published: FID 10.87, Inception score 8.40 ± 0.07 (50,000 samples).
Command:   python main.py --config configs/ve/ncsnv2/cifar10.py --mode train
Cost:      29.7 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNV2, parts.CIFAR10, parts.ANNEALED_LANGEVIN, parts.CIFAR10_LEVELS)
