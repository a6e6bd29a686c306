"""DDPM++ on CIFAR-10 with EDM's configuration F.

Published: FID 1.97 with 35 evaluations (50,000 samples, Karras et al. 2022, table 2).
Command:   python main.py --config configs/edm/cifar10.py --mode train
Cost:      55.7 M parameters, 200 M images in 390,625 steps of 512; made for GPUs.

Mirror images come from the augmentation, of which the network is told, and so not from
data.random_flip: half of the images are mirrored left to right, 6 % top to bottom.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.CIFAR10,
        parts.EDM,
        {
            "model.ch_mult": (2, 2, 2),
            "model.dropout": 0.13,
            "model.ema_rate": 0.99929,  # a half-life of 0.5 M images
            "data.random_flip": False,
            "training.augment": 0.12,
            "training.augment_mirror": 1.0,
            "training.batch_size": 512,
            "training.n_iters": 390625,
            "training.average_freq": 20000,
            "optim.lr": 1e-3,
            "optim.warmup": 19531,  # 10 M images
            "optim.grad_clip": -1.0,
        },
    )
