"""Snapshots of the averages that a run tracks: what averages of other lengths are made of.

Each is one file, `step_00001000.pt`, with the averages of all tracked lengths at that step. It is
written and read as checkpoints are: whole or not at all, and without running code of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from score_sde.atomic.weights import fit, short
from score_sde.checkpoints.files import CheckpointError, read, write
from score_sde.checkpoints.state import path_of, steps
from score_sde.networks.power_average import PowerAverage


def snapshot_of(averages: Sequence[PowerAverage]) -> dict[str, dict[str, Tensor]]:
    """The live tensors of averages by their lengths, as text, and by name."""
    return {str(average.length): average.shadow for average in averages}


def save_snapshot(folder: Path, step: int, averages: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Writes the averages of a step, in the precision in which they are tracked.

    Args:
        folder: where snapshots lie; made where missing.
        step: updates made.
        averages: as `snapshot_of` gives them.

    Raises:
        OSError: the file can't be written, in one sentence.
    """
    path = path_of(folder, step)
    shadows = {length: _on_cpu(shadow) for length, shadow in averages.items()}
    write(path, {"step": step, "averages": shadows})
    return path


def load_snapshot(
    path: Path, weights: Mapping[str, Tensor], lengths: Sequence[float]
) -> dict[float, dict[str, Tensor]]:
    """The averages of a snapshot, by length and name.

    Args:
        path: of the file.
        weights: of the network by name; they may be on the meta device.
        lengths: those that it must hold.

    Raises:
        OSError: the file can't be opened.
        CheckpointError: it is damaged, or of another run.
    """
    try:
        content = read(path)[0]
        if not isinstance(content, Mapping) or not isinstance(content.get("averages"), Mapping):
            raise ValueError(f"{path} is {short(content)} instead of a snapshot of averages")
        step = content.get("step")
        if not isinstance(step, int) or path.name != path_of(path.parent, step).name:
            raise ValueError(f"{path} is a snapshot of step {step}, and its name says another")
        held = content["averages"]
        return {
            length: fit(
                weights, held.get(str(length)), f"the average of length {length} in {path}"
            )
            for length in lengths
        }
    except ValueError as error:
        raise CheckpointError(f"{error} (or move the file away, to do without it)") from error


def delete_snapshots_after(folder: Path, step: int) -> list[int]:
    """Deletes the snapshots of steps that a run makes again, or anew; gives these steps."""
    later = [one for one in steps(folder) if one > step]
    for one in later:
        path_of(folder, one).unlink(missing_ok=True)
    return later


def _on_cpu(shadow: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.detach().cpu() for name, value in shadow.items()}
