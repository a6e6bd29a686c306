"""The score that a network stands for.

Symbols as in `sde`: x (B, ...), t (B,), or one number for the whole batch.
"""

from collections.abc import Callable

from torch import Tensor

from score_sde.score import conventions
from score_sde.score.conventions import Parameterisation
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import times_for

ScoreFor = Callable[[Tensor], Score]
"""int64 (b,) sample indices → the score for these samples, so that labels follow their samples."""

Network = Callable[..., Tensor]
"""net(x, cond, label=None, **inputs): x (B, ...), cond (B,), label int64 (B,) → the shape of x.

What else it takes, by name, it declares in `net.inputs`.
"""


class NetworkScore:
    """The score that a network stands for: (x, t) → ∇ log p_t(x), with the shape of x.

    Args:
        net: called as net(x, cond), or net(x, cond, label) where `label` is given.
        sde: the SDE that the network was trained for.
        continuous: trained on continuous times; False for SMLD and DDPM.
        label: int64 (B,) classes, for class-conditional networks.
        parameterisation: how the network is told the time, and how its output is read; by default
            the papers' convention for `sde` and `continuous`.
        inputs: what else the network takes, by the names that it declares, each (B, ...).
    """

    def __init__(
        self,
        net: Network,
        sde: SDE,
        continuous: bool = True,
        label: Tensor | None = None,
        *,
        parameterisation: Parameterisation | None = None,
        **inputs: Tensor,
    ) -> None:
        self.net = net
        self.sde = sde
        self.label = label
        self.inputs = inputs
        self.parameterisation = parameterisation or conventions.parameterisation(sde, continuous)

    def output(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The network's own output at time t, with the shape of x."""
        t = times_for(x, t)
        given = self.parameterisation.input(x, t), self.parameterisation.label(t)
        return call(self.net, *given, self.label, **self.inputs)

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p_t(x), with the shape of x; t (B,), or one time for the whole batch."""
        t = times_for(x, t)
        return self.parameterisation.score(t)(x, self.output(x, t))

    def noise(self, x: Tensor, t: Tensor | float) -> Tensor:
        """E[z | x_t = x], with the shape of x, by the shortest way from the network's output."""
        t = times_for(x, t)
        return self.parameterisation.noise(t)(x, self.output(x, t))

    def denoised(self, x: Tensor, t: Tensor | float) -> Tensor:
        """E[x_0 | x_t = x], with the shape of x, by the shortest way from the network's output."""
        t = times_for(x, t)
        return self.parameterisation.denoised(t)(x, self.output(x, t))


def call(net: Network, x: Tensor, cond: Tensor, label: Tensor | None, **inputs: Tensor) -> Tensor:
    """A network's output; a network without labels need not take any."""
    return net(x, cond, **inputs) if label is None else net(x, cond, label, **inputs)
