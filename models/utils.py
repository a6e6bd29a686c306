"""Networks and scores by the 2021 release's names; the logic is in `score_sde`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from score_sde.config.build import build_network
from score_sde.score import NetworkScore
from score_sde.sde import SDE


def create_model(config: Any) -> nn.Module:
    """The network of a config, on its device, called as net(x, cond)."""
    return build_network(config)


def get_model_fn(model: nn.Module, train: bool = False) -> Callable[..., Tensor]:
    """A network in training or evaluation mode.

    Returns:
        model_fn(x, cond, label=None) → the network's output, with the shape of x (B, ...). The
        mode is set before each call, since others may have changed it in between.
    """

    def model_fn(x: Tensor, cond: Tensor, *label: Tensor) -> Tensor:
        if model.training != train:
            model.train(train)
        return model(x, cond, *label)

    return model_fn


def get_score_fn(
    sde: SDE, model: nn.Module, train: bool = False, continuous: bool = False
) -> NetworkScore:
    """The score that a network stands for.

    Args:
        sde: the SDE that the network was trained for.
        model: called as model(x, cond).
        train: training mode; evaluation mode otherwise.
        continuous: trained on continuous times; False for the chains of SMLD and DDPM.

    Returns:
        score_fn(x, t) → ∇ log p_t(x), with the shape of x.
    """
    return NetworkScore(get_model_fn(model, train), sde, continuous)


def get_sigmas(config: Any) -> np.ndarray:
    """The noise levels of SMLD from the largest down: (config.model.num_scales,), float64."""
    model = config.model
    return np.exp(np.linspace(np.log(model.sigma_max), np.log(model.sigma_min), model.num_scales))
