"""DDPM (Ho et al. 2020) on CIFAR-10.

Published: FID 3.24, FID 3.37 with ODE sampling (50,000 samples); 3.28 bits/dim. By Ho et al.: FID
           3.17, Inception score 9.46 ± 0.11, at most 3.75 bits/dim.
Command:   python main.py --config configs/vp/ddpm/cifar10.py --mode train
Cost:      35.2 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPM, parts.CIFAR10, parts.DDPM_CHAIN)
