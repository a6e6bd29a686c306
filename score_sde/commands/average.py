"""`--mode ema`: an average of another length than those tracked, made after the training."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from torch import Tensor, nn

from score_sde import checkpoints
from score_sde.commands.weights import open_checkpoint
from score_sde.config import history
from score_sde.config.build import Config, empty_network, field
from score_sde.networks.power_average import combination, decay_of

_MADE = "averaged_from "

Averages = dict[float, dict[str, Tensor]]
"""Those of one step: by length, then by the names of the weights."""


def average(
    config: Config,
    workdir: Path,
    *,
    output: Path | None = None,
    overrides: dict[str, object] | None = None,
) -> str:
    """Writes the newest checkpoint with an average of length `model.ema_length` in it.

    The average stands at the step of the checkpoint. It is made of the snapshots before it in
    WORKDIR/averages, and of the averages that the checkpoint tracks. The file is a checkpoint
    without what only training needs; its entry `versions` says what it is made of.

    Args:
        config: the recipe; the checkpoint's config rules network, data and SDE.
        workdir: of the run.
        output: the file to write, ending in .pt; by default in WORKDIR/averages.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        What was done, in one sentence.

    Raises:
        ValueError: no checkpoint, no snapshots, or a length that is none of those between the
            tracked ones.
        OSError: a file that can't be read or written, or an output that is there already.
    """
    length, folder = field(config, "model.ema_length"), workdir / "averages"
    if output is not None and (output.suffix != ".pt" or output.exists()):
        fault = "exists" if output.exists() else "is no name in .pt"
        raise ValueError(f"--output {output} {fault}: give the name of a new file in .pt")
    config, path, state = open_checkpoint(config, None, workdir, overrides, upsampler=True)
    tracked = _tracked(config, length, path)
    network, step = empty_network(config), state["step"]
    state = checkpoints.fitted(state, network, path)
    own = {float(name): kept["shadow"] for name, kept in state.get("averages", {}).items()}
    steps = [one for one in checkpoints.steps(folder) if one < step]
    if not steps or own.keys() != {*tracked}:
        raise ValueError(
            f"{folder} has no snapshots of the averages that {path} tracks, from before its step: "
            "keep them beside the checkpoints, or train on, with a lower "
            "--config.training.average_freq"
        )
    parts = [(one, kept) for one in (*steps, step) for kept in tracked]
    mixed = combination(parts, step, length)
    weights = dict(zip(parts, mixed.weights.tolist(), strict=True))
    each = chain(_snapshots(folder, steps, network, tracked), [(step, own)])
    shadow = _sum_of(weights, each, network)
    with config.unlocked():
        config.model.ema_length = length
    made = {"length": length, "profile_error": mixed.error, "weights": list(weights.items())}
    content = {
        "step": step,
        "network": state["network"],
        "ema": {"decay": decay_of(step, length), "num_updates": None, "shadow": shadow},
        "optimizer": {},
        "rng": {},
        "data": {},
        "config": history.to_json(config),
        "versions": f"{state['versions']}\n{_MADE}{json.dumps(made)}",
    }
    output = output or folder / f"length_{length:g}_step_{step:08d}.pt"
    checkpoints.save_as(output, content)
    return (
        f"{output} has the average of length {length:g} at step {step}, made of {len(parts)} "
        f"averages at {len(steps) + 1} steps (their profile differs from its own by "
        f"{100 * mixed.error:.2g} %): name it with --checkpoint"
    )


def _tracked(config: Config, length: float, path: Path) -> list[float]:
    """The lengths that a run tracks, if the wanted one lies between them."""
    tracked = sorted(field(config, "model.ema_lengths"))
    if not tracked:
        raise ValueError(
            f"{path} is of a run that tracks no averages to make others of: train one with "
            "--config.model.ema_lengths=(0.05,0.1)"
        )
    if not tracked[0] <= length <= tracked[-1]:
        given = f"config.model.ema_length={length:g}" if length else "config.model.ema_length"
        raise ValueError(
            f"{given}: give a length from {tracked[0]:g} to {tracked[-1]:g}, between those that "
            f"the run of {path} tracks"
        )
    return tracked


def _snapshots(
    folder: Path, steps: list[int], network: nn.Module, lengths: list[float]
) -> Iterator[tuple[int, Averages]]:
    weights = network.state_dict()
    for step in steps:
        path = checkpoints.path_of(folder, step)
        yield step, checkpoints.load_snapshot(path, weights, lengths)


def _sum_of(
    weights: Mapping[tuple[int, float], float],
    snapshots: Iterable[tuple[int, Averages]],
    network: nn.Module,
) -> dict[str, Tensor]:
    """The sum of the snapshots' averages, in float64 and then in the dtypes of a network.

    What is not trained is that of the last one.

    Args:
        weights: by step and length.
        snapshots: steps with their averages.
        network: that they belong to, on the meta device.
    """
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    total: dict[str, Tensor] = {}
    for step, averages in snapshots:
        for length, average in averages.items():
            for name, value in average.items():
                if name not in trained:
                    total[name] = value
                elif name in total:
                    total[name].add_(value.double(), alpha=weights[step, length])
                else:
                    total[name] = weights[step, length] * value.double()
    return {name: total[name].to(value.dtype) for name, value in network.state_dict().items()}
