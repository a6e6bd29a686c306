"""What is evaluated: the one object that figures are functions of."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from score_sde.data import Source
from score_sde.evaluation.code import fingerprint
from score_sde.evaluation.features import to_uint8
from score_sde.evaluation.figure import LeftOut
from score_sde.evaluation.references import References
from score_sde.evaluation.shards import Shards
from score_sde.sde import SDE, Score
from score_sde.solvers.ode import Status

SHOWN = 100
"""Samples whose images are kept, for a report's picture."""

Labels = Callable[[Tensor], Tensor]
"""int64 (b,) sample indices → their classes, int64 (b,)."""

Measure = Callable[[Tensor], Tensor]
"""uint8 images (b, C, H, W) → what is computed of each, (b, ...)."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class SampleSet:
    """The samples of a checkpoint that are finite images, measured.

    Attributes:
        images: uint8 (n, C, H, W), the first ones, `SHOWN` at most.
        features: float32 (N, D), of all.
        logits: float32 (N, K), where the feature network knows classes.
        values: what each of `Subject.each_sample` gives, (N, ...).
        how: for the report: how they were drawn, the mean `nfe`, how many were `given_up`; with
            `Subject.keeps_x` also `sec_each`, the seconds that drawing one took, features apart.
        index: int64 (N,), which samples these are.
        x: float32 (N, C, H, W) in [0, 1] and beyond, before they are rounded; None unless
            `Subject.keeps_x`.
    """

    images: Tensor
    features: Tensor
    logits: Tensor | None
    values: Mapping[Measure, np.ndarray]
    how: Mapping[str, Any]
    index: Tensor
    x: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint, with all that figures of it are computed from.

    Every process has one, and computes the same figures in the same order: `shards` and `samples`
    share the work between processes and wait for all.

    Attributes:
        network: with its weights in place, called net(x, cond, label=None).
        sde: the forward SDE.
        device: of the network.
        seed: of all noise.
        options: the fields of the config's group `eval`, by name.
        sampling: those of the group `sampling`.
        continuous: whether the network knows all times, and not only those of a chain.
        num_classes: class labels that the network takes; 0 for a network without.
        scale: images in [0, 1] → the network's range.
        inverse_scale: the other way; it does not clip.
        score_for: `Labels` (None for none) → a callable of sample indices, int64 (b,), that gives
            the score for these samples.
        draw: sample indices, int64 (n,) → `samplers.Samples`, some at a time.
        num_steps: gives those of the sampler's grid; None where each sample has its own.
        labels: sample indices → the classes that they are drawn of; None where there are none.
        draw_facts: what the draws depend on beside `shards.facts`; it names their shards.
        objective: what the network was trained to minimise, an `objectives.Objective`.
        sources: images by split, `train` and `test`, as far as they are needed.
        references: what samples are measured by and compared with.
        shards: where results are kept by sample.
        given: of a network that upsamples: of which images the samples are made.
        held_out_inputs: images (n, C, H, W) as the network sees them, and their rows, int64 (n,) →
            what else the network takes of them, by name.
        each_sample: by name, what else is computed of every sample.
        keeps_x: whether the samples themselves are kept, all of them and before rounding.
        results: by name, what figures share with others and with the picture.
    """

    network: Callable[..., Tensor]
    sde: SDE
    device: torch.device
    seed: int
    options: Mapping[str, Any]
    sampling: Mapping[str, Any]
    continuous: bool
    num_classes: int
    scale: Callable[[Tensor], Tensor]
    inverse_scale: Callable[[Tensor], Tensor]
    score_for: Callable[[Labels | None], Callable[[Tensor], Score]]
    draw: Callable[[Tensor], Iterator[Any]]
    num_steps: Callable[[], int | None]
    draw_facts: Mapping[str, Any]
    objective: Any
    sources: Mapping[str, Source]
    references: References
    shards: Shards
    given: str = ""
    held_out_inputs: Callable[[Tensor, Tensor], Mapping[str, Tensor]] = lambda x_0, index: {}
    each_sample: Mapping[str, Measure] = field(default_factory=dict)
    keeps_x: bool = False
    labels: Labels | None = None
    results: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """What `compute` gives, computed at the first call: for what several figures share."""
        if name not in self.results:
            self.results[name] = compute()
        return self.results[name]

    @property
    def samples(self) -> SampleSet:
        """`eval.num_samples` samples, drawn at the first call. Every process must ask for them.

        Raises:
            LeftOut: `eval.enable_sampling` is off, or there is no feature network.
        """
        if not self.options["enable_sampling"]:
            raise LeftOut
        return self.once("samples", self._samples)

    def draw_share(self, turn: int) -> None:
        """Draws this process's share of the samples and waits for no other; see `Shards.fill`."""
        self.shards.fill(**self._to_draw(), turn=turn)

    def _to_draw(self) -> dict[str, Any]:
        """What `Shards.results` takes to draw and measure the samples."""
        network, shape = self.references.network, self.references.shape

        def measure(images: Tensor) -> dict[str, Tensor]:
            features, logits = network(images)
            values = {
                _kept_as(name, of): _of_each(of(images), images, name)
                for name, of in self.each_sample.items()
            }
            values |= {} if logits is None else {"logits": logits}
            return {"features": features, **values}

        def compute(index: Tensor) -> dict[str, Tensor]:
            parts = []
            start = time.perf_counter()
            for part in self.draw(index):
                part.nfe.cpu()  # waits for the device
                sec = (time.perf_counter() - start) / len(part.index)
                status = torch.zeros_like(part.nfe) if part.status is None else part.status.clone()
                x = self.inverse_scale(part.x)
                status[~x.flatten(1).isfinite().all(1)] = Status.NON_FINITE
                images = to_uint8(x.nan_to_num(0.0))
                shown = images[part.index.to(images.device) < SHOWN]  # all would be gigabytes
                made = {"images": shown, "nfe": part.nfe, "status": status, **measure(images)}
                if self.keeps_x:
                    made["x"] = x.nan_to_num(0.0).float()
                    made["draw_sec"] = torch.full(status.shape, sec, dtype=torch.float64)
                parts.append({name: value.cpu() for name, value in made.items()})
                start = time.perf_counter()
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        black = measure(torch.zeros(1, *shape, dtype=torch.uint8, device=self.device))
        types = {name: (a.cpu().numpy().dtype, a.shape[1:]) for name, a in black.items()}
        types |= {"images": (np.uint8, shape), "nfe": np.int64, "status": np.int64}
        if self.keeps_x:
            types |= {"x": (np.float32, shape), "draw_sec": np.float64}
        return {
            "name": "samples",
            "index": torch.arange(self.options["num_samples"]),
            "batch": self.sampling["batch_size"],
            "compute": compute,
            "types": types,
            "first": {"images": SHOWN},
            **self.draw_facts,
            "network": network.fingerprint,
        }

    def _samples(self) -> SampleSet:
        results = self.shards.results(**self._to_draw())
        finite = results["status"] == Status.DONE
        images, method = results["images"], self.sampling["method"]
        how: dict[str, Any] = {"method": method}
        if method == "pc":
            how["method"] = f"pc ({self.sampling['predictor']}, {self.sampling['corrector']})"
        if (num_steps := self.num_steps()) is not None:
            how["num_steps"] = num_steps
        if self.labels is not None:
            label = self.sampling.get("label", -1)
            how["labels"] = f"class {label} alone" if label >= 0 else "each class equally often"
            if "labels" in self.draw_facts:
                how["labels"] = "in the proportions of the training images"
        if (guidance := self.sampling.get("guidance", 1)) != 1:
            how["guidance"] = guidance
            how["guidance_interval"] = self.sampling["guidance_interval"]
        for name in ("guide", "classifier"):
            if self.sampling.get(name):
                how[name] = self.sampling[name]
        if "classifier" in how:
            how["classifier_scale"] = self.sampling["classifier_scale"]
        if self.given:
            how["given"] = self.given
        how |= {"nfe": float(results["nfe"].mean()), "given_up": int((~finite).sum())}
        if self.keeps_x:
            how["sec_each"] = float(results["draw_sec"].mean())
        return SampleSet(
            torch.from_numpy(images[finite[: len(images)]]),
            torch.from_numpy(results["features"][finite]),
            torch.from_numpy(results["logits"][finite]) if "logits" in results else None,
            {of: results[_kept_as(name, of)][finite] for name, of in self.each_sample.items()},
            {**how, "sec": results["sec"]},
            torch.from_numpy(finite.nonzero()[0]),
            torch.from_numpy(results["x"][finite]) if self.keeps_x else None,
        )


def _kept_as(name: str, of: Callable[[Tensor], Tensor]) -> str:
    """The array in which shards keep what a user's function gives: another one for other code."""
    return f"each {name} {fingerprint(of)}".rstrip()


def _of_each(value: Any, images: Tensor, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.shape[:1] != images.shape[:1]:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"FIGURES[{name!r}] gives {given} for {len(images)} images: EachSample takes a "
            "function that gives one number for each, (b,)"
        )
    return value
