"""SDEs of users of the 2021 release: classes, children, tables; values by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from front import SHAPE, Net, T, X, b

import controllable_generation
import likelihood
import losses
import sampling
import sde_lib
from models import utils as mutils


class Cosine(sde_lib.SDE):
    """What the release's abstract class asks for, with T = 2 and images of rank 4 only."""

    def __init__(self, N=5):
        super().__init__(N)

    @property
    def T(self):
        return 2

    def rate(self, t):
        return math.pi / 2 * torch.tan(math.pi * t.clamp(max=1.98) / 4)

    def sde(self, x, t):
        return -0.5 * b(self.rate(t)) * x, torch.sqrt(self.rate(t))

    def marginal_prob(self, x, t):
        scale = torch.cos(math.pi * t.clamp(max=1.98) / 4)
        return b(scale) * x, torch.sqrt(1 - scale**2)

    def prior_sampling(self, shape):
        return torch.randn(*shape)

    def prior_logp(self, z):
        return -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)


class CosineByMarginal(sde_lib.SDE):
    """The same by its marginal alone, an attribute for T, and a score network."""

    T, network_output = 2.0, "score"
    marginal_prob = Cosine.marginal_prob


class CosineOfPoints(Cosine):
    """Written for points: rank 2."""

    def marginal_prob(self, x, t):
        scale = torch.cos(math.pi * t.clamp(max=1.98) / 4)
        return scale[:, None] * x, torch.sqrt(1 - scale**2)

    def sde(self, x, t):
        return -0.5 * self.rate(t)[:, None] * x, torch.sqrt(self.rate(t))


class CosineToAMean(Cosine):
    """An image of its own is added to the mean, so that ones can't be told from zeros alone."""

    def marginal_prob(self, x, t):
        mean, std = super().marginal_prob(x, t)
        return mean + b(1 - std) * torch.linspace(0, 1, 16).view(1, 1, 4, 4), std


@pytest.mark.parametrize("kind", [Cosine, CosineByMarginal, CosineOfPoints, CosineToAMean])
@pytest.mark.parametrize("t", [T, T[:1], T.double(), T[0]], ids=["batch", "one", "double", "0-d"])
def test_what_follows_from_a_users_marginal_and_drift(kind, t):
    sde, angle = kind(N=5), math.pi * t / 4
    rate = math.pi / 2 * angle.tan()
    assert_close(sde.mean_scale(t), angle.cos(), 1e-5)
    assert_close(sde.std(t), angle.sin(), 1e-5)
    assert_close(sde.mean_rate(t), -0.5 * rate, 1e-4)
    assert_close(sde.diffusion_squared(t), rate, 1e-4)
    assert_close(sde.time_of_noise_level(sde.noise_level(t)), t, 1e-4)
    r, G = sde.transition(t, t / 2)
    assert_close(r, angle.cos() / (angle / 2).cos(), 1e-5)
    assert_close(G**2, angle.sin() ** 2 - r**2 * (angle / 2).sin() ** 2, 1e-4)


def test_a_users_sde_in_score_loss_samplers_and_likelihood():
    sde, net = Cosine(), Net()
    score = mutils.get_score_fn(sde, net, continuous=True)
    labelled = CosineByMarginal(N=5)
    assert torch.equal(
        mutils.get_score_fn(labelled, net, continuous=True)(X, T), net(X, labelled.std(T))
    )
    torch.manual_seed(1)
    loss = losses.get_sde_loss_fn(sde, False, likelihood_weighting=True)(net, X)
    torch.manual_seed(1)
    t, z = torch.rand(3) * (2 - 1e-5) + 1e-5, torch.randn(SHAPE)
    mean, std = sde.marginal_prob(X, t)
    off = (score(mean + b(std) * z, t) + z / b(std)) ** 2 * b(sde.rate(t))
    assert_close(loss, off.mean(), 1e-4)
    for flow, share, noisy in ((False, 1.0, 1.0), (True, 0.5, 0.0)):
        sampler = sampling.get_pc_sampler(
            sde, SHAPE, "euler_maruyama", None, abs, 0.1, probability_flow=flow, continuous=True
        )
        torch.manual_seed(2)
        images, nfe = sampler(net)
        torch.manual_seed(2)
        x = torch.randn(SHAPE)
        with torch.no_grad():
            for t in torch.linspace(2, 1e-3, 5):
                t, z = t.expand(3), torch.randn(SHAPE)
                drift, g = sde.sde(x, t)
                mean = x - 0.4 * (drift - share * b(g**2) * score(x, t))
                x = mean + noisy * b(g) * math.sqrt(0.4) * z
        assert_close(images, mean.abs(), 1e-4)
        assert nfe == 5
    bits, z, _ = likelihood.get_likelihood_fn(sde, abs_scaler, rtol=0.1, atol=0.1, eps=0.01)(
        net, X
    )
    assert bits.shape == (3,)
    assert z.shape == SHAPE
    complete = controllable_generation.get_pc_inpainter(
        sde, "reverse_diffusion", "ald", lambda x: x, 0.1, continuous=True
    )
    assert torch.isfinite(complete(net, X, torch.ones_like(X))).all()


def abs_scaler(x):
    return x


def test_a_users_discretize_of_two_arguments_is_used():
    class Own(Cosine):
        def discretize(self, x, t):
            return torch.full_like(x, 0.25), torch.zeros_like(t)

    x, mean = sampling.ReverseDiffusionPredictor(Own(), lambda x, t: x).update_fn(X, T)
    assert torch.equal(x, X - 0.25)
    assert torch.equal(mean, X - 0.25)


def test_a_child_of_a_child_and_an_object_of_its_own_marginal():
    class Doubled(sde_lib.VESDE):
        def marginal_prob(self, x, t):
            mean, std = super().marginal_prob(x, t)
            return mean, 2 * std

    class Fourfold(Doubled):
        def marginal_prob(self, x, t):
            mean, std = super().marginal_prob(x, t)
            return mean, 2 * std

    plain = sde_lib.VESDE(0.1, 9.0, N=6)
    sde = Fourfold(0.1, 9.0, N=6)
    assert_close(sde.std(T), 4 * plain.std(T))
    assert_close(
        mutils.get_score_fn(sde, Net(), continuous=True)(X, T), Net()(X, 4 * plain.std(T))
    )
    # As in the release, the drift and the chain's table are still VE's.
    assert torch.equal(sde.sde(X, T)[1], plain.sde(X, T)[1])
    assert torch.equal(sde.discretize(X, T)[1], plain.discretize(X, T)[1])
    plain.marginal_prob = lambda x, t: (x, torch.full_like(t, 3.0))
    assert torch.equal(plain.std(T), torch.full((3,), 3.0))


def test_noise_levels_and_tables_that_are_replaced():
    sde = sde_lib.VESDE(0.1, 9.0, N=6)
    sde.sigma_min, sde.sigma_max = 0.5, 2.0
    assert_close(sde.std(T), 0.5 * 4**T)
    assert_close(sde.prior_logp(X), sde_lib.VESDE(0.5, 2.0, 6).prior_logp(X))
    sde.discrete_sigmas = torch.arange(1.0, 7.0)  # at T: steps 1, 2 and 4 of 0 … 5
    G = torch.tensor([3.0, 5.0, 9.0]).sqrt()
    assert_close(sde.discretize(X, T)[1], G)
    score = torch.ones_like
    torch.manual_seed(0)
    _, mean = sampling.AncestralSamplingPredictor(sde, lambda x, t: score(x)).update_fn(X, T)
    assert_close(mean, X + b(G**2), 1e-4)
    sde.discrete_sigmas[0] = 2.0  # and in place
    assert sde.discretize(X, torch.zeros(3))[1].tolist() == [2.0, 2.0, 2.0]

    vp = sde_lib.VPSDE(N=6)
    vp.discrete_betas = torch.linspace(0.1, 0.6, 6)
    beta = torch.tensor([0.2, 0.3, 0.5])
    _, mean = sampling.AncestralSamplingPredictor(vp, lambda x, t: score(x)).update_fn(X, T)
    assert_close(mean, (X + b(beta)) / b(1 - beta).sqrt(), 1e-4)
    loss_fn = losses.get_ddpm_loss_fn(vp, train=False)
    vp.sqrt_alphas_cumprod, vp.sqrt_1m_alphas_cumprod = torch.zeros(6), torch.ones(6)
    z, k = torch.randn(SHAPE), torch.tensor([0, 2, 5])
    assert_close(loss_fn(Net(), X, t=k, noise=z), ((Net()(z, k) - z) ** 2).mean(), 1e-4)


@pytest.mark.parametrize("kind", [sde_lib.VESDE, sde_lib.VPSDE, sde_lib.subVPSDE, Cosine])
def test_the_reverse_sde_is_one_of_its_kind(kind):
    forward = kind(N=7)
    reverse = forward.reverse(lambda x, t: -x, True)
    assert isinstance(reverse, kind)
    assert isinstance(reverse, sde_lib.ReverseSDE)
    assert (reverse.T, reverse.N) == (forward.T, 7)
    for one, other in zip(reverse.marginal_prob(X, T), forward.marginal_prob(X, T), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(reverse.prior_logp(X), forward.prior_logp(X))
    assert not reverse.sde(X, T)[1].any()
    with pytest.raises(ValueError, match="forward SDE"):
        reverse.reverse(lambda x, t: x)


def test_numbers_for_times():
    for sde in (sde_lib.VESDE(), sde_lib.VPSDE(), sde_lib.subVPSDE()):
        mean, std = sde.marginal_prob(X, 0.5)
        want_mean, want_std = sde.marginal_prob(X, torch.full((3,), 0.5))
        assert_close(mean, want_mean)
        assert float(std) == pytest.approx(float(want_std[0]))
        assert_close(sde.sde(X, 0.5)[0], sde.sde(X, torch.full((3,), 0.5))[0])


def test_an_sde_that_says_nothing_is_refused_in_a_sentence():
    with pytest.raises(NotImplementedError, match=r"define marginal_prob\(x, t\)"):
        mutils.get_score_fn(sde_lib.SDE(3), Net(), continuous=True)(X, T)
    with pytest.raises(ValueError, match=r"prior_sampling of Cosine draws by itself"):
        sampling.get_pc_sampler(Cosine(), SHAPE, None, None, abs, 0.1, noise=torch.zeros)(Net())


def test_the_gradient_through_a_score_reaches_the_image():
    x = X.clone().requires_grad_()
    score = mutils.get_score_fn(Cosine(), Net(), continuous=True)
    (got,) = torch.autograd.grad(F.mse_loss(score(x, T), X), x)
    assert got.abs().sum() > 0
