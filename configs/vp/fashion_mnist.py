"""A small DDPM++ on Fashion-MNIST (28×28) with the VP SDE: the step after the digits.

Command:   python main.py --config configs/vp/fashion_mnist.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores. The data are fetched where missing.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.FASHION_MNIST,
        parts.VP,
        parts.SMALL,
        {
            "model.attn_resolutions": (7,),
            "training.batch_size": 32,
            "training.n_iters": 1500,
            "training.snapshot_freq": 750,
            "training.snapshot_images": 64,
            "optim.lr": 1e-3,
        },
    )
