"""A small classifier as feature network, for images that Inception does not suit.

It takes images of one shape, 8x8 to 64x64 with any number of channels: grey digits too, which
Inception was not trained on, and without a file that has to be fetched. Its features are the 64
numbers before the last nonlinearity, each of about unit variance over its training data. Distances
on them are named after these data (`FD-digits`), and compare models of these data only.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde import atomic
from score_sde.atomic.weights import fit

DIMENSIONS = 64
"""Numbers of a feature vector."""

TURNS = "turns"
"""In the name of a network that was trained to tell rotations apart, for lack of labels."""

_DIGITS = Path(__file__).with_name("digits_classifier.pt")
_SIDES = (8, 64)
_MOST = 2**20  # channels or outputs
_SETTINGS = ("dataset", "shape", "num_outputs", "labelled")


class Classifier(nn.Module):
    """Convolutions that halve the sides down to at most 8 pixels, and two linear layers.

    Args:
        dataset: name of the data that it learns from.
        shape: (C, H, W), sides from 8 to 64.
        num_outputs: classes to tell apart.
        labelled: whether they are the data set's classes; otherwise they are turns of an image,
            and no logits are given out.

    Attributes:
        dimensions: 64.

    Raises:
        ValueError: for sides outside 8 … 64.
    """

    dimensions = DIMENSIONS
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, dataset: str, shape: tuple[int, int, int], num_outputs: int, labelled: bool = True
    ) -> None:
        super().__init__()
        channels, height, width = shape
        least, most = _SIDES
        if not suits_classifier(shape):
            raise ValueError(
                f"the built-in feature network takes images of {least}x{least} to {most}x{most} "
                f"pixels, not {height}x{width}: use Inception"
            )
        self.dataset, self.shape = dataset, (channels, height, width)
        self.num_outputs, self.labelled = num_outputs, labelled
        self.convs, size = _convolutions(channels, height, width)
        self.hidden = nn.Linear(size, DIMENSIONS)
        # Unit variance: otherwise training stretches features, and distances, without bound.
        self.norm = nn.BatchNorm1d(DIMENSIONS, affine=False)
        self.head = nn.Linear(DIMENSIONS, num_outputs)
        self.register_buffer("pixel_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("pixel_std", torch.ones(channels, 1, 1))

    @property
    def label(self) -> str:
        """What its distances are called after: the data set, and `turns` without labels."""
        return self.dataset if self.labelled else f"{self.dataset}-{TURNS}"

    @property
    def name(self) -> str:
        """`classifier-` and the label."""
        return f"classifier-{self.label}"

    @property
    def fingerprint(self) -> str:
        """Digest of names, shapes and values of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, *shape) → features (B, 64) and logits (B, K), with gradients.

        Raises:
            ValueError: for images of another type or shape.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"the feature network {self.name} takes uint8 images of the shape (B, C, H, W) = "
                f"(B, {', '.join(map(str, self.shape))}), not {images.dtype} of shape "
                f"{tuple(images.shape)}: use samples of the same size, or another network"
            )
        x = (images.float() / 255 - self.pixel_mean) / self.pixel_std
        features = self.norm(self.hidden(self.convs(x).flatten(1)))
        return features, self.head(F.silu(features))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """A feature network's face: uint8 (B, *shape) → (B, 64), and logits if labelled."""
        features, logits = self.outputs(images)
        return features, logits if self.labelled else None

    def save(self, path: Path) -> None:
        """Writes weights and settings: tensors, numbers and strings."""
        content: dict[str, Any] = {name: getattr(self, name) for name in _SETTINGS}
        content["weights"] = self.state_dict()
        atomic.write(path, lambda file: torch.save(content, file))

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "Classifier":
        """Reads what `save` wrote, running no code of the file.

        Raises:
            OSError: the file can't be opened.
            ValueError: it is no such file.
        """
        try:
            content, _ = atomic.read_tensors(path)
            network = cls._of(content)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"no feature network at {path}: train it with --mode stats, or name another file"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{path} is no feature network, or damaged (it {error}): move it away and train "
                "it anew with --mode stats"
            ) from None
        return network.eval().requires_grad_(False).to(device)

    @classmethod
    def _of(cls, content: Any) -> "Classifier":
        """The network of what a file holds.

        Raises:
            ValueError: it is something else; goes on from "the file".
        """
        if not isinstance(content, Mapping) or not {*_SETTINGS, "weights"} <= content.keys():
            raise ValueError(f"has not the entries {', '.join(_SETTINGS)} and weights")
        dataset, shape, num_outputs, labelled = (content[name] for name in _SETTINGS)
        sizes = (*shape, num_outputs) if isinstance(shape, list | tuple) else ()
        if len(sizes) != 4 or not all(type(n) is int and 0 < n < _MOST for n in sizes):
            raise ValueError("has sizes of images and outputs that are none")
        if not (type(dataset) is str and type(labelled) is bool and suits_classifier(sizes[:3])):
            raise ValueError("has other settings than this network")
        # Sizes first: what they ask for may be more than there is memory.
        with torch.device("meta"):
            network = cls(dataset, sizes[:3], num_outputs, labelled)
        weights = fit(network.state_dict(), content["weights"], "has weights, but")
        network.load_state_dict(weights, assign=True)
        return network


def suits_classifier(shape: tuple[int, int, int]) -> bool:
    """Whether images of a shape (C, H, W) are of a size that a `Classifier` takes."""
    return all(_SIDES[0] <= side <= _SIDES[1] for side in shape[1:])


def digits_classifier(device: torch.device | str = "cpu") -> Classifier:
    """The network for scikit-learn's digits, whose weights come with the library.

    `train_classifier` with seed 0 made it of the 1,497 training images; of the 300 others it reads
    99.0 %.
    """
    return Classifier.load(_DIGITS, device)


def _convolutions(channels: int, height: int, width: int) -> tuple[nn.Sequential, int]:
    """Layers of 32, 64, 64, … channels, and how many numbers they leave of an image."""
    halvings = max(math.ceil(math.log2(max(height, width) / 8)), 1)
    layers: list[nn.Module] = []
    # Small images are first looked at in full size, larger ones cost too much.
    for i, stride in enumerate((1, 2) if halvings == 1 else (2,) * halvings):
        out = 64 if i else 32
        layers += [nn.Conv2d(channels, out, 3, stride, padding=1), nn.SiLU()]
        channels, height, width = out, -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers), channels * height * width
