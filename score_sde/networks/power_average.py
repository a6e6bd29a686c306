"""Power-function averages of weights, and averages of other lengths made of them afterwards.

An average of the weights θ(1), …, θ(n) of n updates with the profile of a power of time
(Karras et al. 2024, section 3.1),

    θ̂ ← θ + β(n) (θ̂ − θ),    β(n) = (1 − 1/n)^(γ+1),

gives the k-th update the weight (k^(γ+1) − (k−1)^(γ+1)) / n^(γ+1): the integral from k − 1 to k of
the profile p(t) = (γ+1) t^γ / n^(γ+1). So it forgets the start by itself, and its reach grows with
the training: its *length*, the standard deviation of p in units of n, is a constant,

    σ_rel = √(γ+1) / ((γ+2) √(γ+3)).

A sum of snapshots of such averages, taken at several steps and for two lengths, is an average with
the same sum of their profiles. The sum that is nearest to the profile of another length gives that
length after the training (section 3.2), by least squares with inner products in closed form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.saved import count

LONGEST = 1 / (2 * math.sqrt(3))
"""Length of the plain mean of all weights, γ = 0; below it a length has one γ > 0."""


def exponent_of(length: float) -> float:
    """γ of a length: the largest root of (γ+2)² (γ+3) σ_rel² = γ + 1.

    Raises:
        ValueError: a length outside of (0, 1/√12].
    """
    if not 0 < length <= LONGEST:
        raise ValueError(
            f"a length of {length:g}: that of an average lies above 0 and at most at "
            f"{LONGEST:.4f}, that of the mean of all weights"
        )
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def length_of(exponent: float) -> float:
    """The inverse of `exponent_of`, for exponents from 0 up."""
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def decay_of(step: int, length: float) -> float:
    """β(n) of the n-th update, the share of the average that it keeps."""
    return (1 - 1 / step) ** (exponent_of(length) + 1)


class PowerAverage:
    """The average of a network's weights of one length, by name, in float32 or better.

    What is not trained is copied, as by `ExponentialMovingAverage`. The first update sets it to
    the weights, whatever they were before.

    Args:
        network: bare, compiled or wrapped.
        length: σ_rel, in shares of the training.

    Attributes:
        length: as given.
        num_updates: n.

    Raises:
        ValueError: a length outside of (0, 1/√12].
    """

    def __init__(self, network: nn.Module, length: float) -> None:
        self.length, self.num_updates = length, 0
        self._power = exponent_of(length) + 1
        self._average = ExponentialMovingAverage(network, 0.0, use_num_updates=False)

    def update(self, network: nn.Module) -> None:
        """Takes in the weights; to be called after each optimiser step."""
        self.num_updates += 1
        self._average.decay = (1 - 1 / self.num_updates) ** self._power
        self._average.update(network)

    @property
    def shadow(self) -> dict[str, Tensor]:
        """The live tensors of the average by name, a whole network's."""
        return self._average.state_dict()["shadow"]

    def state_dict(self) -> dict[str, Any]:
        """`num_updates` and `shadow`."""
        return {"num_updates": self.num_updates, "shadow": self.shadow}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the state of another average of the same network and length.

        Raises:
            ValueError: names or shapes differ; nothing is changed then.
        """
        updates = count(state_dict.get("num_updates"), "num_updates of the average")
        plain = {"decay": 0.0, "num_updates": None, "shadow": state_dict.get("shadow")}
        self._average.load_state_dict(plain)
        self.num_updates = updates


@dataclass(frozen=True)
class Combination:
    """An average of some length as a sum of snapshots.

    Attributes:
        weights: of the snapshots, float64 (n,); they sum to 1.
        error: of the sum's profile, relative to the wanted one, in L².
    """

    weights: Tensor
    error: float


def combination(snapshots: Sequence[tuple[int, float]], step: int, length: float) -> Combination:
    """The sum of snapshots whose profile is nearest to that of an average of another length.

    The weights sum to 1, so that what training does not change comes out as it is.

    Args:
        snapshots: step and length of each, all different, the steps at most `step`.
        step: updates at which the wanted average stands.
        length: of the wanted average.
    """
    times = torch.tensor([one / step for one, _ in snapshots], dtype=torch.float64)
    exponents = torch.tensor([exponent_of(one) for _, one in snapshots], dtype=torch.float64)
    now, wanted = times.new_ones(1), times.new_full((1,), exponent_of(length))
    products = _inner_products(times[:, None], exponents[:, None], times, exponents)
    aims = _inner_products(times, exponents, now, wanted)
    # Of the least squares under the condition of the sum, with its multiplier.
    n = len(times)
    system = times.new_ones(n + 1, n + 1)
    system[:n, :n], system[n, n] = products, 0.0
    weights = torch.linalg.solve(system, torch.cat([aims, now]))[:n]
    own = _inner_products(now, wanted, now, wanted)
    left = (weights @ products @ weights - 2 * weights @ aims + own).clamp_min(0)
    return Combination(weights, float((left / own).sqrt()))


def _inner_products(t: Tensor, gamma: Tensor, s: Tensor, delta: Tensor) -> Tensor:
    """∫ p q of the profile p with exponent γ at time t and q with δ at time s.

    Both are 0 after their times. With s ≤ t, so that the integral ends at s, it is
    (γ+1) (δ+1) / (γ+δ+1) · (s/t)^γ / t.
    """
    later = torch.where(t >= s, gamma, delta)
    first, last = torch.minimum(t, s), torch.maximum(t, s)
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * (first / last) ** later / last
