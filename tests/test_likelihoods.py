"""Likelihoods against closed forms and the reference numbers: nats, bits/dim, latents."""

import math
import weakref

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, SDES, Gaussian, Mixture, make_sde
from recorded import AnalyticNet, golden_rows
from torch import nn

from likelihood import get_likelihood_fn
from score_sde.likelihoods import (
    bin_width,
    bits_per_dim,
    decode,
    encode,
    hutchinson_probes,
    log_likelihood,
    value_and_divergence,
)
from score_sde.score import NetworkScore
from score_sde.sde import VPSDE
from score_sde.solvers.ode import Status
from score_sde.tensor_ops import expand_to

SCALERS = {"identity": lambda x: x, "centered": lambda x: (x + 1) / 2}
TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(sde, dimensions, seed=0):
    return Mixture(sde, normals(3, dimensions, seed=seed), torch.tensor([0.5, 0.3, 0.2]).double())


def at(t, x):
    return x.new_full((len(x),), t)


class CurvedNet(AnalyticNet):
    """The reference's network whose Jacobian is not diagonal; counts its backward passes too."""

    backwards, curved = 0, True

    def forward(self, x, c):
        out = super().forward(x, c)
        if self.curved:
            q, wide = x.roll(1, -1) * x, expand_to(c, x)
            if self.sde.name == "vesde":
                out = out + 0.05 * torch.tanh(q / (1 + wide**2)) / (1 + wide)
            else:
                out = out + 0.05 * torch.tanh(q)
        out.register_hook(self.count)
        return out

    def count(self, gradient):
        self.backwards += 1


@pytest.mark.parametrize("row", golden_rows("likelihood"))
def test_the_entry_point_repeats_the_reference(golden, row):
    arrays = golden.arrays("likelihood")
    net = CurvedNet(make_sde(row["sde"]), arrays["mu"], continuous=True)
    net.curved = row["net"] == "nonlinear"
    likelihood_fn = get_likelihood_fn(
        net.sde,
        SCALERS[row["scaler"]],
        row["hutchinson"],
        row["rtol"],
        row["atol"],
        row["method"],
        row["eps"],
    )
    data, probe = arrays[f"data_{row['scaler']}"], arrays[f"eps_{row['hutchinson'].lower()}"]
    bits, z, nfe = likelihood_fn(net.train(), data, probe=probe)
    assert_close(bits, arrays[f"{row['key']}/bpd"], 1e-4)
    assert_close(z, arrays[f"{row['key']}/z"], 1e-4)
    assert bits.dtype == z.dtype == torch.float32
    assert not net.training
    # One forward pass and one vector-Jacobian product an evaluation; the release took two forward.
    assert nfe == net.calls == net.backwards == row["nfe"] == row["network_calls"] // 2


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (24,)])
def test_a_gaussians_likelihood_is_its_closed_form(kind, shape):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.3, 0.25)
    x = 0.3 + 0.5 * normals(6, *shape)
    start, end = at(1e-5, x), at(sde.T, x)
    result = log_likelihood(sde, lambda row: data.score, x, probes=None, **TIGHT)
    assert (result.status == Status.DONE).all()
    # The solver's error: against the exact flow and its exact volume.
    z = data.flow(x, start, end)
    _, before = data.moments(start, x)
    _, after = data.moments(end, x)
    stretch = (after / before).log().flatten(1)[:, 0] / 2 * math.prod(shape)
    assert_close(result.z, z, 1e-6)
    assert_close(result.logp, sde.prior_logp(z) + stretch, 1e-6)
    # What the ends cost: the prior is not p_T, and eps is not 0.
    dimensions = math.prod(shape)
    mismatch = (result.logp - data.logp(x, start)).abs().max() / dimensions
    assert mismatch < 2e-2
    assert mismatch > 1e-7  # it is there, and not the solver's
    begin = (data.logp(x, start) - data.logp(x, at(0.0, x))).abs().max() / dimensions
    assert begin < 1e-3


@pytest.mark.parametrize(
    ("kind", "dimensions"), [*((kind, n) for kind in SDES for n in (2, 5, 24)), ("vp", 64)]
)
def test_a_mixtures_likelihood_is_its_closed_form_but_for_the_prior(kind, dimensions):
    sde = SDES[kind]()
    data = mixture(sde, dimensions)
    x = data.sample(5, torch.Generator().manual_seed(1))
    result = log_likelihood(
        sde, lambda row: data.score, x, probes=None, rtol=1e-7, atol=1e-7, eps=1e-4
    )
    # With p_T in the place of the prior nothing is left but the solver's error.
    mismatch = sde.prior_logp(result.z) - data.logp(result.z, at(sde.T, x))
    assert_close(result.logp - mismatch, data.logp(x, at(1e-4, x)), 1e-5)
    assert mismatch.abs().max() / dimensions < 0.05
    bits = bits_per_dim(result.logp, dimensions, 1 / 256)
    exact = 8 - data.logp(x, at(1e-4, x)) / (dimensions * math.log(2))
    assert (bits - exact).abs().max() < 0.05 / math.log(2)


def test_one_evaluation_gives_field_and_exact_trace():
    x, matrix = normals(4, 3), normals(3, 3, seed=1)

    def field(x):
        return torch.sin(x @ matrix.T)

    value, divergence = value_and_divergence(field, x, None)
    jacobian = torch.stack([torch.autograd.functional.jacobian(field, row) for row in x])
    assert_close(value, field(x), 1e-12)
    assert_close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(1), 1e-12)
    assert not value.requires_grad
    assert not divergence.requires_grad
    # A probe's estimate is εᵀ J ε, and several are averaged.
    probes = normals(2, 4, 3, seed=2)
    _, estimate = value_and_divergence(field, x, probes)
    assert_close(estimate, torch.einsum("kbi,bij,kbj->b", probes, jacobian, probes) / 2, 1e-12)


@pytest.mark.parametrize("kind", ["Rademacher", "Gaussian"])
def test_probes_are_unbiased_and_more_of_them_are_better(kind):
    sde = VPSDE()
    data = mixture(sde, 6)
    x = data.sample(100, torch.Generator().manual_seed(1))

    def logp(probes):
        options = {"rtol": 1e-4, "atol": 1e-4, "eps": 1e-3}
        return log_likelihood(sde, lambda row: data.score, x, probes=probes, **options).logp

    exact, index = logp(None), torch.arange(100)
    errors = {}
    for k in (1, 16):
        probes = hutchinson_probes(kind, (6,), index, seed=3, n_probes=k, dtype=x.dtype)
        errors[k] = logp(probes) - exact
        standard_error = errors[k].std() / math.sqrt(len(x))
        assert errors[k].mean().abs() < 3 * standard_error
    fall = errors[1].square().mean().sqrt() / errors[16].square().mean().sqrt()
    assert fall == pytest.approx(4, rel=0.35)


def test_random_signs_are_exact_where_the_jacobian_is_diagonal():
    sde = VPSDE()
    data, x = Gaussian(sde, 0.3, 0.25), normals(3, 5)
    probes = hutchinson_probes("Rademacher", (5,), torch.arange(3), seed=0, dtype=x.dtype)
    signs = log_likelihood(sde, lambda row: data.score, x, probes=probes)
    exact = log_likelihood(sde, lambda row: data.score, x, probes=None)
    assert_close(signs.logp, exact.logp, 1e-9)


def test_probes_are_a_function_of_seed_sample_and_number():
    index = torch.tensor([7, 3, 11])
    signs = hutchinson_probes("Rademacher", (2, 5), index, seed=4, n_probes=3)
    assert signs.shape == (3, 3, 2, 5)
    assert signs.unique().tolist() == [-1, 1]
    alone = hutchinson_probes("Rademacher", (2, 5), index[1:2], seed=4, n_probes=1)
    assert torch.equal(signs[:1, 1:2], alone)
    assert not torch.equal(signs[0], signs[1])
    normal = hutchinson_probes("Gaussian", (100, 100), index, seed=4)
    assert normal.std().item() == pytest.approx(1, abs=0.02)


def test_a_value_is_the_same_bit_for_bit_whatever_its_batch_mates():
    sde = VPSDE()
    data = mixture(sde, 4)
    x = data.sample(9, torch.Generator().manual_seed(1)).float()
    data = Mixture(sde, data.means.float(), data.weights.float())
    steepness = torch.tensor([0.0, 0, 0, 0, 0, 10, 0, 0, 0])  # sample 5 is stiff

    def likelihood(rows, batch_size=4):
        ids = torch.tensor(rows)
        probes = hutchinson_probes("Rademacher", (4,), ids, seed=2)

        def score_for(row):
            steep = steepness[ids[row]][:, None]
            return lambda x, t: data.score(x, t) + steep * x

        options = {"probes": probes, "eps": 1e-3, "batch_size": batch_size}
        options |= {"rtol": 1e-2, "atol": 1e-2}
        return log_likelihood(sde, score_for, x[ids], **options)

    everyone = likelihood(list(range(9)))
    assert everyone.nfe[5] > 5 * everyone.nfe[[0, 1, 2, 3, 4, 6, 7, 8]].max()
    for rows in ([0], [6, 0, 5], [3, 2, 1, 0], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        some = likelihood(rows)
        for name in ("logp", "z", "nfe", "status"):
            assert torch.equal(getattr(some, name), getattr(everyone, name)[rows]), (rows, name)
    for batch_size in (1, 2, 7, 64):
        assert_close(likelihood(list(range(9)), batch_size).logp, everyone.logp, 1e-4)


@pytest.mark.parametrize("kind", ALL_SDES)
def test_decoding_undoes_encoding(kind):
    sde = ALL_SDES[kind]()
    data = Gaussian(sde, 0.3, 0.25)
    x = 0.3 + 0.5 * normals(5, 1, 4, 4).float()
    there = encode(sde, lambda row: data.score, x)
    assert (there.status == Status.DONE).all()
    assert there.y.dtype == x.dtype
    assert_close(there.y, data.flow(x, at(1e-5, x), at(sde.T, x)), 1e-4)
    back = decode(sde, lambda row: data.score, there.y)
    assert_close(back.y, x, 1e-4)
    joint = log_likelihood(sde, lambda row: data.score, x, probes=None)
    assert_close(joint.z, there.y, 1e-3)


def test_labels_follow_their_samples():
    sde = VPSDE()
    means = torch.tensor([-1.0, 0.0, 2.0, 0.5, 1.5]).double()[:, None]
    x = means + 0.5 * normals(5, 2)

    def score_for(row):
        return Gaussian(sde, means[row], 0.25).score

    together = log_likelihood(sde, score_for, x, probes=None, batch_size=2)
    for k in range(5):
        data = Gaussian(sde, means[k : k + 1], 0.25)
        alone = log_likelihood(
            sde, lambda row, data=data: data.score, x[k : k + 1], probes=None, batch_size=2
        )
        assert_close(together.logp[k : k + 1], alone.logp, 1e-9)
    assert_close(encode(sde, score_for, x, batch_size=3).y, together.z, 1e-3)


class Saved:
    """A tensor that some graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


class LearntNet(nn.Module):
    """A small network with weights, for points; notes how much is saved when it is called."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
        self.saved, self.count, self.left = weakref.WeakSet(), 0, []

    def forward(self, x, c):
        self.left.append(len(self.saved))
        return self.layers(torch.cat([x, c[:, None] / 999], dim=1))

    def save(self, tensor):
        saved = Saved(tensor)
        self.saved.add(saved)
        self.count += 1
        return saved


@pytest.mark.parametrize("kind", ["Rademacher", "Gaussian"])
def test_no_graph_outlives_its_evaluation(kind):
    torch.manual_seed(0)
    net, x = LearntNet(), torch.randn(4, 2)
    likelihood_fn = get_likelihood_fn(VPSDE(), SCALERS["centered"], kind)
    with torch.autograd.graph.saved_tensors_hooks(net.save, lambda saved: saved.tensor):
        bits, z, nfe = likelihood_fn(net, x)
        exact = log_likelihood(
            VPSDE(), lambda row: NetworkScore(net, VPSDE()), x, probes=None, eps=1e-3
        )
    assert net.count > nfe > 20
    # What is there when the network is called is the drift's own share of this evaluation.
    assert len(set(net.left)) == 1
    assert net.left[0] < net.count / nfe
    assert len(net.saved) == 0
    for result in (bits, z, exact.logp, exact.z):
        assert result.grad_fn is None
    assert not x.requires_grad
    assert all(weight.grad is None for weight in net.parameters())


def test_the_entry_point_takes_points_and_draws_its_own_probe():
    sde = VPSDE()
    data = Gaussian(sde, 0.0, 0.25)

    class Net(nn.Module):
        def forward(self, x, c):
            return -expand_to(sde.std(c / 999), x) * data.score(x, c / 999)

    x = 0.5 * normals(50, 2).float()
    width = bin_width(SCALERS["centered"], 17)
    exact = bits_per_dim(data.logp(x, at(1e-5, x)), 2, width)
    for method in ("RK45", "RK23"):
        likelihood_fn = get_likelihood_fn(sde, SCALERS["centered"], method=method, levels=17)
        bits, z, _ = likelihood_fn(Net(), x)
        assert z.shape == x.shape
        assert (bits - exact).abs().max() < 1e-2
    likelihood_fn = get_likelihood_fn(sde, SCALERS["centered"], "Gaussian")
    torch.manual_seed(3)
    first = likelihood_fn(Net(), x)[0]
    torch.manual_seed(3)
    assert torch.equal(first, likelihood_fn(Net(), x, probe=torch.randn_like(x))[0])
    assert not torch.equal(first, likelihood_fn(Net(), x)[0])


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_bits_per_dim_of_a_density_flat_in_each_level_are_those_of_the_levels(levels):
    probability = torch.rand(levels, generator=torch.Generator().manual_seed(0)).double()
    probability /= probability.sum()
    k = torch.arange(levels)
    for scaler, slope in ((SCALERS["identity"], 1), (SCALERS["centered"], 0.5)):
        density = probability[k] * levels * slope  # of (k + u)/L as the network sees it
        bits = bits_per_dim(3 * density.log(), 3, bin_width(scaler, levels))
        assert_close(bits, -probability.log2(), 1e-12)


def test_the_offset_is_8_for_bytes_in_the_unit_interval_and_7_for_centred_ones():
    assert -math.log2(bin_width(SCALERS["identity"], 256)) == 8
    assert -math.log2(bin_width(SCALERS["centered"], 256)) == 7


def test_a_sample_that_breaks_down_is_no_number_and_harms_no_other():
    sde = VPSDE()
    data, x = Gaussian(sde, 0.0, 0.25), normals(3, 2)

    def score_for(row):
        bad = (row == 1)[:, None]
        return lambda x, t: torch.where(bad & (t > 0.5)[:, None], torch.nan, 1) * data.score(x, t)

    result = log_likelihood(sde, score_for, x, probes=None)
    assert result.logp.isnan().tolist() == [False, True, False]
    assert result.status.tolist() == [Status.DONE, Status.NON_FINITE, Status.DONE]


def test_a_network_that_breaks_down_is_an_error_of_the_entry_point():
    class Broken(nn.Module):
        def forward(self, x, c):
            return x * torch.where(c > 500, torch.nan, 1.0)[:, None]

    with pytest.raises(ArithmeticError, match="RK45 stopped before T=1"):
        get_likelihood_fn(VPSDE(), SCALERS["centered"])(Broken(), torch.randn(2, 2))


def test_what_has_no_likelihood_is_refused_with_the_remedy():
    sde, x = VPSDE(), torch.randn(3, 2)

    def score_for(row):
        return lambda x, t: -x

    def run(x=x, score_for=score_for, probes=None, **options):
        log_likelihood(sde, score_for, x, probes=probes, **options)

    with pytest.raises(ValueError, match=r"levels=1: .* log_likelihood, which is in nats"):
        get_likelihood_fn(sde, SCALERS["identity"], levels=1)
    with pytest.raises(ValueError, match="form a x \\+ b"):
        get_likelihood_fn(sde, torch.sigmoid)
    with pytest.raises(
        ValueError,
        match="'gaussian': it must be one of Rademacher, Gaussian; did you mean 'Gaussian'",
    ):
        get_likelihood_fn(sde, SCALERS["identity"], "gaussian")
    with pytest.raises(ValueError, match="at least one probe"):
        hutchinson_probes("Gaussian", (2,), torch.arange(3), seed=0, n_probes=0)
    with pytest.raises(ValueError, match=r"probes of shape \(2,\) for data of shape \(3, 2\)"):
        run(probes=torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"without torch\.no_grad"):
        run(score_for=lambda row: lambda x, t: -x.detach())
    with pytest.raises(ValueError, match="eps=0"):
        run(eps=0.0)
    with pytest.raises(ValueError, match="dequantise"):
        run(x=torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="rank 2"):
        encode(sde, score_for, torch.randn(3))
