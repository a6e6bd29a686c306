"""`--mode eval`: the figures of a checkpoint, each with its uncertainty, in one JSON file."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score_sde import checkpoints, evaluation, parallel, pictures
from score_sde.atomic import write_whole
from score_sde.commands import figures, quality, references
from score_sde.commands.figures import Figure, Subject
from score_sde.commands.in_turn import in_turn
from score_sde.commands.progress import advice_on_memory, duration
from score_sde.commands.report import lines, standard, table
from score_sde.commands.sample import network_of
from score_sde.commands.shards import Results, Shards
from score_sde.commands.weights import none_in
from score_sde.config import history
from score_sde.config.build import Config, allow_tf32, build_device, build_sde, open_split
from score_sde.config.check import check_config, check_data
from score_sde.data import Source
from score_sde.evaluation import FeatureNetwork, Reference
from score_sde.logbook import Logbook

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
    wait_minutes: float = 0.0,
    sources: tuple[Source, Source] | None = None,
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
        wait_minutes: how long to wait for each checkpoint that is still to come.
        sources: training and test images; the config's own by default.

    Returns:
        The reports, one for each checkpoint.

    Raises:
        ValueError: no checkpoint, or one that does not fit the recipe.
        OSError: data that are not there, or a folder that cannot be written to.
    """
    reports, asked = list[Path](), overrides or {}
    folder = eval_folder or workdir / "eval"
    # What is wrong with the command itself is told before anything is made, or waited for.
    check_config(config)
    options = config.eval
    if not (options.enable_loss or options.enable_bpd or options.enable_sampling):
        raise ValueError(
            "eval.enable_loss, eval.enable_bpd and eval.enable_sampling are all False: there is "
            "nothing to evaluate, so set one of them"
        )
    if options.enable_sampling:
        references.check_given(config)
    if checkpoint is None and not wait_minutes and not checkpoints.steps(workdir / "checkpoints"):
        raise none_in(workdir / "checkpoints")
    world = parallel.init()
    with Logbook(workdir, tensorboard=world.is_main, active=world.is_main) as log:
        turn = in_turn(
            config, workdir, given=checkpoint, wait_sec=60 * wait_minutes, world=world, log=log
        )
        for path, state in turn:
            own = history.adopt(config, state["config"], asked, path)
            if said := _of_checkpoint(config, own):
                log.say(said)
            of_one = _Evaluation(own, path, state, folder, log, world, raw, sources)
            reports.append(of_one.run())
            if world.is_main and len(reports) > 1:
                log.say(table([json.loads(report.read_text()) for report in reports]))
    return reports


ON_MEMORY = (
    "in the evaluation: lower --config.eval.bpd_batch_size (bits/dim), --config.eval.batch_size "
    "(loss) or --config.sampling.batch_size (samples and their features)"
)


@dataclass
class Sheet:
    """What an evaluation has found so far.

    Attributes:
        figures: by name.
        left_out: why others are not there.
        bits: bits/dim of each image, by split.
        pictures: (H, W, C) uint8 by title.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    bits: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


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
    given: tuple[Source, Source] | None

    def run(self) -> Path:
        config, log, start = self.config, self.log, time.monotonic()
        check_config(config)
        allow_tf32(False)  # a solver's tolerance is finer than that
        sde, device = build_sde(config), build_device(config)
        facts = self._facts(device)
        # Before data are read, let alone images drawn: what they are measured by has to be there.
        features = self._feature_network(device) if config.eval.enable_sampling else ""
        with parallel.main_first(self.world):  # it fetches what is missing
            sources = self._sources(measured=not isinstance(features, str))
        for source in sources.values():
            check_data(config, source.info)
        if not len(sources["test"]):
            raise ValueError(
                "the data set has no test images to evaluate on: put some into folders train/ and "
                "test/, and train on the first"
            )
        same = self._are_those_trained_on(sources)
        log.say(f"evaluating {self.path} on {device}, into {self.folder}")
        with advice_on_memory(ON_MEMORY):
            network = network_of(config, self.state, raw=self.raw)
            shards = Shards(self.folder / "shards", facts, self.world, log)
            subject = Subject(config, network, sde, device, shards)
            sheet = self._figures(subject, sources, features)
        path = self._path(".json")
        if self.world.is_main:
            told = {name: value for name, value in facts.items() if name != "recipe"}
            told |= {"trained_on_these_images": same}
            self._write(path, sheet, told, time.monotonic() - start)
        parallel.barrier()
        return path

    def _write(self, path: Path, sheet: Sheet, facts: dict[str, Any], elapsed_sec: float) -> None:
        """The report: as JSON, on the screen, as curves and as a picture."""
        report = {
            "checkpoint": str(self.path),
            "step": self.state["step"],
            **facts,
            **sheet.figures,
            "left_out": sheet.left_out,
            "wall_sec": round(elapsed_sec, 1),  # of this run alone; figures have their own
            "versions": history.versions(),
            "config": json.loads(history.to_json(self.config)),
        }
        if path.is_file() and not _is_like(path, report):
            self.log.say(f"replaces the report of an evaluation with other options: {path}")
        text = json.dumps(standard(report), indent=2, allow_nan=False) + "\n"
        write_whole(path, lambda file: file.write(text.encode()), "--eval_folder")
        self.log.say(lines(sheet.figures, sheet.left_out))
        self.log.say(f"report: {path}, after {duration(elapsed_sec)}")
        values = {f"eval/{name}": figure["value"] for name, figure in sheet.figures.items()}
        self.log.scalars(self.state["step"], values)
        for title, picture in sheet.pictures.items():
            self.log.images(self.state["step"], f"eval/{title}", picture)
        if sheet.figures:
            self._draw(sheet)

    def _are_those_trained_on(self, sources: dict[str, Source]) -> bool | None:
        """Whether the training images here are the checkpoint's; None where nobody knows."""
        written = self.state["data"].get("fingerprint")
        if written is None or "train" not in sources or self.given:
            return None
        same = written == sources["train"].info.fingerprint
        if not same:
            self.log.say(
                "the images here are not those that the checkpoint was trained on: what is told "
                "of test images may be of training images"
            )
        return same

    def _sources(self, measured: bool) -> dict[str, Source]:
        """The splits that are needed."""
        if self.given:
            return dict(zip(("train", "test"), self.given, strict=True))
        options = self.config.eval
        wanted = SPLITS[options.bpd_dataset] if options.enable_bpd else ()
        compared = (options.reference_split, "train") if measured else ()
        splits = dict.fromkeys(("test", *wanted, *compared))
        return {split: open_split(self.config, split) for split in splits}

    def _feature_network(self, device: torch.device) -> FeatureNetwork | str:
        """What samples are measured by; where nobody asked for it by name, why they are not."""
        options = self.config.eval
        try:
            network = references.feature_network(self.config, device)
        except FileNotFoundError as error:
            if options.features != "auto" or options.inception_path or options.reference:
                raise
            return str(error)
        references.check_reference(self.config, network)
        return network

    def _facts(self, device: torch.device) -> dict[str, Any]:
        """What every number depends on. A published file does not hold its own recipe."""
        return {
            "weights": checkpoints.fingerprint(self.path),
            "ema": not self.raw,
            "seed": self.config.seed,
            "device": device.type,
            "arithmetic": "float32",
            "recipe": history.of_checkpoint(self.config),
        }

    def _figures(
        self, subject: Subject, sources: dict[str, Source], features: FeatureNetwork | str
    ) -> Sheet:
        """All figures, or why they are left out. Every process takes part in what takes long."""
        options, sheet = self.config.eval, Sheet()
        held = None
        if not isinstance(features, str):
            # First: it may be refused, and hours of other work would be lost.
            compared = sources[options.reference_split]
            if len(compared) < 2:
                sheet.left_out["samples"] = (
                    f"the {options.reference_split} split has one image: set eval.reference_split "
                    "to the other"
                )
            else:
                with parallel.main_first(self.world):
                    held, path = references.reference(self.config, compared, features)
                self.log.say(f"samples are held against {path}")
        elif features:
            sheet.left_out["samples"] = features
        if options.enable_loss:
            sheet.figures["held_out_loss"] = figures.held_out_loss(subject, sources["test"])
        if options.enable_bpd:
            self._likelihoods(subject, sources, sheet)
        if not isinstance(features, str) and held:
            shards = quality.draw_samples(subject, features)
            if self.world.is_main:
                self._samples(subject, sources, features, held, shards, sheet)
        return sheet

    def _likelihoods(self, subject: Subject, sources: dict[str, Source], sheet: Sheet) -> None:
        """Bounds and bits/dim of each split."""
        options = self.config.eval
        # As many training images as test images: what is compared has the same error.
        count = options.bpd_images or len(sources["test"])
        no_bound = figures.no_bound(self.config, subject.sde)
        no_value = figures.no_likelihood(self.config, subject.sde)
        for split in SPLITS[options.bpd_dataset]:
            suffix = "" if split == "test" else f"_{split}"
            if no_bound:
                sheet.left_out["bound"] = no_bound
            else:
                sheet.figures[f"bound{suffix}"] = figures.bound(subject, sources[split], count)
            name = f"bits_per_dim{suffix}"
            found = no_value or figures.bits_per_dim(subject, sources[split], count)
            if isinstance(found, str):
                sheet.left_out[name] = found
            else:
                sheet.figures[name], sheet.bits[split] = found

    def _samples(
        self,
        subject: Subject,
        sources: dict[str, Source],
        network: FeatureNetwork,
        held: Reference,
        shards: Results,
        sheet: Sheet,
    ) -> None:
        """Distances of samples and, where its features are kept, the nearest training images."""
        drawn = quality.sample_figures(subject, network, held, shards)
        sheet.figures |= drawn.figures
        sheet.left_out |= drawn.left_out
        if len(drawn.images):
            title = f"the first {len(drawn.images)} samples"
            sheet.pictures[title] = pictures.grid(drawn.images)
        both = (sources["train"], sources["test"])
        reason = references.no_nearest(*both, network) if drawn.figures else ""
        if reason:
            sheet.left_out["nearest_train"] = reason
        if reason or not drawn.figures:
            return
        train, test = (
            references.own_statistics(self.config, source, network)[0].features for source in both
        )
        if train is None or test is None:
            return
        label = network.label or network.name
        found, rows = quality.nearest(drawn.features, test, train, label)
        sheet.figures["nearest_train"] = found
        few = min(8, len(drawn.images))
        stored = sources["train"].images(rows[:few]).cpu()
        near = evaluation.spread_levels(stored, sources["train"].info.levels)
        pairs = torch.cat([drawn.images[:few], near])
        title = "samples, and the training images nearest to them"
        sheet.pictures[title] = pictures.grid(pairs, few)

    def _draw(self, sheet: Sheet) -> None:
        """The report as a picture."""
        histograms = {"bits per dimension, by image": sheet.bits} if sheet.bits else {}
        by_level = sheet.figures.get("held_out_loss", {}).get("by_level", [])
        columns = (
            [sum(level["t"]) / 2 for level in by_level],
            [level["value"] for level in by_level],
            [level["se"] or 0.0 for level in by_level],
        )
        pictures.evaluation_sheet(
            self._path(".png"),
            f"{self.path.name}, step {self.state['step']}",
            sheet.pictures,
            histograms,
            {"held-out loss by noise level": columns} if by_level else {},
        )

    def _path(self, suffix: str) -> Path:
        raw = "_raw" if self.raw else ""
        return self.folder / f"step_{self.state['step']:08d}{raw}{suffix}"


def _of_checkpoint(recipe: Config, own: Config) -> str:
    """What the checkpoint decided against the recipe, for the log."""
    wanted, found = history.of_checkpoint(recipe), history.of_checkpoint(own)
    other = [f"{name}={value!r}" for name, value in found.items() if wanted.get(name) != value]
    more = f" and {len(other) - 4} more" if len(other) > 4 else ""
    return f"of the checkpoint, not of the recipe: {', '.join(other[:4])}{more}" if other else ""


def _is_like(path: Path, report: dict[str, Any]) -> bool:
    """Whether a report was made of the same weights with the same options."""
    try:
        before = json.loads(path.read_text())
    except ValueError:
        return False
    now = json.loads(json.dumps(standard(report)))
    return all(before.get(name) == now[name] for name in ("weights", "ema", "config"))
