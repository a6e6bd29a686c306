"""The same network three ways: ours, the naive formulation, and diffusers' `UNet2DModel`.

Ours and the naive one are one function of the same parameters, which is checked before anything is
timed. diffusers has two that come near: "NCSN++" are its `Skip` blocks, with which it loads
NCSN++ (FIR filters, BigGAN's blocks, sums over √2), but with pyramids of images (`input_skip`,
`output_skip`) in place of the residual pyramid of features, and attention after every block on the
way up; "plain" are its blocks of DDPM, without FIR filters, pyramids and the division by √2,
with convolutions between the levels. Its training step is that of its examples: Adam and clipping
as torch has them by default, and its own `EMAModel`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import naive
from configs.ve import cifar10_ncsnpp_continuous
from score_sde.config.build import (
    Config,
    build_device,
    build_objective,
    build_sde,
    build_state,
    build_train_step,
    channels_last,
    compiled,
)

OURS, NAIVE = "ours", "naive"


@dataclass(frozen=True)
class Route:
    """One way: a forward pass, a training step on a batch, and the network."""

    forward: Callable[[Tensor, Tensor], Tensor]
    step: Callable[[Tensor], object]
    network: nn.Module


def recipe(nf: int, num_res_blocks: int) -> Config:
    """The recipe's config, at another width or depth for a trial."""
    config = cifar10_ncsnpp_continuous.get_config()
    fields = {"model.nf": nf, "model.num_res_blocks": num_res_blocks, "device": "cpu"}
    # Else most of the network would hide behind factors of 1e-5, and `check_equal` see nothing.
    config.update_from_flattened_dict(fields | {"model.init_scale": 1.0})
    return config


def ours(config: Config) -> Route:
    """The library's network and training step, as `main.py` makes them of the config."""
    state, sde, device = build_state(config), build_sde(config), build_device(config)
    step = build_train_step(config, build_objective(config, sde))
    network, memory = state.network, channels_last(config, device)
    state.network = compiled(config, network, device)
    return Route(
        lambda x, sigma: state.network(x.contiguous(memory_format=memory), sigma),
        lambda x_0: step(state, x_0.contiguous(memory_format=memory)),
        network,
    )


def naive_of(config: Config, network: nn.Module) -> Route:
    """The naive formulation, with the weights of our network."""
    model = config.model
    net = naive.NCSNpp(model.nf, model.ch_mult, model.num_res_blocks, config.data.image_size)
    naive.take_weights(net, network)
    return Route(net, naive.Step(net), net)


def diffusers(config: Config, skip: bool) -> Route:
    """diffusers' network of that size, and a training step of its examples."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.training_utils import EMAModel

    model, side = config.model, config.data.image_size
    attended = [side >> level == 16 for level in range(len(model.ch_mult))]
    kind = "Skip" if skip else ""
    down = tuple(f"{'Attn' if a else ''}{kind}DownBlock2D" for a in attended)
    up = tuple(f"{'Attn' if a else ''}{kind}UpBlock2D" for a in reversed(attended))
    net = UNet2DModel(
        sample_size=side,
        center_input_sample=True,
        time_embedding_type="fourier",
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(model.nf * mult for mult in model.ch_mult),
        layers_per_block=model.num_res_blocks,
        mid_block_scale_factor=math.sqrt(2) if skip else 1,
        dropout=model.dropout,
        attention_head_dim=model.nf * model.ch_mult[-1],
        norm_eps=1e-6,
        norm_num_groups=min(model.nf // 4, 32),
    )

    def forward(x: Tensor, sigma: Tensor) -> Tensor:
        return net(x, sigma).sample

    parameters = list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=2e-4)
    average = EMAModel(parameters, decay=0.999)
    sde = build_sde(config)

    def step(x_0: Tensor) -> None:
        t = torch.rand(len(x_0), device=x_0.device) * (1 - 1e-5) + 1e-5
        sigma, z = sde.std(t), torch.randn_like(x_0)
        noisy = x_0 + sigma[:, None, None, None] * z
        loss = 0.5 * (forward(noisy, sigma) * sigma[:, None, None, None] + z).square().sum()
        (loss / len(x_0)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(parameters)

    return Route(forward, step, net)


def routes(config: Config) -> dict[str, Route]:
    """All of them, by name; diffusers where it is installed."""
    mine = ours(config)
    made: dict[str, Callable[[], Route]] = {
        NAIVE: partial(naive_of, config, mine.network),
        "diffusers, NCSN++": partial(diffusers, config, True),
        "diffusers, plain": partial(diffusers, config, False),
    }
    every = {OURS: mine}
    for name, make in made.items():
        try:
            every[name] = make()
        except ImportError as error:
            print(f"{name}: left out ({error})")
    return every


def check_equal(every: dict[str, Route], x: Tensor, sigma: Tensor) -> float:
    """The largest difference of ours and the naive one, relative to the largest number.

    Raises:
        AssertionError: it is more than rounding.
    """
    for route in every.values():
        route.network.eval()
    with torch.no_grad():
        a, b = every[OURS].forward(x, sigma), every[NAIVE].forward(x, sigma)
    off = ((a - b).abs().max() / a.abs().max()).item()
    assert off < 1e-4, f"ours and the naive network differ by {off:.2g}"
    return off


def machine() -> dict[str, Any]:
    """What figures depend on beside the code."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
