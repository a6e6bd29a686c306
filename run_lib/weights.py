"""Weights from checkpoints of any format: to sample from, to begin with, to convert."""

import copy
import json
from pathlib import Path
from typing import Any

import ml_collections
import torch
from torch import nn

import assembly
import checkpoints
from assembly import Config
from models.ema import check_fit
from training import TrainState

_BEGUN, _CONVERTED = "init_from ", "converted_from "


def load_any(path: Path, config: Config) -> dict[str, Any]:
    """A checkpoint with the entries of ours, whatever its format.

    Args:
        path: one of ours, of the 2021 release, or of NCSN and NCSNv2.
        config: the recipe that the weights of a published file were trained with; ours bring
            their own.

    Raises:
        OSError: no such file.
        ValueError: a damaged file, another format, or weights that do not fit the recipe.
    """
    content = checkpoints.load_any(path)
    if checkpoints.is_published(content):
        return _of_published(content, path, config)
    return checkpoints.checked(content, path)


def _of_published(content: Any, path: Path, config: Config) -> dict[str, Any]:
    assembly.check(config)
    state = checkpoints.from_published(content, skeleton(config), config.model.ema_rate, path)
    origin = f"{_CONVERTED}{path} (sha256 {checkpoints.fingerprint(path)})"
    return {
        **state,
        "rng": {"cpu": torch.Generator().manual_seed(config.seed).get_state(), "cuda": []},
        "data": {"step": state["step"]},
        "config": assembly.to_json(config),
        "versions": provenance(origin),
    }


def begin_from(path: Path, config: Config, state: TrainState) -> str:
    """Puts the averaged weights of a checkpoint into a fresh state, and into its average.

    Step, optimiser and the average's warm-up begin anew.

    Returns:
        Where the weights come from, for the log and the checkpoints of the run.

    Raises:
        OSError, ValueError: as `load_any`, or weights of another network.
    """
    given = load_any(path, config)
    weights = given["ema"]["shadow"]
    check_fit(state.network.state_dict(), weights, f"the average in {path}")
    state.network.load_state_dict(weights)
    state.ema.load_state_dict({**state.ema.state_dict(), "shadow": weights})
    return f"{_BEGUN}{path} (step {given['step']}, sha256 {checkpoints.fingerprint(path)})"


def origin_of(written: dict[str, Any], wanted: Path | None, workdir: Path) -> str:
    """Where the run of a checkpoint has its weights from; empty if it began with fresh ones.

    Args:
        written: the checkpoint.
        wanted: what the command asks to begin from, if anything.
        workdir: named in the message.

    Raises:
        ValueError: the run began with other weights than the wanted ones.
    """
    lines = written["versions"].splitlines()
    origin = next((line for line in lines if line.startswith((_BEGUN, _CONVERTED))), "")
    if wanted and not origin.startswith(f"{_BEGUN}{wanted} "):
        raise ValueError(
            f"{workdir} holds checkpoints of a run that did not begin with --init_from {wanted}: "
            "choose another --workdir, or leave --init_from out to resume it"
        )
    return origin


def provenance(origin: str) -> str:
    """The entry `versions` of a checkpoint: what wrote it, and where its weights began."""
    lines = [f"{name} {version}" for name, version in assembly.versions().items()]
    return "\n".join(filter(None, [*lines, origin]))


def convert(path: Path, output: Path, config: Config | None) -> str:
    """Writes a published checkpoint in our format, or ours in that of the 2021 release.

    Args:
        path: the file to read.
        output: the file to write, which may not exist.
        config: the recipe of a published file; not needed for ours.

    Returns:
        What was done, in one sentence.

    Raises:
        OSError: a file that is missing or can't be written, or one that is there already.
        ValueError: a file that can't be used, a missing recipe, or a network that the release does
            not have.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: move it away or choose another --output")
    content = checkpoints.load_any(path)
    if checkpoints.is_published(content):
        if config is None:
            raise ValueError(
                f"{path} is a published checkpoint, which does not say what network it is of: "
                "name its recipe, such as --config configs/ve/cifar10_ncsnpp_continuous.py"
            )
        checkpoints.save_as(output, _of_published(content, path, config))
        return f"{path}, published, is now {output}, of the recipe given"
    state = checkpoints.checked(content, path)
    config = ml_collections.ConfigDict(json.loads(state["config"]))
    optim = config.optim
    settings = {
        "lr": optim.lr,
        "betas": (optim.beta1, 0.999),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "amsgrad": optim.amsgrad,
    }
    checkpoints.save_published(output, state, skeleton(config), settings)
    return f"{path} is now {output}, in the format of the 2021 release"


def skeleton(config: Config) -> nn.Module:
    """The network of a config without memory for its weights: names and shapes."""
    config = copy.deepcopy(config)
    with config.unlocked(), torch.device("meta"):
        config.device = "meta"
        return assembly.build_network(config)
