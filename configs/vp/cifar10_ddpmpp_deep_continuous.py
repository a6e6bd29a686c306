"""DDPM++ (continuous, twice as deep) on CIFAR-10 with the VP SDE.

Published: FID 2.41, Inception score 9.68, FID 3.08 with ODE sampling (50,000 samples); 3.13
           bits/dim.
Command:   python main.py --config configs/vp/cifar10_ddpmpp_deep_continuous.py --mode train
Cost:      106.6 M parameters, 0.95 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.CIFAR10,
        parts.VP,
        {"model.num_res_blocks": 8, "training.n_iters": 950001},
    )
