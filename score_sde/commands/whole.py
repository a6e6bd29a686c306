"""The whole of a state that is divided among processes, for what one of them evaluates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from score_sde import parallel
from score_sde.commands.run import Run
from score_sde.config.build import placed
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.training import TrainState


@contextmanager
def evaluated(run: Run) -> Iterator[Run | None]:
    """The run as the main process evaluates it; None for the others. Every process must enter it.

    A divided network computes with all processes or not at all, and an evaluation has as many
    steps as it finds, or is left off at a signal. So the main process is given a copy, which waits
    in the host's memory until the next one.
    """
    if not run.divided:
        yield run if run.world.is_main else None
        return
    state = run.state.state_dict()
    parts = (state["network"], state["ema"]["shadow"])
    if not run.world.is_main:
        parallel.take_part(parts)
        yield None
        return
    weights, shadow = (
        {name: parallel.whole(value).cpu() for name, value in part.items()} for part in parts
    )
    run.copy = run.copy or _copy_of(run)
    run.copy.step = run.state.step
    network = placed(run.config, run.copy.network)
    network.load_state_dict(weights)
    run.copy.ema.load_state_dict({**state["ema"], "shadow": shadow})
    try:
        yield replace(run, state=run.copy)
    finally:
        network.to("cpu")


def _copy_of(run: Run) -> TrainState:
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and not kept
        network = run.kind.network(run.config)
    average = ExponentialMovingAverage(network, run.state.ema.decay)
    return TrainState(network, average, run.state.optimizer)
