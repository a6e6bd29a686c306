"""Rows of the group optim: the optimiser."""

from score_sde.config.holds import ABOVE_0, AT_LEAST_0, NOT_0, SHARE, Names, Number
from score_sde.config.schema.field import Field, on_request

FIELDS: dict[str, Field] = {
    "optim.optimizer": on_request("Adam", "its kind", Names("Adam", "AdamW")),
    "optim.lr": on_request(2e-4, "learning rate", ABOVE_0),
    "optim.beta1": on_request(0.9, "decay of the first moment", SHARE),
    "optim.eps": on_request(1e-8, "added to the root of the second moment", ABOVE_0),
    "optim.weight_decay": on_request(
        0.0, "of Adam within the gradient, of AdamW beside it", AT_LEAST_0
    ),
    # Never: the largest second moment of the updates before is not there.
    "optim.amsgrad": Field(False, "keep the largest second moment"),
    "optim.warmup": on_request(
        5000, "steps over which the learning rate rises; 0: none", AT_LEAST_0
    ),
    "optim.grad_clip": on_request(
        1.0,
        "largest norm of the gradient; negative: no limit",
        Number(
            NOT_0.words,
            NOT_0.within,
            "a limit of 0 makes every gradient 0: give a number above 0, or a negative one for "
            "no limit",
        ),
    ),
}
