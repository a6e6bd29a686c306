"""Weights from checkpoints of any format: to sample from, to begin with, to convert."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_sde import checkpoints
from score_sde.atomic.weights import fit
from score_sde.commands.adopted import (
    check_adopted,
    decided_by_checkpoint,
    of_other_conventions,
)
from score_sde.config import history
from score_sde.config.build import (
    NEEDED,
    Config,
    augment_dim,
    build_network,
    build_sde,
    empty_network,
    field,
    image_shape,
    label_dropout,
    num_classes,
    upsampling_factor,
)
from score_sde.config.check import check_config
from score_sde.training import TrainState, load_weights

FILES = (".pt", ".pth")
_BEGUN, _CONVERTED = "init_from ", "converted_from "


def load_with_fingerprint(path: Path, config: Config) -> tuple[dict[str, Any], str]:
    """A checkpoint with the entries of ours, whatever its format, and its file's fingerprint.

    Args:
        path: one of ours, of the 2021 release, of NCSN and NCSNv2, or a folder of diffusers or
            its file of weights.
        config: the recipe that the weights of a published file or folder were trained with; ours
            bring their own.

    Raises:
        OSError: no such file.
        ValueError: a damaged file, another format, or weights that do not fit the recipe.
    """
    state, _, digest = _load(path, config)
    return state, digest


def _load(path: Path, config: Config | None) -> tuple[dict[str, Any], bool, str]:
    """A checkpoint with the entries of ours, whether it is one of ours, and its fingerprint."""
    is_folder, content, digest = path.is_dir() or checkpoints.is_part(path), None, ""
    is_folder &= not checkpoints.is_sharded(path)
    if not is_folder:
        content, digest = checkpoints.load_with_fingerprint(path)
        if not checkpoints.is_published(content):
            return checkpoints.checked(content, path), True, digest
    if config is None:
        raise ValueError(
            f"{path} is a published checkpoint, which does not say what it was trained with: "
            "name its recipe, such as --config configs/ve/cifar10_ncsnpp_continuous.py (in Python "
            "config='ve/cifar10_ncsnpp_continuous')"
        )
    check_config(config)
    network, decay = empty_network(config), config.model.ema_rate
    if is_folder:
        options = network_options(config)
        state, digest = checkpoints.from_folder(path, network, options, decay)
    else:
        state = checkpoints.from_published(content, network, decay, path)
    return _with_recipe(state, f"{_CONVERTED}{path} (sha256 {digest})", config), False, digest


def _with_recipe(state: dict[str, Any], origin: str, config: Config) -> dict[str, Any]:
    """Adds what a published checkpoint does not hold."""
    return {
        **state,
        "rng": {"cpu": torch.Generator().manual_seed(config.seed).get_state(), "cuda": []},
        "data": {"step": state["step"]},
        "config": history.to_json(config),
        "versions": provenance(origin),
    }


def open_checkpoint(
    config: Config | None,
    checkpoint: Path | None,
    workdir: Path,
    overrides: dict[str, object] | None = None,
    report: Callable[[str], None] = lambda text: None,
    *,
    upsampler: bool = False,
    fits: Callable[[Config], None] = lambda config: None,
) -> tuple[Config, Path, dict[str, Any]]:
    """The checkpoint named, or the newest of the work directory that is whole.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE, and
            without a recipe all else.
        checkpoint: a file of any format, or a folder of diffusers.
        workdir: where the newest is looked for if none is named.
        overrides: fields given on the command line, which may not contradict the checkpoint.
        report: is given a sentence for each damaged checkpoint that is passed over, and one of
            what the checkpoint decides against the recipe.
        upsampler: whether a network that upsamples will do, which takes low-resolution images.
        fits: refuses a network that the mode cannot use, before the sampler is checked, whose
            remedies would be of no use then.

    Returns:
        The config to use, where the checkpoint lies, and its content.

    Raises:
        OSError, ValueError: as `load_with_fingerprint`, or there is none, or a config that cannot
            run, or a network that upsamples where none will do.
    """
    if checkpoint is not None:
        path, state = checkpoint, _load(checkpoint, config)[0]
    elif newest := checkpoints.newest(workdir / "checkpoints", report):
        path, state = newest
    else:
        raise none_in(workdir / "checkpoints")
    recipe = history.from_json(state["config"]) if config is None else config
    adopted = history.adopt(recipe, state["config"], overrides or {}, path)
    if not upsampler:
        refuse_upsampler(adopted, path)
    check_adopted(adopted, state["config"], path, fits)
    if config is not None and (decided := decided_by_checkpoint(config, adopted)):
        report(decided)
    return adopted, path, state


def open_beside(
    path: Path,
    config: Config,
    overrides: dict[str, object],
    *,
    upsampler: bool,
    alone: bool = False,
) -> tuple[Config, dict[str, Any]]:
    """The second checkpoint of a cascade: it brings its own config.

    What the command line sets of `sampling`, and seed and device, are those of the first; labels
    where it has classes, and guidance where it has also learnt the score of no class. A classifier
    and a guide are of images of one size, and so lead the first alone.

    Args:
        path: a file of ours.
        config: of the first.
        overrides: fields given on the command line.
        upsampler: whether it has to upsample, or must not.
        alone: whether there is no first that draws, so that these lead it as well.

    Raises:
        OSError, ValueError: as `load_with_fingerprint`, a config that cannot run, or not such a
            network.
    """
    if steps := checkpoints.steps(path / "checkpoints"):
        newest = checkpoints.path_of(path / "checkpoints", steps[-1])
        raise ValueError(f"{path} is a work directory: name a checkpoint of it, as {newest}")
    state = _load(path, None)[0]
    own = history.from_json(state["config"])
    passed_over = list[str]()
    if not alone:
        passed_over += ["sampling.classifier", "sampling.classifier_scale", "sampling.guide"]
        passed_over += [] if num_classes(own) else ["sampling.label"]
        led = ["sampling.guidance", "sampling.guidance_interval"]
        passed_over += [] if label_dropout(own) else led
    own.seed, own.device = config.seed, config.device
    for name, value in overrides.items():
        group, _, leaf = name.partition(".")
        if group == "sampling" and name not in passed_over:
            own.sampling[leaf] = value
    if upsampler and not upsampling_factor(own):
        raise ValueError(
            f"{path} upsamples no images: name a checkpoint of a recipe such as "
            "configs/vp/digits_upsampler.py"
        )
    if not upsampler:
        refuse_upsampler(own, path)
    check_adopted(own, state["config"], path)
    return own, state


def refuse_upsampler(config: Config, path: Path) -> None:
    """Refuses a checkpoint whose network upsamples, where there is nothing to upsample.

    Raises:
        ValueError: it does.
    """
    if upsampling_factor(config):
        raise ValueError(f"{path}: {NEEDED}")


def network_of(
    config: Config,
    state: dict[str, Any],
    path: Path | str = "the checkpoint",
    *,
    raw: bool = False,
) -> nn.Module:
    """The network of a checkpoint, ready to evaluate: with its averaged weights, or the raw ones.

    Raises:
        ValueError: weights of another network, or none; lists the names, and `path`.
    """
    network = build_network(config)
    if raw:
        weights, what = state["network"], f"the saved network in {path}"
    else:
        weights, what = state["ema"].get("shadow"), f"the average in {path}"
    network.load_state_dict(fit(network.state_dict(), weights, what))
    return network.eval()


def none_in(folder: Path, came: str = "") -> ValueError:
    """What to raise where a folder holds no checkpoint; `came` says how long was waited."""
    return ValueError(
        f"{folder} holds no checkpoint{came}: train first (--mode train), "
        "or name one with --checkpoint"
    )


def network_options(config: Config) -> dict[str, Any]:
    """The fields of a config that describe its network."""
    data = {"num_channels": config.data.num_channels, "centered": config.data.centered}
    told = {"augment_dim": augment_dim(config)}
    return {**config.model.to_dict(), **data, **told, "image_size": image_shape(config)[1:]}


def begin_from(
    path: Path,
    config: Config,
    state: TrainState,
    report: Callable[[str], None] = lambda text: None,
) -> str:
    """Puts the averaged weights of a checkpoint into a fresh state, and into its average.

    Step, optimiser and the average's warm-up begin anew. `report` is given a warning where the
    weights were trained to put out something else, or were told the time in another way.

    Returns:
        Where the weights come from, for the log and the checkpoints of the run.

    Raises:
        OSError, ValueError: as `load_with_fingerprint`, or weights of another network.
    """
    given, _, digest = _load(path, config)
    weights = fit(state.network.state_dict(), given["ema"].get("shadow"), f"the average in {path}")
    load_weights(state.network, weights)
    state.ema.load_state_dict({**state.ema.state_dict(), "shadow": weights})
    if warning := of_other_conventions(given["config"], config, path):
        report(warning)
    return f"{_BEGUN}{path} (step {given['step']}, sha256 {digest})"


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


def provenance(*more: str) -> str:
    """The entry `versions` of a checkpoint: what wrote it, and more lines on its run."""
    lines = [f"{name} {version}" for name, version in history.versions().items()]
    return "\n".join(filter(None, [*lines, *more]))


def convert(path: Path, output: Path, config: Config | None) -> str:
    """Writes a checkpoint in another format.

    A published checkpoint becomes one of ours, our folder of shards one file where the output ends
    in .pt, and ours otherwise one of the 2021 release. Where the output's name does not end in .pt
    or .pth, any becomes a folder of diffusers with the averaged weights.

    Args:
        path: the file, or folder of diffusers, to read.
        output: the file or folder to write, which may not exist.
        config: the recipe of a published checkpoint; not needed for ours.

    Returns:
        What was done, in one sentence.

    Raises:
        OSError: a file that is missing or can't be written, or one that is there already.
        ValueError: a checkpoint that can't be used, a missing recipe, or a network that the other
            format does not have.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: move it away or choose another --output")
    state, is_ours, _ = _load(path, config)
    if checkpoints.is_sharded(path) and output.suffix == ".pt":
        checkpoints.save_as(output, state)
        return f"{path} is now {output}, one file of the same"
    written = history.from_json(state["config"])
    if is_ours:
        check_adopted(written, state["config"], path)
        state = checkpoints.fitted(state, empty_network(written), path)
    if is_ours or output.suffix not in FILES:
        _check_others_can_read(written)
    if output.suffix not in FILES:
        weights = state["ema"]["shadow"]
        checkpoints.save_folder(output, weights, empty_network(written), network_options(written))
        return (
            f"{path}, its averaged weights, is now the folder {output}, a UNet2DModel of diffusers"
        )
    if not is_ours:
        checkpoints.save_as(output, state)
        return f"{path}, published, is now {output}, of the recipe given"
    optim = written.optim
    settings = {
        "lr": optim.lr,
        "betas": (optim.beta1, 0.999),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "amsgrad": optim.amsgrad,
    }
    checkpoints.save_published(output, state, empty_network(written), settings)
    return f"{path} is now {output}, in the format of the 2021 release"


def _check_others_can_read(config: Config) -> None:
    """Refuses a network whose output other formats would take for something else."""
    prediction, usual = field(config, "model.prediction"), build_sde(config).network_output
    if prediction not in ("auto", usual):
        raise ValueError(
            f"model.prediction={prediction!r}: the 2021 release and diffusers have no word for "
            f"it, and would read what this network puts out as the {usual}; keep the checkpoint "
            "as it is, or train with 'auto'"
        )
