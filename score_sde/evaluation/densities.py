"""What densities are told in: bits of grey levels, or nats of floats in their own units."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from score_sde import likelihoods
from score_sde.data import DatasetInfo


@dataclass(frozen=True)
class Unit:
    """What a density is told in.

    Attributes:
        name: bits or nats.
        nats: how many nats it is.
        per_dim: log densities of the data as the network sees them, in nats (n,) → what stands in
            a report, (n,).
        facts: of the data, for the report.
    """

    name: str
    nats: float
    per_dim: Callable[[Tensor], Tensor]
    facts: dict[str, Any]


def unit_of(info: DatasetInfo, inverse_scale: Callable[[Tensor], Tensor]) -> Unit:
    """The unit of a data set's densities.

    Args:
        info: of the data.
        inverse_scale: from the network's range to [0, 1].
    """
    told: dict[str, Any] = {"dimensions": math.prod(info.shape)}
    if info.range:
        told["width"] = likelihoods.unit_width(inverse_scale, *info.range)
        per_dim, facts = partial(likelihoods.nats_per_dim, **told), {"range": list(info.range)}
        return Unit("nats", 1.0, per_dim, facts)
    told["width"] = likelihoods.bin_width(inverse_scale, info.levels)
    per_dim = partial(likelihoods.bits_per_dim, **told)
    return Unit("bits", math.log(2), per_dim, {"levels": info.levels})
