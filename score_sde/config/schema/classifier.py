"""Rows of the group classifier: the classifier of noisy images."""

from score_sde.config.holds import LEVELS, SHARE, SIDES, Names, one_to, up_to
from score_sde.config.schema.field import Field, added

FIELDS: dict[str, Field] = {
    # Free: they are none of a score network's. What a classifier is made of its own run holds.
    "classifier.name": added(
        "half_unet", "the network", Names(table="score_sde.networks.table:CLASSIFIERS")
    ),
    "classifier.nf": added(32, "channels of the first level", one_to(65536)),
    "classifier.ch_mult": added((1, 2, 2), "channels of each level, in units of nf", LEVELS),
    "classifier.num_res_blocks": added(1, "residual blocks of each level", one_to(64)),
    "classifier.attn_resolutions": added((), "sides of the levels with attention", SIDES),
    "classifier.dropout": added(0.1, "share of activations dropped in training", SHARE),
    "classifier.num_classes": added(
        0, "class labels; 0: those of the training images", up_to(10**7)
    ),
}
