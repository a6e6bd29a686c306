"""The network of DDPM (continuous) on CIFAR-10 with the sub-VP SDE.

Published: FID 3.56 with ODE sampling (50,000 samples); 3.05 bits/dim.
Command:   python main.py --config configs/subvp/cifar10_ddpm_continuous.py --mode train
Cost:      35.2 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPM, parts.CIFAR10, parts.SUBVP)
