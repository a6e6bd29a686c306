"""NCSN++ (continuous) on CIFAR-10 with the VE SDE.

Published: FID 2.38, Inception score 9.83 (50,000 samples).
Command:   python main.py --config configs/ve/cifar10_ncsnpp_continuous.py --mode train
Cost:      62.8 M parameters, 1.3 M steps of 128 images; made for a GPU: 0.56 s a step on four V100
           (the authors' measure of their release).
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNPP, parts.CIFAR10, parts.VE)
