"""Config → the classifier of noisy images, and what trains it (`--mode train_classifier`)."""

import torch
from torch import nn

from score_sde.config import schema
from score_sde.config.build.objects import (
    Config,
    as_trained,
    build_objective,
    checked,
    field,
    image_shape,
    placed,
    state_of,
)
from score_sde.networks.table import CLASSIFIERS
from score_sde.objectives import Classification
from score_sde.sde import SDE
from score_sde.tensor_ops import choose
from score_sde.training import TrainState


def build_classifier(config: Config) -> nn.Module:
    """The network of `config.classifier`, on the config's device.

    Raises:
        ValueError: an unknown name, or options that it refuses.
    """
    return placed(config, fresh_classifier(config))


def empty_classifier(config: Config) -> nn.Module:
    """The network without memory for its weights (on the meta device)."""
    with torch.device("meta"):
        return fresh_classifier(config)


def fresh_classifier(config: Config) -> nn.Module:
    """The network with fresh weights on the CPU.

    Raises:
        ValueError: as `build_classifier`.
    """
    name = field(config, "classifier.name")
    row = choose(CLASSIFIERS, name, "config.classifier.name")
    fields = {leaf: field(config, f"classifier.{leaf}") for leaf in schema.defaults("classifier")}
    made = row(fields, image_shape(config))
    return as_trained(config, checked(made, nn.Module, f"CLASSIFIERS[{name!r}]"))


def build_classifier_state(config: Config) -> TrainState:
    """The network with fresh weights, its moving average and its optimiser."""
    return state_of(config, fresh_classifier(config))


def build_classification(config: Config, sde: SDE) -> Classification:
    """What training minimises, at the times of the recipe's own objective."""
    return Classification(sde, build_objective(config, sde))
