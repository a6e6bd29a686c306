"""`--mode train` and `--smoke`: the order of events of a training run."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from score_sde import checkpoints, parallel, pictures
from score_sde.commands import advice
from score_sde.commands.drawing import draw_with_film, save_grid_and_film, sheet, told_of_channels
from score_sde.commands.first_screen import (
    activation_bytes,
    check_fits,
    first_screen,
    of_samples,
)
from score_sde.commands.loop import (
    averaged,
    draw_losses,
    evaluating,
    held_out_batch,
    run_loop,
)
from score_sde.commands.progress import advice_on_memory
from score_sde.commands.run import Kind, Run
from score_sde.commands.saving import kept, reading
from score_sde.commands.signals import Interrupted, stop_signals
from score_sde.commands.terminal import guarded
from score_sde.commands.weights import begin_from, origin_of
from score_sde.config import changes, history
from score_sde.config.build import (
    Config,
    build_device,
    build_objective,
    build_sde,
    build_sources,
    build_state,
    build_train_step,
    data_range,
    fresh_network,
    given_of,
    held_out_inputs,
    label_dropout,
    num_classes,
    with_range,
)
from score_sde.config.check import check_config, check_data
from score_sde.data import Source
from score_sde.logbook import Logbook
from score_sde.sde import SDE


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

    Where torchrun has started several processes, they share each batch, and the main one writes.

    Args:
        config: the recipe.
        workdir: made where missing.
        init_from: a checkpoint, ours or published, whose averaged weights a new run begins with.
        allow: what a resumed run may change: names of fields, and "data" for other images.
        sources: training and test images; the config's own by default.
        quiet: leave the screen alone.
        kind: what is trained; the recipe's score network by default.

    Raises:
        ValueError: a config that cannot run, data or checkpoints that do not fit it; processes
            that do not agree about them.
        OSError: missing files, or a work directory that cannot be written to.
        TrainingDiverged: a loss that is not finite.
        SystemExit: with 130, 143 or 129, after a save, when asked to stop by Ctrl-C, SIGTERM or
            SIGHUP.
    """
    kind = kind or SCORE_NETWORK
    world = parallel.init()
    check_config(config, copies=5, processes=world.size)
    changes.check_allowed(allow, config)
    reports: list[str] = []
    changed: list[changes.Change] = []
    origin = ""
    newest = checkpoints.newest(workdir / "checkpoints", reports.append)
    path, saved = newest or (workdir, None)
    if saved:
        checkpoints.check_complete(saved, path)
        config = with_range(config, data_range(history.from_json(saved["config"])))
        changed = changes.of_fields(saved, path, config, allow)
        origin = origin_of(saved, init_from, workdir)
    with parallel.main_first(world):  # it fetches what is missing
        train_source, test_source = sources or build_sources(config)
    check_data(config, train_source.info)
    config = with_range(config, train_source.info.range)
    if saved:
        changed += changes.of_images(saved, path, train_source.info, allow)
    torch.manual_seed(config.seed)
    sde = build_sde(config)
    screen = kind.screen(config, sde)
    if saved is None or saved["step"] < config.training.n_iters:
        check_fits(config, screen["activations"], world.size)
    with advice_on_memory(advice.less_memory(config)):
        state = kind.state(config)
    if saved:
        state.load_state_dict(checkpoints.fitted(saved, state.network, path))
        checkpoints.restore_rng(saved["rng"], of_main=world.size > 1)
    elif init_from:
        origin = begin_from(init_from, config, state, reports.append)
    found: dict[str, object] = {
        "newest checkpoint": path.name if saved else "none",
        "step": state.step,
    }
    parallel.check_agreed(
        world, found | {"fingerprint of the data": train_source.info.fingerprint}
    )
    quiet = quiet or not world.is_main
    with (
        stop_signals(quiet=quiet) as stop,
        Logbook(workdir, quiet=quiet, active=world.is_main) as log,
    ):
        parallel.attend(stop)
        log.begin(state.step)
        parallel.check_seen_by_all(world, workdir)
        # The run may have been killed between a save and the end of the one before.
        if saved and world.is_main:
            checkpoints.delete_old(workdir / "checkpoints", state.step, **kept(config))
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
            world,
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
        averages = run.averages
        if world.is_main and (again := checkpoints.delete_snapshots_after(averages, state.step)):
            log.say(f"the averages after step {state.step}, up to {again[-1]}, are made again")
        for line in [*changed, *changes.unneeded(allow, changed)]:
            log.say(str(line))
        if world.is_main:
            plain = changes.plain(run.changes)
            history.record(config, workdir, origin=origin, changes=plain)
            infos = train_source.info, test_source.info
            log.say(
                first_screen(
                    config, state, sde, device, *infos, workdir, processes=world.size, **screen
                )
            )
        newest = saved = None  # the state has copies, and a run is long
        with advice_on_memory(advice.less_memory(config)):
            run_loop(run)
        parallel.barrier()  # else a next run might begin without the main process's last save


@torch.no_grad()
def held_out_loss(run: Run) -> float:
    """The objective on test images, at times and noise that never change, with averaged weights.

    It draws from its own stream of noise, so that training goes on as if it had not been.
    """
    x_0, t, z, label = held_out_batch(run)
    inputs = held_out_inputs(run.config)(x_0, torch.arange(len(x_0), device=x_0.device))
    with averaged(run) as network:
        classes = label if run.kind.labelled(run.config) else None
        losses = run.objective(network, x_0, t, z, classes, **inputs)
    return losses.mean().item()


def _snapshot(run: Run) -> None:
    """A sample grid, its film and the loss curve; first also a grid of the raw weights."""
    config, step, folder = run.config, run.state.step, run.workdir / "samples"
    network = run.state.network
    count, source = config.training.snapshot_images, run.test_source
    with reading(run):
        given = given_of(config, source if len(source) else run.train_source, count)
    what = (run.sde, torch.arange(count), run.device, run.stop.check, given)
    first = step == min(config.training.snapshot_freq, config.training.n_iters)
    try:
        with evaluating(network):
            if first:  # the average lags behind at first: a user sees that the weights do learn
                raw, _ = draw_with_film(config, network, *what)
                pictures.save_png(folder / f"step_{step:08d}_raw.png", sheet(config, raw))
            with run.state.ema.applied(network):
                images, frames = draw_with_film(config, network, *what)
    except pictures.NotFiniteError as error:
        run.log.say(f"no samples at step {step}: {error}")
        return
    except Interrupted:
        run.log.say(f"the samples of step {step} were left off")
        return
    path = folder / f"step_{step:08d}.png"
    grid = save_grid_and_film(config, path, images, frames)
    run.log.images(step, "samples", grid)
    draw_losses(run)
    run.log.say(f"samples of step {step}: {path}{told_of_channels(config)}")


def _of_score_network(config: Config, sde: SDE) -> dict[str, Any]:
    return {
        "network": config.model.name,
        "activations": activation_bytes(config),
        "snapshots": of_samples(config, sde),
    }


SCORE_NETWORK = Kind(
    network=fresh_network,
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
