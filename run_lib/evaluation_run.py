"""`--mode eval`: the figures of a checkpoint, each with its uncertainty, in one JSON file."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assembly
import checkpoints
import datasets
import evaluation
import parallel
import pictures
from assembly import Config
from datasets import Source
from evaluation import FeatureNetwork, Reference
from logbook import Logbook
from run_lib import figures, quality
from run_lib.figures import Figure, Subject
from run_lib.files import write_whole
from run_lib.progress import advice_on_memory, duration
from run_lib.sampling_run import load_checkpoint, network_of
from run_lib.shards import Shards

SPLITS = {"test": ("test",), "train": ("train",), "both": ("test", "train")}
"""What `eval.bpd_dataset` may say."""


def evaluate(
    config: Config,
    workdir: Path,
    *,
    eval_folder: Path | None = None,
    checkpoint: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> list[Path]:
    """Computes what can be computed of checkpoints: loss, bits/dim, samples and their distances.

    What is there from an earlier, interrupted evaluation of the same things is used.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where checkpoints are looked for.
        eval_folder: where reports go; `eval` in the work directory by default.
        checkpoint: a file to evaluate, ours or a published one; by default those of the work
            directory from `eval.begin_ckpt` to `eval.end_ckpt`, or the newest.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        The reports, one for each checkpoint.

    Raises:
        ValueError: no checkpoint, or one that does not fit the recipe.
        OSError: data that are not there, or a folder that cannot be written to.
    """
    folder = eval_folder or workdir / "eval"
    reports, asked = [], overrides or {}
    world = parallel.init()
    with Logbook(workdir, tensorboard=world.is_main, active=world.is_main) as log:
        for path in _chosen(config, workdir, checkpoint):
            found, state = load_checkpoint(config, path, workdir, [])
            own = assembly.adopt(config, state["config"], asked, found)
            reports.append(_Evaluation(own, found, state, folder, log, world, raw).run())
        if world.is_main and len(reports) > 1:
            log.say(_table(reports))
    return reports


def _chosen(config: Config, workdir: Path, checkpoint: Path | None) -> list[Path | None]:
    """The checkpoints to evaluate; None is the newest."""
    begin, end = config.eval.begin_ckpt, config.eval.end_ckpt
    if checkpoint is not None or not (begin or end):
        return [checkpoint]
    folder = workdir / "checkpoints"
    there = checkpoints.steps(folder)
    steps = [step for step in there if begin <= step and (not end or step <= end)]
    if not steps:
        have = ", ".join(map(str, there)) or "none"
        raise ValueError(
            f"{folder} has no checkpoint of a step from eval.begin_ckpt={begin} to "
            f"eval.end_ckpt={end}; it has those of steps {have}"
        )
    return [checkpoints.path_of(folder, step) for step in steps]


@dataclass
class _Evaluation:
    """The evaluation of one checkpoint."""

    config: Config
    path: Path
    state: dict[str, Any]
    folder: Path
    log: Logbook
    world: parallel.World
    raw: bool

    def run(self) -> Path:
        config, log, start = self.config, self.log, time.monotonic()
        facts = self._facts()
        assembly.check(config)
        sde, device = assembly.build_sde(config), assembly.build_device(config)
        sources = {split: datasets.open_from_config(config, split) for split in self._splits()}
        for source in sources.values():
            assembly.check_data(config, source.info)
        log.say(f"evaluating {self.path} on {device}, into {self.folder}")
        with advice_on_memory("lower --config.eval.batch_size"):
            network = network_of(config, self.state, raw=self.raw)
            shards = Shards(self.folder / "shards", facts, self.world, log)
            found, left_out = self._figures(Subject(config, network, sde, device, shards), sources)
        report = {
            **facts,
            "checkpoint": str(self.path),
            "step": self.state["step"],
            **found,
            "left_out": left_out,
            "wall_sec": round(time.monotonic() - start, 1),
            "versions": assembly.versions(),
            "config": json.loads(assembly.to_json(config)),
        }
        path = self._path(".json")
        if self.world.is_main:
            text = json.dumps(report, indent=2) + "\n"
            write_whole(path, lambda file: file.write(text.encode()), "--eval_folder")
            for line in _lines(found, left_out):
                log.say(line)
            log.say(f"report: {path}, after {duration(time.monotonic() - start)}")
            log.scalars(self.state["step"], _scalars(found))
        parallel.barrier()
        return path

    def _splits(self) -> tuple[str, ...]:
        """The splits to open."""
        options = self.config.eval
        wanted = SPLITS[options.bpd_dataset] if options.enable_bpd else ()
        compared = (options.reference_split, "train") if options.enable_sampling else ()
        return tuple(dict.fromkeys(("test", *wanted, *compared)))

    def _measure(self, subject: Subject, source: Source) -> tuple[FeatureNetwork, Reference] | str:
        """What samples are measured by; where nobody asked for it by name, why they are not."""
        options = self.config.eval
        try:
            network = quality.feature_network(self.config, source.info, subject.device)
        except FileNotFoundError as error:
            if options.features != "auto" or options.inception_path or options.reference:
                raise
            return str(error)
        held, path = quality.reference(self.config, source, network)
        self.log.say(f"samples are held against {path}")
        return network, held

    def _facts(self) -> dict[str, Any]:
        """What every number depends on."""
        config = json.loads(assembly.to_json(self.config))
        return {
            "weights": checkpoints.fingerprint(self.path),
            "ema": not self.raw,
            "seed": self.config.seed,
            "precision": self.config.training.precision,
            "objective": {
                key: config["training"].get(key)
                for key in ("objective", "time_sampling", "likelihood_weighting", "reduce_mean")
            },
        }

    def _figures(
        self, subject: Subject, sources: dict[str, Source]
    ) -> tuple[dict[str, Figure], dict[str, str]]:
        """Figures by name, and why others are left out."""
        options, found, left_out = self.config.eval, dict[str, Figure](), dict[str, str]()
        shown, bits = dict[str, np.ndarray](), dict[str, np.ndarray]()
        if not len(sources["test"]):
            raise ValueError("the data set has no test images: set data.test_fraction above 0")
        compared = sources.get(options.reference_split)
        # Before hours of other work: what samples are measured by has to be there.
        measure = self._measure(subject, compared) if compared and options.enable_sampling else ""
        if options.enable_loss:
            found["held_out_loss"] = figures.held_out_loss(subject, sources["test"])
        # As many training images as test images: what is compared has the same error.
        count = options.bpd_images or len(sources["test"])
        reason = figures.no_bound(self.config, subject.sde)
        if options.enable_bpd and reason:
            left_out["bound"] = reason
        elif options.enable_bpd:
            split = SPLITS[options.bpd_dataset][0]
            found["bound"] = figures.bound(subject, sources[split], count)
        reason = figures.no_likelihood(self.config, subject.sde)
        if options.enable_bpd and reason:
            left_out["bits_per_dim"] = reason
        elif options.enable_bpd:
            for split in SPLITS[options.bpd_dataset]:
                name = "bits_per_dim" if split == "test" else f"bits_per_dim_{split}"
                found[name], bits[split] = figures.bits_per_dim(subject, sources[split], count)
        if isinstance(measure, tuple) and compared:
            drawn = quality.sample_figures(subject, compared, *measure)
            found |= drawn.figures
            shown |= self._beside_training(subject, drawn, measure[0], sources, found)
        elif isinstance(measure, str) and options.enable_sampling:
            left_out["samples"] = measure
        if self.world.is_main and found:
            self._draw(found, shown, bits)
        return found, left_out

    def _beside_training(
        self,
        subject: Subject,
        drawn: quality.Drawn,
        network: FeatureNetwork,
        sources: dict[str, Source],
        found: dict[str, Figure],
    ) -> dict[str, np.ndarray]:
        """Samples and, where its features are kept, the nearest images of the training set."""
        shown = {f"the first {len(drawn.images)} samples": pictures.grid(drawn.images)}
        both = [sources[split] for split in ("train", "test")]
        if not all(quality.keeps_features(source, network) for source in both):
            return shown
        train, test = (
            quality.own_statistics(self.config, source, network)[0].features for source in both
        )
        assert train is not None
        assert test is not None
        found["nearest_train"], rows = quality.nearest(
            drawn.features, test, train, network.label or network.name
        )
        few = min(8, len(drawn.images))
        stored = sources["train"].images(rows[:few]).cpu()
        near = evaluation.spread_levels(stored, sources["train"].info.levels)
        pairs = torch.cat([drawn.images[:few], near])
        shown["samples, and the training images nearest to them"] = pictures.grid(pairs, few)
        return shown

    def _draw(
        self,
        found: dict[str, Figure],
        shown: dict[str, np.ndarray],
        bits: dict[str, np.ndarray],
    ) -> None:
        """The report as a picture."""
        histograms = {"bits per dimension, by image": bits} if bits else {}
        by_level = found.get("held_out_loss", {}).get("by_level", [])
        columns = (
            [sum(level["t"]) / 2 for level in by_level],
            [level["value"] for level in by_level],
            [level["se"] for level in by_level],
        )
        pictures.evaluation_sheet(
            self._path(".png"),
            f"{self.path.name}, step {self.state['step']}",
            shown,
            histograms,
            {"held-out loss by noise level": columns} if by_level else {},
        )

    def _path(self, suffix: str) -> Path:
        return self.folder / f"step_{self.state['step']:08d}{suffix}"


def _lines(found: dict[str, Figure], left_out: dict[str, str]) -> list[str]:
    """The figures for the screen."""
    lines = []
    for name, figure in found.items():
        more = f", {figure['nfe']:.0f} evaluations each" if "nfe" in figure else ""
        of = figure.get("of", "samples")
        what = f"{of} against {figure['split']}" if "against" in figure else figure["split"]
        lines.append(
            f"{figure.get('name', name):<20} {figure['value']:.4f} ± {figure['se']:.4f} "
            f"({figure['n']:,} {what} images{more})"
        )
    return lines + [f"{name:<20} left out: {reason}" for name, reason in left_out.items()]


def _scalars(found: dict[str, Figure]) -> dict[str, float]:
    return {f"eval/{name}": figure["value"] for name, figure in found.items()}


def _table(paths: list[Path]) -> str:
    """One line a checkpoint; the best of each column has a star."""
    reports = [json.loads(path.read_text()) for path in paths]
    names = [
        name
        for name, value in reports[0].items()
        if isinstance(value, dict) and {"value", "se", "n"} <= value.keys()
    ]
    best = {
        name: min(report[name]["value"] for report in reports if name in report) for name in names
    }
    lines = ["step      " + "".join(f"{name:>28}" for name in names)]
    for report in reports:
        cells = []
        for name in names:
            figure = report[name]
            star = "*" if figure["value"] == best[name] else " "
            cells.append(f"{figure['value']:.4f} ± {figure['se']:.4f}{star}".rjust(28))
        lines.append(f"{report['step']:<10}" + "".join(cells))
    return "\n".join(lines)
