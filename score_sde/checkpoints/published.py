"""Checkpoints of the 2021 release, `checkpoint_N.pth`, and of the code of NCSN and NCSNv2.

In the release's files lie

    model       weights by the names of `release_2021`, all with the prefix `module.`
    ema         decay, num_updates, and the average as a list in the order of the trained weights
    optimizer   what torch's Adam saves, by the place of a weight (trained or frozen)
    step        updates made

The older code wrote a list of [model, optimizer, epoch, step, average by name]; NCSN's ends after
the optimizer. Either becomes the entries `step`, `network`, `ema` and `optimizer` of ours, by
name, and the release's also back. A user's loop on the networks here may write the release's four
entries under the names here; that is read as well. Learning rates and Adam's other settings are
the recipe's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.atomic.weights import misfit, short, without_wrappers
from score_sde.checkpoints import release_2021
from score_sde.checkpoints.files import CheckpointError, write
from score_sde.checkpoints.state import fitted, load_any
from score_sde.networks.saved import count, decay_and_updates

_ENTRIES = ("model", "ema", "step")
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_PREFIX = "module."
# What the contents of a file may raise that has the right entries with something else in them.
_ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)


def is_published(content: object) -> bool:
    """Whether the content of a file looks like the release's, or like the older lists."""
    if isinstance(content, Mapping):
        return "model" in content and "network" not in content
    return isinstance(content, list) and len(content) in (2, 4, 5)


def load_official(path: str | Path, config: Any) -> nn.Module:
    """The network of a config with the averaged weights of a published checkpoint in place.

    No code that the file may hold is run.

    Args:
        path: a `checkpoint_N.pth` of the 2021 release, or one of NCSN or NCSNv2.
        config: the recipe that it was trained with, ours or the release's.

    Returns:
        The network on the config's device, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, is none of these formats, or its weights do not fit; the
            sentence lists how.
    """
    from score_sde.config.build import build_network

    content = load_any(path)
    network = build_network(config)
    state = from_published(content, network, config.model.ema_rate, path)
    network.load_state_dict(state["ema"]["shadow"])
    return network.eval()


def from_published(
    content: Any, network: nn.Module, ema_rate: float, path: str | Path
) -> dict[str, Any]:
    """The content of a published file as the entries step, network, ema and optimizer of ours.

    Args:
        content: what `load_any` read.
        network: of the recipe that it was trained with; only names and shapes count.
        ema_rate: decay of the average, where the file does not tell it (NCSN, NCSNv2).
        path: named in errors.

    Raises:
        CheckpointError: the file has another format, or does not fit the network.
    """
    lacking = [name for name in _ENTRIES if isinstance(content, Mapping) and name not in content]
    if not is_published(content) or lacking:
        lack = f" (it lacks {', '.join(lacking)})" if lacking else ""
        raise CheckpointError(
            f"{path} is no published checkpoint{lack}: use a checkpoint_N.pth of the 2021 "
            "release, or a list of NCSN or NCSNv2"
        )
    try:
        parts = _of_release(content) if isinstance(content, Mapping) else _of_older(content)
        if without_wrappers(parts.model, network.state_dict().keys()).keys() == (
            network.state_dict().keys()
        ):
            return _of_own_loop(parts, network, path)
        weights = release_2021.to_ours(network, parts.model)
        shadow = weights
        if parts.averages is not None:
            shadow = release_2021.to_ours(
                network, parts.model | _averages(parts.averages, network)
            )
        decay = ema_rate if parts.decay is None else parts.decay
        return {
            "step": parts.step,
            "network": weights,
            "ema": {"decay": decay, "num_updates": parts.num_updates, "shadow": shadow},
            "optimizer": _optimizer_by_name(parts.optimizer, network),
        }
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except _ODD as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{path} looks like a published checkpoint, but its parts are not what they are there "
            f"({type(error).__name__}: {reason}): use another one"
        ) from error


def save_published(
    path: Path, state: Mapping[str, Any], network: nn.Module, settings: Mapping[str, Any]
) -> None:
    """Writes a checkpoint of ours in the format of the 2021 release.

    Weights without effect, which only the release has, are zero (`release_2021.uninformative`).

    Args:
        path: the new file.
        state: the entries `step`, `network`, `ema` and `optimizer`.
        network: of its recipe, filled with anything.
        settings: of Adam, as torch names them, for the file's `param_groups`.

    Raises:
        ValueError: the release has no such network.
        OSError: the file can't be written.
    """
    model = release_2021.to_theirs(network, state["network"])
    shadow = release_2021.to_theirs(network, state["ema"]["shadow"])
    content = {
        "optimizer": _optimizer_by_place(state["optimizer"], network, settings),
        "model": {_PREFIX + name: value for name, value in model.items()},
        "ema": {
            "decay": state["ema"]["decay"],
            "num_updates": state["ema"]["num_updates"],
            "shadow_params": [shadow[name] for name in release_2021.trainable_order(network)],
        },
        "step": state["step"],
    }
    write(path, content)


@dataclass(frozen=True)
class _Parts:
    """A published checkpoint of either age, under the names that it has in the file.

    Attributes:
        optimizer: None where the file has none.
        averages: in the order of the trained weights, or by name; None where there are none.
        decay: of the average; None where the file does not tell.
        num_updates: of the average; None where its decay does not warm up.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: Mapping[str, Any] | None
    averages: list[Tensor] | dict[str, Tensor] | None
    decay: float | None
    num_updates: int | None


def _of_release(content: Mapping[str, Any]) -> _Parts:
    ema = content["ema"]
    decay, updates = decay_and_updates(ema, "its average (ema)")
    return _Parts(
        step=count(content["step"], "its step"),
        model=_by_name(content["model"], "model"),
        optimizer=content.get("optimizer"),
        averages=list(ema["shadow_params"]),
        decay=decay,
        num_updates=updates,
    )


def _of_older(content: list[Any]) -> _Parts:
    model, optimizer, *rest = content
    steps = [count(one["step"], "a step of its optimizer") for one in optimizer["state"].values()]
    has_average = len(rest) == 3
    return _Parts(
        step=count(rest[1], "its step") if rest else max(steps, default=0),
        model=_by_name(model, "model"),
        optimizer=optimizer,
        averages=_by_name(rest[2], "average") if has_average else None,
        decay=None,
        num_updates=None if has_average else 0,  # theirs does not warm up; a fresh one here does
    )


def _of_own_loop(parts: _Parts, network: nn.Module, path: str | Path) -> dict[str, Any]:
    """The entries of a file by a loop of the user's: the four state dicts, by our own names."""
    trained = [name for name, weight in network.named_parameters() if weight.requires_grad]
    optimizer = parts.optimizer or {"state": {}, "param_groups": [{"params": trained}]}
    places = [place for group in optimizer["param_groups"] for place in group["params"]]
    averages = parts.averages
    if not isinstance(averages, list) or not len(averages) == len(places) == len(trained):
        raise ValueError(
            "its average and its optimizer are not those of this network's trained weights in "
            "their order: read it by the loop that wrote it"
        )
    model = without_wrappers(parts.model, network.state_dict().keys())
    shadow = model | dict(zip(trained, averages, strict=True))
    kept = optimizer["state"]
    moments = {
        name: dict(kept.get(place, {})) for name, place in zip(trained, places, strict=True)
    }
    state = {
        "step": parts.step,
        "network": model,
        "ema": {"decay": parts.decay, "num_updates": parts.num_updates, "shadow": shadow},
        "optimizer": {} if parts.optimizer is None else moments,
    }
    return fitted(state, network, path)


def _by_name(weights: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(weights, Mapping):
        raise ValueError(f"its {what} is {short(weights)} instead of tensors by name")
    return without_wrappers(weights)


def _averages(given: list[Tensor] | dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Averages by the release's names, one for each trained weight."""
    trained = release_2021.trainable_order(network)
    if isinstance(given, list):
        if len(given) != len(trained):
            raise ValueError(
                f"its average (ema) holds {len(given)} weights where this network trains "
                f"{len(trained)}: use the recipe that it was trained with"
            )
        return dict(zip(trained, given, strict=True))
    if missing := [name for name in trained if name not in given]:
        raise ValueError(f"its average (ema) lacks {', '.join(missing[:8])}: use a whole one")
    return given


def _optimizer_by_name(
    given: Mapping[str, Any] | None, network: nn.Module
) -> dict[str, dict[str, Any]]:
    """Adam's state by our names; empty for weights without a gradient yet, or without any."""
    if given is None:
        return {}
    entries = release_2021.entries(network)
    # Before torch 1.5 places were arbitrary numbers; the list of them is in order in any version.
    places = [place for group in given["param_groups"] for place in group["params"]]
    if len(places) != len(entries):
        raise ValueError(
            f"its optimizer has {len(places)} weights where this network has {len(entries)}: "
            "use the recipe that it was trained with"
        )
    if not given["state"]:  # written from weights without an optimizer
        return {}
    named = {}
    for place, entry in zip(places, entries, strict=True):
        if entry.ours is not None and entry.trainable:
            named[entry.ours] = {
                key: _moment(key, value, entry)
                for key, value in given["state"].get(place, {}).items()
            }
    return named


def _moment(key: Any, value: Any, entry: release_2021.Entry) -> Tensor:
    if key == "step":  # a plain number before torch 1.12
        return torch.tensor(float(count(value, f"the step of {entry.name} in its optimizer")))
    if key not in _MOMENTS:
        raise ValueError(f"its optimizer keeps {short(key)}: only the state of Adam can be taken")
    if reason := misfit(value, entry.shape, torch.float32):
        raise ValueError(f"{key} of {entry.name} ({entry.ours} here) {reason} in its optimizer")
    return entry.to_ours(value.detach().float())


def _optimizer_by_place(
    named: Mapping[str, Mapping[str, Any]], network: nn.Module, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The inverse of `_optimizer_by_name`, as torch's `Optimizer.state_dict` has it."""
    entries = release_2021.entries(network)
    state = {
        place: {
            key: value if key == "step" else entry.to_theirs(value)
            for key, value in named[entry.ours].items()
        }
        for place, entry in enumerate(entries)
        if entry.ours is not None and named.get(entry.ours)
    }
    group = {**settings, "params": list(range(len(entries)))}
    return {"state": state, "param_groups": [group]}
