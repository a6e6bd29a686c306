"""SDEs by the names of the 2021 release; they live in `score_sde.sde`."""

from score_sde.sde import SDE, VESDE, VPSDE, ReverseSDE, subVPSDE

__all__ = ["SDE", "VESDE", "VPSDE", "ReverseSDE", "subVPSDE"]
