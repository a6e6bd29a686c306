"""From images to features: what a feature network is, and the Inception network of the FID."""

import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from score_sde import atomic, parallel
from score_sde.atomic.weights import fit, no_plain_tensor, short
from score_sde.data import Range, to_unit
from score_sde.evaluation.moments import Moments

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The weights as torch-fidelity names them; the last eight digits begin the file's SHA-256."""

_INCEPTION_DIGEST = "6726825d"


class FeatureNetwork(Protocol):
    """What turns images into features.

    Attributes:
        name: of the network, as reference files store it.
        label: what its distances are called after; empty for the network that FID means.
        fingerprint: digest of the weights.
        dimensions: D, numbers of a feature vector.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def dimensions(self) -> int: ...  # noqa: D102

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Uint8 (B, C, H, W) → float32 (B, D), and logits (B, K) if the network knows classes.

        Raises:
            ValueError: for images of a kind that the network does not take.
        """
        ...


_NAMES = {"frechet": ("FID", "FD"), "kernel": ("KID", "KD"), "score": ("IS", "CS")}


def metric_name(metric: Literal["frechet", "kernel", "score"], network: FeatureNetwork) -> str:
    """What a number may be called: FID, KID and IS are Inception's; others are `FD-digits`, ….

    KD is the kernel distance, CS the classifier score.
    """
    of_inception, of_others = _NAMES[metric]
    return f"{of_others}-{network.label}" if network.label else of_inception


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] → the nearest of 256 levels; what lies outside is clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def spread_levels(images: Tensor, levels: int, range: Range = ()) -> Tensor:
    """Stored images of L levels 0 … L - 1 → uint8 with 256 levels; those of 256 as they are.

    Of floats, whose levels are 0, the range has 256 levels, and what lies beyond it is clipped.
    """
    return images if levels == 256 else to_uint8(to_unit(images, levels, range))


@dataclass(frozen=True)
class Collected:
    """What a pass over images gives.

    Attributes:
        moments: mean and covariance of the features.
        features: float32 (N, D) on the CPU, or None where they were not kept.
        logits: float32 (N, K) on the CPU, or None.
    """

    moments: Moments
    features: Tensor | None
    logits: Tensor | None


def collect(
    network: FeatureNetwork,
    batches: Iterable[Tensor],
    *,
    keep: bool = True,
    together: bool = False,
) -> Collected:
    """Features of all images, batch by batch.

    Args:
        network: the feature network, on its device.
        batches: uint8 tensors (B, C, H, W), on the network's device.
        keep: keep features and logits; otherwise memory stays flat, and only the Fréchet distance
            can be computed.
        together: with all processes, which must all call it: batch k is that of process k mod K,
            and what comes back is of all batches, in their order, on every process.

    Raises:
        ValueError: for images that the network does not take.
    """
    made = map(network, batches)
    everyones = parallel.rounds(map(_on_cpu, made)) if together else ([one] for one in made)
    moments = Moments(network.dimensions)
    kept: list[Tensor] = []
    scores: list[Tensor] = []
    for features, logits in itertools.chain.from_iterable(everyones):
        moments.update(features)
        if keep:
            kept.append(features.cpu())
        if keep and logits is not None:
            scores.append(logits.cpu())
    return Collected(
        moments,
        torch.cat(kept) if kept else None,
        torch.cat(scores) if scores else None,
    )


def _on_cpu(made: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    features, logits = made
    return features.cpu(), None if logits is None else logits.cpu()


class InceptionFeatures:
    """torch-fidelity's Inception as a feature network: pool features (2,048) and logits (1,008).

    Any image size goes in: the network enlarges or shrinks as TensorFlow 1 did. Grey images are
    repeated over three channels.
    """

    name = "inception-2015-12-05"
    dimensions = 2048

    def __init__(self, extractor: nn.Module, digest: str) -> None:
        self.fingerprint = digest[:16]
        genuine = digest.startswith(_INCEPTION_DIGEST)
        # Other weights in this shape give numbers that can't be compared with the FID of others.
        self.label = "" if genuine else f"inception-{digest[:8]}"
        self._extractor = extractor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 1 or 3, H, W) → (B, 2048) and unbiased logits (B, 1008)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"Inception takes uint8 images (B, 1 or 3, H, W), not {images.dtype} of shape "
                f"{tuple(images.shape)}: use grey or colour images, or the built-in classifier"
            )
        features, logits = self._extractor(images.expand(-1, 3, -1, -1))
        return features, logits


def inception_file(path: str | Path = "") -> Path:
    """Where the weights of Inception lie; nothing is fetched.

    Args:
        path: the file; if empty, it is looked for where torch-fidelity would have put it.

    Raises:
        FileNotFoundError: it is not there.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    file = atomic.expanded(path) if path else cache
    if not file.is_file():
        raise FileNotFoundError(
            f"no Inception weights at {file}: put torch-fidelity's {INCEPTION_FILE} (its SHA-256 "
            f"begins with {_INCEPTION_DIGEST}) there, or name it with "
            f"--config.eval.inception_path ({cache} is where it is looked for without that), or "
            "use the built-in feature network (--config.eval.features=classifier)"
        )
    return file


def inception(path: str | Path = "", device: torch.device | str = "cpu") -> InceptionFeatures:
    """The Inception network that FID means (Szegedy et al. 2016, weights of 2015-12-05).

    Args:
        path: its weights, as in `inception_file`.
        device: where to compute.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: torch-fidelity is not installed, or the file is no Inception network.
    """
    file = inception_file(path)
    weights, digest = _weights(file)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(
            "Inception features need torch-fidelity: pip install torch-fidelity, or use the "
            "built-in feature network"
        ) from None
    # Given the file, torch-fidelity would run code in it, and look at it a second time.
    checked = io.BytesIO()
    torch.save(weights, checked)
    checked.seek(0)
    try:
        extractor: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], checked
        )
        fit(extractor.state_dict(), weights, "its content")
    except (RuntimeError, ValueError) as error:  # load_state_dict lists every name and shape
        why = "other names or shapes" if isinstance(error, RuntimeError) else str(error)
        raise _not_inception(file, why) from None
    return InceptionFeatures(extractor.to(device), digest)


def _weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors by name, and the SHA-256 of their file.

    Raises:
        OSError: the file can't be opened.
        ValueError: it holds something else.
    """
    try:
        content, digest = atomic.read_tensors(path)
    except atomic.UnreadableError as error:
        raise _not_inception(path, f"it {error}") from None
    if not isinstance(content, dict) or not content:
        raise _not_inception(path, "not tensors by name")
    for name, value in content.items():
        reason = no_plain_tensor(value) if isinstance(name, str) else "is no name"
        if reason:
            raise _not_inception(path, f"{short(name)} {reason}")
    return content, digest


def _not_inception(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} does not hold the weights of Inception ({why}): use torch-fidelity's "
        f"{INCEPTION_FILE}, whose SHA-256 begins with {_INCEPTION_DIGEST}"
    )
