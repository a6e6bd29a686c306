"""SDEs by the names of the 2021 release, with its time axis of the discrete chains.

They are those of `score_sde.sde`, but for one thing: the release puts step k of a chain at time
k T/(N − 1), whatever its noise level, and floors the times between. The library puts it where the
SDE has the chain's noise level.
"""

import torch
from torch import Tensor

from score_sde import sde
from score_sde.sde import SDE, ReverseSDE


class _ReleaseTimes(SDE):
    """Times and labels of a discrete chain as in the 2021 release."""

    def chain_times(self) -> Tensor:
        """k T/(N − 1): float64 (N,)."""
        return SDE.chain_times(self)

    def chain_position(self, t: Tensor) -> Tensor:
        """t (N − 1)/T, not rounded: (B,) → (B,)."""
        return t * (self.N - 1) / self.T

    def index(self, t: Tensor) -> Tensor:
        """The step at or below time t: (B,) → int64 (B,).

        The margin keeps the times of steps from rounding below them: their rounding error in
        float32, for any N.
        """
        margin = 4 * self.N * torch.finfo(torch.float32).eps
        return (self.chain_position(t) + margin).long()


class VESDE(_ReleaseTimes, sde.VESDE):
    """The release's VE SDE, `VESDE(sigma_min=0.01, sigma_max=50, N=1000)`."""


class VPSDE(_ReleaseTimes, sde.VPSDE):
    """The release's VP SDE, `VPSDE(beta_min=0.1, beta_max=20, N=1000)`."""


class subVPSDE(_ReleaseTimes, sde.subVPSDE):
    """The release's sub-VP SDE, `subVPSDE(beta_min=0.1, beta_max=20, N=1000)`."""


__all__ = ["SDE", "VESDE", "VPSDE", "ReverseSDE", "subVPSDE"]
