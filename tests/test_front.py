"""What notebooks of the 2021 release call: the signatures, and a run with a config of its own."""

import inspect
import itertools
import math

import pytest
import torch
from ml_collections import ConfigDict

import controllable_generation
import datasets
import likelihood
import losses
import sampling
import sde_lib
from configs.vp import digits
from models import ema, official, utils
from score_sde import checkpoints

SCORE_MATCHING = "reduce_mean=True, continuous=True, likelihood_weighting=True, eps=1e-05"
PC = (
    "(sde, shape, predictor, corrector, inverse_scaler, snr, n_steps=1, probability_flow=False, "
    "continuous=False, denoise=True, eps=0.001, device=None, *, noise=None)"
)
ODE = (
    "(sde, shape, inverse_scaler, denoise=False, rtol=1e-05, atol=1e-05, method='RK45', "
    "eps=0.001, device=None, *, noise=None)"
)
CONDITIONAL = (
    "(sde, predictor, corrector, inverse_scaler, snr, n_steps=1, probability_flow=False, "
    "continuous=False, denoise=True, eps=1e-05, *, noise=None, parity=False)"
)
LIKELIHOOD = (
    "(sde, inverse_scaler, hutchinson_type='Rademacher', rtol=1e-05, atol=1e-05, method='RK45', "
    "eps=1e-05, *, levels=256)"
)
SIGNATURES = [
    (sde_lib.VESDE, "(sigma_min=0.01, sigma_max=50.0, N=1000)"),
    (sde_lib.VPSDE, "(beta_min=0.1, beta_max=20.0, N=1000)"),
    (sde_lib.subVPSDE, "(beta_min=0.1, beta_max=20.0, N=1000)"),
    (utils.create_model, "(config)"),
    (utils.get_model_fn, "(model, train=False)"),
    (utils.get_score_fn, "(sde, model, train=False, continuous=False)"),
    (utils.get_sigmas, "(config)"),
    (ema.ExponentialMovingAverage, "(parameters, decay, use_num_updates=True)"),
    (ema.ExponentialMovingAverage.update, "(self, parameters)"),
    (ema.ExponentialMovingAverage.copy_to, "(self, parameters)"),
    (ema.ExponentialMovingAverage.store, "(self, parameters)"),
    (ema.ExponentialMovingAverage.restore, "(self, parameters)"),
    (ema.ExponentialMovingAverage.state_dict, "(self)"),
    (ema.ExponentialMovingAverage.load_state_dict, "(self, state_dict)"),
    (official.load, "(net, state_dict)"),
    (official.dump, "(net)"),
    (checkpoints.load_official, "(path, config)"),
    (losses.get_sde_loss_fn, f"(sde, train, {SCORE_MATCHING})"),
    (losses.get_smld_loss_fn, "(vesde, train, reduce_mean=False)"),
    (losses.get_ddpm_loss_fn, "(vpsde, train, reduce_mean=True)"),
    (losses.get_optimizer, "(config, params)"),
    (losses.optimization_manager, "(config)"),
    (
        losses.get_step_fn,
        "(sde, train, optimize_fn=None, reduce_mean=False, continuous=True, "
        "likelihood_weighting=False)",
    ),
    (sampling.get_pc_sampler, PC),
    (sampling.get_ode_sampler, ODE),
    (sampling.get_sampling_fn, "(config, sde, shape, inverse_scaler, eps)"),
    (likelihood.get_likelihood_fn, LIKELIHOOD),
    (controllable_generation.get_pc_inpainter, CONDITIONAL),
    (controllable_generation.get_pc_colorizer, CONDITIONAL),
    (datasets.get_data_scaler, "(config)"),
    (datasets.get_data_inverse_scaler, "(config)"),
    (datasets.get_dataset, "(config, uniform_dequantization=False, evaluation=False)"),
]
METHODS = [
    ("sde", "(x, t)"),
    ("marginal_prob", "(x, t)"),
    ("prior_sampling", "(shape, *, noise=None)"),
    ("prior_logp", "(z)"),
    ("discretize", "(x, t, s=None)"),  # the last is ours, for other grids
    ("reverse", "(score_fn, probability_flow=False)"),
]


def signature(function) -> str:
    """Names, order, kinds and defaults, without annotations."""
    whole = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in whole.parameters.values()]
    return str(whole.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize(
    ("function", "expected"), SIGNATURES, ids=[function.__qualname__ for function, _ in SIGNATURES]
)
def test_signatures_are_those_of_the_release(function, expected):
    assert signature(function) == expected


@pytest.mark.parametrize("kind", [sde_lib.VESDE, sde_lib.VPSDE, sde_lib.subVPSDE])
def test_sdes_have_the_methods_and_tables_of_the_release(kind):
    sde = kind(N=30)
    for name, expected in METHODS:
        assert signature(getattr(sde, name)) == expected
    reverse = sde.reverse(lambda x, t: -x)
    for one in (sde, reverse):
        assert (one.T, one.N) == (1, 30)
    assert signature(reverse.sde) == "(x, t)"
    assert signature(reverse.discretize) == "(x, t, s=None)"
    tables = ("discrete_betas", "alphas", "sqrt_alphas_cumprod", "sqrt_1m_alphas_cumprod")
    for name in ("discrete_sigmas",) if kind is sde_lib.VESDE else tables:
        assert getattr(sde, name).shape == (30,)


def test_what_the_makers_give_is_called_as_in_the_release():
    sde, shape, draws = sde_lib.VPSDE(), (2, 3), "(model, batch, *, t=None, noise=None)"
    assert signature(losses.get_sde_loss_fn(sde, True)) == draws
    assert signature(losses.get_ddpm_loss_fn(sde, True)) == draws
    assert signature(losses.get_smld_loss_fn(sde_lib.VESDE(), True)) == draws
    assert signature(sampling.get_pc_sampler(sde, shape, None, None, abs, 0.1)) == "(model)"
    assert signature(sampling.get_ode_sampler(sde, shape, abs)) == "(model, z=None)"
    assert signature(likelihood.get_likelihood_fn(sde, abs)) == "(model, data, *, probe=None)"
    given = (sde, None, None, abs, 0.1)
    inpainter = controllable_generation.get_pc_inpainter(*given)
    colorizer = controllable_generation.get_pc_colorizer(*given)
    assert signature(inpainter) == "(model, data, mask)"
    assert signature(colorizer) == "(model, gray_scale_img)"
    for train in (True, False):
        step_fn = losses.get_step_fn(sde, train, lambda *_, **__: None)
        assert signature(step_fn) == "(state, batch, **draws)"


# ---- A config of the release, as its own main loop uses it ----

RECIPES = [
    "ve/cifar10_ncsnpp_continuous",
    "ve/cifar10_ncsnpp",
    "vp/cifar10_ddpmpp_continuous",
    "vp/cifar10_ddpmpp",
    "vp/ddpm/cifar10",
    "subvp/cifar10_ddpm_continuous",
    "ve/ncsnv2/cifar10",
]
CONTINUOUS = [name for name in RECIPES if name.endswith("_continuous")]


@pytest.fixture(params=RECIPES)
def config(request, golden):
    """A recipe of the release, plain and unlocked, with narrow networks, on the digits."""
    whole = golden.json("configs")
    fields = whole["configs"][request.param]
    for name in whole["tuple_valued_keys"]:
        group, leaf = name.split(".")
        if leaf in fields[group]:
            fields[group][leaf] = tuple(fields[group][leaf])
    fields["data"] |= {"dataset": "digits", "image_size": 8, "num_channels": 1}
    fields["training"] |= {"batch_size": 6}
    fields["eval"] |= {"batch_size": 7}
    unet = {"nf": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (4,)}
    fields["model"] |= {"nf": 8} if request.param.startswith("ve/ncsn") else unet
    # The ODE sampler gives a network σ(t) whatever it was trained on, as the release does: to a
    # discretely trained one an index, which must be below the number of scales.
    fields["model"] |= {"num_scales": 12, "sigma_max": 11.0}
    return ConfigDict(fields | {"device": torch.device("cpu")})


def sde_of(config):
    model = config.model
    if config.training.sde == "vesde":
        return sde_lib.VESDE(model.sigma_min, model.sigma_max, model.num_scales), 1e-5
    kind = {"vpsde": sde_lib.VPSDE, "subvpsde": sde_lib.subVPSDE}[config.training.sde]
    return kind(model.beta_min, model.beta_max, model.num_scales), 1e-3


def new_state(config):
    net = utils.create_model(config)
    return {
        "model": net,
        "optimizer": losses.get_optimizer(config, net.parameters()),
        "ema": ema.ExponentialMovingAverage(net.parameters(), decay=config.model.ema_rate),
        "step": 0,
    }


def train(config, steps):
    """The release's main loop."""
    torch.manual_seed(0)
    state, (sde, _) = new_state(config), sde_of(config)
    options = {
        "reduce_mean": config.training.reduce_mean,
        "continuous": config.training.continuous,
        "likelihood_weighting": config.training.likelihood_weighting,
    }
    train_ds, eval_ds, _ = datasets.get_dataset(
        config, uniform_dequantization=config.data.uniform_dequantization
    )
    scaler = datasets.get_data_scaler(config)
    optimize_fn = losses.optimization_manager(config)
    train_step = losses.get_step_fn(sde, train=True, optimize_fn=optimize_fn, **options)
    eval_step = losses.get_step_fn(sde, train=False, optimize_fn=optimize_fn, **options)
    batches = iter(train_ds)
    found = [train_step(state, scaler(next(batches)["image"])).item() for _ in range(steps)]
    found.append(eval_step(state, scaler(next(iter(eval_ds))["image"])).item())
    return state, found


def test_a_config_of_the_release_trains_and_evaluates(config):
    state, found = train(config, 3)
    assert len(found) == 4
    assert all(math.isfinite(loss) and loss > 0 for loss in found)
    assert (state["step"], state["ema"].num_updates) == (3, 3)
    assert next(state["model"].parameters()).device == config.device
    rates = {group["lr"] for group in state["optimizer"].param_groups}
    warmup = config.optim.warmup
    assert rates == {config.optim.lr * min(2 / warmup, 1) if warmup else config.optim.lr}
    # Everything is drawn from torch's global generator, so its seed repeats the losses.
    assert train(config, 3)[1] == found


@pytest.mark.parametrize("method", ["pc", "ode"])
def test_a_config_of_the_release_samples(config, method):
    config.sampling.method = method
    torch.manual_seed(0)
    state, (sde, eps) = new_state(config), sde_of(config)
    state["ema"].copy_to(state["model"].parameters())
    calls = []
    state["model"].register_forward_hook(lambda *_: calls.append(1))
    inverse_scaler = datasets.get_data_inverse_scaler(config)
    # The ODE of a network that has learnt nothing is steep, and jumps where the label is cut to
    # an index: it is left before the first jump, and NCSNv2's output, which does not begin
    # near 0 as that of the others does, is made small.
    end = 0.99 if method == "ode" else eps
    if method == "ode" and config.model.name.startswith("ncsnv2"):
        with torch.no_grad():
            for weight in state["model"].end_conv.parameters():
                weight.mul_(1e-3)
    sample = sampling.get_sampling_fn(config, sde, (2, 1, 8, 8), inverse_scaler, end)

    def draw(seed):
        torch.manual_seed(seed)
        return sample(state["model"])

    images, nfe = draw(1)
    assert images.shape == (2, 1, 8, 8)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert nfe == len(calls) > 0
    assert torch.equal(draw(1)[0], images)
    assert not torch.equal(draw(2)[0], images)


@pytest.mark.parametrize("config", CONTINUOUS, indirect=True)
def test_a_config_of_the_release_gives_bits_per_dim(config):
    state, (sde, _) = new_state(config), sde_of(config)
    _, test_ds, _ = datasets.get_dataset(config, uniform_dequantization=True, evaluation=True)
    likelihood_fn = likelihood.get_likelihood_fn(
        sde=sde,
        inverse_scaler=datasets.get_data_inverse_scaler(config),
        hutchinson_type="Rademacher",
        rtol=1e-2,
        atol=1e-2,
        method="RK45",
        eps=1e-2,
    )
    images = datasets.get_data_scaler(config)(next(iter(test_ds))["image"])
    torch.manual_seed(1)
    bits, z, nfe = likelihood_fn(state["model"], images)
    assert bits.shape == (len(images),)
    assert bits.isfinite().all()
    assert z.shape == images.shape
    assert nfe > 7
    torch.manual_seed(1)
    assert torch.equal(likelihood_fn(model=state["model"], data=images)[0], bits)


@pytest.mark.parametrize("task", ["inpaint", "colorize"])
def test_a_config_of_the_release_completes_images(config, task):
    if task == "colorize":
        config.data.num_channels = 3
    state, (sde, eps) = new_state(config), sde_of(config)
    maker = {
        "inpaint": controllable_generation.get_pc_inpainter,
        "colorize": controllable_generation.get_pc_colorizer,
    }[task]
    complete = maker(
        sde=sde,
        predictor=sampling.PREDICTORS[config.sampling.predictor],
        corrector=sampling.CORRECTORS[config.sampling.corrector],
        inverse_scaler=datasets.get_data_inverse_scaler(config),
        snr=config.sampling.snr,
        n_steps=1,
        probability_flow=config.sampling.probability_flow,
        continuous=config.training.continuous,
        denoise=True,
        eps=eps,
    )
    torch.manual_seed(0)
    images = torch.rand(2, config.data.num_channels, 8, 8)
    scaled = datasets.get_data_scaler(config)(images)
    if task == "colorize":
        gray = scaled.mean(dim=1, keepdim=True).expand_as(scaled)
        done = complete(model=state["model"], gray_scale_img=gray)
    else:
        mask = torch.ones_like(images)
        mask[..., 4:] = 0
        done = complete(model=state["model"], data=scaled, mask=mask)
        assert torch.allclose(done[..., :4], images[..., :4], atol=1e-3)
    assert done.shape == images.shape
    assert done.isfinite().all()


def test_the_device_of_our_recipes_may_be_passed_on():
    config = digits.get_config()
    net, shape = utils.create_model(config), (2, 1, 8, 8)
    sde = sde_lib.VPSDE(N=2)
    samplers = (
        sampling.get_pc_sampler(
            sde, shape, "euler_maruyama", "none", abs, 0.16, device=config.device
        ),
        sampling.get_ode_sampler(sde, shape, abs, rtol=1, atol=1, eps=0.9, device=config.device),
    )
    for sample in samplers:
        assert sample(net)[0].device == next(net.parameters()).device


def test_sigmas_and_scalers_of_a_config(config):
    sigmas = utils.get_sigmas(config)
    assert sigmas.shape == (12,)
    assert sigmas[[0, -1]] == pytest.approx([config.model.sigma_max, config.model.sigma_min])
    image = torch.linspace(0, 1, 5)
    scaled = datasets.get_data_scaler(config)(image)
    assert torch.equal(scaled, 2 * image - 1 if config.data.centered else image)
    assert torch.allclose(datasets.get_data_inverse_scaler(config)(scaled), image)


@pytest.mark.parametrize("evaluation", [False, True])
def test_the_data_of_a_config(config, evaluation):
    train_ds, test_ds, info = datasets.get_dataset(config, True, evaluation)
    for batch, size in ((next(iter(train_ds)), 7 if evaluation else 6), (next(iter(test_ds)), 7)):
        assert batch["image"].shape == (size, 1, 8, 8)
        assert batch["image"].dtype == torch.float32
        assert 0 <= batch["image"].min() < batch["image"].max() < 1
        assert batch["label"].shape == (size,)
    assert (len(train_ds), len(test_ds)) == ((214, 43) if evaluation else (250, 43))
    several = itertools.islice(test_ds, 60)  # without end unless evaluating
    assert sum(len(batch["label"]) for batch in several) == (300 if evaluation else 420)
    assert info.num_classes == 10


def test_published_names_go_there_and_back(config):
    net, other = utils.create_model(config), utils.create_model(config)
    official.load(other, {f"module.{k}": v for k, v in official.dump(net).items()})
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
