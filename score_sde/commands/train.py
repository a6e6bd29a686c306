"""`--mode train` and `--smoke`: the order of events of a training run."""

import math
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import checkpoints, noise, pictures
from score_sde.commands import advice
from score_sde.commands.drawing import draw_with_film, save_grid_and_film
from score_sde.commands.first_screen import (
    FIRST_STEPS,
    activation_bytes,
    first_screen,
    of_samples,
)
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
    image_shape,
    label_dropout,
    num_classes,
    set_tf32,
)
from score_sde.config.check import check_config, check_data
from score_sde.data import Source, to_unit, train_batches
from score_sde.logbook import Logbook
from score_sde.sde import SDE
from score_sde.solvers.grids import level_parts
from score_sde.training import (
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
    records: list[StepRecord] = field(default_factory=list)
    saved_step: int = 0

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.workdir / "checkpoints"

    @property
    def averages(self) -> Path:
        """Where snapshots of averages of several lengths go."""
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
    kind: Kind | None = None,
) -> None:
    """Trains until `config.training.n_iters` updates are made, from the newest checkpoint if any.

    Args:
        config: the recipe.
        workdir: made where missing.
        init_from: a checkpoint, ours or published, whose averaged weights a new run begins with.
        allow: what a resumed run may change: names of fields, and "data" for other images.
        sources: training and test images; the config's own by default.
        quiet: leave the screen alone.
        kind: what is trained; the recipe's score network by default.

    Raises:
        ValueError: a config that cannot run, data or checkpoints that do not fit it.
        OSError: missing files, or a work directory that cannot be written to.
        TrainingDiverged: a loss that is not finite.
        SystemExit: with 130, 143 or 129, after a save, when asked to stop by Ctrl-C, SIGTERM or
            SIGHUP.
    """
    kind = kind or SCORE_NETWORK
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
        state = kind.state(config)
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
        objective = kind.objective(config, sde)
        data = (train_source, test_source)
        run = Run(
            kind,
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
        log.say(
            first_screen(config, state, sde, device, *infos, workdir, **kind.screen(config, sde))
        )
        with advice_on_memory(advice.less_memory(config)):
            _loop(run)


def _loop(run: Run) -> None:
    config, state, log, stop = run.config, run.state, run.log, run.stop
    scale = build_scaler(config)
    labelled = run.kind.labelled(config)
    set_tf32(config)
    step = run.kind.step(config, run.objective)
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


def _after_step(run: Run, clock: Clock) -> None:
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
        run.log.scalars(step, run.kind.held_out(run))
    if run.state.averages and (step % training.average_freq == 0 or last):
        check_finite(run.records)  # before the checkpoint, which a resumed run begins after
        checkpoints.save_snapshot(run.averages, step, run.state.averages)
    if save:
        _save(run)
    if snapshot and training.snapshot_sampling:
        with clock.paused():
            run.kind.snapshot(run)


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
    }
    run.log.scalars(step, values)
    run.records.clear()
    run.log.say(
        f"step {step}: loss {mean:.4g}, gradient norm {values['grad_norm']:.3g}, "
        f"{values['images_per_sec']:.3g} images/s, "
        f"about {clock.to_come(run.config.training.n_iters - step)} to go"
    )


@torch.no_grad()
def held_out_loss(run: Run) -> float:
    """The objective on test images, at times and noise that never change, with averaged weights.

    It draws from its own stream of noise, so that training goes on as if it had not been.
    """
    x_0, t, z, label = held_out_batch(run)
    with averaged(run) as network:
        classes = label if run.kind.labelled(run.config) else None
        losses = run.objective(network, x_0, t, z, classes)
    return losses.mean().item()


def held_out_batch(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first test images x_0 (B, ...), times (B,), noise z (B, ...), classes int64 (B,)."""
    config, seed = run.config, run.config.seed
    n = min(config.training.batch_size, len(run.test_source))
    index = torch.arange(n)
    with _reading(run):
        images = to_unit(run.test_source.images(index), run.test_source.info.levels)
    x_0 = build_scaler(config)(images.to(run.device))
    label = run.test_source.labels(index).to(run.device)
    t = run.objective.times(n, run.device, torch.Generator(run.device).manual_seed(seed))
    z = noise.normal(seed, index.to(run.device), 0, x_0.shape[1:], stream=noise.Stream.HELD_OUT)
    return x_0, t, z, label


@contextmanager
def averaged(run: Run) -> Iterator[nn.Module]:
    """Within this the network has its averaged weights and is in evaluation mode."""
    with run.state.ema.applied(run.state.network), _evaluating(run.state.network):
        yield run.state.network


def _save(run: Run, **more: str) -> None:
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


def _save_what_was_made(run: Run) -> None:
    if run.saved_step < run.state.step and run.state.whole:
        check_finite(run.records)
        _save(run)


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
        made = run.state.step - run.saved_step
        with suppress(Exception):  # of two errors the first says what happened
            if generators:
                checkpoints.restore_rng(generators)
            _save_what_was_made(run)
            if made:
                run.log.say(f"step {run.state.step} is saved, the same command resumes")
        raise


@contextmanager
def _reading(run: Run) -> Iterator[None]:
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


def _stopped(run: Run, number: int) -> SystemExit:
    """Answers a signal: saves, says so, and gives what ends the run."""
    _save_what_was_made(run)
    saved = f"step {run.state.step} is saved, " if run.state.step else ""
    run.log.say(f"stopped by {signal.Signals(number).name}; {saved}the same command resumes")
    return SystemExit(128 + number)


def _snapshot(run: Run) -> None:
    """A sample grid, its film and the loss curve; first also a grid of the raw weights."""
    config, step, folder = run.config, run.state.step, run.workdir / "samples"
    network = run.state.network
    what = (run.sde, torch.arange(config.training.snapshot_images), run.device, run.stop.check)
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
    draw_losses(run)
    run.log.say(f"samples of step {step}: {folder / f'step_{step:08d}.png'}")


def draw_losses(run: Run) -> None:
    """The curve of the losses so far, `loss.png`."""
    steps, losses = run.log.history("loss")
    if any(map(math.isfinite, losses)):
        pictures.loss_curve(
            run.workdir / "loss.png", steps, losses, held_out=run.log.history("held_out_loss")
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    network.eval()
    try:
        yield
    finally:
        network.train()


def _of_score_network(config: Config, sde: SDE) -> dict[str, Any]:
    return {
        "network": config.model.name,
        "activations": activation_bytes(config),
        "snapshots": of_samples(config, sde),
    }


SCORE_NETWORK = Kind(
    state=build_state,
    objective=build_objective,
    step=build_train_step,
    labelled=lambda config: num_classes(config) > 0,
    label_dropout=label_dropout,
    screen=_of_score_network,
    held_out=lambda run: {"held_out_loss": held_out_loss(run)},
    snapshot=_snapshot,
)
"""The score network of a recipe."""
