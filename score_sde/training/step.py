"""Training: its state, optimiser and schedule, and one step.

A step draws times and noise, averages the objective over the batch, and updates the weights and
their moving average:

    loss = mean of objective(net, x_0, t, z),    weights ← Adam(clip(∇ loss)),    ema ← weights

It reads nothing back from the device, so that the host can run ahead of it. What the caller wants
to know (loss, gradient norm) comes back as tensors, to be read on the logging schedule.

Symbols: x_0 (B, ...) data, t (B,) times, z noise with the shape of x_0.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from score_sde import parallel
from score_sde.networks.low_resolution import LowResolution
from score_sde.tensor_ops import check_losses
from score_sde.training.augmentation import Augmentation
from score_sde.training.optimizer import learning_rate
from score_sde.training.record import StepRecord
from score_sde.training.share import Share
from score_sde.training.state import TrainState


class Objective(Protocol):
    """What a step needs of an objective (`objectives`)."""

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws times (n,)."""
        ...

    def time(self, t: Tensor) -> Tensor:
        """Where on [0, T] they stand: (B,) → float (B,)."""
        ...

    def __call__(
        self,
        net: Callable[..., Tensor],
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """One loss per sample: (B,)."""
        ...


class TrainStep:
    """One update of the weights and of their average.

    Args:
        objective: gives times and losses.
        lr: learning rate after the warm-up.
        warmup: updates over which it grows from 0.
        grad_clip: largest total norm of the gradient; negative for none.
        accumulation: parts that a batch is split into, one after the other, to save memory.
        autocast_dtype: torch.bfloat16 to run the network (and nothing else) in it.
        augmentation: moves the images; the network is given its parameters as `augment`.
        low_resolution: of a network that upsamples: what it is given of the images, as `image`
            and `image_noise`.
        generator: of times, noise and augmentation, on the data's device; torch's global one by
            default.

    Attributes:
        share: what this process computes of each batch; all of it at first.

    Raises:
        ValueError: an accumulation below 1, a limit of 0, or another data type.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        lr: float,
        warmup: int = 0,
        grad_clip: float = -1.0,
        accumulation: int = 1,
        autocast_dtype: torch.dtype | None = None,
        augmentation: Augmentation | None = None,
        low_resolution: LowResolution | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if accumulation < 1:
            raise ValueError(f"accumulation={accumulation}: a batch is split into at least 1 part")
        if grad_clip == 0:
            raise ValueError(
                "grad_clip=0 makes every gradient 0: give a number above 0, or a negative one for "
                "no limit"
            )
        if autocast_dtype not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast_dtype={autocast_dtype}: use torch.bfloat16, or None for float32 "
                "(float16 overflows without loss scaling)"
            )
        self.objective = objective
        self.lr, self.warmup, self.grad_clip = lr, warmup, grad_clip
        self.accumulation = accumulation
        self.autocast_dtype = autocast_dtype
        self.augmentation, self.low_resolution = augmentation, low_resolution
        self.generator = generator
        self.share = Share()

    def __call__(self, state: TrainState, x_0: Tensor, label: Tensor | None = None) -> StepRecord:
        """Draws times and noise for a batch x_0 (B, ...), then `update`s; label int64 (B,).

        Where there is an augmentation, the batch is moved first; low-resolution images are made
        of what it has become, last. One of several processes is given its part of the batch, and
        draws for all of it.
        """
        inputs: dict[str, Tensor] = {}
        part = self.share.part(len(x_0))
        if self.augmentation is not None:
            x_0, inputs["augment"] = self.augmentation(x_0, self.generator, part)
        t = self.objective.times(part.whole, x_0.device, self.generator)
        z = part.normal(x_0, self.generator)
        if self.low_resolution is not None:
            inputs |= self.low_resolution(x_0, self.generator, part)
        return self.update(state, x_0, t, z, label, **inputs)

    def update(
        self,
        state: TrainState,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> StepRecord:
        """The update for given times t (B,) and noise z (B, ...).

        `inputs` are what else the network takes, by the names that it declares, each (B, ...).
        Of all of these but the times one of several processes is given its part.
        """
        if not state.network.training:
            state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        network = self.share.wrapped(state.network, accumulation=self.accumulation)
        mine = self.share.part(len(x_0)).of(t)
        with self.share.own_masks(state.step, x_0.device):
            losses = self._backward(network, x_0, mine, z, label, inputs)
        self.share.check_gradients(network, accumulation=self.accumulation)
        losses = self.share.whole(losses)
        grad_norm = self._clip(state.optimizer)
        lr = learning_rate(state.step, self.lr, self.warmup)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.whole = False
        _step_if_finite(state.optimizer, grad_norm)
        state.ema.update(state.network)
        for average in state.averages:
            average.update(state.network)
        record = StepRecord(
            state.step, losses.mean(), losses, self.objective.time(t), grad_norm, lr
        )
        state.step += 1
        state.whole = True
        return record

    def _backward(
        self,
        network: nn.Module,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None,
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Adds the gradient of the mean loss to the weights'; gives the losses (B,), detached."""
        n, whole = len(x_0), self.share.part(len(x_0)).whole
        size = -(-n // self.accumulation)
        net = self._network(network, x_0.device.type)
        losses = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            # Processes add up their gradients once, after the last part; of a divided network
            # after each, as none has room for all of them.
            wait = getattr(network, "no_sync", nullcontext) if start + size < n else nullcontext
            with wait():
                part_label = None if label is None else label[part]
                more = {name: value[part] for name, value in inputs.items()}
                loss = self.objective(net, x_0[part], t[part], z[part], part_label, **more)
                check_losses(loss, len(t[part]), self.objective)
                self.share.summed(loss, whole).backward()
            losses.append(loss.detach())
        return torch.cat(losses)

    def _network(self, network: nn.Module, device: str) -> Callable[..., Tensor]:
        if self.autocast_dtype is None:
            return network

        def net(*inputs: Tensor, **more: Tensor) -> Tensor:
            with torch.autocast(device, dtype=self.autocast_dtype):
                output = network(*inputs, **more)
            return output.float()

        return net

    def _clip(self, optimizer: Optimizer) -> Tensor:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        total = get_total_norm([p.grad for p in parameters if p.grad is not None])
        grad_norm = parallel.whole(total)  # the same number for all processes
        if self.grad_clip > 0:
            clip_grads_with_norm_(parameters, self.grad_clip, grad_norm)
        return grad_norm


def _step_if_finite(optimizer: Optimizer, grad_norm: Tensor) -> None:
    """Updates the weights, except where the gradient is not finite.

    Nobody looks at the gradient before the logging schedule does, and one NaN in it would be in
    every weight by then, and in the average. So such an update is left out where it would happen,
    without asking the host: the fused optimiser takes a flag for it on the device (torch has it
    for loss scaling). Without it the host decides, and waits for the device unless it is the CPU.
    """
    finite = grad_norm.isfinite()
    if optimizer.param_groups[0]["fused"]:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()
