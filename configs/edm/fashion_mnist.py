"""A small DDPM++ on Fashion-MNIST (28×28), trained and sampled as in EDM.

Command:   python main.py --config configs/edm/fashion_mnist.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores. The data are fetched where missing.

The network, the images seen and the learning rate are those of configs/vp/fashion_mnist.py.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.FASHION_MNIST,
        parts.SMALL,
        parts.EDM,
        {
            "model.attn_resolutions": (7,),
            "model.sigma_data": 0.7,
            "training.batch_size": 32,
            "training.n_iters": 1500,
            "training.snapshot_freq": 750,
            "training.snapshot_images": 64,
            "training.average_freq": 150,
            "optim.lr": 1e-3,
        },
    )
