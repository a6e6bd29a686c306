"""`--mode eval`: the figures of a checkpoint, each with its uncertainty, in one JSON file."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_sde import checkpoints, parallel, pictures
from score_sde.atomic import cannot_write, check_writable, read_json, write_whole
from score_sde.commands.adopted import check_adopted, decided_by_checkpoint
from score_sde.commands.cascade import Base, check_fit, given_by
from score_sde.commands.in_turn import in_turn, read_given
from score_sde.commands.progress import advice_on_memory, duration
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.weights import network_of, none_in, open_beside
from score_sde.config import history
from score_sde.config.build import (
    Config,
    allow_tf32,
    drawn_classes,
    field,
    open_split,
    upsampling_factor,
)
from score_sde.config.check import check_config, check_data
from score_sde.config.subject import build_references, build_subject
from score_sde.data import Source
from score_sde.evaluation import Figure, Subject
from score_sde.evaluation.figures import compute
from score_sde.evaluation.likelihood import SPLITS
from score_sde.evaluation.quality import shown, splits_of_nearest
from score_sde.evaluation.report import is_like, lines, standard, table
from score_sde.evaluation.shards import Shards
from score_sde.logbook import Logbook

KIND = "low_resolution"
"""Entry of a report: which low-resolution images its samples are drawn from."""

ON_MEMORY = (
    "in the evaluation: lower --config.eval.bpd_batch_size (bits/dim), --config.eval.batch_size "
    "(loss) or --config.sampling.batch_size (samples and their features)"
)


def evaluate(
    config: Config,
    workdir: Path,
    *,
    eval_folder: Path | None = None,
    checkpoint: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
    wait_minutes: float = 0.0,
    base: Path | None = None,
    sources: tuple[Source, Source] | None = None,
) -> list[Path]:
    """Computes what can be computed of checkpoints: loss, likelihood, samples, their distances.

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
        base: of a network that upsamples: the checkpoint that draws its low-resolution images; by
            default they are made of test images.
        sources: training and test images; the config's own by default.

    Returns:
        The reports, one for each checkpoint.

    Raises:
        ValueError: no checkpoint, or one that does not fit the recipe.
        OSError: data that are not there, or a folder that cannot be written to.
    """
    # What is wrong with the command itself is reported before anything is made, or waited for.
    check_config(config)
    options = config.eval
    if not (options.enable_loss or options.enable_bpd or options.enable_sampling):
        raise ValueError(
            "eval.enable_loss, eval.enable_bpd and eval.enable_sampling are all False: there is "
            "nothing to evaluate, so set one of them"
        )
    if options.enable_sampling:
        build_references(config).check_files()
    if checkpoint is None and not wait_minutes and not checkpoints.steps(workdir / "checkpoints"):
        raise none_in(workdir / "checkpoints")
    folder, reports = eval_folder or workdir / "eval", list[Path]()
    world, opened, early = parallel.init(), read_given(checkpoint, config), list[str]()

    def ready(path: Path, state: dict[str, Any], say: Callable[[str], None]) -> _Ready:
        return _ready(config, state["config"], path, overrides or {}, base, say, raw=raw)

    # What does not fit is refused before anything is written.
    of_given = ready(*opened[:2], early.append) if opened else None
    if world.is_main and wait_minutes:
        _check_writable(folder)
    with Logbook(workdir, beside=folder, tensorboard=world.is_main, active=world.is_main) as log:
        wait_sec = 60 * wait_minutes
        for path, state, weights in in_turn(
            config, workdir, given=opened, wait_sec=wait_sec, world=world, log=log
        ):
            for sentence in early:
                log.say(sentence)
            adopted, drawn_by = of_given or ready(path, state, log.say)
            if world.is_main:
                _check_writable(folder)
            if decided := decided_by_checkpoint(config, adopted):
                log.say(decided)
            one = _Evaluation(
                adopted, path, state, weights, folder, log, world, raw, sources, drawn_by
            )
            reports.append(one.run())
            if world.is_main and len(reports) > 1:
                log.say(table([read_json(report) for report in reports]))
    return reports


def _check_writable(folder: Path) -> None:
    """Refuses a folder that reports could not go to, before hours of work."""
    try:
        check_writable(folder / "report.json")
    except OSError as error:
        raise cannot_write(folder, error, "--eval_folder") from error


_Ready = tuple[Config, "Base | None"]


def _ready(
    recipe: Config,
    written: str,
    path: Path,
    overrides: dict[str, object],
    base: Path | None,
    say: Callable[[str], None],
    *,
    raw: bool,
) -> _Ready:
    """The config of a checkpoint that is evaluated, checked, and the base model beside it."""
    config = history.adopt(recipe, written, overrides, path)
    check_adopted(config, written, path)
    _check_labels(config, overrides)
    return config, _opened(base, config, path, overrides, say, raw=raw)


def _check_labels(config: Config, overrides: dict[str, object]) -> None:
    """Refuses proportions of classes where samples have classes of their own, or none."""
    if field(config, "eval.labels") != "proportional" or not config.eval.enable_sampling:
        return
    said = "config.eval.labels='proportional'"
    if upsampling_factor(config):
        raise ValueError(
            f"{said}: samples of a network that upsamples have the classes of the images that "
            "they are drawn from: set 'equal'"
        )
    if "eval.labels" in overrides and not drawn_classes(config):
        raise ValueError(f"{said}: this network draws of no classes: leave it out")


def _opened(
    base: Path | None,
    config: Config,
    upsampler: Path,
    overrides: dict[str, object],
    report: Callable[[str], None],
    *,
    raw: bool,
) -> Base | None:
    """The base model of an upsampler that is evaluated, where one is named."""
    if base is None:
        return None
    if not upsampling_factor(config):
        raise ValueError(
            f"--base {base} draws low-resolution images, and {upsampler} upsamples none: leave "
            "--base out"
        )
    own, state = open_beside(base, config, overrides, upsampler=False)
    check_fit(own, config, upsampler)
    return Base.of(own, base, state, report, raw=raw)


@dataclass
class _Evaluation:
    """The evaluation of one checkpoint."""

    config: Config
    path: Path
    state: dict[str, Any]
    weights: str
    folder: Path
    log: Logbook
    world: parallel.World
    raw: bool
    given: tuple[Source, Source] | None
    base: Base | None = None

    def run(self) -> Path:
        """Builds the subject, computes the rows of the table in turn, and writes the report."""
        config, log, start = self.config, self.log, time.monotonic()
        allow_tf32(False)  # a solver's tolerance is finer than that
        references = build_references(config, log.say)
        measured = config.eval.enable_sampling and references.are_there()
        with parallel.main_first(self.world):  # it fetches what is missing
            sources = self._sources(measured)
        same = self._are_those_trained_on(sources)
        log.say(f"evaluating {self.path} on {references.device}, into {self.folder}")
        weights = {"weights": self.weights, "ema": not self.raw}
        with advice_on_memory(ON_MEMORY):
            compared = sources[config.eval.reference_split if measured else "test"]
            if measured and len(compared) > 1:  # first, so that no hours are lost if it is refused
                references.find_together(compared, self.world)
                for source in splits_of_nearest(references, sources):
                    references.compute_together(source, self.world)
                path = config.eval.reference or references.path(compared)
                log.say(f"samples are compared with {path}")
            network = network_of(config, self.state, self.path, raw=self.raw)
            shards = Shards(self.folder / "shards", weights, self.world, log)
            with parallel.main_first(self.world):
                times = times_of(config, network, self.path, log.say) if measured else None
            low = None if self.base is None else given_by(self.base, config)
            subject = build_subject(config, network, sources, references, shards, times, low)
            figures, left_out = compute(subject)
        if self.world.is_main:
            facts = {key: fact for key, fact in subject.shards.facts.items() if key != "recipe"}
            facts |= {"trained_on_these_images": same}
            self._write(figures, left_out, facts, time.monotonic() - start)
            self._draw(subject, figures)
        parallel.barrier()
        return self._report(".json")

    def _sources(self, measured: bool) -> dict[str, Source]:
        """The splits that are needed."""
        options = self.config.eval
        wanted = SPLITS[options.bpd_dataset] if options.enable_bpd else ()
        compared = (options.reference_split, "train") if measured else ()
        if self.given:
            sources = dict(zip(("train", "test"), self.given, strict=True))
        else:
            splits = dict.fromkeys(("test", *wanted, *compared))
            sources = {split: open_split(self.config, split) for split in splits}
        for source in sources.values():
            check_data(self.config, source.info)
        for note in dict.fromkeys(note for s in sources.values() for note in s.info.notes):
            self.log.say(note)
        if not len(sources["test"]):
            raise ValueError(
                "the data set has no test images to evaluate on: put some into folders train/ and "
                "test/, and train on the first"
            )
        return sources

    def _are_those_trained_on(self, sources: dict[str, Source]) -> bool | None:
        """Whether the training images here are the checkpoint's; None where nobody knows."""
        written = self.state["data"].get("fingerprint")
        if written is None or "train" not in sources or self.given:
            return None
        same = written == sources["train"].info.fingerprint
        if not same:
            self.log.say(
                "the images here are not those that the checkpoint was trained on: what is "
                "reported of test images may be of training images"
            )
        return same

    def _write(
        self,
        figures: dict[str, Figure],
        left_out: dict[str, str],
        facts: dict[str, Any],
        elapsed_sec: float,
    ) -> None:
        """The report: as JSON, on the screen and as curves."""
        path, step = self._report(".json"), self.state["step"]
        report = {
            "checkpoint": str(self.path),
            "step": step,
            **({KIND: self.kind} if self.kind else {}),
            **facts,
            **figures,
            "left_out": left_out,
            "wall_sec": round(elapsed_sec, 1),  # of this run alone; figures have their own
            "versions": history.versions(),
            "config": json.loads(history.to_json(self.config)),
        }
        if path.is_file() and not is_like(path, report, ("weights", "ema", "config")):
            self.log.say(f"replaces the report of an evaluation with other options: {path}")
        text = json.dumps(standard(report), indent=2, allow_nan=False) + "\n"
        write_whole(path, lambda file: file.write(text.encode()), "--eval_folder")
        self.log.say(lines(figures, left_out))
        self.log.say(f"report: {path}, after {duration(elapsed_sec)}")
        values = {f"eval/{name}": figure["value"] for name, figure in figures.items()}
        self.log.scalars(step, values)

    def _draw(self, subject: Subject, figures: dict[str, Figure]) -> None:
        """The report as a picture: samples, densities by image, loss by noise level."""
        step, results = self.state["step"], subject.results
        grids = {
            title: pictures.grid(images, columns)
            for title, (images, columns) in shown(subject).items()
        }
        for title, grid in grids.items():
            self.log.images(step, f"eval/{title}", grid)
        densities = {
            f"{unit} per dimension, by image": {
                split: results[f"{unit} {split}"]
                for split in ("test", "train")
                if f"{unit} {split}" in results
            }
            for unit in ("bits", "nats")
        }
        by_level = figures.get("held_out_loss", {}).get("by_level", [])
        columns = (
            [sum(level["t"]) / 2 for level in by_level],
            [level["value"] for level in by_level],
            [level["se"] or 0.0 for level in by_level],
        )
        if figures:
            pictures.evaluation_sheet(
                self._report(".png"),
                f"{self.path.name}, step {step}",
                grids,
                {title: values for title, values in densities.items() if values},
                {"held-out loss by noise level": columns} if by_level else {},
            )

    def _report(self, suffix: str) -> Path:
        """Where the report goes, with a suffix.

        Samples from test images and those from a base model's are other samples: of the two kinds
        the one that comes second stands beside the first.
        """
        raw = "_raw" if self.raw else ""
        stem = self.folder / f"step_{self.state['step']:08d}{raw}"
        beside = self.kind and _kind_of(Path(f"{stem}.json")) not in ("", self.kind)
        return Path(f"{stem}_{self.kind}{suffix}" if beside else f"{stem}{suffix}")

    @property
    def kind(self) -> str:
        """Which low-resolution images samples are drawn from; empty where there are none."""
        if not upsampling_factor(self.config):
            return ""
        return "test_images" if self.base is None else f"base_{self.base.origin[:8]}"


def _kind_of(report: Path) -> str:
    """`_Evaluation.kind` of a report that is there; empty where there is none, or nobody knows."""
    try:
        written = read_json(report)
    except (OSError, ValueError):
        return ""
    return str(written.get(KIND, "")) if isinstance(written, dict) else ""
