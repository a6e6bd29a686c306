"""What `--mode compare` draws from: the network of a checkpoint, or an exact score."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from score_sde import noise
from score_sde.config import history
from score_sde.config.build import Config
from score_sde.config.exact import Exact, real_images
from score_sde.config.subject import build_subject
from score_sde.data import Source
from score_sde.evaluation import References, Subject
from score_sde.evaluation.shards import Shards
from score_sde.evaluation.study import FLOOR_SETS, REFERENCE_IMAGES, Truth, write_reference

Sources = Mapping[str, Source]
"""Images by split."""


class Compared(Protocol):
    """What samples are drawn from.

    Attributes:
        title: in words.
        name: in the names of files.
        facts: what samples depend on beside the config, for digests.
        about: for the report.
    """

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def facts(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def about(self) -> Mapping[str, Any]: ...  # noqa: D102

    def subject(
        self, config: Config, sources: Sources, references: References, shards: Shards
    ) -> Subject:
        """What figures of a row are computed from.

        Raises:
            ValueError: the row does not run.
        """
        ...

    def reference(self, config: Config, references: References, folder: Path) -> str:
        """A file of statistics to compare with instead of `eval.reference`, made where missing."""
        ...

    def truth(self, config: Config, sources: Sources) -> Truth:
        """True images, for the floor."""
        ...


@dataclass(frozen=True)
class OfCheckpoint:
    """The network of a checkpoint.

    Attributes:
        network: with its weights in place.
        config: of the checkpoint, which rows may not contradict.
        path: of the checkpoint.
        step: updates that it was trained for.
        weights: digest of its file.
        raw: whether the weights are those as trained, not their average.
    """

    network: nn.Module
    config: Config
    path: Path
    step: int
    weights: str
    raw: bool

    @property
    def title(self) -> str:
        """The file, and which weights of it."""
        return f"{self.path.name}{', raw weights' if self.raw else ''}"

    @property
    def name(self) -> str:
        """As reports of an evaluation are named."""
        return f"step_{self.step:08d}{'_raw' if self.raw else ''}"

    @property
    def facts(self) -> dict[str, Any]:
        """As of an evaluation."""
        return {"weights": self.weights, "ema": not self.raw}

    @property
    def about(self) -> dict[str, Any]:
        """The file, its step and digest."""
        return {"checkpoint": str(self.path), "step": self.step, **self.facts}

    def subject(
        self, config: Config, sources: Sources, references: References, shards: Shards
    ) -> Subject:
        """See `Compared.subject`."""
        of_row, of_network = map(history.of_checkpoint, (config, self.config))
        if other := [name for name, value in of_row.items() if of_network.get(name) != value]:
            raise ValueError(
                f"it sets {', '.join(other)}, which the checkpoint decides: train another, or "
                "take --exact points"
            )
        return build_subject(config, self.network, sources, references, shards)

    def reference(self, config: Config, references: References, folder: Path) -> str:
        """That of the config."""
        return config.eval.reference

    def truth(self, config: Config, sources: Sources) -> Truth:
        """Real images of the split that samples are not compared with."""
        source = sources["train" if config.eval.reference_split == "test" else "test"]
        order = noise.permutation(len(source), config.seed, 0)
        return Truth(
            lambda index: real_images(source, order[index]),
            len(source),
            f"{source.info.split} images",
            fingerprint=source.info.fingerprint,
        )


@dataclass(frozen=True)
class OfExact:
    """The exact score of data made of training images."""

    exact: Exact

    @property
    def title(self) -> str:
        """Which data these are."""
        return f"the exact score of {self.exact.kind} with std {self.exact.std:g}"

    @property
    def name(self) -> str:
        """Kind and std."""
        return f"exact_{self.exact.kind}_{self.exact.std:g}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """Those of the data."""
        return self.exact.facts

    @property
    def about(self) -> Mapping[str, Any]:
        """The same."""
        return self.exact.facts

    def subject(
        self, config: Config, sources: Sources, references: References, shards: Shards
    ) -> Subject:
        """See `Compared.subject`. The network has no part in it."""
        subject = build_subject(config, nn.Identity(), sources, references, shards)
        return replace(subject, draw=self.exact.drawer(config))

    def reference(self, config: Config, references: References, folder: Path) -> str:
        """Statistics of exact draws."""
        network = references.network
        facts = {**self.facts, "seed": config.seed, "network": network.fingerprint}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        path = folder / "references" / f"{self.name}_{digest}.npz"
        write_reference(self.exact.images, network, references.shape, path)
        return str(path)

    def truth(self, config: Config, sources: Sources) -> Truth:
        """Exact draws, none of which the reference has seen."""
        return Truth(
            lambda index: self.exact.images(index + REFERENCE_IMAGES),
            FLOOR_SETS * config.eval.num_samples,
            "exact draws",
            self.exact.mixture.within,
        )
