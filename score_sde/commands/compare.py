"""`--mode compare`: what each evaluation of the network buys, sampler by sampler."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from score_sde import checkpoints, parallel, pictures
from score_sde.atomic import cannot_write, check_writable, write_whole
from score_sde.commands.adopted import check_adopted, decided_by_checkpoint
from score_sde.commands.compared import Compared, OfCheckpoint, OfExact
from score_sde.commands.comparison import panels, tables
from score_sde.commands.evaluate import ON_MEMORY
from score_sde.commands.in_turn import Checkpoint, in_turn, read_given
from score_sde.commands.progress import advice_on_memory, duration
from score_sde.commands.weights import network_of, none_in, refuse_upsampler
from score_sde.config import history
from score_sde.config.build import Config, allow_tf32, build_sampler, field, open_split
from score_sde.config.check import check_config, check_data, check_fields
from score_sde.config.exact import build_exact
from score_sde.config.presets import PRESETS, Row, as_row, converged
from score_sde.config.subject import build_references
from score_sde.data import Source
from score_sde.evaluation import LeftOut, References, Subject
from score_sde.evaluation.report import is_like, standard
from score_sde.evaluation.shards import Shards
from score_sde.evaluation.study import Floor, Result, compute_figures, compute_floor
from score_sde.evaluation.subject import SampleSet
from score_sde.logbook import Logbook
from score_sde.samplers import Sampler
from score_sde.tensor_ops import UnknownName, choose

LEAST_SAMPLES = 4
"""Below, the kernel distance has no halves to compare."""

CONVERGED = 1e-5
"""The tolerance, relative and absolute, of the ODE whose images others are measured by. Where rows
are as fine, it is a tenth of theirs."""


def compare(
    config: Config,
    workdir: Path,
    *,
    preset: str = "few_steps",
    num_samples: int = 100,
    checkpoint: Path | None = None,
    raw: bool = False,
    exact: str = "",
    exact_std: float | None = None,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws the same samples by every row of a preset: how good they are, and at what cost.

    What is there from an earlier, interrupted comparison of the same things is used.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for; results go into its folder `compare`.
        preset: a name of `config.presets.PRESETS`.
        num_samples: how many samples each row draws.
        checkpoint: a file to use instead, ours or a published one.
        raw: the weights as trained instead of their moving average.
        exact: a name of `config.exact.MIXTURES`: instead of a network, the exact score of data
            that are made of training images.
        exact_std: of these data, in units of the scaled data.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        The report, a JSON file; plot and sheet lie beside it.

    Raises:
        ValueError: no checkpoint, too few samples, an unknown name, or no feature network.
        OSError: data that are not there, or a folder that cannot be written to.
    """
    choose(PRESETS, preset, "--preset")
    if num_samples < LEAST_SAMPLES:
        raise ValueError(
            f"--num_samples {num_samples}: distances between sets of images need at least "
            f"{LEAST_SAMPLES}, and say little below a hundred"
        )
    if exact and (checkpoint or raw):
        raise ValueError(
            "--exact takes no network: leave out --checkpoint and --raw, or leave out --exact"
        )
    if exact_std is not None and not exact:
        raise ValueError("--exact_std belongs to --exact: give --exact points, or leave it out")
    if exact:  # else the checkpoint's own is
        check_config(config)
    if config.sampling.grid == "optimised":
        raise ValueError(
            "config.sampling.grid='optimised' is a grid for one method and one number of steps, "
            "and --mode compare has many of both: set it to auto, uniform, log_snr or edm"
        )
    led = field(config, "sampling.label") >= 0 or field(config, "sampling.guidance") != 1
    led = led or any(field(config, f"sampling.{name}") for name in ("classifier", "guide"))
    if exact and led:
        raise ValueError(
            "--exact takes no network, and so draws of all classes, without guidance: leave out "
            "sampling.label, guidance, classifier and guide, or leave out --exact"
        )
    if not exact and checkpoint is None and not checkpoints.steps(workdir / "checkpoints"):
        raise none_in(workdir / "checkpoints")
    folder = workdir / "compare"
    world, opened = parallel.init(), read_given(checkpoint, config)
    if opened:  # what does not fit is refused before anything is written
        _adopted(config, opened, overrides)
    with Logbook(workdir, beside=folder, tensorboard=False, active=world.is_main) as log:
        if exact:
            _check_writable(folder, world)
            with parallel.main_first(world):  # it fetches what is missing
                train = open_split(config, "train")
            origin: Compared = OfExact(build_exact(config, exact, exact_std, train))
        else:
            path, state, weights = read = next(
                in_turn(config, workdir, given=opened, wait_sec=0.0, world=world, log=log)
            )
            recipe, config = config, _adopted(config, read, overrides)
            if decided := decided_by_checkpoint(recipe, config):
                log.say(decided)
            _check_writable(folder, world)
            network = network_of(config, state, path, raw=raw)
            origin = OfCheckpoint(network, config, path, state["step"], weights, raw)
        comparison = _Study(config, origin, preset, num_samples, folder, log, world)
        with advice_on_memory(ON_MEMORY):
            return comparison.run()


def _adopted(config: Config, read: Checkpoint, overrides: dict[str, object] | None) -> Config:
    """The config of a checkpoint whose samplers are compared, checked."""
    path, state, _ = read
    config = history.adopt(config, state["config"], overrides or {}, path)
    refuse_upsampler(config, path)
    check_adopted(config, state["config"], path)
    return config


def _check_writable(folder: Path, world: parallel.World) -> None:
    """Refuses a folder that results could not go to, before hours of work."""
    if not world.is_main:
        return
    try:
        check_writable(folder / "report.json")
    except OSError as error:
        raise cannot_write(folder, error, "--workdir") from error


@dataclass(frozen=True, eq=False)
class _Entry:
    """A row that runs, and what its figures are computed from."""

    row: Row
    config: Config
    subject: Subject
    sampler: Sampler
    is_converged: bool

    @property
    def evaluations(self) -> int:
        """What a sample costs, for the progress bar; of a solver that decides itself a guess."""
        return getattr(self.sampler, "evaluations", 200)


@dataclass
class _Study:
    """One comparison."""

    config: Config
    origin: Compared
    preset: str
    num_samples: int
    folder: Path
    log: Logbook
    world: parallel.World

    def run(self) -> Path:
        """Draws by every row, computes the figures, and writes report, plot and sheet."""
        start = time.monotonic()
        allow_tf32(False)  # as in every evaluation
        config = self._with_options()
        references, sources = self._opened(config)
        entries, left_out = self._entries(config, references, sources)
        self._draw(entries)
        floor = self._floor(config, entries[0].subject, sources, left_out)
        results, shown = self._results(entries, floor)
        if self.world.is_main:
            self.log.say("\n" + tables(results, floor, left_out))
            self._write(config, results, floor, left_out, time.monotonic() - start)
            self._picture(results, shown, floor)
        parallel.barrier()
        return self._path(".json")

    def _with_options(self) -> Config:
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.eval.enable_sampling, config.eval.num_samples = True, self.num_samples
            # The adaptive ODE would fill its batch up.
            config.sampling.batch_size = min(config.sampling.batch_size, self.num_samples)
        return config

    def _opened(self, config: Config) -> tuple[References, dict[str, Source]]:
        """What samples are measured by and compared with, and the images."""
        references = build_references(config, self.log.say)
        try:
            _ = references.network
        except LeftOut as reason:
            raise ValueError(reason.why) from reason
        with parallel.main_first(self.world):
            sources = {split: open_split(config, split) for split in ("train", "test")}
            for source in sources.values():
                check_data(config, source.info)
            with config.unlocked():
                config.eval.reference = self.origin.reference(config, references, self.folder)
            references = build_references(config, self.log.say)
            compared = sources[config.eval.reference_split]
            if len(compared) < LEAST_SAMPLES:
                raise ValueError(
                    f"the {compared.info.split} split has {len(compared)} images to compare "
                    f"samples with, and {LEAST_SAMPLES} are needed: set eval.reference_split to "
                    "the other"
                )
        references.find_together(compared, self.world)
        return references, sources

    def _entries(
        self, config: Config, references: References, sources: dict[str, Source]
    ) -> tuple[list[_Entry], dict[str, str]]:
        """The rows that run, that of the converged ODE first, and why others do not."""
        shards = Shards(
            self.folder / "shards",
            self.origin.facts,
            self.world,
            self.log,
            bars=False,
            option="--workdir",
        )
        entries, left_out = list[_Entry](), dict[str, str]()
        rows = PRESETS[self.preset](config)
        finest = converged(rows, CONVERGED)
        for row in [finest, *rows]:
            try:
                made = as_row(config, row)
                check_fields(made)
                subject = self.origin.subject(made, sources, references, shards)
                sampler = build_sampler(made, subject.sde)
            except UnknownName:
                raise
            except ValueError as error:
                left_out[", ".join(filter(None, (row.series, row.at)))] = str(error)
            else:
                subject = replace(subject, keeps_x=True)
                entries.append(_Entry(row, made, subject, sampler, row is finest))
        if not entries:
            raise ValueError(f"no row of --preset {self.preset} runs: {left_out.popitem()[1]}")
        return entries, left_out

    def _draw(self, entries: list[_Entry]) -> None:
        """Draws this process's share of every row."""
        self.log.say(
            f"comparing {len(entries)} ways to draw {self.num_samples} images from "
            f"{self.origin.title}, on {entries[0].subject.device}, into {self.folder}"
        )
        total = sum(entry.evaluations for entry in entries)
        with self.log.progress(total, unit="evaluation") as bar:
            for turn, entry in enumerate(entries):
                bar.set_postfix_str(f"{entry.row.series} {entry.row.at}", refresh=False)
                entry.subject.draw_share(turn)
                bar.update(entry.evaluations)
        parallel.barrier()

    def _floor(
        self,
        config: Config,
        subject: Subject,
        sources: dict[str, Source],
        left_out: dict[str, str],
    ) -> Floor | None:
        try:
            return compute_floor(subject, self.origin.truth(config, sources))
        except LeftOut as reason:
            left_out["floor"] = reason.why
            return None

    def _results(
        self, entries: list[_Entry], floor: Floor | None
    ) -> tuple[list[Result], list[Tensor]]:
        """The figures of every row, and its first images; both empty but in the main process."""
        reached: SampleSet | None = None
        results, shown = list[Result](), list[Tensor]()
        for entry in entries:
            drawn = entry.subject.samples
            if not self.world.is_main:
                continue
            same = history.of_checkpoint(entry.config) == history.of_checkpoint(self.config)
            reaches = entry.sampler.deterministic and same and not entry.is_converged
            figures, left_out = compute_figures(entry.subject, reached if reaches else None, floor)
            how = {
                "budget": entry.row.budget,
                "num_steps": getattr(entry.sampler, "num_steps", None),
                "fields": dict(entry.row.fields),
            }
            row = entry.row
            results.append(Result(row.series, row.at, how, drawn.how, figures, left_out))
            shown.append(_by_number(drawn))
            reached = drawn if entry.is_converged else reached
            entry.subject.results.clear()  # all rows together would take too much memory
        return results, shown

    def _write(
        self,
        config: Config,
        results: list[Result],
        floor: Floor | None,
        left_out: dict[str, str],
        elapsed_sec: float,
    ) -> None:
        report = {
            "preset": self.preset,
            **self.origin.about,
            "num_samples": self.num_samples,
            "seed": config.seed,
            "rows": [result.as_dict() for result in results],
            "floor": floor.as_dict() if floor else None,
            "left_out": left_out,
            "wall_sec": round(elapsed_sec, 1),  # of this run alone; rows have their own
            "versions": history.versions(),
            "config": json.loads(history.to_json(config)),
        }
        path = self._path(".json")
        same = (*self.origin.about, "num_samples", "seed", "config")
        if path.is_file() and not is_like(path, report, same):
            self.log.say(f"replaces the report of a comparison with other options: {path}")
        text = json.dumps(standard(report), indent=2, allow_nan=False) + "\n"
        write_whole(path, lambda file: file.write(text.encode()), "--workdir")
        self.log.say(f"report: {path}, after {duration(elapsed_sec)}")

    def _picture(self, results: list[Result], shown: list[Tensor], floor: Floor | None) -> None:
        title = f"{self.preset}: {self.num_samples} images from {self.origin.title}"
        plot, sheet = self._path(".png"), self._path("_sheet.png")
        pictures.quality_plot(plot, title, panels(results, floor))
        cells = {
            (result.series, result.at): images
            for result, images in zip(results, shown, strict=True)
        }
        pictures.sample_sheet(sheet, title, cells)
        self.log.say(f"plot: {plot}; samples: {sheet}")

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.preset}_{self.origin.name}{suffix}"


def _by_number(drawn: SampleSet) -> Tensor:
    """The first images, uint8, each in the place of its number; white where it was given up."""
    number = drawn.index[: len(drawn.images)]
    places = int(number.max()) + 1 if len(number) else 1
    images = drawn.images.new_full((places, *drawn.images.shape[1:]), 255)
    images[number] = drawn.images
    return images
