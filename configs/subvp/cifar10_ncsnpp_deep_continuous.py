"""NCSN++ (continuous, twice as deep) on CIFAR-10 with the sub-VP SDE.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/subvp/cifar10_ncsnpp_deep_continuous.py --mode train
Cost:      107.5 M parameters, 0.95 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP_VP,
        parts.CIFAR10,
        parts.SUBVP,
        {"model.num_res_blocks": 8, "training.n_iters": 950001},
    )
