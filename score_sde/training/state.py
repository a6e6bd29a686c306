"""Everything that training changes, saved and loaded by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from score_sde.atomic.weights import fit
from score_sde.networks.ema import ExponentialMovingAverage, bare_name
from score_sde.networks.power_average import PowerAverage
from score_sde.training.optimizer import load_named_state, named_state
from score_sde.training.sharding import load_weights


@dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        network: bare, compiled, wrapped for DDP or divided; names are those of the bare one.
        ema: made of the network (as a module).
        optimizer: made by `make_optimizer`.
        step: updates made so far.
        whole: False while an update is under way, when some of the tensors belong to this step
            and some to the next: an error in its midst leaves nothing that could be saved.
        averages: of several lengths, from which others are made afterwards; none by default.
    """

    network: nn.Module
    ema: ExponentialMovingAverage
    optimizer: Optimizer
    step: int = 0
    whole: bool = True
    averages: list[PowerAverage] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """`step`, `network`, `ema` and `optimizer`, the live tensors by name.

        The optimiser's entry holds one dict per parameter, empty where it had no gradient yet.
        Where averages of several lengths are tracked, `averages` has them by length.
        Learning rate and other settings belong to the config, not to the state.
        """
        tracked = {str(average.length): average.state_dict() for average in self.averages}
        return {
            "step": self.step,
            "network": {bare_name(k): v for k, v in self.network.state_dict().items()},
            "ema": self.ema.state_dict(),
            "optimizer": named_state(self.optimizer),
            **({"averages": tracked} if tracked else {}),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a saved state, whole, also where the network is divided among processes.

        Raises:
            ValueError: names or shapes differ, and the message lists them; or averages of other
                lengths.
        """
        tracked, saved = (
            [str(average.length) for average in self.averages],
            state_dict.get("averages", {}),
        )
        if sorted(tracked) != sorted(saved):
            raise ValueError(
                f"the state has averages of the lengths {', '.join(saved) or 'none'} where "
                f"{', '.join(tracked) or 'none'} are tracked: use a state of the same run"
            )
        current = self.network.state_dict()
        bare = {bare_name(name): name for name in current}
        expected = {name: current[key] for name, key in bare.items()}
        given = fit(expected, state_dict["network"], "the saved network")
        load_weights(self.network, {bare[name]: value for name, value in given.items()})
        self.ema.load_state_dict(state_dict["ema"])
        for average in self.averages:
            average.load_state_dict(saved[str(average.length)])
        load_named_state(self.optimizer, state_dict["optimizer"])
        self.step = state_dict["step"]
