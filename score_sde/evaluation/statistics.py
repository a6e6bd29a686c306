"""Reference statistics: what they are of, their files, and what may be compared with what.

A reference file is an `.npz` of arrays and text, read without pickle. Ours has `mu` and `sigma` as
most tools store them; features and logits, where they were kept, as `pool_3` and `logits` (the
names of the 2021 release); and the facts that a comparison rests on. Files that others wrote hold
few of these facts, or none; what a file lacks is not compared.
"""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde import atomic
from score_sde.atomic import open_regular
from score_sde.data.arrays import read_member
from score_sde.evaluation.moments import Moments

FEATURE_KEYS = ("pool_3", "features", "feats")
"""Names under which files hold features: the 2021 release's and ours, and two others in use."""


@dataclass(frozen=True)
class Facts:
    """What two sets of features must share to be compared. Empty, () and 0 stand for unknown.

    For samples these are the facts of the reference that they are to be compared with.

    Attributes:
        dataset: name of the data set.
        split: `train` or `test`.
        shape: (C, H, W) of the images before the feature network's own resizing.
        preprocessing: how stored images became these, in words.
        network: name of the feature network.
        fingerprint: digest of its weights.
        dimensions: D, numbers of a feature vector.
        n: number of images; it is reported, not compared.
    """

    dataset: str = ""
    split: str = ""
    shape: tuple[int, ...] = ()
    preprocessing: str = ""
    network: str = ""
    fingerprint: str = ""
    dimensions: int = 0
    n: int = 0


@dataclass(frozen=True)
class Reference:
    """Statistics of a data set under a feature network.

    Attributes:
        facts: what they are of.
        mu: float64 (D,).
        sigma: float64 (D, D).
        features: float32 (N, D), or None where they were not kept; KID, precision and recall need
            them.
        logits: float32 (N, K), or None.
    """

    facts: Facts
    mu: Tensor
    sigma: Tensor
    features: Tensor | None = None
    logits: Tensor | None = None

    @classmethod
    def of(
        cls,
        facts: Facts,
        moments: Moments,
        features: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> "Reference":
        """A reference of what was collected; n and dimensions are filled in.

        Raises:
            ValueError: below two images.
        """
        mu, sigma = moments.mu, moments.sigma
        facts = replace(facts, n=moments.n, dimensions=len(mu))
        return cls(facts, mu, sigma, features, logits)

    def save(self, path: Path) -> None:
        """Writes an `.npz`, whole or not at all.

        Raises:
            OSError: the file can't be written.
        """
        arrays: dict[str, Any] = {"mu": self.mu.numpy(), "sigma": self.sigma.numpy()}
        if self.features is not None:
            arrays["pool_3"] = self.features.to("cpu", torch.float32).numpy()
        if self.logits is not None:
            arrays["logits"] = self.logits.to("cpu", torch.float32).numpy()
        atomic.write(path, lambda file: np.savez(file, **arrays, **asdict(self.facts)))

    @classmethod
    def load(cls, path: Path, types: Mapping[str, tuple[Any, Any]] | None = None) -> "Reference":
        """Reads our own files and those of others: `mu` and `sigma`, or features.

        Args:
            path: the file.
            types: by name, type and shape of arrays that it must have; of others' files unknown.

        Raises:
            OSError: the file can't be opened.
            ValueError: it is damaged, or holds no statistics, or others than `types` says.
        """
        try:
            arrays = _known_arrays(path)
            for name, (dtype, shape) in (types or {}).items():
                array = arrays.get(name)
                if array is None or array.dtype != dtype or array.shape != shape:
                    raise ValueError(f"it has no {name} of {np.dtype(dtype)} {shape}")
            return _from_arrays(arrays)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"no reference statistics at {path}: make them with --mode stats, or name another "
                "file"
            ) from None
        except Exception as error:  # zipfile and numpy meet damage with errors of many types
            if isinstance(error, OSError) and error.errno:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ValueError(
                f"{path} is no file of reference statistics ({reason}): give an .npz with mu and "
                "sigma, or with features as pool_3"
            ) from error


def _known_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file whose names mean something here."""
    known = {field.name for field in fields(Facts)} | {"mu", "sigma", "logits", *FEATURE_KEYS}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        return {
            name: read_member(archive, info, lambda shape, dtype: None)
            for name, info in members.items()
            if name in known
        }


def _from_arrays(arrays: dict[str, np.ndarray]) -> Reference:
    facts, n = _facts(arrays), 0
    mu, sigma, logits = (_numbers(arrays, key) for key in ("mu", "sigma", "logits"))
    name = next((key for key in FEATURE_KEYS if key in arrays), "")
    features = _numbers(arrays, name)
    if features is not None:
        features = features.float().reshape(len(features), -1)
        n = len(features)
    if logits is not None and (logits.ndim != 2 or len(logits) != (n or len(logits))):
        raise ValueError(
            f"its logits have the shape {tuple(logits.shape)} and its features {n} rows"
        )
    if mu is None or sigma is None:
        if features is None:
            raise ValueError("it has neither mu and sigma nor pool_3")
        moments = Moments(features.shape[1])
        moments.update(features)
        mu, sigma = moments.mu, moments.sigma
    else:
        n, mu, sigma = facts.n or n, mu.double(), sigma.double()
    _check_arrays(mu, sigma, features)
    logits = None if logits is None else logits.float()
    return Reference(replace(facts, n=n, dimensions=len(mu)), mu, sigma, features, logits)


def _numbers(arrays: dict[str, np.ndarray], name: str) -> Tensor | None:
    array = arrays.get(name)
    if array is None:
        return None
    if array.dtype.kind not in "fiu" or not array.size:
        raise ValueError(f"its {name} of type {array.dtype} and shape {array.shape} is no numbers")
    if not np.isfinite(array).all():
        raise ValueError("its numbers are not all finite")
    return torch.from_numpy(array)


def _check_arrays(mu: Tensor, sigma: Tensor, features: Tensor | None) -> None:
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"mu has the shape {tuple(mu.shape)} and sigma {tuple(sigma.shape)}, "
            "not (D,) and (D, D)"
        )
    if features is not None and features.shape[1] != len(mu):
        raise ValueError(f"its features have {features.shape[1]} numbers, its mu {len(mu)}")
    size = sigma.abs().max().item()
    lowest = torch.linalg.eigvalsh(sigma)[0].item() if size else 0.0
    if (sigma - sigma.T).abs().max().item() > 1e-6 * size or lowest < -1e-6 * size:
        raise ValueError("its sigma is no covariance, which is symmetric and has no negative root")


def _facts(arrays: dict[str, np.ndarray]) -> Facts:
    """The facts among a file's arrays; a name that another tool uses otherwise is no fact."""
    known: dict[str, Any] = {}
    for field in fields(Facts):
        value = arrays.get(field.name)
        if value is None:
            continue
        if isinstance(field.default, str) and value.dtype.kind == "U" and value.ndim == 0:
            known[field.name] = value.item()
        elif isinstance(field.default, int) and value.dtype.kind in "iu" and value.ndim == 0:
            known[field.name] = int(value)
        elif isinstance(field.default, tuple) and value.dtype.kind in "iu" and value.ndim == 1:
            known[field.name] = tuple(int(side) for side in value)
    return Facts(**known)


_WORDS = {
    "network": "feature network",
    "fingerprint": "weights of the feature network",
    "dimensions": "number of features",
    "shape": "image shape (C, H, W)",
    "dataset": "data set",
    "split": "split",
    "preprocessing": "preprocessing",
}


def check_comparable(reference: Facts, samples: Facts) -> None:
    """Refuses to compare what differs in anything but the number of images.

    Args:
        reference: facts of the reference.
        samples: facts of the samples: their shape and network, and the data set, split and
            preprocessing that they are to be compared with.

    Raises:
        ValueError: naming the first fact that both know and that differs.
    """
    for name, words in _WORDS.items():
        of_reference, of_samples = getattr(reference, name), getattr(samples, name)
        if of_reference and of_samples and of_reference != of_samples:
            raise ValueError(
                f"the {words} of the reference is {of_reference} and of the samples {of_samples}: "
                "make reference statistics that match with --mode stats, or name another file"
            )


def cache_name(facts: Facts, content: str = "") -> str:
    """The file name under which statistics are kept: readable, and another one for other facts.

    Args:
        facts: what they are of.
        content: text that changes with the images themselves, such as the data set's fingerprint.
    """
    key = hashlib.sha256(repr((facts, content)).encode()).hexdigest()[:12]
    size = "x".join(str(side) for side in facts.shape)
    words = "-".join(filter(None, (facts.dataset, facts.split, size, facts.network)))
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)}-{key}.npz"
