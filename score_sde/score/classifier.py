"""What a network that classifies noisy images is given, by SDE and time.

Symbols as in `sde`: x (B, ...), t (B,), or one number for the whole batch; K classes.
"""

from collections.abc import Callable

from torch import Tensor

from score_sde.score.conventions import log_level_label
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to, times_for


class NoisyClassifier:
    """The logits of p(c | x_t), (x, t) → (B, K): what `ClassifierGuidedScore` is led by.

    The network is given the state divided by √(α² + σ²), which data of unit variance leave with
    unit variance at every time, and the logarithm of the noise level, 100 ln(σ/α)
    (`score.conventions`). So it knows the SDE's own α and σ, whatever the score network is told,
    and every time of it, those of a discrete chain included.

    Args:
        net: called as net(x, cond) → (B, K).
        sde: that it was trained for.
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], sde: SDE) -> None:
        self.net, self.sde = net, sde

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Logits, up to a constant of each sample: (B, K)."""
        t = times_for(x, t)
        size = (self.sde.mean_scale(t) ** 2 + self.sde.std(t) ** 2).sqrt()
        return self.net(x / expand_to(size, x), log_level_label(self.sde, t))
