"""Losses and training steps on a device that is not here; see `test_fake_device`."""

import itertools

import pytest
import torch
from fake_device import (
    LARGER,
    SHAPE,
    B,
    fake_device,
    images,
    index,
    network,
    sde_of,
)
from torch import nn

from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.low_resolution import LowResolution
from score_sde.networks.power_average import PowerAverage
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, Classification, make_objective
from score_sde.sde import SDES, VPSDE
from score_sde.training import Augmentation, TrainState, TrainStep, make_optimizer


def objective_of(name, draw):
    """With the first SDE that it is defined for, the SDEs beginning in turn."""
    turn = list(itertools.product(OBJECTIVES, TIME_SAMPLERS)).index((name, draw))
    kinds = (*SDES, *SDES)[turn % len(SDES) :]
    for kind, continuous in itertools.product(kinds, (True, False)):
        for weighting in (False, True):
            given = {"objective": name, "times": draw, "continuous": continuous}
            try:
                return make_objective(
                    sde_of(kind), likelihood_weighting=weighting, eps=1e-3, **given
                )
            except ValueError:
                continue
    return None


@pytest.mark.parametrize("draw", TIME_SAMPLERS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss(name, draw):
    objective = objective_of(name, draw)
    if objective is None:
        pytest.skip("draws its own times")

    def loss(device, net):
        t = objective.times(B, torch.device(device.type))
        assert device.is_here(objective.time(t))
        return objective(net, images(device), t, images(device))

    with fake_device("cuda") as cuda, torch.no_grad():
        assert cuda.settled(lambda: loss(cuda, lambda x, cond: -x)).device.type == "cuda"
    with fake_device("meta") as meta:
        net = nn.Conv2d(SHAPE[0], SHAPE[0], 1, device="meta")
        meta.settled(lambda: loss(meta, lambda x, cond: net(x)).sum().backward())
        assert meta.is_here(net.weight.grad)


def test_the_loss_of_a_classifier(cuda):
    sde = VPSDE()
    objective = Classification(sde, make_objective(sde))
    t = objective.times(B, torch.device("cuda"))
    losses = objective(lambda x, cond: x.flatten(1), images(cuda), t, images(cuda), index(cuda))
    assert losses.device.type == "cuda"


def training(device):
    """A step with all that it may do, its state and a batch."""
    more = {"augment_dim": 9, "upsampling_factor": 2, "num_classes": 10}
    net = network(device, ch_mult=(1,), attn_resolutions=(), **more)
    state = TrainState(
        net,
        ExponentialMovingAverage(net, 0.999),
        make_optimizer(net.named_parameters()),
        averages=[PowerAverage(net, 0.1)],
    )
    step = TrainStep(
        make_objective(VPSDE(), times="importance", objective="likelihood"),
        lr=1e-3,
        warmup=5,
        grad_clip=1.0,
        accumulation=2,
        augmentation=Augmentation(0.5),
        low_resolution=LowResolution(2, 0.5),
    )
    return net, lambda: step(state, images(device, *LARGER), index(device))


def test_a_training_step_on_a_gpu(monkeypatch):
    """All of it, the fused optimiser too, but for the gradient."""

    def backward(loss):
        assert loss.device.type == "cuda"
        for weights in net.parameters():
            weights.grad = torch.zeros_like(weights)

    with fake_device("cuda") as cuda:
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        net, step = training(cuda)
        record = cuda.settled(step)
        assert cuda.is_here(record.loss)
        assert cuda.is_here(record.grad_norm)


def test_the_gradient_of_a_training_step(meta):
    """Off CUDA no optimiser takes the flag of what is not finite, and the host reads it."""
    _, step = training(meta)
    with meta.tables_coming(), meta.answering(1):
        step()
    with meta.answering(1):
        assert meta.is_here(step().loss)
    assert meta.reads == {"training/step.py _step_if_finite": 1}
