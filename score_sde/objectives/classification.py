"""The objective of a classifier of noisy images (Song et al. 2021, appendix I).

    E_t E [−log p(c | x_t)],    x_t = α x_0 + σ z,

with the times at which the recipe trains its score network, so that both know the same levels.

Symbols as in `sde`: x_0 (B, ...) data, t (B,) times, z noise with the shape of x_0; K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from score_sde.objectives.losses import Objective
from score_sde.score import NoisyClassifier
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to


class Classification:
    """The cross-entropy of each sample's class, in nats.

    Args:
        sde: the forward process.
        of_score: the objective of a score network, whose times are drawn.
    """

    def __init__(self, sde: SDE, of_score: Objective) -> None:
        self.sde, self.of_score = sde, of_score

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws times (n,) on (0, T]."""
        return self.of_score.time(self.of_score.times(n, device, generator))

    def time(self, t: Tensor) -> Tensor:
        """The times themselves."""
        return t

    def logits(
        self, net: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor, z: Tensor
    ) -> Tensor:
        """What a network makes of data with noise: (B, K)."""
        mean, std = self.sde.marginal_prob(x_0, t)
        return NoisyClassifier(net, self.sde)(mean + expand_to(std, x_0) * z, t)

    def __call__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """−log p(c | x_t) of each sample, (B,).

        Raises:
            ValueError: no labels.
        """
        if label is None:
            raise ValueError("a classifier learns from labels: give one for each image")
        return cross_entropy(self.logits(net, x_0, t, z), label, reduction="none")
