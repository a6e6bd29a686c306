"""The entry points of the 2021 release against its own numbers, draw by draw, and on points."""

import pytest
import torch
from conftest import assert_close
from ml_collections import ConfigDict
from problems import SDES, Gaussian, Mixture, make_sde
from recorded import AnalyticNet, Bank, golden_rows
from torch import nn

import sampling
from controllable_generation import get_pc_inpainter
from sampling import get_ode_sampler, get_pc_sampler, get_sampling_fn
from score_sde.noise import normal
from score_sde.score import ClassifierGuidedScore, GuidedScore, NetworkScore
from score_sde.sde import VESDE, VPSDE, subVPSDE
from score_sde.solvers.ode import solve, solve_scipy
from score_sde.solvers.predictors import ReverseDiffusionPredictor
from score_sde.tensor_ops import expand_to


@pytest.mark.parametrize("row", golden_rows("samplers"))
def test_pc_samplers_repeat_the_reference(golden, row):
    arrays = golden.arrays("samplers")
    sde = make_sde(row["sde"])
    scaler = (lambda x: (x + 1) / 2) if row["key"].startswith("centered") else (lambda x: x)
    for denoise in (True, False):
        key = f"{row['key']}/denoise{int(denoise)}"
        if key not in arrays:
            assert not denoise
            assert row["key"].startswith("centered")
            continue
        net, bank = AnalyticNet(sde, arrays["mu"], row["continuous"]), Bank(arrays["bank"])
        sampler = get_pc_sampler(
            sde,
            (4, 3, 8, 8),
            row["predictor"],
            row["corrector"],
            scaler,
            row["snr"],
            n_steps=row["n_steps"],
            probability_flow=row["probability_flow"],
            continuous=row["continuous"],
            denoise=denoise,
            eps=row["eps"],
            noise=bank,
        )
        images, nfe = sampler(net.train())
        assert_close(images, arrays[key], 1e-4)
        assert nfe == net.calls == row.get("network_calls", net.calls)
        assert bank.used == row.get("n_draws", bank.used)
        assert not net.training
        assert images.dtype == torch.float32


@pytest.mark.parametrize("row", golden_rows("ode"))
def test_ode_samplers_repeat_the_reference(golden, row):
    arrays = golden.arrays("ode")
    sde = make_sde(row["sde"])
    net = AnalyticNet(sde, arrays["mu"], continuous=True)
    draws = [] if row["z_given"] else [arrays["noise"]]
    bank = Bank([*draws, arrays["denoise_draw"]])
    sampler = get_ode_sampler(
        sde,
        (4, 3, 8, 8),
        lambda x: x,
        denoise=row["denoise"],
        rtol=row.get("rtol", 1e-5),
        atol=row.get("atol", 1e-5),
        method=row.get("method", "RK45"),
        eps=row["eps"],
        noise=bank,
    )
    own = f"{row['key']}/z"
    z = arrays[own if own in arrays else f"{row['key'].split('-')[0]}/z"]
    images, nfe = sampler(net, z) if row["z_given"] else sampler(net)
    assert_close(images, arrays[f"{row['key']}/x"], 1e-4)
    assert nfe == net.calls
    # Equal for VE and VP. The sub-VP rows make one step more: see the test below.
    assert abs(nfe - row["network_calls"]) <= 6
    assert bank.used == len(row["draws"])
    assert images.dtype == torch.float32


class ReleaseSubVP(subVPSDE):
    """Sub-VP with the release's formulas, which round off near t = 0."""

    def std(self, t):
        return 1 - torch.exp(-self.beta_integral(t))

    def diffusion_squared(self, t):
        return self.beta_t(t) * (1 - torch.exp(-2 * self.beta_integral(t)))


@pytest.mark.parametrize("kind", [subVPSDE, ReleaseSubVP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_along_the_sub_vp_flow_are_scipys(kind, dtype):
    # The reference counts 56 evaluations where we make 50. It is neither our step control, which
    # makes those of scipy, nor expm1: the release's formulas make as many. It is the precision in
    # which the field is evaluated: the first error estimate lies at float32's rounding and sets
    # the second step. (With the field in float64 it is 68.)
    sde = kind(0.1, 10.0, 20)
    data = Gaussian(sde, 0.3, 0.25)
    flow = sde.reverse(data.score, probability_flow=True)

    def field(x, t, index):
        return flow.sde(x, t)[0]

    z = normal(0, torch.arange(4), 0, (3, 8, 8), dtype=torch.float64)
    ours = solve(field, z, 1.0, 1e-3, norm="joint", eval_dtype=dtype)
    scipys = solve_scipy(field, z, 1.0, 1e-3, eval_dtype=dtype)
    assert ours.calls == scipys.calls
    assert_close(ours.y, scipys.y, 1e-6)
    assert_close(ours.y, data.flow(z, torch.ones(1), torch.full((1,), 1e-3)), 2e-4)


class PointNet(nn.Module):
    """A network on points in the plane: the exact noise estimate for N(0.7, 0.25 I)."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.data, self.calls = sde, Gaussian(sde, 0.7, 0.25), 0
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, c):
        self.calls += 1
        if self.sde.name == "vesde":
            return self.weight * self.data.score(x, self.sde.time_of_noise_level(c))
        t = c / 999
        return -self.weight * expand_to(self.sde.std(t), x) * self.data.score(x, t)


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("predictor", ["euler_maruyama", "ancestral_sampling"])
def test_points_in_the_plane_are_sampled_with_the_right_moments(kind, predictor):
    sde = SDES[kind](N=150)
    torch.manual_seed(0)
    sampler = get_pc_sampler(
        sde, (4000, 2), predictor, "none", lambda x: x, 0.1, continuous=True, eps=sde.eps
    )
    points, nfe = sampler(PointNet(sde))
    assert nfe == 150
    assert points.shape == (4000, 2)
    assert points.mean().item() == pytest.approx(0.7, abs=0.06)
    assert points.std().item() == pytest.approx(0.5, rel=0.06)
    points, _ = get_ode_sampler(sde, (4000, 2), lambda x: x, eps=sde.eps)(PointNet(sde))
    assert points.std().item() == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize("kind", SDES)
def test_an_euler_step_of_the_flow_works_where_the_release_crashed(kind):
    sde = SDES[kind](N=200)
    net = PointNet(sde)
    draws = Bank([torch.randn(50, 2, generator=torch.Generator().manual_seed(0))] * 300)
    sampler = get_pc_sampler(
        sde,
        (50, 2),
        "euler_maruyama",
        "none",
        lambda x: x,
        0.1,
        probability_flow=True,
        continuous=True,
        eps=sde.eps,
        noise=draws,
    )
    points, _ = sampler(net)
    prior = draws.draws[0] * sde.prior_std
    ends = (torch.tensor([v]) for v in (sde.T, sde.eps))
    assert_close(points, net.data.flow(prior, *ends), 0.15)
    assert draws.used == 201  # a draw is discarded at each step, as the release does


def test_steps_are_named_by_class_or_by_the_recipes_string():
    sde = VPSDE(N=20)

    def run(predictor, corrector):
        torch.manual_seed(1)
        sampler = get_pc_sampler(
            sde, (4, 2), predictor, corrector, lambda x: x, 0.1, continuous=True
        )
        return sampler(PointNet(sde))[0]

    by_string = run("ancestral_sampling", "ald")
    by_class = run(sampling.AncestralSamplingPredictor, sampling.AnnealedLangevinDynamics)
    assert torch.equal(by_string, by_class)
    assert torch.equal(run("reverse_diffusion", "none"), run("reverse_diffusion", None))


def test_without_noise_torchs_global_generator_is_drawn_from():
    sde = VESDE(N=10)
    sampler = get_pc_sampler(
        sde, (3, 2), "reverse_diffusion", "langevin", lambda x: x, 0.16, continuous=True
    )
    torch.manual_seed(5)
    first, _ = sampler(PointNet(sde))
    torch.manual_seed(5)
    bank = Bank([torch.randn(3, 2) for _ in range(21)])
    replayed = get_pc_sampler(
        sde,
        (3, 2),
        "reverse_diffusion",
        "langevin",
        lambda x: x,
        0.16,
        continuous=True,
        noise=bank,
    )
    assert torch.equal(first, replayed(PointNet(sde))[0])


def test_unknown_names_and_combinations_are_refused_before_a_network_is_needed():
    sde = VPSDE()

    def make(predictor="none", corrector="none", **options):
        return get_pc_sampler(sde, (1, 2), predictor, corrector, lambda x: x, 0.1, **options)

    with pytest.raises(ValueError, match=r"predictor='euler': .* mean 'euler_maruyama'"):
        make(predictor="euler")
    with pytest.raises(ValueError, match=r"corrector='Langevin': .* mean 'langevin'"):
        make(corrector="Langevin")
    with pytest.raises(ValueError, match="ancestral_sampling"):
        make(predictor="ancestral_sampling", probability_flow=True)


def test_other_methods_of_scipy_agree_with_our_own():
    sde = VPSDE()
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    ours, _ = get_ode_sampler(sde, (5, 2), lambda x: x)(PointNet(sde), z)
    for method in ("RK23", "DOP853", "LSODA"):
        theirs, _ = get_ode_sampler(sde, (5, 2), lambda x: x, method=method)(PointNet(sde), z)
        assert_close(theirs, ours, 1e-3)
    with pytest.raises(ValueError, match="RK46"):
        get_ode_sampler(sde, (5, 2), lambda x: x, method="RK46")(PointNet(sde), z)


def test_an_ode_that_breaks_down_is_an_error_and_no_picture():
    class Broken(PointNet):
        def forward(self, x, c):
            return super().forward(x, c) * torch.where(c < 500, torch.nan, 1.0)[:, None]

    sde = VPSDE()
    with pytest.raises(ArithmeticError, match=r"RK45 stopped at t=0\.5"):
        get_ode_sampler(sde, (5, 2), lambda x: x)(Broken(sde))


def original_config(method):
    return ConfigDict(
        {
            "sampling": {
                "method": method,
                "predictor": "Reverse_Diffusion",
                "corrector": "langevin",
                "snr": 0.16,
                "n_steps_each": 2,
                "probability_flow": False,
                "noise_removal": True,
            },
            "training": {"continuous": True},
            "device": torch.device("cpu"),
        }
    )


def test_get_sampling_fn_reads_a_config_of_the_release():
    sde = VPSDE(N=20)

    def run(sample):
        torch.manual_seed(2)
        return sample(PointNet(sde))

    scaler = lambda x: (x + 1) / 2  # noqa: E731
    pc, nfe = run(get_sampling_fn(original_config("PC"), sde, (4, 2), scaler, 1e-3))
    expected, _ = run(
        get_pc_sampler(
            sde, (4, 2), ReverseDiffusionPredictor, "langevin", scaler, 0.16, 2, continuous=True
        )
    )
    assert nfe == 60
    assert torch.equal(pc, expected)
    ode, _ = run(get_sampling_fn(original_config("ode"), sde, (4, 2), scaler, 1e-3))
    expected, _ = run(get_ode_sampler(sde, (4, 2), scaler, denoise=True))
    assert torch.equal(ode, expected)
    with pytest.raises(ValueError, match=r"sampling.method='ddim'.*'pc' and 'ode'"):
        get_sampling_fn(original_config("ddim"), sde, (4, 2), scaler, 1e-3)


# Scores of the library in the place of a network

MEANS = torch.tensor([[-1.0, 0.5, 0.2], [0.8, -0.3, 0.0], [0.0, 1.0, -0.7]])


def parts_of(sde):
    """Data of two classes: the scores of both and of each, and the exact classifier's logits."""
    weights = torch.tensor([0.2, 0.5, 0.3])
    both, one = (Mixture(sde, MEANS[rows], weights[rows]) for rows in ([0, 1, 2], [0]))
    other = Mixture(sde, MEANS[1:], weights[1:])  # weights need not sum to 1: the rest is constant

    def logits(x, t):
        terms = both._log_terms(x, t)[0]
        return torch.stack([terms[:, 0], terms[:, 1:].logsumexp(1)], dim=1)

    return both.score, one.score, other.score, logits


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("corrector", ["LangevinCorrector", "NoneCorrector"])
def test_a_score_led_by_the_exact_classifier_draws_what_the_conditional_one_draws(kind, corrector):
    sde = {"ve": lambda: VESDE(0.01, 10.0, N=30)}.get(kind, lambda: SDES[kind](N=30))()
    both, one, other, logits = parts_of(sde)
    label = torch.arange(10) % 2

    def conditional(x, t):
        return torch.where(label[:, None] == 0, one(x, t), other(x, t))

    def drawn(score):
        torch.manual_seed(0)
        given = (
            sde,
            (10, 3),
            sampling.ReverseDiffusionPredictor,
            getattr(sampling, corrector),
            lambda x: x,
            0.16,
        )
        return get_pc_sampler(*given)(score)

    found, nfe = drawn(ClassifierGuidedScore(both, logits, label))
    expected, calls = drawn(conditional)
    assert_close(found, expected, 1e-4)  # in float32
    assert nfe == 2 * calls == 2 * (30 if corrector == "NoneCorrector" else 60)
    nearest = torch.cdist(found, MEANS).argmin(1).clamp_max(1)
    assert (nearest == label).float().mean() > 0.8


def test_the_ode_sampler_and_the_inpainter_take_scores_too():
    sde = VPSDE(N=20)
    both, _, other, logits = parts_of(sde)
    label, z = torch.ones(6, dtype=torch.int64), sde.prior_sampling((6, 3))
    led = ClassifierGuidedScore(both, logits, label)
    sampler = get_ode_sampler(sde, (6, 3), lambda x: x, rtol=1e-4, atol=1e-4)
    (found, nfe), (expected, calls) = sampler(led, z=z), sampler(other, z=z)
    assert_close(found, expected, 1e-3)
    assert nfe % 2 == 0  # each call is two, though rounding may choose another step
    assert calls < nfe
    inpaint = get_pc_inpainter(sde, "euler_maruyama", "none", lambda x: x, 0.16)
    known = torch.zeros(6, 3)
    mask = torch.tensor([1.0, 0.0, 0.0]).expand(6, 3)
    torch.manual_seed(1)
    one = inpaint(led, known, mask)
    torch.manual_seed(1)
    assert_close(one, inpaint(other, known, mask), 1e-4)


def test_a_networks_score_with_labels_is_drawn_on_the_networks_device():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5, device="meta"))

        def forward(self, x, cond, label):
            return label[:, None] * x

    sde, label = VPSDE(N=3), torch.arange(4.0)
    score = NetworkScore(Net(), sde, label=label)
    both = GuidedScore(score, score, sde, 2.0)
    assert sampling.device_of(score) == sampling.device_of(both) == torch.device("meta")
    given = (sde, (4, 3), "reverse_diffusion", "none", lambda x: x, 0.16)
    torch.manual_seed(0)
    images, nfe = get_pc_sampler(*given, device="cpu")(both)
    assert images.isfinite().all()
    assert nfe == 6
