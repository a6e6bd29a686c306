"""The share that one of several processes has in a step.

Each process is given its part of the batch, draws times, noise and augmentation for all of it, as
a single process would, and computes the losses of its part. Gradients are summed while the
backward pass is still under way (DistributedDataParallel; Li et al. 2020, "PyTorch Distributed:
Experiences on Accelerating Data Parallel Training"), or by the network itself, where it is divided
(`sharding`). So after a step all processes hold the same weights, and those of a single process up
to the order of summation.

Dropout masks are each process's own. They follow from the seed, the step and the rank, so that a
resumed run draws them again, and the run's own stream stays the same in all processes.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from score_sde.atomic.weights import listed
from score_sde.parallel import Part, World, shard
from score_sde.training.sharding import is_divided


class Share:
    """What one process computes of each batch, and how it is put together with the others'.

    A single process computes all of it, and nothing is exchanged.

    Args:
        world: this process among the others.
        batch_size: of all processes together.
        seed: of the dropout masks, the run's.
    """

    def __init__(self, world: World | None = None, batch_size: int = 0, seed: int = 0) -> None:
        self.world, self.seed = world or World(), seed
        self._part = Part(shard(batch_size, self.world.rank, self.world.size), batch_size)
        self._wrapped: tuple[nn.Module, nn.Module] | None = None
        self._checked = False

    def part(self, n: int) -> Part:
        """Which rows of the batch a process has that was given n of them."""
        return self._part if self.world.size > 1 else Part(range(n), n)

    def wrapped(self, network: nn.Module, *, accumulation: int) -> nn.Module:
        """The network whose backward pass averages gradients over the processes.

        It is made once, of the network of the first step. A divided one does so by itself.
        """
        if self.world.size == 1 or is_divided(network):
            return network
        if self._wrapped is None or self._wrapped[0] is not network:
            with warnings.catch_warnings():  # newer torch has another name for the buffers' field
                warnings.simplefilter("ignore", FutureWarning)
                both = DistributedDataParallel(
                    network,
                    broadcast_buffers=False,  # nothing changes them; all processes made the same
                    gradient_as_bucket_view=True,
                    # With `no_sync` torch fails in an assertion of its own.
                    static_graph=accumulation == 1,
                )
            self._wrapped = network, both
        return self._wrapped[1]

    def check_gradients(self, network: nn.Module, *, accumulation: int) -> None:
        """Makes sure, after the first backward pass, that all gradients were averaged.

        Raises:
            ValueError: a weight has none, where torch then waits for it.
        """
        if self.world.size == 1 or accumulation == 1 or self._checked or is_divided(network):
            return
        self._checked = True
        named = network.named_parameters()
        if idle := [name for name, p in named if p.requires_grad and p.grad is None]:
            raise ValueError(
                f"the loss does not depend on {listed(idle)}: several processes with "
                "training.accumulation above 1 need all weights; set it to 1, or "
                "requires_grad=False for these"
            )

    def summed(self, losses: Tensor, n: int) -> Tensor:
        """What the backward pass begins with: averaged over processes, the batch's mean loss.

        Args:
            losses: of some rows of the batch.
            n: rows of all processes together.
        """
        return losses.sum() / n * self.world.size

    def whole(self, losses: Tensor) -> Tensor:
        """The losses of the batch (B,), of this process's part of them."""
        if self.world.size == 1:
            return losses
        batch = losses.new_zeros(self._part.whole)
        self._part.of(batch).copy_(losses)
        dist.all_reduce(batch)
        return batch

    @contextmanager
    def own_masks(self, step: int, device: torch.device) -> Iterator[None]:
        """Within this torch's global stream is of the step and this process alone."""
        if self.world.size == 1:
            yield
            return
        devices = [device] if device.type != "cpu" else []
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            words = f"{self.seed} {step} {self.world.rank}".encode()
            digest = hashlib.blake2b(words, digest_size=8).digest()
            torch.manual_seed(int.from_bytes(digest, "little") >> 1)
            yield
