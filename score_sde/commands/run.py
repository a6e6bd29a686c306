"""What is trained, and what the parts of a training run share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_sde import checkpoints, parallel
from score_sde.commands.signals import Stop
from score_sde.config import changes
from score_sde.config.build import Config, divides
from score_sde.data import Source
from score_sde.data.memory import free_bytes
from score_sde.logbook import Logbook
from score_sde.sde import SDE
from score_sde.training import StepRecord, TrainState, TrainStep
from score_sde.training.step import Objective


@dataclass(frozen=True)
class Kind:
    """What is trained, and all that one loop has to know of it.

    Attributes:
        network: config → network with fresh weights, on the CPU.
        state: config → network with fresh weights, average and optimiser.
        objective: config, SDE → what is minimised.
        step: config, objective → one update.
        labelled: whether the network is given labels, or learns them.
        label_dropout: share of labels that are left out.
        screen: config, SDE → what `first_screen` says of it: `network`, `activations`,
            `snapshots`.
        held_out: run → what is measured on test images, by name.
        snapshot: what is made beside a checkpoint that is kept.
    """

    network: Callable[[Config], nn.Module]
    state: Callable[[Config], TrainState]
    objective: Callable[[Config, SDE], Objective]
    step: Callable[[Config, Objective], TrainStep]
    labelled: Callable[[Config], bool]
    label_dropout: Callable[[Config], float]
    screen: Callable[[Config, SDE], dict[str, Any]]
    held_out: Callable[["Run"], dict[str, float]]
    snapshot: Callable[["Run"], None]


@dataclass
class Run:
    """What the parts of a training run share.

    Attributes:
        copy: of a state that is divided among processes, whole, for what the main one evaluates.
    """

    kind: Kind
    config: Config
    workdir: Path
    log: Logbook
    device: torch.device
    sde: SDE
    objective: Objective
    state: TrainState
    train_source: Source
    test_source: Source
    origin: str
    changes: list[changes.Change]
    images_seen: int
    stop: Stop
    world: parallel.World
    records: list[StepRecord] = field(default_factory=list)
    saved_step: int = 0
    copy: TrainState | None = None
    saves: checkpoints.Saves = field(default_factory=lambda: checkpoints.Saves(free_bytes))

    @property
    def divided(self) -> bool:
        """Whether each process holds a part of the state, so that all must take part in a save."""
        return divides(self.config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.workdir / "checkpoints"

    @property
    def averages(self) -> Path:
        """Where snapshots of averages of several lengths go."""
        return self.workdir / "averages"
