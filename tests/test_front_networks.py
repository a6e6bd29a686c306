"""Networks and their files as users of the 2021 release call them; values by hand."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import assert_close
from front import IMAGES, LEVELS, Net, make_trained, output, small_config, state_of
from networks import build
from torch import nn

import losses
import utils
from models import ddpm, ema, ncsnpp, ncsnv2, official
from models import utils as mutils
from score_sde.checkpoints import load_official, release_2021
from score_sde.networks.table import NETWORKS


@pytest.fixture(scope="module")
def trained():
    return make_trained()


def release_file(net, config):
    """The content of a published checkpoint, by hand: half of the weights as their average."""
    weights = official.dump(net)
    order = release_2021.trainable_order(net)
    places = [entry.name for entry in release_2021.entries(net)]
    moments = {
        place: {
            "step": 7,
            "exp_avg": torch.full_like(weights[name], 0.1) + weights[name],
            "exp_avg_sq": torch.ones_like(weights[name]) + weights[name] ** 2,
        }
        for place, name in enumerate(places)
        if name in order
    }
    group = {"lr": 0.125, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    return {
        "model": {f"module.{name}": value for name, value in weights.items()},
        "ema": {
            "decay": 0.75,
            "num_updates": 5,
            "shadow_params": [0.5 * weights[name] for name in order],
        },
        "optimizer": {
            "state": moments,
            "param_groups": [{**group, "params": list(range(len(places)))}],
        },
        "step": 7,
    }


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "checkpoint_7.pth"
    torch.save(release_file(trained, small_config()), path)
    return path


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_under_the_releases_names_load(trained, strict, prefix, wrapped):
    net = mutils.create_model(small_config())
    target = nn.DataParallel(net) if wrapped else net
    given = {prefix + name: value for name, value in official.dump(trained).items()}
    if wrapped and not prefix:  # as with any network inside DataParallel
        with pytest.raises((RuntimeError, ValueError)):
            target.load_state_dict(given, strict=strict)
        return
    result = target.load_state_dict(given, strict=strict)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(output(net), output(trained))
    net = mutils.create_model(small_config())
    own = {"module." + name: value for name, value in trained.state_dict().items()}
    net.load_state_dict(own, strict=strict)
    assert torch.equal(output(net), output(trained))


def test_weights_of_which_none_fits_or_one_has_another_shape_are_refused(trained):
    net = mutils.create_model(small_config())
    with pytest.raises(ValueError, match="none of the 2 names given"):
        net.load_state_dict({"model": torch.ones(1), "step": torch.ones(1)}, strict=False)
    wrong = official.dump(trained)
    name = next(iter(release_2021.trainable_order(net)))
    wrong[name] = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(wrong, strict=False)


def test_a_published_file_by_entries(trained, published):
    config, content = small_config(), torch.load(published)
    state = state_of(mutils.create_model(config), config)
    state["ema"].load_state_dict(content["ema"])
    state["optimizer"].load_state_dict(content["optimizer"])
    other = state_of(mutils.create_model(config), config)
    utils.restore_checkpoint(published, other, torch.device("cpu"))
    for one, two in zip(state["ema"].shadow_params, other["ema"].shadow_params, strict=True):
        assert torch.equal(one, two)
    for one, two in zip(*(s["model"].parameters() for s in (state, other)), strict=True):
        kept, wanted = state["optimizer"].state[one], other["optimizer"].state[two]
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(kept[key], wanted[key])
        assert wanted["exp_avg"].stride() == two.stride()
        assert_close(wanted["exp_avg"], two.detach() + 0.1)
    assert other["optimizer"].param_groups[0]["lr"] == 0.125
    with pytest.raises(ValueError, match="restore_checkpoint"):
        losses.get_optimizer(config, [torch.ones(2, requires_grad=True)]).load_state_dict(
            content["optimizer"]
        )
    with pytest.raises(ValueError, match="restore_checkpoint"):
        ema.ExponentialMovingAverage([torch.ones(2)], 0.9).load_state_dict(content["ema"])


@pytest.mark.parametrize(("as_path", "wrap"), [(str, nn.DataParallel), (Path, lambda net: net)])
def test_saving_and_restoring_the_state_of_a_loop(published, tmp_path, as_path, wrap):
    config = small_config()
    state = state_of(wrap(mutils.create_model(config)), config)
    assert utils.restore_checkpoint(as_path(published), state, "cpu") is state
    assert (state["step"], state["ema"].decay, state["ema"].num_updates) == (7, 0.75, 5)
    state["step"] = 8
    path = tmp_path / "new" / "checkpoint.pth"
    utils.save_checkpoint(as_path(path), state)
    content, before = torch.load(path), torch.load(published)
    assert content.keys() == before.keys()
    assert content["step"] == 8
    for name, value in before["model"].items():
        assert_close(content["model"][name], value)
    for one, two in zip(
        content["ema"]["shadow_params"], before["ema"]["shadow_params"], strict=True
    ):
        assert_close(one, two)
    new = state_of(wrap(mutils.create_model(config)), config)
    utils.restore_checkpoint(path, new)
    assert torch.equal(output(new["model"]), output(state["model"]))
    state["ema"].copy_to(state["model"].parameters())
    assert torch.equal(output(load_official(path, config)), output(state["model"]))


def test_files_of_a_users_own_loop_and_network(tmp_path, trained):
    config, path = small_config(), tmp_path / "own.pth"
    state = state_of(copy.deepcopy(trained), config)
    state["ema"].shadow_params = [2 * value for value in state["ema"].shadow_params]
    torch.save({k: v if k == "step" else v.state_dict() for k, v in state.items()}, path)
    new = utils.restore_checkpoint(path, state_of(mutils.create_model(config), config))
    assert torch.equal(output(new["model"]), output(trained))
    new["ema"].copy_to(new["model"].parameters())
    assert torch.equal(output(load_official(path, config)), output(new["model"]))

    state = state_of(Net(), config)
    state["model"].weight.data.fill_(3.0)
    utils.save_checkpoint(path, state)
    new = utils.restore_checkpoint(path, state_of(Net(), config))
    assert new["model"].weight.item() == 3
    assert new["ema"].shadow_params[0].item() == 0.5

    content = torch.load(path, weights_only=True)  # of a loop whose network is in DataParallel
    content["model"] = {"module.weight": torch.tensor(4.0)}
    torch.save(content, path)
    for net in (Net(), nn.DataParallel(Net())):
        utils.restore_checkpoint(path, state_of(net, config))
        assert getattr(net, "module", net).weight.item() == 4


def test_a_file_that_is_not_there_is_a_warning(tmp_path):
    state = {"model": Net(), "step": 2}
    with pytest.warns(UserWarning, match=r"there is no checkpoint .*nowhere\.pth"):
        assert utils.restore_checkpoint(tmp_path / "nowhere.pth", state, "cpu") is state
    assert state["step"] == 2


def test_classes_of_a_config_and_their_children(trained):
    class Mine(ncsnpp.NCSNpp):
        def __init__(self, config):
            super().__init__(config)
            self.extra = nn.Parameter(torch.ones(()))

    config = small_config()
    net = ncsnpp.NCSNpp(config)
    assert type(mutils.create_model(config)) is mutils.get_model("ncsnpp") is ncsnpp.NCSNpp
    net.load_state_dict(official.dump(trained))
    assert torch.equal(output(net), output(trained))
    child = Mine(config)
    child.load_state_dict(official.dump(trained), strict=False)
    assert torch.equal(output(child), output(trained))
    config.model.update(nf=32, name="ddpm", attn_resolutions=())
    assert isinstance(mutils.create_model(config), ddpm.DDPM)
    config.model.update(nf=4, normalization="InstanceNorm++", nonlinearity="elu")
    assert ncsnv2.NCSNv2(config)(IMAGES, torch.tensor([0, 3])).shape == IMAGES.shape


def test_registered_networks(monkeypatch):
    monkeypatch.setattr(mutils, "_REGISTERED", dict(mutils._REGISTERED))

    @mutils.register_model
    class Plain(Net):
        pass

    mutils.register_model(Net, name="named")
    for name, kind in (("Plain", Plain), ("named", Net)):
        config = small_config(name)
        net = mutils.create_model(config)
        assert type(net) is mutils.get_model(name) is kind
        assert net.module is net
        assert list(net.state_dict()) == ["weight"]
        for weights in ({"weight": torch.tensor(3.0)}, {"module.weight": torch.tensor(4.0)}):
            net.load_state_dict(weights, strict=False)
            assert net.weight.item() in weights.values()
        with pytest.raises(ValueError, match="none of the 1 names given is a weight"):
            net.load_state_dict({"other": torch.tensor(3.0)}, strict=False)
    with pytest.raises(ValueError, match="'named' already"):
        mutils.register_model(Plain, name="named")
    with pytest.raises(ValueError, match=r"model.name='nothing': it must be one of ncsnpp"):
        mutils.get_model("nothing")
    monkeypatch.setitem(NETWORKS, "alias", NETWORKS["ncsnpp"])
    assert type(mutils.create_model(small_config("alias"))) is ncsnpp.NCSNpp
    monkeypatch.setitem(NETWORKS, "ncsnpp", lambda model, shape: Net())
    assert type(mutils.create_model(small_config())) is Net
    with pytest.raises(ValueError, match=r"'ncsnpp' of NETWORKS was replaced.*create_model"):
        mutils.get_model("ncsnpp")(small_config())


def test_what_is_inside_a_network(trained):
    net = copy.deepcopy(trained)
    assert net.module is net
    assert_close(net.module.sigmas, torch.as_tensor(mutils.get_sigmas(small_config())), 1e-12)
    assert net.all_modules[-1].weight.shape == (3, 8, 3, 3)
    assert [type(net.all_modules[k]).__name__ for k in (0, 1)] == [
        "GaussianFourierProjection",
        "Linear",
    ]
    net.all_modules[-1] = nn.Conv2d(8, 3, 3, padding=1, bias=False)
    nn.init.zeros_(net.all_modules[-1].weight)
    assert not output(net).any()
    assert output(trained).any()
    assert trained(IMAGES.to(memory_format=torch.channels_last), LEVELS).is_contiguous()
    assert trained(IMAGES[..., :7], LEVELS).view(2, -1).shape == (2, 168)


MOVED = {
    "layers": "get_act",
    "layerspp": "ResnetBlockBigGANpp",
    "normalization": "get_normalization",
    "up_or_down_sampling": "upsample_2d",
    "op": "upfirdn2d",
    "evaluation": "get_inception_model",
}


@pytest.mark.parametrize("name", MOVED)
def test_moved_names_are_refused_when_used_in_a_sentence(name):
    place = name if name in ("op", "evaluation") else f"models.{name}"
    names = {}
    exec(f"import {place} as module\nfrom {place} import *", names)
    with pytest.raises(ImportError, match="score_sde") as found:
        getattr(names["module"], MOVED[name])
    with pytest.raises(ImportError) as again:
        exec(f"from {place} import {MOVED[name]}")
    assert str(found.value) == str(again.value)
    assert not hasattr(names["module"], "__wrapped__")


@pytest.mark.parametrize(
    "name",
    [
        "ve/ffhq_ncsnpp_continuous",
        "vp/cifar10_ddpmpp",
        "vp/ddpm/cifar10",
        "ve/ncsn/cifar10",
        "ve/ncsnv2/bedroom",
    ],
)
def test_trained_weights_stand_in_the_releases_order(golden, name):
    # Averages and moments of a file are taken by place, which is right for this reason alone.
    config = golden.json("configs")["configs"][name]
    config["model"]["num_scales"] = 20
    with torch.device("meta"):
        net = build(config)
    order = [e.ours for e in release_2021.entries(net) if e.trainable and e.ours]
    assert order == [key for key, _ in net.named_parameters()]
