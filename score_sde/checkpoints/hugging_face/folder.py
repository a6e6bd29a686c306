"""Folders that diffusers writes for a `UNet2DModel`: config.json and one file of weights.

The file of weights, named by itself, stands for its folder. A folder of a whole pipeline has them
in `unet/`. Weights are read from safetensors or, in older folders, from a pickle, of which no code
is run. They are taken for the averaged ones: of the `google/ncsnpp-*` and `google/ddpm-*` folders
they are. The configuration describes the network only, so the recipe has to tell the SDE, and must
describe the same network.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn

from score_sde import atomic
from score_sde.checkpoints import hugging_face
from score_sde.checkpoints.files import DIGITS, CheckpointError, read
from score_sde.networks.unet import UNet

_CONFIG = "config.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin")


def is_part(path: Path) -> bool:
    """Whether a file is one of weights by itself, which takes its folder's config.json to be read.

    A pickle is one only beside such a config.json: others write `.bin`, too.
    """
    if not path.is_file():
        return False
    return (path.suffix == ".bin" and (path.parent / _CONFIG).is_file()) or _is_safetensors(path)


def _is_safetensors(path: Path) -> bool:
    """Whether a file is called so, or begins so."""
    with atomic.open_regular(path) as file:
        return path.suffix == ".safetensors" or atomic.begins_as_safetensors(file.read(9))


def weights_file(path: str | Path) -> Path:
    """The file of weights in a folder of diffusers, safetensors if it has both; a file itself.

    Of other names, as of variants in half precision, there may be one only.

    Raises:
        CheckpointError: the folder is none of a `UNet2DModel`, or has no weights.
    """
    if Path(path).is_file():
        return Path(path)
    place, _ = _find(Path(path))
    for name in _WEIGHTS:
        if (place / name).is_file():
            return place / name
    others = [other for other in sorted(place.iterdir()) if other.suffix in _SUFFIXES]
    if len(others) == 1:
        return others[0]
    names = ", ".join(other.name for other in others[:4])
    raise CheckpointError(
        f"{place} has a {_CONFIG}, but no {' or '.join(_WEIGHTS)}: "
        + (f"name one of its files ({names})" if others else "download one")
    )


def from_folder(
    folder: str | Path, network: nn.Module, options: Mapping[str, Any], ema_rate: float
) -> tuple[dict[str, Any], str]:
    """The weights in a folder of diffusers as the entries step, network, ema and optimizer.

    With them comes the fingerprint of the file of weights (see `files.read`).

    Args:
        folder: written by diffusers, or by `save_folder`; or the file of weights in it.
        network: of the recipe; only names and shapes count.
        options: of the same network, as for `hugging_face.unet2d_config`.
        ema_rate: decay of the average, which the folder does not tell.

    Raises:
        CheckpointError: a folder of something else, a damaged one, or one that does not fit the
            recipe; the sentence lists how.
        ValueError: diffusers cannot express the recipe's network.
    """
    file = Path(folder)
    place, config = _find(file.parent if file.is_file() else file, file)
    hugging_face.unet2d_config(options)  # what the recipe may raise is no fault of the folder
    try:
        differing = hugging_face.disagreements(options, config)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{place / _CONFIG} is no configuration of a {hugging_face.CLASS_NAME} "
            f"({type(error).__name__}: {str(error)[:200]}): use another folder"
        ) from error
    if differing:
        raise CheckpointError(
            f"{folder} holds another network than the recipe's: {'; '.join(differing)}; "
            "use the recipe that fits, or set these fields"
        )
    file = weights_file(folder)
    content, digest = _read(file, network)
    try:
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{file} holds no weights by name: use another folder")
        weights = hugging_face.to_ours(cast(UNet, network), content)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return {
        "step": 0,
        "network": weights,
        "ema": {"decay": ema_rate, "num_updates": 0, "shadow": weights},
        "optimizer": {name: {} for name, _ in network.named_parameters()},
    }, digest


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


def _find(folder: Path, given: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Where the network lies, the folder itself or `unet/` of a pipeline's, and its configuration.

    Raises:
        CheckpointError: in neither is the configuration of a `UNet2DModel`; `given` is what was
            named instead of the folder.
    """
    for file in (folder / _CONFIG, folder / "unet" / _CONFIG):
        if file.is_file():
            try:
                config = atomic.read_json(file)
            except ValueError as error:
                raise CheckpointError(str(error)) from error
            if isinstance(config, dict) and config.get("_class_name") == hugging_face.CLASS_NAME:
                return file.parent, config
    if given is not None and given != folder:
        raise CheckpointError(
            f"{given} holds weights alone, which do not say of what network: put the {_CONFIG} of "
            f"a {hugging_face.CLASS_NAME} beside it, and name the file or its folder {folder}"
        )
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


def _read(file: Path, network: nn.Module) -> tuple[Any, str]:
    """What a file of weights holds, and its fingerprint; both of one look at it."""
    if not _is_safetensors(file):
        return read(file)
    safetensors = _safetensors()
    # Twice the numbers, in double precision, and the names.
    most = 16 * sum(math.prod(value.shape) for value in network.state_dict().values()) + 2**24
    with atomic.open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > most:
            raise CheckpointError(
                f"{file} holds {size / 2**20:.6g} MiB, more than the weights of this network can "
                "take: use the recipe that it was trained with"
            )
        data = opened.read()
    try:
        content = safetensors.torch.load(data)
    except Exception as error:  # damaged bytes can end in an error of almost any type
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{file} is damaged ({reason}): use another one") from error
    return content, hashlib.sha256(data).hexdigest()[:DIGITS]
