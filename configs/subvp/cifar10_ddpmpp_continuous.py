"""DDPM++ (continuous) on CIFAR-10 with the sub-VP SDE.

Published: FID 2.61, Inception score 9.56, FID 3.16 with ODE sampling (50,000 samples); 3.02
           bits/dim.
Command:   python main.py --config configs/subvp/cifar10_ddpmpp_continuous.py --mode train
Cost:      61.8 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.CIFAR10, parts.SUBVP)
