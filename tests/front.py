"""A user's network, a small recipe and a loop's state, for the tests of the front."""

import torch
from torch import nn

import losses
from configs.ve import cifar10_ncsnpp_continuous
from models import ema
from models import utils as mutils

SHAPE = (3, 2, 4, 4)
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.2, 0.5, 0.9])


def b(a):
    return a[:, None, None, None]


class Net(nn.Module):
    """Looks at its label; of two channels."""

    def __init__(self, config=None):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, labels):
        return -self.weight * x / (1 + b(labels.float()))


def small_config(name="ncsnpp"):
    config = cifar10_ncsnpp_continuous.get_config()
    config.model.update(name=name, nf=8, ch_mult=(1, 1), num_res_blocks=1, num_scales=4)
    config.model.attn_resolutions = (8,)
    config.data.image_size, config.training.batch_size, config.eval.batch_size = 8, 3, 5
    return config


def make_trained():
    """A network of `small_config` with weights of some size everywhere."""
    torch.manual_seed(3)
    net = mutils.create_model(small_config())
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return net.eval()


IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LEVELS = torch.tensor([0.3, 4.0])


def output(net):
    with torch.no_grad():
        return net.eval()(IMAGES, LEVELS)


def state_of(net, config):
    return {
        "optimizer": losses.get_optimizer(config, net.parameters()),
        "model": net,
        "ema": ema.ExponentialMovingAverage(net.parameters(), decay=0.9),
        "step": 0,
    }
