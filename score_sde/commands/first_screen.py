"""The screen that a training run begins with: what it is, what it takes, where everything goes."""

import difflib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from score_sde.commands.advice import less_memory
from score_sde.config.build import (
    Config,
    build_device,
    build_parameterisation,
    build_sampler,
    build_sde,
    divides,
    empty_network,
    field,
    image_shape,
    low_resolution,
    num_classes,
)
from score_sde.config.check import memory_of
from score_sde.config.history import leaves
from score_sde.config.schema import FIELDS
from score_sde.data import DatasetInfo
from score_sde.samplers import Sampler
from score_sde.sde import SDE
from score_sde.training import TrainState, whole_at_once

FIRST_STEPS = 10  # after which the time that all of them take is estimated


def first_screen(
    config: Config,
    state: TrainState,
    sde: SDE,
    device: torch.device,
    train: DatasetInfo,
    test: DatasetInfo,
    workdir: Path,
    network: str,
    activations: int,
    snapshots: str,
    processes: int = 1,
) -> str:
    """What begins here, what it takes, and where everything goes, in about ten lines.

    Args:
        config: of the run.
        state: what it trains.
        sde: the forward process.
        device: where.
        train: the training images.
        test: those held out.
        workdir: of the run.
        network: its name.
        activations: bytes that it keeps of one image, see `kept_bytes`.
        snapshots: what is made at each, in words.
        processes: that share each batch; memory is that of each.
    """
    training = config.training
    weights = sum(p.numel() for p in state.network.parameters())
    # In float32: weights, gradients, their averages, and two moments of Adam. A checkpoint holds
    # all but the gradients, a snapshot of the averages of several lengths these alone.
    megabytes = weights * 4 / 2**20
    at_once = _at_once(config, processes)
    kept_of_images = activations * at_once / 2**20
    kept = training.keep_checkpoints + training.n_iters // training.snapshot_freq
    averages = len(state.averages)
    held = (5 + averages) * megabytes
    if divides(config):
        held = held / processes + 2 * 4 * whole_at_once(state.network) / 2**20
    saved = averages * math.ceil(training.n_iters / training.average_freq)
    more = f", {saved * megabytes:,.0f} MB of averages" if saved else ""
    parts = f" in {training.accumulation} parts" if training.accumulation > 1 else ""
    again = field(config, "training.activation_checkpointing")
    beside = ", and for the inside of one block at a time" if again else ""
    parts += f", shared by {processes} processes" if processes > 1 else ""
    notes = "".join(f"\n            {note}" for note in dict.fromkeys(train.notes + test.notes))
    return f"""network     {network}, {weights:,} parameters, on {device}
data        {train.name}: {train.num_images:,} images of {train.shape}, {train.policy}
            held out: {test.num_images:,}{notes}
sde         {sde.name}, {"continuous" if training.continuous else f"{sde.N} scales"}
memory      {held:,.0f} MB for weights and optimiser{_divided(config)}, \
about {kept_of_images:,.0f} MB for the activations of {at_once} images{beside}
            {_of_host(config, megabytes, averages)}
steps       {training.n_iters - state.step:,} of {training.n_iters:,} to go, \
{training.batch_size} images each{parts}
time        estimated after {FIRST_STEPS} steps
disk        up to {(4 + averages) * megabytes * kept:,.0f} MB of checkpoints{more}
snapshots   {snapshots}{of_recipe_alone(config)}
everything  goes to {workdir}"""


def of_recipe_alone(config: Config) -> str:
    """A line of the fields that no row of the schema has, or nothing.

    A recipe may add fields, and one that it misspells is among them, which nothing reads.
    """
    added = [f"{name}{_nearest(name)}" for name in leaves(config) if name not in FIELDS]
    return f"\nfields      of this recipe alone: {', '.join(added)}" if added else ""


def _nearest(name: str) -> str:
    """The known field that a name may be a misspelling of, in group and leaf, in words."""

    def alike(known: str) -> float:
        pairs = zip(name.rpartition(".")[::2], known.rpartition(".")[::2], strict=True)
        group, leaf = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return leaf if group > 0.7 and leaf > 0.7 else 0.0

    near = max(FIELDS, key=alike)
    return f" (did you mean {near}?)" if alike(near) else ""


def _divided(config: Config) -> str:
    if field(config, "training.sharding") == "none":
        return ""
    if divides(config):
        return " (of each process: training.sharding)"
    return " (all in one process: torchrun starts those that training.sharding divides them among)"


def _of_host(config: Config, megabytes: float, averages: int) -> str:
    if field(config, "training.checkpoint_format") == "shards":
        return "each process saves its part at once, without a copy"
    copy = (4 + 2 * averages) * megabytes
    who = ", for the first process" if divides(config) else ""
    return f"{copy:,.0f} MB of the host's for the copy that is saved{who}"


def of_samples(config: Config, sde: SDE) -> str:
    """What a score network's snapshots are."""
    training = config.training
    if not training.snapshot_sampling:
        return "none (training.snapshot_sampling=False)"
    how = f"{config.sampling.method}{_slow(build_sampler(config, sde))}"
    return f"{training.snapshot_images} images every {training.snapshot_freq:,} steps ({how})"


def check_fits(config: Config, activations: int, processes: int = 1) -> None:
    """Refuses images at a time whose activations alone exceed the memory of the device.

    Of what is counted 0.45 is held against it in bfloat16, which keeps 0.49, and half where a
    compiler may keep less.

    Args:
        config: of the run.
        activations: bytes that its network keeps of one image, see `kept_bytes`.
        processes: that share each batch.

    Raises:
        ValueError: what they take, what there is, and what to do.
    """
    device, at_once = build_device(config), _at_once(config, processes)
    share = 0.45 if config.training.precision == "bf16" else 1.0
    if config.training.compile == "on" or device.type != "cpu":
        share /= 2
    taken, memory = activations * at_once * share, memory_of(device)
    if taken > memory:
        raise ValueError(
            f"the activations of {at_once} images take {taken / 2**30:,.1f} GiB, where {device} "
            f"has {memory / 2**30:,.1f} GiB: {less_memory(config)}"
        )


def _at_once(config: Config, processes: int) -> int:
    """Images that a process computes at a time."""
    training = config.training
    return math.ceil(training.batch_size / processes / training.accumulation)


def _slow(sampler: Sampler) -> str:
    """A word of warning: of a network that has learnt little, adaptive steps are small."""
    return ", slow at first" if sampler.num_steps is None else ""


def kept_bytes(network: nn.Module, forward: Callable[[nn.Module], Tensor]) -> int:
    """What a network keeps of one image for its gradient, in float32 and not compiled.

    It is counted on the meta device, where a network runs without memory and without computing.

    Args:
        network: on the meta device.
        forward: calls it with one image.
    """
    network.train()
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # alive, so that no other takes its place
        return saved

    with torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        forward(network)
    return sum(storage.nbytes() for storage in kept.values())


def one_evaluation(config: Config) -> Callable[[nn.Module], Tensor]:
    """What calls a config's score network, on the meta device, with one image."""
    x = torch.zeros(1, *image_shape(config), device="meta")
    sde = build_sde(config)
    cond = build_parameterisation(config, sde).label(torch.tensor([sde.T])).to("meta")
    label = torch.zeros(1, dtype=torch.long, device="meta") if num_classes(config) else None
    smaller = low_resolution(config)
    inputs = {"image": smaller.images(x)} if smaller else {}
    return lambda network: network(x, cond, label, **inputs)


def activation_bytes(config: Config) -> int:
    """`kept_bytes` of a config's score network."""
    return kept_bytes(empty_network(config), one_evaluation(config))
