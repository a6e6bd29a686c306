"""SDEs by their names in configs; a row makes one of the plain fields of the group `model`."""

from collections.abc import Callable, Mapping
from typing import Any

from score_sde.sde.exploding import KarrasVESDE, PowerVESDE
from score_sde.sde.interpolating import CosineVPSDE, StraightSDE
from score_sde.sde.linear import SDE
from score_sde.sde.paper import VESDE, VPSDE, subVPSDE


def _from_levels(kind: type[VESDE] | type[KarrasVESDE]) -> Callable[[Mapping[str, Any]], SDE]:
    return lambda model: kind(model["sigma_min"], model["sigma_max"], model["num_scales"])


def _from_betas(kind: type[VPSDE] | type[subVPSDE]) -> Callable[[Mapping[str, Any]], SDE]:
    def build(model: Mapping[str, Any]) -> SDE:
        beta_max, num_scales = model["beta_max"], model["num_scales"]
        if beta_max > num_scales:
            raise ValueError(
                f"model.num_scales={num_scales}: the chain of {kind.name} needs at least "
                f"beta_max={beta_max:g} scales, since beta_max/num_scales is a variance of at "
                "most 1; for fewer sampling steps set sampling.num_steps"
            )
        return kind(model["beta_min"], beta_max, num_scales)

    return build


SDES: dict[str, Callable[[Mapping[str, Any]], SDE]] = {
    VESDE.name: _from_levels(VESDE),
    VPSDE.name: _from_betas(VPSDE),
    subVPSDE.name: _from_betas(subVPSDE),
    PowerVESDE.name: lambda model: PowerVESDE(model["sigma"], model["num_scales"]),
    KarrasVESDE.name: _from_levels(KarrasVESDE),
    CosineVPSDE.name: lambda model: CosineVPSDE(model["num_scales"]),
    StraightSDE.name: lambda model: StraightSDE(model["num_scales"]),
}
"""Name in configs (`training.sde`) → the SDE of the fields of the group `model`."""
