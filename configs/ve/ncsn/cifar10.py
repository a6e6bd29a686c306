"""NCSN (Song & Ermon 2019) on CIFAR-10, with ten noise levels.

Published: FID 25.32, Inception score 8.87 ± 0.12 (50,000 samples).
Command:   python main.py --config configs/ve/ncsn/cifar10.py --mode train
Cost:      30.1 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSN, parts.CIFAR10, parts.ANNEALED_LANGEVIN, parts.TEN_LEVELS)
