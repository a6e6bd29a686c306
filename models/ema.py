"""The moving average by the name of the 2021 release, which works on lists of parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from score_sde.networks import ema as library

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage(library.ExponentialMovingAverage):
    """The library's average, whose lists may be read and replaced, as in the release.

    Given parameters it goes by order, and takes the average of the release's file too, whose
    matrices are the 1×1 convolutions of the networks here; given a module, it goes by name.
    """

    @property
    def shadow_params(self) -> list[Tensor]:
        """The averaged tensors, in the order of the parameters."""
        return super().shadow_params

    @shadow_params.setter
    def shadow_params(self, values: Iterable[Tensor]) -> None:
        self._replace(values)

    @property
    def collected_params(self) -> list[Tensor]:
        """What `store` keeps; empty before."""
        return self._stored or []

    @collected_params.setter
    def collected_params(self, values: Iterable[Tensor]) -> None:
        self._stored = list(values)

    @torch.no_grad()
    def restore(self, parameters: library.Parameters) -> None:
        """Puts the weights back that `store` kept; they stay kept.

        Raises:
            ValueError: nothing is stored.
        """
        kept = self._stored
        super().restore(parameters)
        self._stored = kept

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the state of another average, or the entry `ema` of the release's file.

        Raises:
            ValueError: number or shapes differ; nothing is changed then.
        """
        values = state_dict.get("shadow_params")
        if values is not None and not self.by_name:
            values = list(values)
            if len(values) != len(self._shadow):
                raise ValueError(
                    f"the average has {len(values)} weights where {len(self._shadow)} are trained "
                    "here: make it of the same network, or load the file by "
                    "utils.restore_checkpoint, which goes by name"
                )
            fitted = [as_kept(value, own) for value, own in zip(values, self._shadow, strict=True)]
            state_dict = {**state_dict, "shadow_params": fitted}
        super().load_state_dict(state_dict)

    def _replace(self, values: Iterable[Tensor]) -> None:
        values = list(values)
        own = {str(k): value for k, value in enumerate(self.shadow_params)}
        library.check_fit(own, {str(k): value for k, value in enumerate(values)}, "the average")
        self._shadow[: self._trained] = values


def as_kept(value: Tensor, own: Tensor) -> Tensor:
    """A tensor that goes with a weight, in the weight's shape.

    The release keeps a projection of the attention as a matrix (in, out), which is a 1×1
    convolution (out, in, 1, 1) here.
    """
    if value.ndim == 2 and own.ndim == 4 and own.shape == (*value.t().shape, 1, 1):
        return value.t()[..., None, None]
    return value
