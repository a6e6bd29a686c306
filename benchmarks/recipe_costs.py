"""What each recipe costs: operations counted, memory, and the GPU-hours that follow from a rate.

    python -m benchmarks.recipe_costs [--tflops 100] [--activation_checkpointing] [ve/cifar10 …]

Nothing is computed: the networks lie on the meta device, where torch counts the operations of
their convolutions and matrix products (a multiplication and an addition are two). A training step
is three forward passes: the gradients of activations and of weights cost as much as one each.
Hours are those of one device that keeps up `--tflops` (10¹² operations a second) in training.
Memory is what weights, gradients, averages and Adam's moments take in float32, and what the
network keeps for its gradient of a batch (float32, not compiled; `training.accumulation` divides
the latter). With `--activation_checkpointing` each block keeps what goes into it alone, and a step
is four forward passes.
"""

import argparse
import runpy
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from score_sde.commands import recipes
from score_sde.commands.first_screen import activation_bytes, one_evaluation
from score_sde.config.build import Config, empty_network

COLUMNS = (
    "recipe",
    "parameters, 10⁶",
    "GFLOP an evaluation",
    "weights, GB",
    "a batch's activations, GB",
    "batch",
    "steps",
    "EFLOP",
    "hours",
)


def forward_flops(config: Config) -> int:
    """Operations of one evaluation of a recipe's network for one image."""
    network = empty_network(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        one_evaluation(config)(network)
    return counter.get_total_flops()


def row(name: str, config: Config, tflops: float) -> tuple[str, ...]:
    """The table's row of a recipe."""
    training = config.training
    parameters = sum(p.numel() for p in empty_network(config).parameters())
    flops = forward_flops(config)
    averages = 1 + len(config.model.ema_lengths)
    passes = 4.0 if training.get("activation_checkpointing") else 3.0
    total = passes * flops * training.batch_size * training.n_iters
    return (
        f"`{name}`",
        f"{parameters / 1e6:.1f}",
        f"{flops / 1e9:.3g}",
        f"{(4 + averages) * parameters * 4 / 2**30:.2f}",
        f"{activation_bytes(config) * training.batch_size / 2**30:.3g}",
        f"{training.batch_size}",
        f"{training.n_iters:,}",
        f"{total / 1e18:.3g}",
        f"{total / (tflops * 1e12) / 3600:.3g}",
    )


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description="What each recipe costs.")
    parser.add_argument("recipe", nargs="*", help="by default all of the library's")
    parser.add_argument("--tflops", type=float, default=100.0)
    parser.add_argument("--activation_checkpointing", action="store_true")
    options = parser.parse_args()
    names = options.recipe or [
        name.removeprefix("configs/").removesuffix(".py") for name in recipes.catalogue()
    ]
    write = sys.stdout.write
    write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
    for name in names:
        config = runpy.run_path(str(recipes.find(name)))["get_config"]()
        with config.unlocked():
            config.training.activation_checkpointing = options.activation_checkpointing
        write(f"| {' | '.join(row(name, config, options.tflops))} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
