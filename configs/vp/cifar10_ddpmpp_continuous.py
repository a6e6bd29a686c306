"""DDPM++ (continuous) on CIFAR-10 with the VP SDE.

Published: FID 2.55, Inception score 9.58, FID 3.93 with ODE sampling (50,000 samples); 3.16
           bits/dim.
Command:   python main.py --config configs/vp/cifar10_ddpmpp_continuous.py --mode train
Cost:      61.8 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPMPP, parts.CIFAR10, parts.VP)
