"""Config → the other networks that lead samples: a classifier, and a weaker network as the guide.

`sampling.classifier` and `sampling.guide` name checkpoints of ours, or work directories, of which
the newest is meant. Each brings a config of its own, which says what it is made of and must fit
the network that is led. What a file holds is kept, as checks, digests and scores all ask for it,
for as long as the file is the same; networks are made of it anew, so that whoever changes one of
them, or a row of the table that it is of, changes no other.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import checkpoints
from score_sde.atomic.weights import fit
from score_sde.config.build.classifiers import build_classifier, empty_classifier
from score_sde.config.build.objects import (
    Config,
    build_device,
    build_network,
    build_sde,
    data_range,
    empty_network,
    field,
    image_shape,
    num_classes,
    upsampling_factor,
)
from score_sde.config.history import from_json
from score_sde.config.holds import expanded
from score_sde.sde import SDE

TIMES = 9  # at which two SDEs are compared

_MADE_BY = {
    "classifier": (build_classifier, empty_classifier),
    "guide": (build_network, empty_network),
}


@dataclass(frozen=True)
class Guide:
    """A network that leads another one's samples.

    Attributes:
        config: its own, on the device of the network that it leads.
        weights: the averaged ones.
        digest: of its file.
        path: where that lies.
        build: makes a network of its config.
    """

    config: Config
    weights: Mapping[str, Tensor]
    digest: str
    path: Path
    build: Callable[[Config], nn.Module]

    def network(self) -> nn.Module:
        """A new network with these weights."""
        network = self.build(self.config)
        network.load_state_dict(self.weights)
        return network.eval().requires_grad_(False)

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
    return _opened(config, "classifier", name)


def guide_of(config: Config) -> Guide | None:
    """The weaker network that a config's samples are led away from, if any; raises likewise."""
    name = field(config, "sampling.guide")
    return _opened(config, "guide", name) if name else None


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
    ranges = data_range(own), data_range(config)
    if ranges[1] and ranges[0] != ranges[1]:
        raise ValueError(
            f"{said} is of numbers whose range is {ranges[0]}, and the network that it is to lead "
            f"of {ranges[1]}: name one that was trained on the same images"
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


def _opened(config: Config, kind: str, name: str) -> Guide:
    path = _newest(expanded(name), kind).resolve()
    stat = path.stat()
    same = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    written, average, digest = _read(path, same)
    own = from_json(written)
    own.device = str(build_device(config))
    is_classifier = field(own, "classifier.num_classes") > 0
    if is_classifier != (kind == "classifier"):
        what = "a classifier" if is_classifier else "a score network"
        wanted = "--mode train_classifier" if kind == "classifier" else "--mode train"
        raise ValueError(f"--{kind} {path} is {what}: name a checkpoint that {wanted} wrote")
    build, empty = _MADE_BY[kind]
    weights = fit(empty(own).state_dict(), average, f"the average in {path}")
    return Guide(own, weights, digest, path, build)


def _newest(path: Path, kind: str) -> Path:
    """The file that is meant."""
    if path.is_file() or checkpoints.is_sharded(path):
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
def _read(path: Path, same: tuple[int, ...]) -> tuple[str, Any, str]:
    """The config, the average and the digest of a file, while what its `stat` says is the same."""
    content, digest = checkpoints.load_with_fingerprint(path)
    state: dict[str, Any] = checkpoints.checked(content, path)
    return state["config"], state["ema"].get("shadow"), digest
