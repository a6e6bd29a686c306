"""Configs, training, data and likelihood as users of the 2021 release call them."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from conftest import assert_close
from front import IMAGES, LEVELS, SHAPE, Net, T, X, small_config
from ml_collections import ConfigDict, FrozenConfigDict
from torch import nn

import datasets
import likelihood
import losses
import run_lib
import sde_lib
from configs.vp import digits
from models import ema
from models import utils as mutils
from score_sde.config import history
from score_sde.networks.table import NETWORKS

# ---- Configs ----


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "auto", None])
@pytest.mark.parametrize("locked", [True, False])
def test_the_device_is_written_into_the_config(device, locked):
    config = ConfigDict({**small_config().to_dict(), "device": device})
    if device is None:
        del config["device"]
    if locked:
        config.lock()
    net = mutils.create_model(config)
    assert X.to(config.device).device == next(net.parameters()).device
    assert config.is_locked is locked
    assert mutils.create_model(FrozenConfigDict(config)) is not None


def test_our_recipes_take_a_torch_device_lists_and_new_fields():
    config = digits.get_config()
    config.device = torch.device("cpu")
    config.model.ch_mult, config.model.mine = [1, 1], 3
    config.mine = ConfigDict({"weight": 0.5})
    assert mutils.create_model(config)(torch.rand(1, 1, 8, 8), torch.ones(1)).shape[1] == 1
    assert config.model.mine == 3


def test_missing_fields_take_the_defaults():
    config = ConfigDict(
        {
            "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1], "num_res_blocks": 1},
            "data": {"image_size": 8, "num_channels": 3, "centered": False},
            "optim": {"lr": 1},
        }
    )
    net = mutils.create_model(config)
    assert net(IMAGES, LEVELS).shape == IMAGES.shape
    optimizer = losses.get_optimizer(config, net.parameters())
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (1.0, (0.9, 0.999))
    assert "device" in config


@pytest.mark.parametrize("name", ["cifar10", "celeba", "lsun"])
def test_default_configs_are_what_forks_begin_with(name):
    module = __import__(f"configs.default_{name}_configs", fromlist=["get_default_configs"])
    config = module.get_default_configs()
    config.training.sde, config.model.name, config.model.fir_kernel = (
        "vesde",
        "ncsnpp",
        [1, 3, 3, 1],
    )
    sizes = {"cifar10": (32, 50, 0.16), "celeba": (64, 90, 0.17), "lsun": (256, 378, 0.075)}[name]
    assert (config.data.image_size, config.model.sigma_max, config.sampling.snr) == sizes


# ---- Training, averages, data ----


def test_groups_named_parameters_and_single_tensors_for_the_optimizer():
    config, net = small_config(), nn.Linear(2, 2)
    optimizer = losses.get_optimizer(
        config, [{"params": net.weight}, {"params": [net.bias], "lr": 0.5, "betas": (0.5, 0.9)}]
    )
    assert [group["lr"] for group in optimizer.param_groups] == [config.optim.lr, 0.5]
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.9)
    assert losses.get_optimizer(config, net.named_parameters()).param_groups[0]["params"]
    assert losses.get_optimizer(config, iter([net.weight])).param_groups[0]["lr"] == 2e-4


def test_the_averages_lists_may_be_read_and_replaced():
    net = nn.Linear(2, 2)
    average = ema.ExponentialMovingAverage(net.parameters(), 0.5)
    average.shadow_params = [value + 1 for value in average.shadow_params]
    before = net.weight.detach().clone()
    average.store(net.parameters())
    assert len(average.collected_params) == 2
    average.copy_to(net.parameters())
    assert_close(net.weight.detach(), before + 1)
    for _ in range(2):
        average.restore(net.parameters())
        assert torch.equal(net.weight, before)
        net.weight.data.zero_()
    with pytest.raises(ValueError, match="does not fit"):
        average.shadow_params = [torch.ones(1)]


@pytest.fixture(scope="module")
def splits():
    config = digits.get_config()
    config.training.batch_size, config.eval.batch_size = 400, 70
    return {flag: datasets.get_dataset(config, evaluation=flag)[:2] for flag in (True, False)}


def test_both_splits_are_endless_and_shuffled_unless_evaluating(splits):
    train, test = splits[False]
    assert (len(train), len(test)) == (4, 5)
    for split, size, whole in ((train, 400, 1497), (test, 70, 300)):
        several = list(itertools.islice(split, len(split) + 1))
        assert {len(batch["image"]) for batch in several} == {size}
        seen = torch.cat([batch["index"] for batch in several])
        assert len(seen[:whole].unique()) == whole
        assert not torch.equal(seen[:size], torch.arange(size))
    train, test = splits[True]
    assert [len(batch["image"]) for batch in test] == [70, 70, 70, 70, 20]
    assert torch.equal(torch.cat([batch["index"] for batch in train]), torch.arange(1497))


def test_helpers_for_images_of_ones_own():
    image = np.arange(10 * 8 * 3, dtype=np.uint8).reshape(10, 8, 3)
    assert np.array_equal(datasets.central_crop(image, 4), image[3:7, 2:6])
    assert np.array_equal(datasets.crop_resize(image, 8), image[1:9])
    flat = torch.full((10, 8, 3), 0.25)
    assert_close(datasets.crop_resize(flat, 4), torch.full((4, 4, 3), 0.25))
    assert datasets.resize_small(image, 4).shape == (5, 4, 3)


# ---- Likelihood ----


def test_the_divergence_of_a_field_of_any_rank():
    for shape in ((3, 5), SHAPE):
        x, eps = torch.randn(shape), torch.randn(shape)
        got = likelihood.get_div_fn(lambda x, t: x**3)(x, T, eps)
        assert_close(got, (3 * x**2 * eps**2).flatten(1).sum(1), 1e-5)


def test_levels_of_0_to_255_are_a_warning_given_once():
    sde = sde_lib.VPSDE()
    options = {"rtol": 1.0, "atol": 1.0, "eps": 0.5}
    probe = torch.ones(SHAPE)
    for scaler in (lambda x: (x + 1) / 2, lambda x: x):
        fn = likelihood.get_likelihood_fn(sde, scaler, **options)
        with pytest.warns(UserWarning, match="scale images"):
            first = fn(Net(), 255 * X, probe=probe)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(fn(Net(), 255 * X, probe=probe)[0], first)
            likelihood.get_likelihood_fn(sde, scaler, **options)(Net(), X)


def test_numbers_in_a_row_for_scipy():
    flat = mutils.to_flattened_numpy(X.clone().requires_grad_())
    assert flat.shape == (96,)
    assert torch.equal(mutils.from_flattened_numpy(flat, SHAPE), X)
    params = mutils.get_ddpm_params(
        ConfigDict({"model": dict(beta_min=0.1, beta_max=20.0, num_scales=1000)})
    )
    assert_close(torch.as_tensor(params["betas"]), sde_lib.VPSDE().discrete_betas.double(), 1e-5)
    assert params["num_diffusion_timesteps"] == 1000


def test_a_registered_network_is_in_the_librarys_table_during_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(mutils, "_REGISTERED", {**mutils._REGISTERED, "mine": Net})
    config = small_config("mine")
    built = []

    def train(*_, **more):
        built.append(NETWORKS["mine"](config))

    monkeypatch.setattr("run_lib._train", train)
    run_lib.train(config, tmp_path)
    assert isinstance(built[0], Net)
    assert "mine" not in NETWORKS


def test_runs_complete_a_config_and_take_paths_as_text(monkeypatch, tmp_path):
    given = []
    for name in ("_train", "_evaluate"):
        monkeypatch.setattr(f"run_lib.{name}", lambda *words, **more: given.append((*words, more)))
    monkeypatch.setenv("HOME", str(tmp_path))
    config = ConfigDict(small_config().to_dict() | {"device": torch.device("cpu")})
    del config.training["precision"]
    config.model.ch_mult, config.model.sigma_max = [1, 1], 50
    run_lib.train(config, str(tmp_path), allow=["optim.lr"])
    run_lib.evaluate(config, "~/run", "mine")
    (whole, folder, how), (_, home, more) = given
    assert (folder, home) == (tmp_path, tmp_path / "run")
    assert how == {"allow": ["optim.lr"]}
    assert more == {"eval_folder": tmp_path / "run" / "mine"}
    assert (whole.device, whole.training.precision) == ("cpu", "auto")
    assert whole.model.ch_mult == (1, 1)
    assert isinstance(whole.model.sigma_max, float)
    history.to_json(whole)
    assert config.device == torch.device("cpu")
