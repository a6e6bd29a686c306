"""What to do when training can't go on, with the options that do it."""

from pathlib import Path

from score_sde import checkpoints
from score_sde.config import schema
from score_sde.config.build import Config, field


def after_divergence(config: Config, step: int, folder: Path) -> str:
    """How to go on after a loss or gradient that is not finite.

    Where no update was made since the newest checkpoint, a resumed run would come to the same loss
    at whatever rate, and it takes an earlier checkpoint.

    Args:
        config: of the run.
        step: the update, counted from 0, at which it diverged.
        folder: where its checkpoints lie.
    """
    rate = min(config.optim.lr / 10, schema.FIELDS["optim.lr"].default)
    lower = f"--config.optim.lr={rate:g}"
    saved = checkpoints.steps(folder)
    good = [checkpoints.path_of(folder, at) for at in saved if at < step]
    if saved and saved[-1] < step:
        return (
            f"repeat the command with --allow optim.lr and a lower rate, such as {lower}, to go "
            f"on from the last good checkpoint, {good[-1]}"
        )
    if good:
        return (
            "the newest checkpoint has these weights, so begin with the one before: "
            f"--init_from {good[-1]}, a lower rate, such as {lower}, and another --workdir"
        )
    if saved:
        return (
            "the only checkpoint has these weights, so begin anew with a lower rate, such as "
            f"{lower}, and another --workdir"
        )
    if step:
        return (
            f"nothing is saved yet, so repeat the command with a lower rate, such as {lower}, or "
            "look at the objective where it is your own"
        )
    return (
        "no update was made before, so look at the objective, the images, the network, the "
        "weights that it began with and --config.training.precision"
    )


def less_memory(config: Config) -> str:
    """How to train in less memory than ran out."""
    batch, parts = config.training.batch_size, config.training.accumulation
    more = next((n for n in range(parts + 1, batch + 1) if batch % n == 0), None)
    split = f"set --config.training.accumulation={more}, " if more else ""
    if not field(config, "training.activation_checkpointing"):
        split += "set --config.training.activation_checkpointing=True (ncsnpp, ddpm), "
    return (
        f"with {batch} images in {parts} part(s): {split}lower --config.training.batch_size (with "
        "--allow training.batch_size where a run is resumed), set "
        "--config.training.precision=bf16, or train a narrower network (--config.model.nf) in "
        "another --workdir"
    )


def unreadable(error: Exception, step: int, *, known: bool = True) -> str:
    """How to go on after an image that can't be read.

    Args:
        error: says which.
        step: that is saved; 0 for none.
        known: whether the checkpoint says so, by which a repair is recognised.
    """
    if not known:
        saved = f"; step {step} is saved: repair or remove it, and go on" if step else ""
        return f"{error}{saved}{' with --allow data' if step else ''}"
    return (
        f"{error}; step {step} is saved: after a repair the same command resumes, after a removal "
        "it does with --allow data"
    )
