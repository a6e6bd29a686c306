"""A small DDPM++ on 24×16 posters, prepared as shards, trained and sampled as in EDM, by genre.

Command:   python examples/posters/draw.py --output posters --number 2000
           python main.py --mode prepare --input posters --output prepared --size 24x16
           python main.py --config configs/edm/posters.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores.

Every step from a folder of pictures to guided samples, at a size that a laptop trains: what
docs/your_own_images.md walks through before configs/vp/custom_64.py asks for a GPU. One label of
ten is left out, by which the network learns the score of no genre as well.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.SMALL,
        parts.EDM,
        {
            "data.dataset": "shards",
            "data.root": "prepared",
            "data.image_size": 24,
            "data.image_width": 16,
            "data.random_flip": False,  # titles are read one way
            "model.num_classes": 5,
            "model.label_dropout": 0.1,
            "model.sigma_data": 0.65,
            "training.batch_size": 32,
            "training.average_freq": 200,
        },
    )
