"""SDEs: drift and diffusion from the two functions, exact steps, reference numbers, reversal."""

import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, Gaussian, make_sde

import sde_lib
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.tensor_ops import expand_to

DOUBLE = torch.float64


class CosineSDE(SDE):
    """Five lines: a variance preserving SDE with a cosine schedule (Nichol & Dhariwal 2021)."""

    name = "cosine"
    T = 0.99
    mean_scale = staticmethod(lambda t: torch.cos(0.5 * math.pi * t))
    std = staticmethod(lambda t: torch.sin(0.5 * math.pi * t))


ALL = {**ALL_SDES, "user": lambda: CosineSDE(100)}


@pytest.fixture(params=ALL)
def sde(request):
    return ALL[request.param]()


def times(sde, n=41, start=1e-5):
    return torch.linspace(start, sde.T, n, dtype=DOUBLE)


def shapes():
    return [(4, 5), (4, 3, 7), (4, 2, 5, 6)]


# ---- What follows from mean scale and std ----


def test_drift_and_diffusion_follow_from_mean_scale_and_std(sde):
    t = times(sde, start=1e-3).requires_grad_()
    alpha, variance = sde.mean_scale(t), sde.std(t) ** 2
    ones = torch.ones_like(t)
    d_alpha = (
        torch.autograd.grad(alpha, t, ones)[0]
        if alpha.requires_grad
        else torch.zeros_like(t)  # VE's is constant
    )
    d_variance = torch.autograd.grad(variance, t, ones)[0]
    rate = d_alpha / alpha
    x = torch.randn(len(t), 3, dtype=DOUBLE)
    drift, diffusion = sde.sde(x, t.detach())
    assert_close(drift, (rate[:, None] * x).detach(), 1e-9)
    expected = (d_variance - 2 * rate * variance).detach()
    torch.testing.assert_close(diffusion**2, expected, rtol=1e-9, atol=1e-12)


def test_users_sde_has_the_known_closed_form():
    sde = CosineSDE(100)
    t = times(sde, start=0.01)
    # α' /α = −π/2 tan(πt/2), g² = π tan(πt/2)
    tangent = torch.tan(0.5 * math.pi * t)
    torch.testing.assert_close(sde.mean_rate(t), -0.5 * math.pi * tangent)
    torch.testing.assert_close(sde.diffusion_squared(t), math.pi * tangent)


def test_transitions_compose_and_match_the_marginals(sde):
    s, u, t = (torch.tensor([v], dtype=DOUBLE) * sde.T for v in (0.1, 0.35, 0.8))
    r_us, G_us = sde.transition(u, s)
    r_tu, G_tu = sde.transition(t, u)
    r_ts, G_ts = sde.transition(t, s)
    torch.testing.assert_close(r_ts, r_tu * r_us)
    torch.testing.assert_close(G_ts**2, G_tu**2 + r_tu**2 * G_us**2)
    torch.testing.assert_close(sde.mean_scale(t), r_ts * sde.mean_scale(s))
    torch.testing.assert_close(sde.std(t) ** 2, G_ts**2 + r_ts**2 * sde.std(s) ** 2)


@pytest.mark.parametrize("name", ALL_SDES)
def test_short_transitions_keep_their_precision_in_float32(name):
    sde = ALL_SDES[name]()
    t = torch.linspace(0.1, 0.9, 9) * sde.T
    s = t - 1e-4
    r, G = sde.transition(t, s)
    exact_r, exact_G = sde.transition(t.double(), s.double())
    torch.testing.assert_close(r.double(), exact_r, rtol=1e-6, atol=0)
    torch.testing.assert_close(G.double(), exact_G, rtol=2e-5, atol=0)


def test_transition_over_no_time_does_nothing(sde):
    t = times(sde, 5)
    r, G = sde.transition(t, t)
    torch.testing.assert_close(r, torch.ones_like(t))
    torch.testing.assert_close(G, torch.zeros_like(t), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ALL_SDES)
def test_std_is_exact_in_float32_near_zero(name):
    sde = ALL_SDES[name]()
    t = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3])
    torch.testing.assert_close(sde.std(t).double(), sde.std(t.double()), rtol=1e-6, atol=0)
    g = sde.diffusion_squared(t).double()
    torch.testing.assert_close(g, sde.diffusion_squared(t.double()), rtol=2e-6, atol=0)


def test_noise_level_is_inverted(sde):
    t = times(sde, start=1e-4)
    level = sde.noise_level(t)
    torch.testing.assert_close(level, sde.std(t) / sde.mean_scale(t))
    torch.testing.assert_close(sde.time_of_noise_level(level), t, rtol=1e-9, atol=1e-12)
    assert sde.time_of_noise_level(level.reshape(1, -1)).shape == (1, len(t))


def test_reaching_a_time_by_small_random_steps_gives_the_marginal():
    # The chain's own steps, composed: mean and variance after N steps are those of DDPM's tables.
    sde = VPSDE(0.1, 20.0, 50)
    mean, variance = torch.ones(1, 1), torch.zeros(1)
    for i, time in enumerate(sde.chain_times().float()):
        t = time[None]
        f, G = sde.discretize(mean, t)
        kept = (mean + f) / mean
        mean, variance = mean + f, kept[0] ** 2 * variance + G**2
        assert_close(mean[0], sde.sqrt_alphas_cumprod[i : i + 1], 1e-5)
        assert_close(variance.sqrt(), sde.sqrt_1m_alphas_cumprod[i : i + 1], 1e-5)


def test_smld_chain_composes_to_its_noise_levels():
    sde = VESDE(0.01, 50.0, 40)
    t = torch.arange(sde.N) / (sde.N - 1)
    G = sde.discretize(torch.zeros(sde.N, 1), t)[1]
    torch.testing.assert_close((G**2).cumsum(0).sqrt(), sde.discrete_sigmas, rtol=1e-5, atol=0)


def test_discretize_without_a_chain_is_euler_maruyama():
    sde = subVPSDE(0.1, 20.0, 500)
    x, t = torch.randn(3, 4), torch.tensor([0.1, 0.5, 1.0])
    drift, diffusion = sde.sde(x, t)
    f, G = sde.discretize(x, t)
    assert_close(f, drift / 500)
    assert_close(G, diffusion / math.sqrt(500))


def test_discretize_to_a_given_time_is_the_transition(sde):
    x = torch.randn(2, 3, dtype=DOUBLE)
    t, s = times(sde, 2, 0.5), times(sde, 2, 0.5) * 0.7
    r, G = sde.transition(t, s)
    f, G_f = sde.discretize(x, t, s)
    torch.testing.assert_close(x + f, r[:, None] * x)
    torch.testing.assert_close(G_f, G)


@pytest.mark.parametrize("shape", shapes())
def test_any_rank_of_data_keeps_its_shape_and_type(sde, shape):
    t = torch.linspace(0.1, 0.9, shape[0])
    for dtype in (torch.float32, DOUBLE):
        x = torch.randn(shape, dtype=dtype)
        reverse = sde.reverse(lambda x, t: -x)
        for mean, std in (
            sde.sde(x, t.to(dtype)),
            sde.marginal_prob(x, t.to(dtype)),
            sde.discretize(x, t.to(dtype)),
            reverse.sde(x, t.to(dtype)),
            reverse.discretize(x, t.to(dtype)),
        ):
            assert mean.shape == x.shape
            assert std.shape == t.shape
            assert mean.dtype == std.dtype == dtype


@pytest.mark.parametrize("shape", shapes())
def test_prior_density_is_that_of_the_prior(sde, shape):
    z = torch.randn(shape, dtype=DOUBLE)
    normal = torch.distributions.Normal(0.0, sde.prior_std)
    expected = normal.log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(sde.prior_logp(z), expected)
    assert_close(sde.prior_sampling(shape, noise=lambda _: z), z * sde.prior_std)
    torch.manual_seed(0)
    drawn = sde.prior_sampling(shape)
    torch.manual_seed(0)
    assert_close(drawn, torch.randn(shape) * sde.prior_std)


# ---- Reversal ----


@pytest.mark.parametrize("kind", ALL_SDES)
def test_probability_flow_keeps_a_gaussian_gaussian(kind):
    # Along the flow of N(m(t), v(t)), dx/dt = m' + (x − m) v'/(2 v).
    sde = ALL_SDES[kind]()
    problem = Gaussian(sde, mean=0.3, variance=0.25)
    t = torch.linspace(0.05, 0.95, 7, dtype=DOUBLE).requires_grad_()
    x = torch.randn(7, 4, dtype=DOUBLE)
    mean, variance = problem.moments(t, x)
    ones = torch.ones_like(mean)
    d_variance = torch.autograd.grad(variance, t, ones, retain_graph=True)[0][:, None]
    d_mean = (
        torch.autograd.grad(mean, t, ones)[0][:, None]
        if mean.requires_grad
        else torch.zeros_like(mean)
    )
    expected = d_mean + (x - mean) * d_variance / (2 * variance)
    drift, diffusion = sde.reverse(problem.score, probability_flow=True).sde(x, t.detach())
    torch.testing.assert_close(drift, expected.detach())
    assert_close(diffusion, torch.zeros(7))


def test_reverse_sde_subtracts_the_whole_score_term(sde):
    x, t = torch.randn(3, 2, dtype=DOUBLE), times(sde, 3, 0.2)
    score = torch.sin
    drift, diffusion = sde.sde(x, t)
    reverse = sde.reverse(lambda x, t: score(x))
    rev_drift, rev_diffusion = reverse.sde(x, t)
    torch.testing.assert_close(rev_drift, drift - diffusion[:, None] ** 2 * score(x))
    torch.testing.assert_close(rev_diffusion, diffusion)
    assert (reverse.T, reverse.N) == (sde.T, sde.N)


def test_ancestral_step_of_an_exact_score_gives_the_posterior_mean(sde):
    # For data at one point x_0 the step's mean is that of p(x_s | x_t, x_0), by Bayes' rule.
    t, s = (torch.tensor([v], dtype=DOUBLE) * sde.T for v in (0.7, 0.4))
    x_0, x = torch.full((1, 3), 0.6, dtype=DOUBLE), torch.randn(1, 3, dtype=DOUBLE)
    score = Gaussian(sde, mean=0.6, variance=0.0).score(x, t)
    r, G, std = sde.ancestral_step(t, s)
    mean = (x + G**2 * score) / r
    precision = 1 / sde.std(s) ** 2 + r**2 / G**2
    bayes = (sde.mean_scale(s) * x_0 / sde.std(s) ** 2 + r * x / G**2) / precision
    torch.testing.assert_close(mean, bayes)
    if not isinstance(sde, VPSDE):  # DDPM takes the larger of its two noises
        torch.testing.assert_close(std * r.new_ones(1), (G * sde.std(s) / sde.std(t)))
        if isinstance(sde, VESDE):
            torch.testing.assert_close(std, precision**-0.5)


# ---- Reference numbers of the 2021 release ----

# Without expm1 its small-t rows are rounded off (quirk 9): rows below 1e-3 are compared with the
# same formulae in double precision, and the others are allowed 5e-4 of each row.
SMALL = 1e-3


def score(x, t):
    return -x / (1 + expand_to(t, x))


def rowwise_close(actual, expected, tolerance):
    for row, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
        try:
            assert_close(mine, theirs, tolerance)
        except AssertionError as error:
            raise AssertionError(f"row {row}: {error}") from None


def compare(actual, exact, expected, t, tolerance=5e-4):
    """`actual` float32, `exact` the same in double precision, `expected` the reference."""
    large = t >= SMALL * 0.999
    assert_close(actual[large], expected[large], 1e-4)
    rowwise_close(actual[large], expected[large], tolerance)
    rowwise_close(actual[~large], exact[~large], 2e-5)


def compare_step(actual, exact, expected, t, x, tolerance=2e-6):
    """The same for what is added to x, where the terms of f may all but cancel."""
    assert_close(actual[t >= SMALL * 0.999], expected[t >= SMALL * 0.999], 1e-4)
    compare(x + actual, x.double() + exact, x + expected, t, tolerance)


@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp", "subvp"])
def test_reference_drift_diffusion_and_marginals(golden, name):
    sde, data = make_sde(golden.json("sde")[name]), golden.arrays("sde")
    x, t = data["x"], data["t"]
    for keys, function in (
        (("drift", "diffusion"), sde.sde),
        (("mean", "std"), sde.marginal_prob),
    ):
        mine, exact = function(x, t), function(x.double(), t.double())
        for key, actual, double in zip(keys, mine, exact, strict=True):
            compare(actual, double, data[f"{name}/{key}"], t)


@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp", "subvp"])
def test_reference_prior(golden, name):
    sde, data = make_sde(golden.json("sde")[name]), golden.arrays("sde")
    assert_close(sde.prior_logp(data["z"]), data[f"{name}/prior_logp"], 1e-5)
    assert_close(sde.prior_logp(10 * data["z"]), data[f"{name}/prior_logp_big"], 1e-5)
    draw = data[f"{name}/prior_draw"]
    sample = sde.prior_sampling(draw.shape, noise=lambda _: draw)
    assert_close(sample, data[f"{name}/prior_sample"], 1e-6)


@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp", "subvp"])
def test_reference_discretisation(golden, name):
    row = golden.json("sde")[name]
    sde, data = make_sde(row), golden.arrays("sde")
    x, grid_t = data["x"], data[f"{name}/grid_t"]
    whole = torch.linspace(1, row["grid_eps"], sde.N)
    assert_close(whole[data[f"{name}/grid_index"]], grid_t, 1e-7)
    for t, suffix in ((grid_t, ""), (data["t"], "_t")):
        (f, G), (f_exact, G_exact) = sde.discretize(x, t), sde.discretize(x.double(), t.double())
        compare_step(f, f_exact, data[f"{name}/disc_f{suffix}"], t, x)
        compare(G, G_exact, data[f"{name}/disc_G{suffix}"], t)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp", "subvp"])
def test_reference_reversal(golden, name, flow):
    sde, data = make_sde(golden.json("sde")[name]), golden.arrays("sde")
    reverse = sde.reverse(score, probability_flow=flow)
    x, flag = data["x"], f"pf{int(flow)}"
    for (f_key, g_key), function, t in (
        (("rev_drift", "rev_diffusion"), reverse.sde, data["t"]),
        (("rev_disc_f", "rev_disc_G"), reverse.discretize, data[f"{name}/grid_t"]),
    ):
        (f, g), (f_exact, g_exact) = function(x, t), function(x.double(), t.double())
        # The 2021 release takes VE's G from a difference of squares, off by 2e-5.
        compare_step(f, f_exact, data[f"{name}/{f_key}_{flag}"], t, x, tolerance=2e-5)
        compare(g, g_exact, data[f"{name}/{g_key}_{flag}"].expand_as(g), t)


@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp"])
def test_reference_index_at_every_grid_time(golden, name):
    row = golden.json("sde")[name]
    sde, expected = make_sde(row), golden.arrays("sde")[f"{name}/timestep_index"]
    grid = torch.linspace(1, row["grid_eps"], sde.N)
    assert torch.equal(sde.index(grid), expected)


@pytest.mark.parametrize("name", ["ve_a", "ve_b", "vp"])
def test_reference_tables(golden, name):
    sde, data = make_sde(golden.json("sde")[name]), golden.arrays("sde")
    tables = (
        ["discrete_sigmas"]
        if name.startswith("ve")
        else [
            "discrete_betas",
            "alphas",
            "alphas_cumprod",
            "sqrt_alphas_cumprod",
            "sqrt_1m_alphas_cumprod",
        ]
    )
    for key in tables:
        mine, expected = getattr(sde, key), data[f"{name}/{key}"]
        assert mine.dtype == expected.dtype
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=0)


def test_reference_covers_every_array(golden):
    # Whatever is added to the reference must be compared above.
    compared = {
        "drift", "diffusion", "mean", "std", "prior_logp", "prior_logp_big", "prior_draw",
        "prior_sample", "grid_index", "grid_t", "disc_f", "disc_G", "disc_f_t", "disc_G_t",
        "rev_drift_pf0", "rev_drift_pf1", "rev_diffusion_pf0", "rev_diffusion_pf1",
        "rev_disc_f_pf0", "rev_disc_f_pf1", "rev_disc_G_pf0", "rev_disc_G_pf1", "timestep_index",
        "discrete_sigmas", "discrete_betas", "alphas", "alphas_cumprod", "sqrt_alphas_cumprod",
        "sqrt_1m_alphas_cumprod",
    }  # fmt: skip
    names = {key.split("/")[1] for key in golden.arrays("sde") if "/" in key}
    assert names <= compared


# ---- The chain, and mistakes ----


CHAINS = [VESDE, VPSDE, subVPSDE, sde_lib.VESDE, sde_lib.VPSDE, sde_lib.subVPSDE]


@pytest.mark.parametrize("N", [1, 2, 10, 100, 1000, 2000, 4100, 9876, 20_000])
@pytest.mark.parametrize("kind", CHAINS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_step_of_the_chain_has_its_own_index(kind, N):
    sde = kind(N=N) if issubclass(kind, VESDE) else kind(0.1, min(20.0, N), N)
    t = sde.chain_times().float()
    step = torch.arange(N)
    assert torch.equal(sde.index(t), step)
    # The network is told the same step: one rule for tables and labels.
    assert torch.equal(sde.chain_position(t).round().long(), step)
    if kind.__module__ == "sde_lib":
        assert torch.equal(sde.index(step / max(N - 1, 1)), step)
    f, G = sde.discretize(torch.ones(N, 2), t)
    assert f.isfinite().all()
    assert (G[1:] > 0).all()  # at t = 0 the diffusion of sub-VP is 0


@pytest.mark.parametrize("kind", [VESDE, subVPSDE])
def test_the_nearest_step_counts_at_any_end_of_time(kind):
    sde = kind(N=101)
    sde.T = 5.0
    t = torch.tensor([0.0, 0.024, 0.026, 2.5, 4.99, 5.0])
    assert sde.index(t).tolist() == [0, 0, 1, 50, 100, 100]


@pytest.mark.parametrize("N", [10, 1000, 20_000])
def test_ddpms_steps_stand_at_their_own_mean_and_std(N):
    sde = VPSDE(0.1, min(20.0, N / 2), N)
    t = sde.chain_times()
    torch.testing.assert_close(sde.mean_scale(t).float(), sde.sqrt_alphas_cumprod)
    torch.testing.assert_close(sde.std(t).float(), sde.sqrt_1m_alphas_cumprod)
    # Steps between neighbours are the chain's.
    r, G = sde.transition(t[1:], t[:-1])
    torch.testing.assert_close(r.float(), sde.alphas[1:].sqrt())
    torch.testing.assert_close(G.float(), sde.discrete_betas[1:].sqrt(), rtol=1e-3, atol=0)


def test_smlds_levels_are_those_of_the_sde():
    sde = VESDE(0.01, 50.0, 232)
    torch.testing.assert_close(sde.std(sde.chain_times()).float(), sde.discrete_sigmas)


def test_a_time_for_the_whole_batch_is_taken():
    sde, x = VPSDE(), torch.randn(3, 2, 4)
    t = torch.full((3,), 0.5)
    for one in (0.5, torch.tensor(0.5), torch.tensor([0.5], dtype=DOUBLE)):
        for method in (sde.sde, sde.marginal_prob, sde.discretize):
            for mine, expected in zip(method(x, one), method(x, t), strict=True):
                assert torch.equal(mine, expected)
        reverse = sde.reverse(lambda x, t: -x * expand_to(t, x))
        for mine, expected in zip(reverse.sde(x, one), reverse.sde(x, t), strict=True):
            assert torch.equal(mine, expected)
        assert torch.equal(sde.discretize(x, t, 0.25)[0], sde.discretize(x, one, t / 2)[0])
    with pytest.raises(ValueError, match=r"times of shape \(2,\) .* \(3, 2, 4\): give one number"):
        sde.marginal_prob(x, torch.rand(2))


@pytest.mark.parametrize("kind", [VPSDE, subVPSDE])
def test_fewer_scales_than_beta_max_leave_every_number_finite(kind):
    # The release's tables are NaN there, though its continuous samplers never look at them.
    sde = kind(0.1, 20.0, 10)
    t, x = torch.linspace(0.1, 1, 10), torch.randn(10, 3)
    assert sde.discrete_betas.max() == 1
    for values in (*sde.discretize(x, t), *sde.ancestral_step(t), sde.sqrt_1m_alphas_cumprod):
        assert values.isfinite().all()
    assert_close(sde.marginal_prob(x, t)[0], kind(N=1000).marginal_prob(x, t)[0], 1e-6)


def test_sub_vp_has_the_tables_of_vp():
    vp, subvp = VPSDE(0.1, 10.0, 50), subVPSDE(0.1, 10.0, 50)
    assert torch.equal(vp.alphas, subvp.alphas)
    assert torch.equal(vp.chain_alpha(vp.chain_times().float()), vp.alphas)
    t = torch.linspace(0, 1, 50)
    assert torch.equal(subvp.chain_alpha(t), vp.alphas)
    assert torch.equal(VESDE().chain_alpha(t), torch.ones(50))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VESDE(sigma_min=0.0), "0 < sigma_min < sigma_max"),
        (lambda: VESDE(sigma_min=2.0, sigma_max=1.0), "sigma_min=2.0"),
        (lambda: VPSDE(beta_min=3.0, beta_max=1.0), "0 < beta_min <= beta_max"),
        (lambda: subVPSDE(N=0), "at least one scale"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
