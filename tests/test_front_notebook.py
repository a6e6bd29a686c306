"""The release's notebook, cell by cell: what it calls, on a small file in the published format.

Left out are TensorFlow's lines and plots; checkpoint, images and sizes are small ones.
"""

import pytest
import torch

from models import official
from models import utils as mutils
from score_sde.checkpoints import release_2021

CELLS = {
    "imports": """
import functools
import itertools
import os
import torch.nn as nn
import controllable_generation
import datasets
import likelihood
import models
import sampling
from losses import get_optimizer
from models import ddpm as ddpm_model
from models import layers, layerspp, ncsnpp, ncsnv2, normalization, up_or_down_sampling
from models import utils as mutils
from models.ema import ExponentialMovingAverage
from sampling import (AncestralSamplingPredictor, AnnealedLangevinDynamics, EulerMaruyamaPredictor,
                      LangevinCorrector, NoneCorrector, NonePredictor, ReverseDiffusionPredictor)
from sde_lib import VESDE, VPSDE, subVPSDE
from utils import restore_checkpoint
""",
    "load": """
kind = "VESDE"
if kind.lower() == "vesde":
    from configs.ve import cifar10_ncsnpp_continuous as configs
    config = make_small(configs.get_config())
    model = config.model
    sde = VESDE(sigma_min=model.sigma_min, sigma_max=model.sigma_max, N=model.num_scales)
    sampling_eps = 1e-5
batch_size = 2
config.training.batch_size = batch_size
config.eval.batch_size = batch_size
sigmas = mutils.get_sigmas(config)
scaler = datasets.get_data_scaler(config)
inverse_scaler = datasets.get_data_inverse_scaler(config)
score_model = mutils.create_model(config)
optimizer = get_optimizer(config, score_model.parameters())
ema = ExponentialMovingAverage(score_model.parameters(), decay=config.model.ema_rate)
state = dict(step=0, optimizer=optimizer, model=score_model, ema=ema)
state = restore_checkpoint(ckpt_filename, state, config.device)
ema.copy_to(score_model.parameters())
""",
    "pc": """
side, channels = config.data.image_size, config.data.num_channels
shape = (batch_size, channels, side, side)
predictor, corrector = ReverseDiffusionPredictor, LangevinCorrector
snr, n_steps, probability_flow = 0.16, 1, False
sampling_fn = sampling.get_pc_sampler(sde, shape, predictor, corrector, inverse_scaler, snr,
                                      n_steps=n_steps, probability_flow=probability_flow,
                                      continuous=config.training.continuous, eps=sampling_eps,
                                      device=config.device)
x, n = sampling_fn(score_model)
grid = x.permute(0, 2, 3, 1).cpu().numpy().reshape((-1, side, side, channels))
""",
    "ode": """
sampling_fn = sampling.get_ode_sampler(sde, shape, inverse_scaler, denoise=True, rtol=1e-1,
                                       atol=1e-1, eps=sampling_eps, device=config.device)
x, nfe = sampling_fn(score_model)
""",
    "likelihood": """
train_ds, eval_ds, _ = datasets.get_dataset(config, uniform_dequantization=True, evaluation=True)
img = next(iter(eval_ds))["image"].to(config.device)
likelihood_fn = likelihood.get_likelihood_fn(sde, inverse_scaler, eps=1e-5, rtol=1e-1, atol=1e-1)
bpd, z, nfe = likelihood_fn(score_model, scaler(img))
""",
    "latents": """
_, latent_z, _ = likelihood_fn(score_model, scaler(img))
back, nfe = sampling_fn(score_model, latent_z)
first, second = latent_z[:1], latent_z[1:2]
angle = torch.arccos((first * second).sum() / first.norm() / second.norm())
ways = [(torch.sin((1 - s) * angle) * first + torch.sin(s * angle) * second) / torch.sin(angle)
        for s in (0.25, 0.75)]
between, _ = sampling_fn(score_model, torch.cat(ways, dim=0))
noise = torch.randn_like(latent_z)
hot, _ = sampling_fn(score_model, 0.9 * latent_z)
""",
    "inpaint": """
pc_inpainter = controllable_generation.get_pc_inpainter(
    sde, predictor, corrector, inverse_scaler, snr=snr, n_steps=n_steps,
    probability_flow=probability_flow, continuous=config.training.continuous, denoise=True)
mask = torch.ones_like(scaler(img))
mask[:, :, :, side // 2:] = 0.
filled = pc_inpainter(score_model, scaler(img), mask)
""",
    "colorize": """
pc_colorizer = controllable_generation.get_pc_colorizer(
    sde, predictor, corrector, inverse_scaler, snr=snr, n_steps=n_steps,
    probability_flow=probability_flow, continuous=config.training.continuous, denoise=True)
gray_scale_img = torch.mean(scaler(img), dim=1, keepdims=True).repeat(1, 3, 1, 1)
coloured = pc_colorizer(score_model, gray_scale_img)
""",
}


def make_small(config):
    config.model.update(nf=8, ch_mult=(1, 1), num_res_blocks=1, num_scales=3)
    config.model.sigma_min, config.model.sigma_max = 0.5, 5.0
    config.model.attn_resolutions = (8,)
    config.data.image_size, config.data.dataset = 8, "colour_digits"
    return config


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the cells leave behind, and the network whose average the file holds."""
    from configs.ve import cifar10_ncsnpp_continuous

    torch.manual_seed(0)
    net, averaged = (
        mutils.create_model(make_small(cifar10_ncsnpp_continuous.get_config())) for _ in range(2)
    )
    averaged.embedding.frequencies.copy_(net.embedding.frequencies)
    weights, averages = official.dump(net), official.dump(averaged)
    order = release_2021.trainable_order(net)
    file = tmp_path_factory.mktemp("exp") / "checkpoint_24.pth"
    group = {"lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    places = list(range(len(release_2021.entries(net))))
    content = {
        "model": {f"module.{name}": value for name, value in weights.items()},
        "ema": {
            "decay": 0.999,
            "num_updates": 9,
            "shadow_params": [averages[name] for name in order],
        },
        "optimizer": {"state": {}, "param_groups": [{**group, "params": places}]},
        "step": 9,
    }
    torch.save(content, file)
    names = {"torch": torch, "make_small": make_small, "ckpt_filename": str(file)}
    for name, code in CELLS.items():
        exec(compile(code, f"cell {name}", "exec"), names)
    return names, averaged


def test_the_averaged_weights_are_in_place(notebook):
    names, averaged = notebook
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0.2, 3.0])
    with torch.no_grad():
        assert torch.equal(names["score_model"](x, labels), averaged.eval()(x, labels))
    assert names["state"]["step"] == 9


def test_every_cell_gives_what_it_should(notebook):
    names, _ = notebook
    for name in ("x", "z", "back", "between", "hot", "filled", "coloured"):
        assert names[name].shape == (2, 3, 8, 8)
        assert names[name].isfinite().all()
    assert names["grid"].shape == (2, 8, 8, 3)
    assert names["n"] == 6
    assert names["bpd"].shape == (2,)
    image = names["img"]
    assert torch.allclose(names["filled"][..., :4], image[..., :4], atol=1e-4)
    # Colours are large where nothing was learnt, and their mean rounds accordingly.
    rounding = 1e-6 * float(names["coloured"].abs().max())
    assert torch.allclose(names["coloured"].mean(1), image.mean(1), atol=rounding)
