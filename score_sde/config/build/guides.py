"""Config → the other networks that lead samples: a classifier, and a weaker network as the guide.

`sampling.classifier` and `sampling.guide` name checkpoints of ours, or work directories, of which
the newest is meant. Each brings a config of its own, which says what it is made of and must fit
the network that is led. They are read once, so that every command is led by what `guided` makes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_sde import checkpoints
from score_sde.atomic.weights import fit
from score_sde.config.build.classifiers import build_classifier
from score_sde.config.build.objects import (
    Config,
    build_device,
    build_network,
    build_sde,
    field,
    image_shape,
    num_classes,
    upsampling_factor,
)
from score_sde.config.history import from_json
from score_sde.config.holds import expanded
from score_sde.sde import SDE

TIMES = 9  # at which two SDEs are compared


@dataclass(frozen=True)
class Guide:
    """A network that leads another one's samples.

    Attributes:
        config: its own.
        network: with its averaged weights, on the device of the network that it leads.
        digest: of its file.
        path: where that lies.
    """

    config: Config
    network: nn.Module
    digest: str
    path: Path

    @property
    def classes(self) -> int:
        """Of a classifier those that it tells apart; of a score network those that it is given."""
        return field(self.config, "classifier.num_classes") or num_classes(self.config)


def classifier_of(config: Config) -> Guide | None:
    """The classifier of noisy images that leads a config's samples, if any.

    Raises:
        OSError: no such file.
        ValueError: it holds something else.
    """
    name = field(config, "sampling.classifier")
    if not name or not field(config, "sampling.classifier_scale"):
        return None
    return _opened(config, "classifier", name, build_classifier)


def guide_of(config: Config) -> Guide | None:
    """The weaker network that a config's samples are led away from, if any; raises likewise."""
    name = field(config, "sampling.guide")
    return _opened(config, "guide", name, build_network) if name else None


def led_by(config: Config) -> dict[str, str]:
    """Digests of the files, by the names of the fields, for digests of what samples depend on."""
    named = {"classifier": classifier_of(config), "guide": guide_of(config)}
    return {name: guide.digest for name, guide in named.items() if guide}


def check_fits(guide: Guide, config: Config, sde: SDE, what: str) -> None:
    """Refuses what can't lead the network of a config.

    Args:
        guide: a classifier, which knows every time, or a score network.
        config: of the network that it is to lead.
        sde: of that network.
        what: the option that names it.

    Raises:
        ValueError: images of another shape or range, or another SDE or chain.
    """
    own, said = guide.config, f"{what} {guide.path}"
    if upsampling_factor(own) and not upsampling_factor(config):
        raise ValueError(
            f"{said} upsamples low-resolution images, and the network that it is to lead is given "
            "none: name one that draws whole images"
        )
    shapes = image_shape(own), image_shape(config)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{said} is of images of {shapes[0]} (channels, height, width), and the network that "
            f"it is to lead of {shapes[1]}: name one that was trained on the same images"
        )
    if own.data.centered != config.data.centered or not _alike(build_sde(own), sde):
        raise ValueError(
            f"{said} was trained with another SDE ({own.training.sde}) or range of the images "
            f"than the network that it is to lead ({config.training.sde}): both must have the "
            "same mean scale and noise at every time, so train it by the same recipe"
        )


def check_chain(guide: Guide, config: Config, sde: SDE, what: str) -> None:
    """Refuses a score network that knows other times than the one that it is to lead.

    Raises:
        ValueError: one of them is of a discrete chain, and the other is not.
    """
    own = guide.config.training.continuous
    if sde.has_chain and own != config.training.continuous:
        raise ValueError(
            f"{what} {guide.path} was trained with training.continuous={own}, and the network "
            f"that it is to lead with {not own}: name one that knows the same times"
        )


def _alike(one: SDE, other: SDE) -> bool:
    if (one.T, one.N if one.has_chain else 0) != (other.T, other.N if other.has_chain else 0):
        return False
    t = torch.linspace(one.eps, one.T, TIMES, dtype=torch.float64)
    pairs = ((sde.mean_scale(t), sde.std(t)) for sde in (one, other))
    return all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(*pairs, strict=True))


def _opened(config: Config, kind: str, name: str, build: Callable[[Config], nn.Module]) -> Guide:
    path = _newest(expanded(name), kind)
    status = path.stat()
    changed = status.st_mtime_ns, status.st_size
    return _read(path.resolve(), changed, str(build_device(config)), kind, build)


def _newest(path: Path, kind: str) -> Path:
    """The file that is meant."""
    if path.is_file():
        return path
    folder = path / "checkpoints"
    if steps := checkpoints.steps(folder):
        return checkpoints.path_of(folder, steps[-1])
    how = " (--mode train_classifier)" if kind == "classifier" else ""
    raise ValueError(
        f"--{kind} {path}: there is no checkpoint; train one first{how}, or name a file or a "
        "work directory that holds one"
    )


@functools.lru_cache(maxsize=4)
def _read(
    path: Path, changed: tuple[int, int], device: str, kind: str, build: Callable[..., nn.Module]
) -> Guide:
    """What a file holds; `changed` tells one from a later file of the same name."""
    content, digest = checkpoints.load_with_fingerprint(path)
    state: dict[str, Any] = checkpoints.checked(content, path)
    own = from_json(state["config"])
    own.device = device
    is_classifier = field(own, "classifier.num_classes") > 0
    if is_classifier != (kind == "classifier"):
        what = "a classifier" if is_classifier else "a score network"
        wanted = "--mode train_classifier" if kind == "classifier" else "--mode train"
        raise ValueError(f"--{kind} {path} is {what}: name a checkpoint that {wanted} wrote")
    network = build(own)
    weights = fit(network.state_dict(), state["ema"].get("shadow"), f"the average in {path}")
    network.load_state_dict(weights)
    return Guide(own, network.eval().requires_grad_(False), digest, path)
