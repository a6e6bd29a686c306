"""The loop of a training run, whatever is trained: steps, saves, signals, the log."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import checkpoints, noise, parallel, pictures
from score_sde.commands import advice
from score_sde.commands.first_screen import FIRST_STEPS
from score_sde.commands.progress import Clock, duration
from score_sde.commands.signals import Stop
from score_sde.commands.weights import provenance
from score_sde.config import changes, history
from score_sde.config.build import (
    Config,
    build_scaler,
    channels_last,
    compiled,
    compiling,
    image_shape,
    set_tf32,
)
from score_sde.data import Source, train_batches
from score_sde.data.memory import free_bytes
from score_sde.logbook import Logbook
from score_sde.sde import SDE
from score_sde.solvers.grids import level_parts
from score_sde.training import (
    Share,
    StepRecord,
    TrainingDiverged,
    TrainState,
    TrainStep,
    check_finite,
    loss_by_level,
)
from score_sde.training.step import Objective

LEVELS = 5  # parts of the noise levels that the loss is logged for


@dataclass(frozen=True)
class Kind:
    """What is trained, and all that one loop has to know of it.

    Attributes:
        state: config → network with fresh weights, average and optimiser.
        objective: config, SDE → what is minimised.
        step: config, objective → one update.
        labelled: whether the network is given labels, or learns them.
        label_dropout: share of labels that are left out.
        screen: config, SDE → what `first_screen` says of it: `network`, `activations`,
            `snapshots`.
        held_out: run → what is measured on test images, by name.
        snapshot: what is made beside a checkpoint that is kept.
    """

    state: Callable[[Config], TrainState]
    objective: Callable[[Config, SDE], Objective]
    step: Callable[[Config, Objective], TrainStep]
    labelled: Callable[[Config], bool]
    label_dropout: Callable[[Config], float]
    screen: Callable[[Config, SDE], dict[str, Any]]
    held_out: Callable[["Run"], dict[str, float]]
    snapshot: Callable[["Run"], None]


@dataclass
class Run:
    """What the parts of a training run share."""

    kind: Kind
    config: Config
    workdir: Path
    log: Logbook
    device: torch.device
    sde: SDE
    objective: Objective
    state: TrainState
    train_source: Source
    test_source: Source
    origin: str
    changes: list[changes.Change]
    images_seen: int
    stop: Stop
    world: parallel.World
    records: list[StepRecord] = field(default_factory=list)
    saved_step: int = 0
    saves: checkpoints.Saves = field(default_factory=lambda: checkpoints.Saves(free_bytes))

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.workdir / "checkpoints"

    @property
    def averages(self) -> Path:
        """Where snapshots of averages of several lengths go."""
        return self.workdir / "averages"


def run_loop(run: Run) -> None:
    """Makes steps until all are made, or somebody asks the run to stop."""
    config, state, log, stop = run.config, run.state, run.log, run.stop
    scale = build_scaler(config)
    labelled = run.kind.labelled(config)
    set_tf32(config)
    step = run.kind.step(config, run.objective)
    step.share = Share(run.world, config.training.batch_size, config.seed)
    bare, memory = state.network, channels_last(config, run.device)
    state.network = compiled(config, bare, run.device)
    batches = train_batches(
        run.train_source,
        batch_size=config.training.batch_size,
        seed=config.seed,
        start=run.images_seen,
        device=run.device,
        random_flip=config.data.random_flip,
        dequantise=config.data.uniform_dequantization,
        label_dropout=run.kind.label_dropout(config),
        rank=run.world.rank,
        world=run.world.size,
    )
    bar = log.progress(config.training.n_iters, state.step)
    clock = Clock(config.training.batch_size)
    try:
        with run.saves, closing(batches), compiling("training.compile=off"):
            while state.step < config.training.n_iters:
                with _saving_what_was_made(run):
                    asked = parallel.largest(stop.signal or 0)
                if asked:
                    raise _stopped(run, asked)
                with clock.part("data"), _saving_what_was_made(run), reading(run):
                    batch = next(batches)
                    x_0 = scale(batch["image"]).contiguous(memory_format=memory)
                with clock.part("step"), _saving_what_was_made(run, checkpoints.rng_state()):
                    run.records.append(step(state, x_0, batch["label"] if labelled else None))
                run.images_seen += config.training.batch_size
                bar.update()
                with _saving_what_was_made(run):
                    _after_step(run, clock)
    except TrainingDiverged as error:
        do = advice.after_divergence(config, error.step, run.checkpoints)
        advised = TrainingDiverged(error.what, error.step, do)
        log.say(str(advised))
        raise advised from None
    finally:
        bar.close()
        state.network = bare
    log.say(
        f"done: {state.step} steps, {duration(clock.elapsed_sec)} of training "
        f"({clock.summary()}); see {run.workdir}"
    )


def _after_step(run: Run, clock: Clock) -> None:
    """What the schedule asks for after an update."""
    run.saves.check()
    training, step = run.config.training, run.state.step
    last = step == training.n_iters
    snapshot = step % training.snapshot_freq == 0 or last
    save = snapshot or step % training.snapshot_freq_for_preemption == 0
    log, estimate = step % training.log_freq == 0, clock.steps + 1 == FIRST_STEPS and not last
    if log or save or estimate:
        with clock.part("step"):
            check_finite(run.records)  # waits for the device, so that the clock reads true
    clock.tick()
    if estimate:
        more = ", and the snapshots" if training.snapshot_sampling else ""
        run.log.say(f"time        about {clock.to_come(training.n_iters - step)}{more}")
    main = run.world.is_main  # the others wait for it in the next step
    with clock.part("logging"):
        if log or last:
            _log_progress(run, clock)
        if main and (step % training.eval_freq == 0 or last) and len(run.test_source):
            run.log.scalars(step, run.kind.held_out(run))
    with clock.part("saving"):
        if run.state.averages and (step % training.average_freq == 0 or last):
            check_finite(run.records)  # before the checkpoint, which a resumed run begins after
            if main:
                _save_averages(run)
        if save:
            _save(run)
    if main and snapshot and training.snapshot_sampling:
        with clock.paused():
            run.kind.snapshot(run)
    if last:
        with clock.part("saving"):
            run.saves.wait()


def _log_progress(run: Run, clock: Clock) -> None:
    records, step = run.records, run.state.step
    losses = torch.cat([record.losses for record in records])
    t = torch.cat([record.t for record in records])
    levels = loss_by_level(t, losses, level_parts(run.sde, LEVELS))
    mean = losses.mean().item()
    factor = getattr(run.objective, "per_dimension", None)  # of a loss that has dimensions
    dimensions = math.prod(image_shape(run.config))
    per_dimension = {"loss_per_dimension": mean * factor(dimensions)} if factor else {}
    values = {
        "loss": mean,
        **per_dimension,
        "learning_rate": records[-1].lr,
        "grad_norm": records[-1].grad_norm.item(),
        "images_per_sec": clock.images_per_sec(),
        **{f"loss_by_level/{part}": value for part, value in levels.items()},
        **{f"time/{part}": share for part, share in clock.shares().items()},
    }
    run.log.scalars(step, values)
    run.records.clear()
    run.log.say(
        f"step {step}: loss {mean:.4g}, gradient norm {values['grad_norm']:.3g}, "
        f"{values['images_per_sec']:.3g} images/s, "
        f"about {clock.to_come(run.config.training.n_iters - step)} to go"
    )


def held_out_batch(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first test images x_0 (B, ...), times (B,), noise z (B, ...), classes int64 (B,)."""
    config, seed = run.config, run.config.seed
    n = min(config.training.batch_size, len(run.test_source))
    index = torch.arange(n)
    with reading(run):
        images = run.test_source.info.to_unit(run.test_source.images(index))
    x_0 = build_scaler(config)(images.to(run.device))
    label = run.test_source.labels(index).to(run.device)
    t = run.objective.times(n, run.device, torch.Generator(run.device).manual_seed(seed))
    z = noise.normal(seed, index.to(run.device), 0, x_0.shape[1:], stream=noise.Stream.HELD_OUT)
    return x_0, t, z, label


@contextmanager
def averaged(run: Run) -> Iterator[nn.Module]:
    """Within this the network has its averaged weights and is in evaluation mode."""
    with run.state.ema.applied(run.state.network), evaluating(run.state.network):
        yield run.state.network


def _save_averages(run: Run) -> None:
    step, averages = run.state.step, checkpoints.snapshot_of(run.state.averages)

    def write(content: dict[str, dict[str, Tensor]]) -> None:
        checkpoints.save_snapshot(run.averages, step, content)

    run.saves.save("averages", averages, write)


def _save(run: Run, **more: str) -> None:
    """Begins a checkpoint, which `run.saves` writes while the run goes on."""
    if not run.world.is_main:  # it has the same state
        run.saved_step = run.state.step
        return
    info = run.train_source.info
    position = {
        "images_seen": run.images_seen,
        "fingerprint": info.fingerprint,
        "num_images": info.num_images,
    }
    state: dict[str, Any] = {
        **run.state.state_dict(),
        "rng": checkpoints.rng_state(),
        "data": position | more,
        "config": history.to_json(run.config),
        "versions": provenance(run.origin, changes.as_line(run.changes)),
    }

    def write(content: dict[str, Any]) -> None:
        checkpoints.save(run.checkpoints, content, **kept(run.config))
        run.saved_step = content["step"]

    run.saves.save("checkpoint", state, write)


def kept(config: Config) -> dict[str, int]:
    """Which checkpoints are kept."""
    training = config.training
    return {"keep": training.keep_checkpoints, "milestone_every": training.snapshot_freq}


def _save_what_was_made(run: Run) -> bool:
    """Whether anything was made since the last save, and is saved now."""
    with suppress(Exception):  # a save that failed is made again
        run.saves.wait()
    if run.saved_step == run.state.step or not run.state.whole:
        return False
    check_finite(run.records)
    _save(run)
    run.saves.wait()
    return True


@contextmanager
def _saving_what_was_made(run: Run, generators: dict[str, Any] | None = None) -> Iterator[None]:
    """Whatever fails here, such as a data worker or a user's network, what was made is saved.

    Args:
        run: at the end of a step.
        generators: before the step that is made here, which draws from them.
    """
    try:
        yield
    except Exception:
        with suppress(Exception):  # of two errors the first says what happened
            if generators:
                checkpoints.restore_rng(generators)
            if _save_what_was_made(run):
                run.log.say(f"step {run.state.step} is saved, the same command resumes")
        raise


@contextmanager
def reading(run: Run) -> Iterator[None]:
    """Where images are read within: one that can't be ends the run, after a save.

    The checkpoint then says so, by which repaired images are known (`changes.of_images`).
    """
    try:
        yield
    except (ValueError, OSError) as error:
        words = str(error)
        if run.state.step:
            check_finite(run.records)
            _save(run, unreadable=words)
            run.saves.wait()
            words = advice.unreadable(error, run.state.step)
        run.log.say(words)
        raise ValueError(words) from error


def _stopped(run: Run, number: int) -> SystemExit:
    """Answers a signal: saves, says so, and gives what ends the run."""
    run.stop.final = run.world.size > 1
    _save_what_was_made(run)
    saved = f"step {run.state.step} is saved, " if run.state.step else ""
    run.log.say(f"stopped by {signal.Signals(number).name}; {saved}the same command resumes")
    return SystemExit(128 + number)


def draw_losses(run: Run) -> None:
    """The curve of the losses so far, `loss.png`."""
    steps, losses = run.log.history("loss")
    if any(map(math.isfinite, losses)):
        pictures.loss_curve(
            run.workdir / "loss.png", steps, losses, held_out=run.log.history("held_out_loss")
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within this the network is in evaluation mode."""
    network.eval()
    try:
        yield
    finally:
        network.train()
