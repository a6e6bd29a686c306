"""Predictors and correctors of users of the 2021 release; values by hand."""

import functools

import pytest
import torch
from conftest import assert_close
from front import SHAPE, Net, T, X

import controllable_generation
import losses
import sampling
import sde_lib
from configs.vp import digits
from score_sde.config.build import build_sampler, build_sde
from score_sde.config.check import check_config
from score_sde.solvers import correctors, predictors


def sample(predictor, corrector=None, *, net=None, seed=4, sde=None, **options):
    sde = sde or sde_lib.VESDE(0.1, 9.0, N=4)
    options = {"continuous": True, "snr": 0.2, **options}
    fn = sampling.get_pc_sampler(sde, SHAPE, predictor, corrector, lambda x: x, **options)
    torch.manual_seed(seed)
    return fn(net or Net())


class Halved(sampling.ReverseDiffusionPredictor):
    def update_fn(self, x, t):
        x, mean = super().update_fn(x, t)
        return x / 2, mean / 2


class HalvedAgain(Halved):
    def __init__(self, sde, score_fn, probability_flow=False):
        super().__init__(sde, score_fn, probability_flow=probability_flow)

    def update_fn(self, x, t):
        x, mean = super().update_fn(x, t)
        return x * 2, mean * 0 + 5


class Baseless:
    def __init__(self, sde, score_fn, *options):
        self.sde, self.score_fn, self.options = sde, score_fn, options

    def update_fn(self, x, t):
        self.score_fn(x, t)
        return x + len(self.options), x + len(self.options)


def test_update_fn_of_a_child_is_called_wherever_it_is_given():
    assert torch.equal(sample(HalvedAgain)[0], torch.full(SHAPE, 5.0))
    images, nfe = sample(Halved, denoise=False)
    assert nfe == 4
    plain = sample("reverse_diffusion", denoise=False)[0]
    assert not torch.allclose(images, plain)
    fixed = torch.zeros(3, 1, 1, 1)
    for maker in ("get_pc_inpainter", "get_pc_colorizer"):
        make = getattr(controllable_generation, maker)
        fn = make(sde_lib.VESDE(N=2), HalvedAgain, None, lambda x: x, 0.1, continuous=True)
        image = torch.rand(3, 3, 4, 4)
        done = fn(Net(), image, fixed) if maker.endswith("inpainter") else fn(Net(), image)
        # Grey is kept at the image's own mean; what is hidden is what update_fn says.
        want = 5.0 if maker.endswith("inpainter") else image.mean(1)
        assert_close(done.mean(1), torch.as_tensor(want).expand(3, 4, 4), 1e-4)


def test_classes_without_base_partials_and_network_calls():
    images, nfe = sample(Baseless, Baseless, n_steps=1)
    torch.manual_seed(4)
    assert nfe == 8
    assert_close(images, 9 * torch.randn(SHAPE) + 4 * (1 + 2))
    images, _ = sample(functools.partial(Baseless), None)
    torch.manual_seed(4)
    assert_close(images, 9 * torch.randn(SHAPE) + 4)
    with pytest.raises(ValueError, match=r"predictor=3: give a class with update_fn"):
        sample(3)


def test_correctors_read_their_attributes_when_they_step():
    class Stronger(sampling.LangevinCorrector):
        def update_fn(self, x, t):
            self.snr = 2 * self.snr
            return super().update_fn(x, t)

    strong = sample(None, Stronger, snr=0.1, denoise=False)
    plain = sample(None, "langevin", snr=0.2, denoise=False)
    assert torch.equal(strong[0], plain[0])


def test_registering_with_and_without_a_name(monkeypatch):
    monkeypatch.setattr("models._steps.PREDICTORS", dict(sampling.PREDICTORS))
    monkeypatch.setattr("models._steps.CORRECTORS", dict(sampling.CORRECTORS))
    monkeypatch.setattr(predictors, "PREDICTORS", dict(predictors.PREDICTORS))
    monkeypatch.setattr(correctors, "CORRECTORS", dict(correctors.CORRECTORS))

    @sampling.register_predictor
    class Plain(Halved):
        pass

    @sampling.register_corrector(name="named")
    class Named(sampling.NoneCorrector):
        def update_fn(self, x, t):
            return x * 0 + 1, x

    assert sampling.register_predictor(Halved, name="halved") is Halved
    assert sampling.get_predictor("Plain") is Plain
    assert sampling.get_corrector(name="named") is Named
    assert torch.equal(sample("halved")[0], sample(Halved)[0])
    assert torch.equal(sample(None, "named", denoise=False)[0], torch.ones(SHAPE))
    with pytest.raises(ValueError, match="'halved' already"):
        sampling.register_predictor(Plain, name="halved")
    with pytest.raises(ValueError, match=r"corrector='nam': .* mean 'named'"):
        sampling.get_corrector("nam")


def test_a_row_of_the_librarys_table_is_a_name(monkeypatch):
    rows = predictors.PREDICTORS
    monkeypatch.setitem(rows, "mine", rows["euler_maruyama"])
    assert torch.equal(sample("mine")[0], sample("euler_maruyama")[0])
    expected = sample("euler_maruyama")[0]
    monkeypatch.setitem(rows, "reverse_diffusion", rows["euler_maruyama"])
    assert torch.equal(sample("reverse_diffusion")[0], expected)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral_sampling"])
@pytest.mark.parametrize("kind", [sde_lib.VESDE, sde_lib.VPSDE, sde_lib.subVPSDE])
def test_objects_stepped_by_hand_are_the_samplers_steps(kind, name):
    sde, net = kind(N=4), Net()
    step = functools.partial(
        sampling.shared_predictor_update_fn,
        sde=sde,
        model=net,
        predictor=sampling.get_predictor(name),
        probability_flow=False,
        continuous=True,
    )
    correct = functools.partial(
        sampling.shared_corrector_update_fn,
        sde=sde,
        model=net,
        corrector=sampling.LangevinCorrector,
        continuous=True,
        snr=0.2,
        n_steps=2,
    )
    torch.manual_seed(4)
    x = sde.prior_sampling(SHAPE)
    with torch.no_grad():
        for t in torch.linspace(sde.T, 1e-3, sde.N):
            x, _ = correct(x, t.expand(3))
            x, mean = step(x, t.expand(3))
    images, nfe = sample(name, "langevin", sde=sde, n_steps=2)
    assert_close(images, mean, 1e-5)
    assert nfe == 12
    assert torch.equal(
        sampling.shared_predictor_update_fn(X, T, sde, net, None, False, True)[0], X
    )


def test_wrappers_that_are_no_modules_are_networks_too():
    class Wrapped:
        def __init__(self):
            self.net, self.modes = Net(), []

        def eval(self):
            self.modes.append("eval")

        def train(self):
            self.modes.append("train")

        def __call__(self, x, labels):
            return self.net(x, labels)

    wrapped = Wrapped()
    assert torch.equal(sample("reverse_diffusion", net=wrapped)[0], sample("reverse_diffusion")[0])
    losses.get_sde_loss_fn(sde_lib.VPSDE(), True)(wrapped, X)
    assert set(wrapped.modes) == {"eval", "train"}
    x, _ = sampling.get_ode_sampler(sde_lib.VPSDE(), SHAPE, abs, rtol=1, atol=1, eps=0.9)(wrapped)
    assert x.shape == SHAPE


def test_what_is_registered_is_a_name_for_runs_too(monkeypatch):
    monkeypatch.setattr("models._steps.PREDICTORS", dict(sampling.PREDICTORS))
    monkeypatch.setitem(predictors.PREDICTORS, "halved_in_runs", None)
    del predictors.PREDICTORS["halved_in_runs"]
    sampling.register_predictor(HalvedAgain, name="halved_in_runs")
    config = digits.get_config()
    config.sampling.update(predictor="halved_in_runs", num_steps=0)
    config.model.num_scales, config.model.beta_max = 3, 2.0
    check_config(config)
    sampler = build_sampler(config, build_sde(config))
    index = torch.arange(2)
    (samples,) = sampler.draw(
        lambda _: lambda x, t: -x, index, (1, 8, 8), seed=0, batch_size=2, device="cpu"
    )
    assert torch.equal(samples.x, torch.full((2, 1, 8, 8), 5.0))
    config.sampling.num_steps = 2
    with pytest.raises(ValueError, match=r"halved_in_runs steps by T/N with N=3"):
        list(
            build_sampler(config, build_sde(config)).draw(
                lambda _: lambda x, t: -x, index, (1, 8, 8), seed=0, batch_size=2, device="cpu"
            )
        )


def test_the_number_of_steps_is_that_of_the_sde_when_it_is_called():
    sde = sde_lib.VESDE(0.1, 9.0, N=4)
    fn = sampling.get_pc_sampler(sde, SHAPE, "euler_maruyama", None, abs, 0.1, continuous=True)
    complete = controllable_generation.get_pc_inpainter(
        sde, "euler_maruyama", None, abs, 0.1, continuous=True
    )
    sde.N, net, calls = 7, Net(), []
    assert fn(net)[1] == 7
    net.register_forward_hook(lambda *_: calls.append(1))
    complete(net, X, torch.ones_like(X))
    assert len(calls) == 7
