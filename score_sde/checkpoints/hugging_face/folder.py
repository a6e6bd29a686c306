"""Folders that diffusers writes for a `UNet2DModel`: config.json and one file of weights.

A folder of a whole pipeline has them in `unet/`. Weights are read from safetensors or, in older
folders, from a pickle, of which no code is run. They are taken for the averaged ones: of the
`google/ncsnpp-*` and `google/ddpm-*` folders they are. The configuration describes the network
only, so the recipe has to tell the SDE, and must describe the same network.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn

from score_sde import atomic
from score_sde.checkpoints import hugging_face, state
from score_sde.checkpoints.files import CheckpointError, read
from score_sde.networks.unet import UNet

_CONFIG = "config.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def weights_file(folder: str | Path) -> Path:
    """The file of weights in a folder of diffusers, safetensors if it has both.

    Raises:
        CheckpointError: the folder is none of a `UNet2DModel`, or has no weights.
    """
    place, _ = _find(Path(folder))
    for name in _WEIGHTS:
        if (place / name).is_file():
            return place / name
    raise CheckpointError(f"{place} has a {_CONFIG}, but no {' or '.join(_WEIGHTS)}: download one")


def fingerprint(path: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of a checkpoint, or of the weights in such a folder."""
    return state.fingerprint(weights_file(path) if Path(path).is_dir() else path)


def from_folder(
    folder: str | Path, network: nn.Module, options: Mapping[str, Any], ema_rate: float
) -> dict[str, Any]:
    """The weights in a folder of diffusers as the entries step, network, ema and optimizer.

    Args:
        folder: written by diffusers, or by `save_folder`.
        network: of the recipe; only names and shapes count.
        options: of the same network, as for `hugging_face.unet2d_config`.
        ema_rate: decay of the average, which the folder does not tell.

    Raises:
        CheckpointError: a folder of something else, a damaged one, or one that does not fit the
            recipe; the sentence lists how.
        ValueError: diffusers cannot express the recipe's network.
    """
    place, config = _find(Path(folder))
    try:
        differing = hugging_face.disagreements(options, config)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{place / _CONFIG} is no configuration of a {hugging_face.CLASS_NAME} "
            f"({type(error).__name__}: {error}): use another folder"
        ) from error
    if differing:
        raise CheckpointError(
            f"{folder} holds another network than the recipe's: {'; '.join(differing)}; "
            "use the recipe that fits, or set these fields"
        )
    file = weights_file(folder)
    try:
        weights = hugging_face.to_ours(cast(UNet, network), _read(file))
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} holds no weights by name: use another folder") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return {
        "step": 0,
        "network": weights,
        "ema": {"decay": ema_rate, "num_updates": 0, "shadow": weights},
        "optimizer": {name: {} for name, _ in network.named_parameters()},
    }


def save_folder(
    folder: Path, weights: Mapping[str, Tensor], network: nn.Module, options: Mapping[str, Any]
) -> None:
    """Writes weights as a folder that `UNet2DModel.from_pretrained` takes.

    It is written under another name and renamed, so that it is there whole or not at all.

    Args:
        folder: the new folder; there may be nothing of that name.
        weights: under the network's names.
        network: of its recipe, filled with anything.
        options: of the same network, as for `hugging_face.unet2d_config`.

    Raises:
        ValueError: diffusers cannot express the network.
        OSError: the folder is there already, or can't be written.
    """
    config = hugging_face.unet2d_config(options)
    safetensors = _safetensors()
    cpu = {name: value.detach().cpu() for name, value in weights.items()}
    theirs = hugging_face.to_theirs(cast(UNet, network), cpu)
    content = safetensors.torch.save(theirs, metadata={"format": "pt"})
    if folder.exists():
        raise FileExistsError(f"{folder} exists: move it away or choose another name")
    text = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    try:
        with atomic.temporary(folder) as temporary:
            temporary.mkdir(parents=True)
            atomic.sweep(folder.parent)
            _write(temporary / _CONFIG, text)
            _write(temporary / _WEIGHTS[0], content)
            temporary.rename(folder)
    except OSError as error:
        raise OSError(
            f"cannot save {folder} ({error.strerror or error}): free some space or choose another "
            "place"
        ) from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the network lies, the folder itself or `unet/` of a pipeline's, and its configuration.

    Raises:
        CheckpointError: in neither is the configuration of a `UNet2DModel`.
    """
    for file in (folder / _CONFIG, folder / "unet" / _CONFIG):
        if file.is_file():
            try:
                config = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{file} is damaged ({error}): use another one") from error
            if isinstance(config, dict) and config.get("_class_name") == hugging_face.CLASS_NAME:
                return file.parent, config
    raise CheckpointError(
        f"{folder} has no {_CONFIG} of a {hugging_face.CLASS_NAME}, by itself or in unet/: name a "
        "folder of diffusers, or a checkpoint file"
    )


def _safetensors() -> ModuleType:
    """The package, which only these folders need."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(
            "folders of diffusers need the package safetensors, which is not installed: "
            "pip install safetensors"
        ) from error
    return safetensors


def _read(file: Path) -> dict[str, Tensor]:
    if file.name != _WEIGHTS[0]:
        return read(file)
    safetensors = _safetensors()
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}): use another one") from error
