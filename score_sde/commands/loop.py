"""The loop of a training run, whatever is trained: steps, saves, signals, the log."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from score_sde import checkpoints, noise, parallel, pictures
from score_sde.commands import advice
from score_sde.commands.first_screen import FIRST_STEPS
from score_sde.commands.progress import Clock, duration
from score_sde.commands.run import Run
from score_sde.commands.saving import reading, save, save_averages, saving_what_was_made, stopped
from score_sde.commands.whole import evaluated
from score_sde.config.build import (
    build_scaler,
    channels_last,
    compiled,
    compiling,
    image_shape,
    set_tf32,
)
from score_sde.data import train_batches
from score_sde.solvers.grids import level_parts
from score_sde.training import Share, TrainingDiverged, check_finite, loss_by_level

LEVELS = 5  # parts of the noise levels that the loss is logged for


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
                with saving_what_was_made(run):
                    asked = parallel.largest(stop.signal or 0)
                if asked:
                    raise stopped(run, asked)
                with clock.part("data"), saving_what_was_made(run), reading(run):
                    batch = next(batches)
                    x_0 = scale(batch["image"]).contiguous(memory_format=memory)
                with clock.part("step"), saving_what_was_made(run, checkpoints.rng_state()):
                    run.records.append(step(state, x_0, batch["label"] if labelled else None))
                run.images_seen += config.training.batch_size
                bar.update()
                with saving_what_was_made(run):
                    _after_step(run, clock)
    except TrainingDiverged as error:
        do = advice.after_divergence(config, error.step, run.checkpoints)
        advised = TrainingDiverged(error.what, error.step, do)
        log.say(str(advised), shown=False)
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
    saved = snapshot or step % training.snapshot_freq_for_preemption == 0
    log, estimate = step % training.log_freq == 0, clock.steps + 1 == FIRST_STEPS and not last
    if log or saved or estimate:
        with clock.part("step"):
            check_finite(run.records)  # waits for the device, so that the clock reads true
    clock.tick()
    if estimate:
        more = ", and the snapshots" if training.snapshot_sampling else ""
        run.log.say(f"time        about {clock.to_come(training.n_iters - step)}{more}")
    # The others wait for the main process in the next step.
    with clock.part("logging"):
        if log or last:
            _log_progress(run, clock)
        if (step % training.eval_freq == 0 or last) and len(run.test_source):
            with evaluated(run) as whole:
                if whole:
                    run.log.scalars(step, run.kind.held_out(whole))
    with clock.part("saving"):
        if run.state.averages and (step % training.average_freq == 0 or last):
            check_finite(run.records)  # before the checkpoint, which a resumed run begins after
            save_averages(run)
        if saved:
            save(run)
    if snapshot and training.snapshot_sampling:
        with clock.paused(), evaluated(run) as whole:
            if whole:
                run.kind.snapshot(whole)
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
