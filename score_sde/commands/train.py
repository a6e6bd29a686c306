"""`--mode train` and `--smoke`: the order of events of a training run."""

import math
import signal
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_sde import checkpoints, noise, pictures
from score_sde.commands import advice
from score_sde.commands.drawing import draw_with_film, save_grid_and_film
from score_sde.commands.first_screen import FIRST_STEPS, first_screen
from score_sde.commands.progress import Clock, advice_on_memory, duration
from score_sde.commands.signals import Interrupted, Stop, stop_signals
from score_sde.commands.terminal import guarded
from score_sde.commands.weights import begin_from, origin_of, provenance
from score_sde.config import changes, history
from score_sde.config.build import (
    Config,
    build_device,
    build_objective,
    build_scaler,
    build_sde,
    build_sources,
    build_state,
    build_train_step,
    channels_last,
    compiled,
    given_of,
    image_shape,
    label_dropout,
    low_resolution,
    num_classes,
    set_tf32,
)
from score_sde.config.check import check_config, check_data
from score_sde.data import Source, to_unit, train_batches
from score_sde.logbook import Logbook
from score_sde.objectives import Objective
from score_sde.sde import SDE
from score_sde.solvers.grids import level_parts
from score_sde.training import (
    StepRecord,
    TrainingDiverged,
    TrainState,
    check_finite,
    loss_by_level,
)

LEVELS = 5  # parts of the noise levels that the loss is logged for


@dataclass
class _Run:
    """What the parts of a training run share."""

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
    records: list[StepRecord] = field(default_factory=list)
    saved_step: int = 0

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"

    @property
    def averages(self) -> Path:
        return self.workdir / "averages"


@guarded()
def train(
    config: Config,
    workdir: Path,
    *,
    init_from: Path | None = None,
    allow: Collection[str] = (),
    sources: tuple[Source, Source] | None = None,
    quiet: bool = False,
) -> None:
    """Trains until `config.training.n_iters` updates are made, from the newest checkpoint if any.

    Args:
        config: the recipe.
        workdir: made where missing.
        init_from: a checkpoint, ours or published, whose averaged weights a new run begins with.
        allow: what a resumed run may change: names of fields, and "data" for other images.
        sources: training and test images; the config's own by default.
        quiet: leave the screen alone.

    Raises:
        ValueError: a config that cannot run, data or checkpoints that do not fit it.
        OSError: missing files, or a work directory that cannot be written to.
        TrainingDiverged: a loss that is not finite.
        SystemExit: with 130, 143 or 129, after a save, when asked to stop by Ctrl-C, SIGTERM or
            SIGHUP.
    """
    check_config(config, copies=5)
    changes.check_allowed(allow, config)
    reports: list[str] = []
    changed: list[changes.Change] = []
    origin = ""
    newest = checkpoints.newest(workdir / "checkpoints", reports.append)
    path, saved = newest or (workdir, None)
    if saved:
        checkpoints.check_complete(saved, path)
        changed = changes.of_fields(saved, path, config, allow)
        origin = origin_of(saved, init_from, workdir)
    train_source, test_source = sources or build_sources(config)
    check_data(config, train_source.info)
    if saved:
        changed += changes.of_images(saved, path, train_source.info, allow)
    torch.manual_seed(config.seed)
    sde = build_sde(config)
    with advice_on_memory(advice.less_memory(config)):
        state = build_state(config)
    if saved:
        state.load_state_dict(checkpoints.fitted(saved, state.network, path))
        checkpoints.restore_rng(saved["rng"])
    elif init_from:
        origin = begin_from(init_from, config, state)
    with stop_signals(quiet=quiet) as stop, Logbook(workdir, quiet=quiet) as log:
        log.begin(state.step)
        if saved:  # the run may have been killed between a save and the end of the one before
            checkpoints.delete_old(workdir / "checkpoints", state.step, **_kept(config))
        device = build_device(config)
        objective = build_objective(config, sde)
        data = (train_source, test_source)
        run = _Run(
            config,
            workdir,
            log,
            device,
            sde,
            objective,
            state,
            *data,
            origin,
            [*(changes.of_checkpoint(saved) if saved else []), *changed],
            changes.images_seen(saved) if saved else 0,
            stop,
            saved_step=state.step,
        )
        for report in filter(None, [*reports, origin]):
            log.say(report)
        if state.step >= config.training.n_iters:
            log.say(
                f"nothing to do: {state.step} steps are made and {config.training.n_iters} asked "
                "for; raise --config.training.n_iters to go on"
            )
            return
        if again := checkpoints.delete_snapshots_after(run.averages, state.step):
            log.say(f"the averages after step {state.step}, up to {again[-1]}, are made again")
        for line in [*changed, *changes.unneeded(allow, changed)]:
            log.say(str(line))
        history.record(config, workdir, origin=origin, changes=changes.plain(run.changes))
        infos = (train_source.info, test_source.info)
        log.say(first_screen(config, state, sde, device, *infos, workdir))
        with advice_on_memory(advice.less_memory(config)):
            _loop(run)


def _loop(run: _Run) -> None:
    config, state, log, stop = run.config, run.state, run.log, run.stop
    scale = build_scaler(config)
    labelled = num_classes(config) > 0
    set_tf32(config)
    step = build_train_step(config, run.objective)
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
        label_dropout=label_dropout(config),
    )
    bar = log.progress(config.training.n_iters, state.step)
    clock = Clock(config.training.batch_size)
    try:
        with closing(batches):
            while state.step < config.training.n_iters:
                if stop.signal is not None:
                    raise _stopped(run, stop.signal)
                with _saving_what_was_made(run), _reading(run):
                    batch = next(batches)
                x_0 = scale(batch["image"]).contiguous(memory_format=memory)
                with _saving_what_was_made(run, checkpoints.rng_state()):
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
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ValueError(
            f"the network cannot be compiled here ({str(error).splitlines()[0]}): "
            "set --config.training.compile=off"
        ) from error
    finally:
        bar.close()
        state.network = bare
    log.say(
        f"done: {state.step} steps, {duration(clock.elapsed_sec)} of training; see {run.workdir}"
    )


def _after_step(run: _Run, clock: Clock) -> None:
    """What the schedule asks for after an update."""
    training, step = run.config.training, run.state.step
    last = step == training.n_iters
    snapshot = step % training.snapshot_freq == 0 or last
    save = snapshot or step % training.snapshot_freq_for_preemption == 0
    log, estimate = step % training.log_freq == 0, clock.steps + 1 == FIRST_STEPS and not last
    if log or save or estimate:
        check_finite(run.records)  # waits for the device, so that the clock reads true
    clock.tick()
    if estimate:
        more = ", and the snapshots" if training.snapshot_sampling else ""
        run.log.say(f"time        about {clock.to_come(training.n_iters - step)}{more}")
    if log or last:
        _log_progress(run, clock)
    if (step % training.eval_freq == 0 or last) and len(run.test_source):
        run.log.scalars(step, {"held_out_loss": held_out_loss(run)})
    if run.state.averages and (step % training.average_freq == 0 or last):
        check_finite(run.records)  # before the checkpoint, which a resumed run begins after
        checkpoints.save_snapshot(run.averages, step, run.state.averages)
    if save:
        _save(run)
    if snapshot and training.snapshot_sampling:
        with clock.paused():
            _snapshot(run)


def _log_progress(run: _Run, clock: Clock) -> None:
    records, step = run.records, run.state.step
    losses = torch.cat([record.losses for record in records])
    t = torch.cat([record.t for record in records])
    per_dimension = run.objective.per_dimension(math.prod(image_shape(run.config)))
    levels = loss_by_level(t, losses, level_parts(run.sde, LEVELS))
    mean = losses.mean().item()
    values = {
        "loss": mean,
        "loss_per_dimension": mean * per_dimension,
        "learning_rate": records[-1].lr,
        "grad_norm": records[-1].grad_norm.item(),
        "images_per_sec": clock.images_per_sec(),
        **{f"loss_by_level/{part}": value for part, value in levels.items()},
    }
    run.log.scalars(step, values)
    run.records.clear()
    run.log.say(
        f"step {step}: loss {mean:.4g}, gradient norm {values['grad_norm']:.3g}, "
        f"{values['images_per_sec']:.3g} images/s, "
        f"about {clock.to_come(run.config.training.n_iters - step)} to go"
    )


@torch.no_grad()
def held_out_loss(run: _Run) -> float:
    """The objective on test images, at times and noise that never change, with averaged weights.

    It draws from its own stream of noise, so that training goes on as if it had not been.
    """
    config, seed = run.config, run.config.seed
    n = min(config.training.batch_size, len(run.test_source))
    index = torch.arange(n)
    with _reading(run):
        images = to_unit(run.test_source.images(index), run.test_source.info.levels)
    x_0 = build_scaler(config)(images.to(run.device))
    label = run.test_source.labels(index).to(run.device)
    t = run.objective.times(n, run.device, torch.Generator(run.device).manual_seed(seed))
    z = noise.normal(seed, index.to(run.device), 0, x_0.shape[1:], stream=noise.Stream.HELD_OUT)
    with run.state.ema.applied(run.state.network), _evaluating(run.state.network):
        classes, smaller = label if num_classes(config) else None, low_resolution(config)
        inputs = smaller.held_out(x_0, seed, index.to(run.device)) if smaller else {}
        losses = run.objective(run.state.network, x_0, t, z, classes, **inputs)
    return losses.mean().item()


def _save(run: _Run, **more: str) -> None:
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
    checkpoints.save(run.checkpoints, state, **_kept(run.config))
    run.saved_step = run.state.step


def _kept(config: Config) -> dict[str, int]:
    """Which checkpoints are kept."""
    training = config.training
    return {"keep": training.keep_checkpoints, "milestone_every": training.snapshot_freq}


def _save_what_was_made(run: _Run) -> None:
    if run.saved_step < run.state.step and run.state.whole:
        check_finite(run.records)
        _save(run)


@contextmanager
def _saving_what_was_made(run: _Run, generators: dict[str, Any] | None = None) -> Iterator[None]:
    """Whatever fails here, such as a data worker or a user's network, what was made is saved.

    Args:
        run: at the end of a step.
        generators: before the step that is made here, which draws from them.
    """
    try:
        yield
    except Exception:
        made = run.state.step - run.saved_step
        with suppress(Exception):  # of two errors the first says what happened
            if generators:
                checkpoints.restore_rng(generators)
            _save_what_was_made(run)
            if made:
                run.log.say(f"step {run.state.step} is saved, the same command resumes")
        raise


@contextmanager
def _reading(run: _Run) -> Iterator[None]:
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
            words = advice.unreadable(error, run.state.step)
        run.log.say(words)
        raise ValueError(words) from error


def _stopped(run: _Run, number: int) -> SystemExit:
    """Answers a signal: saves, says so, and gives what ends the run."""
    _save_what_was_made(run)
    saved = f"step {run.state.step} is saved, " if run.state.step else ""
    run.log.say(f"stopped by {signal.Signals(number).name}; {saved}the same command resumes")
    return SystemExit(128 + number)


def _snapshot(run: _Run) -> None:
    """A sample grid, its film and the loss curve; first also a grid of the raw weights."""
    config, step, folder = run.config, run.state.step, run.workdir / "samples"
    network = run.state.network
    count, source = config.training.snapshot_images, run.test_source
    with _reading(run):
        given = given_of(config, source if len(source) else run.train_source, count)
    what = (run.sde, torch.arange(count), run.device, run.stop.check, given)
    first = step == min(config.training.snapshot_freq, config.training.n_iters)
    try:
        with _evaluating(network):
            if first:  # the average lags behind at first: a user sees that the weights do learn
                raw, _ = draw_with_film(config, network, *what)
                pictures.save_png(folder / f"step_{step:08d}_raw.png", pictures.grid(raw))
            with run.state.ema.applied(network):
                images, frames = draw_with_film(config, network, *what)
    except pictures.NotFiniteError as error:
        run.log.say(f"no samples at step {step}: {error}")
        return
    except Interrupted:
        run.log.say(f"the samples of step {step} were left off")
        return
    grid = save_grid_and_film(folder / f"step_{step:08d}.png", images, frames)
    run.log.images(step, "samples", grid)
    steps, losses = run.log.history("loss")
    if any(map(math.isfinite, losses)):
        pictures.loss_curve(
            run.workdir / "loss.png", steps, losses, held_out=run.log.history("held_out_loss")
        )
    run.log.say(f"samples of step {step}: {folder / f'step_{step:08d}.png'}")


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    network.eval()
    try:
        yield
    finally:
        network.train()
