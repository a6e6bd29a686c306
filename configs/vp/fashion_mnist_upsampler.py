"""A small DDPM++ that makes 28×28 garments of 14×14 pixels: the second model of a cascade.

Command:   python main.py --config configs/vp/fashion_mnist_upsampler.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores. The data are fetched where missing.

The base model is configs/vp/fashion_mnist.py with --config.data.image_size=14
--config.data.downsampling=2, in a --workdir of its own.
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
        parts.UPSAMPLER,
        {
            "model.attn_resolutions": (7,),
            "training.batch_size": 32,
            "training.n_iters": 1500,
            "training.snapshot_freq": 750,
            "training.snapshot_images": 64,
            "optim.lr": 1e-3,
        },
    )
