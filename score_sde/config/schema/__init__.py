"""Every field of a config, one row each: default, help, what it may hold, whether it may change.

Checks (`check`), resumption (`history`), the parts that recipes begin with (`parts`),
`--help_config` and docs/config.md all follow from these rows. A field that users add in a recipe
needs none: it is kept and recorded, and a run that is resumed may not change it.

Frequencies and lengths count training steps; noise levels are in units of the scaled data. No room
is imported here, so that `--help_config` needs no torch.
"""

from typing import Any

from score_sde.config.holds import SEED
from score_sde.config.schema import (
    classifier,
    data,
    evaluating,
    model,
    optim,
    restore,
    sampling,
    training,
)
from score_sde.config.schema.field import LARGEST_INT, Field, free

Config = Any
"""An `ml_collections.ConfigDict`; its fields have no static types."""

GROUPS = {
    "": "of the whole run",
    "training": "objective, lengths, logging",
    "sampling": "how samples are drawn, in snapshots and from checkpoints",
    "eval": "what --mode eval computes",
    "data": "the images",
    "model": "SDE and network; a recipe holds those that its parts set",
    "optim": "the optimiser",
    "restore": "what --mode restore, inpaint and colorize measure of images, and how they fit it",
    "classifier": "the classifier of noisy images that --mode train_classifier trains",
}
"""Groups of fields, in the order in which they are listed."""

FIELDS: dict[str, Field] = {
    "seed": Field(42, "decides weights, data order, training noise and samples", SEED),
    "device": free("auto", "auto (CUDA, then MPS, then CPU), or a name such as cuda:1"),
    **training.FIELDS,
    **sampling.FIELDS,
    **evaluating.FIELDS,
    **data.FIELDS,
    **model.FIELDS,
    **optim.FIELDS,
    **restore.FIELDS,
    **classifier.FIELDS,
}
"""Every row, by its dotted name; each group has a file of its own."""


def defaults(group: str) -> dict[str, Any]:
    """The default of every field of a group, by its name within it."""
    return {
        name.rpartition(".")[2]: field.default
        for name, field in FIELDS.items()
        if name.rpartition(".")[0] == group
    }


__all__ = ["FIELDS", "GROUPS", "LARGEST_INT", "Config", "Field", "defaults"]
