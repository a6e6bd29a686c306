"""Checkpoints of a training loop by the 2021 release's names; formats are in `score_sde`."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models._optimizer import SETTINGS, load_by_name, state_by_name
from models._release import bare, without_module
from score_sde.atomic.weights import fit, misfit, no_plain_tensor, without_wrappers
from score_sde.checkpoints import files, from_published, release_2021, save_published
from score_sde.checkpoints.state import check_complete, checked, fitted, load_any
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.saved import count

__all__ = ["restore_checkpoint", "save_checkpoint"]


def restore_checkpoint(
    ckpt_dir: str | Path, state: dict[str, Any], device: torch.device | str | None = None
) -> dict[str, Any]:
    """Fills the state of a training loop from a file, in place and without running code of it.

    Args:
        ckpt_dir: the file: of the release, of `save_checkpoint`, of the command line, or with the
            four state dicts of a loop of one's own.
        state: `model`, `ema`, `optimizer` and `step`; what it lacks is not looked for.
        device: as in the release; everything stays on the device where it is.

    Returns:
        `state` itself, which is left as it is, with a warning, where there is no such file.

    Raises:
        CheckpointError, ValueError: the file is damaged or does not fit.
    """
    path = Path(ckpt_dir)
    if not path.is_file():
        warnings.warn(f"there is no checkpoint {path}: the state is left as it is", stacklevel=2)
        return state
    content = load_any(path)
    try:
        _fill(state, content, path)
    except files.CheckpointError:
        raise
    except ValueError as error:
        raise files.CheckpointError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise files.CheckpointError(
            f"{path} does not hold what belongs to this state ({type(error).__name__}: {reason}): "
            "give a file with model, ema, optimizer and step of the same network"
        ) from error
    return state


def _fill(state: dict[str, Any], content: Any, path: Path) -> None:
    net = bare(state["model"])
    if not _is_by_name(content, net):
        for name in ("model", "ema", "optimizer"):
            if state.get(name) is not None:
                _part(content, name, path, state[name])
        state["step"] = count(content["step"], f"the step in {path}")
        return
    ema, ours = state.get("ema"), isinstance(content, dict) and "network" in content
    if ours:
        given = fitted(checked(content, path), net, path)
    else:
        given = from_published(content, net, getattr(ema, "decay", 0.0), path)
    net.load_state_dict(given["network"])
    if ema is not None:
        ema.load_state_dict(_average_for(ema, net, given["ema"]))
    if state.get("optimizer") is not None:
        if isinstance(content, dict) and not content.get("optimizer"):
            check_complete(given, path, ("optimizer",))
        elif not given["optimizer"]:  # as the release writes before the first update
            warnings.warn(f"{path} has an optimizer without state: it begins anew", stacklevel=3)
        settings = {} if ours or isinstance(content, list) else content["optimizer"]
        group = settings.get("param_groups", [{}])[0]
        load_by_name(state["optimizer"], net, given["optimizer"], group)
    state["step"] = given["step"]


def save_checkpoint(ckpt_dir: str | Path, state: dict[str, Any]) -> None:
    """Writes the state of a training loop, for `restore_checkpoint` and for the command line.

    Weights have the release's names where the release has the network, else their own.

    Args:
        ckpt_dir: the file; its folder is made where missing.
        state: `model`, `ema`, `optimizer` and `step`.

    Raises:
        OSError: it can't be written.
    """
    path, net = Path(ckpt_dir), bare(state["model"])
    ema, optimizer = state["ema"], state["optimizer"]
    if not _in_release(net) or not isinstance(ema, ExponentialMovingAverage):
        parts = {name: state[name].state_dict() for name in ("optimizer", "ema")}
        files.write(path, {**parts, "model": net.state_dict(), "step": int(state["step"])})
        return
    average = ema.state_dict()
    if "shadow" not in average:
        trained = [name for name, weight in net.named_parameters() if weight.requires_grad]
        shadow = dict(zip(trained, average["shadow_params"], strict=True))
        average["shadow"] = {**net.state_dict(), **shadow}
    content = {
        "step": int(state["step"]),
        "network": net.state_dict(),
        "ema": average,
        "optimizer": state_by_name(optimizer, net),
    }
    group = optimizer.param_groups[0]
    save_published(path, content, net, {key: group[key] for key in SETTINGS if key in group})


def _in_release(net: nn.Module) -> bool:
    try:
        return bool(release_2021.entries(net))
    except ValueError:
        return False


def _is_by_name(content: Any, net: nn.Module) -> bool:
    """Whether a file is in the command line's format, or has the release's names of weights."""
    if not isinstance(content, dict):
        return True
    if "network" in content or not _in_release(net):
        return "network" in content
    names = net.state_dict().keys()
    model = content.get("model")
    return not isinstance(model, dict) or not without_wrappers(model, names).keys() <= names


def _average_for(ema: Any, net: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """An average by name as this one takes it: by name, or in the order of the trained weights."""
    if getattr(ema, "by_name", False):
        return given
    trained = [name for name, weight in net.named_parameters() if weight.requires_grad]
    return {**given, "shadow_params": [given["shadow"][name] for name in trained]}


def _part(content: Any, name: str, path: Path, target: Any) -> None:
    if name not in content:
        raise files.CheckpointError(
            f"{path} has {', '.join(content)} but no {name}: give a file with model, ema, "
            "optimizer and step"
        )
    part: Any = content[name]
    if name == "model":
        target = bare(target)
        expected = target.state_dict()
        plain = all(isinstance(value, torch.Tensor) for value in expected.values())
        part = fit(expected, part, f"the model in {path}") if plain else without_module(part)
    if name == "optimizer":
        for kept in part["state"].values():
            for key, value in kept.items():
                is_tensor = isinstance(value, torch.Tensor) and not no_plain_tensor(value)
                reason = misfit(value, tuple(value.shape), value.dtype) if is_tensor else ""
                if reason or not (is_tensor or isinstance(value, int | float)):
                    raise files.CheckpointError(
                        f"{key} of the optimizer in {path} {reason or 'is no tensor of numbers'}: "
                        "use another one"
                    )
    target.load_state_dict(part)
