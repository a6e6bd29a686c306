"""Latents of the probability-flow ODE: arcs between them, their images, temperature."""

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian

from score_sde.config import parts
from score_sde.config.build import build_sampler
from score_sde.likelihoods import encode, reconstruct
from score_sde.noise import SampleNoise
from score_sde.samplers import AdaptiveSDESampler, GridSampler, ODESampler
from score_sde.samplers.latent import corners, decode, slerp, strip
from score_sde.sde import VPSDE
from score_sde.solvers.few_step import DDIM, DPMSolverPP2M
from score_sde.solvers.grids import time_grid
from score_sde.solvers.ode import Status
from score_sde.solvers.predictors import AncestralSamplingPredictor

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
SHAPE = (1, 3, 4)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(t, x):
    return x.new_full((len(x),), t)


def images_of(sampler, score, z, batch_size=64):
    parts = decode(sampler, lambda row: score, z, batch_size=batch_size, device="cpu")
    return torch.cat([part.x for part in parts])


# Arcs


def test_slerp_on_a_circle_is_the_angle_between():
    angles = torch.tensor([0.3, 2.9]).double()
    z0 = torch.stack([angles.cos() * 0 + 1, angles * 0], dim=1)
    z1 = torch.stack([angles.cos(), angles.sin()], dim=1)
    for u in (0.0, 0.25, 0.6, 1.0):
        expected = torch.stack([(u * angles).cos(), (u * angles).sin()], dim=1)
        assert_close(slerp(z0, z1, u), expected, 1e-14)
    assert_close(slerp(z0, z1, torch.tensor([0.0, 1.0])), torch.stack([z0[0], z1[1]]), 1e-14)


def test_slerp_keeps_lengths_and_knows_no_scale():
    z0, z1 = normals(3, *SHAPE), normals(3, *SHAPE, seed=1)
    z1 = z1 * (z0.flatten(1).norm(dim=1) / z1.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    middle = slerp(z0, z1, 0.3)
    assert_close(middle.flatten(1).norm(dim=1), z0.flatten(1).norm(dim=1), 1e-14)
    # A straight line would be shorter there.
    assert ((z0 + z1).flatten(1).norm(dim=1) / 2 < 0.95 * z0.flatten(1).norm(dim=1)).all()
    assert_close(slerp(50 * z0, 50 * z1, 0.3), 50 * middle, 1e-14)
    assert_close(slerp(z1, z0, 0.7), middle, 1e-14)


def test_slerp_of_parallel_latents_is_a_line_and_of_opposite_ones_refused():
    z = normals(2, 5).float()
    assert_close(slerp(z, 3 * z, 0.25), 1.5 * z, 1e-6)
    nearly = z + 1e-5 * normals(2, 5, seed=1).float()  # whose arc cosine float32 can't tell
    assert_close(slerp(z, nearly, 0.5), (z + nearly) / 2, 1e-7)
    assert torch.equal(slerp(z, z, 0.3), slerp(z, z, 0.3))
    with pytest.raises(ValueError, match="point in opposite directions"):
        slerp(z, -2 * z, 0.5)
    with pytest.raises(ValueError, match=r"shapes \(2, 5\) and \(1, 5\)"):
        slerp(z, z[:1], 0.5)


def test_strips_and_grids_begin_and_end_at_what_they_are_given():
    z = normals(4, *SHAPE)
    arcs = strip(z[:2], z[2:], 5)
    assert arcs.shape == (2, 5, *SHAPE)
    assert_close(arcs[:, 0], z[:2], 1e-15)
    assert_close(arcs[:, -1], z[2:], 1e-15)
    assert_close(arcs[1, 2], slerp(z[1:2], z[3:], 0.5)[0], 1e-14)
    grid = corners(z, 3, 5)
    assert grid.shape == (3, 5, *SHAPE)
    ends = torch.stack([grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]])
    assert_close(ends, z, 1e-15)
    assert_close(grid[0], strip(z[:1], z[1:2], 5)[0], 1e-14)
    assert_close(grid[:, 1], strip(grid[None, 0, 1], grid[None, 2, 1], 3)[0], 1e-14)
    with pytest.raises(ValueError, match="3 latents: a grid lies between four corners"):
        corners(z[:3], 3, 3)
    with pytest.raises(ValueError, match="frames=1"):
        strip(z[:1], z[1:2], 1)


# Images between images


@pytest.mark.parametrize("kind", SDES)
def test_interpolation_on_gaussian_data_is_the_closed_form(kind):
    sde = SDES[kind]()
    # Each number has a mean of its own; the flow keeps (x − mean)/std.
    data = Gaussian(sde, normals(1, *SHAPE, seed=7), 0.25)
    x = data.mean + 0.5 * normals(2, *SHAPE)
    eps, u = sde.eps, 0.3
    z = encode(sde, lambda row: data.score, x, eps=eps, **TIGHT).y
    sampler = ODESampler(sde, **TIGHT)
    between = images_of(sampler, data.score, slerp(z[:1], z[1:], u))

    def ends(t):
        mean, variance = data.moments(at(t, x[:1]), x[:1])
        return mean, variance.sqrt()

    (mean_eps, std_eps), (mean_T, std_T) = ends(eps), ends(sde.T)
    exact = mean_T + (x - mean_eps) * std_T / std_eps
    assert_close(z, exact, 1e-7)
    angle = torch.acos((exact[0] * exact[1]).sum() / (exact[0].norm() * exact[1].norm()))
    arc = torch.sin((1 - u) * angle) * exact[0] + torch.sin(u * angle) * exact[1]
    assert_close(between, mean_eps + (arc / angle.sin() - mean_T) * std_eps / std_T, 1e-6)


def test_latents_are_decoded_as_draws_from_the_prior_are():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, 0.25)
    noise = SampleNoise(3, torch.arange(5))
    z = sde.prior_sampling((5, *SHAPE), noise=noise)
    for sampler in (
        ODESampler(sde, 1e-4, 1e-4),
        GridSampler(sde, time_grid(sde, 12, "log_snr"), DPMSolverPP2M(sde), tweedie=True),
    ):
        drawn = sampler.draw(
            lambda row: data.score, torch.arange(5), SHAPE, seed=3, batch_size=2, device="cpu"
        )
        drawn = torch.cat([part.x for part in drawn])
        assert torch.equal(images_of(sampler, data.score, z, batch_size=2), drawn)


def test_samplers_that_draw_noise_decode_nothing():
    sde = VPSDE()
    grid = GridSampler(sde, time_grid(sde, 4), AncestralSamplingPredictor(sde))
    for sampler in (grid, AdaptiveSDESampler(sde)):
        with pytest.raises(ValueError, match="its images are no function of latents"):
            images_of(sampler, Gaussian(sde).score, torch.zeros(1, 2))


# There and back


def test_reconstructions_are_off_by_the_solvers_error_alone():
    sde = VPSDE()
    data = Gaussian(sde, 0.3, 0.25)
    x = 0.3 + 0.5 * normals(4, *SHAPE)
    errors, evaluations = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        back = reconstruct(
            sde, lambda row: data.score, x, rtol=tolerance, atol=tolerance, eps=1e-3
        )
        off = (back.x - x).flatten(1)
        assert torch.equal(back.max_error, off.abs().amax(1))
        assert torch.equal(back.rms_error, off.square().mean(1).sqrt())
        assert (back.status == Status.DONE).all()
        errors.append(back.max_error.max().item())
        evaluations.append(back.nfe.min().item())
    assert_close(back.z, data.flow(x, at(1e-3, x), at(1.0, x)), 1e-5)
    assert errors[1] < errors[0] / 10 < errors[0] < 0.05
    assert errors[2] < errors[1] / 10
    assert evaluations[0] < evaluations[1] < evaluations[2]


def test_a_reconstruction_is_the_same_bit_for_bit_whatever_its_batch_mates():
    sde = VPSDE()
    data = Gaussian(sde, 0.3, 0.25)
    x = (0.3 + 0.5 * normals(5, *SHAPE)).float()
    options = {"batch_size": 3, "rtol": 1e-4, "atol": 1e-4}
    together = reconstruct(sde, lambda row: data.score, x, **options)
    alone = reconstruct(sde, lambda row: data.score, x[4:], **options)
    for name in ("z", "x", "nfe", "max_error"):
        assert torch.equal(getattr(together, name)[4:], getattr(alone, name))


class Twice:
    """A score that costs two evaluations, as a guided one does."""

    def __init__(self, score):
        self.score = score

    def __call__(self, x, t):
        return self.score(x, t)

    def evaluations_at(self, t):
        return 2


def test_evaluations_of_a_guide_count_and_a_way_that_is_given_up_is_told():
    sde = VPSDE()
    score, x = Gaussian(sde).score, normals(2, 3)
    one, two = (
        reconstruct(sde, lambda row, s=s: s, x, rtol=1e-3, atol=1e-3)
        for s in (score, Twice(score))
    )
    assert torch.equal(two.nfe, 2 * one.nfe)
    assert torch.equal(two.x, one.x)
    lost = reconstruct(sde, lambda row: score, x, max_steps=2)
    assert (lost.status == Status.STEP_LIMIT).all()


# Temperature


def config_with(**fields):
    named = {f"sampling.{name}": value for name, value in fields.items()}
    named |= {"device": "cpu", "sampling.num_steps": 6}
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, named)


def drawn(sampler, score, n=3):
    options = {"seed": 0, "batch_size": 2, "device": "cpu"}
    samples = sampler.draw(lambda row: score, torch.arange(n), SHAPE, **options)
    return torch.cat([part.x for part in samples])


@pytest.mark.parametrize("method", ["ode", "ddim", "dpm_solver++", "heun", "pc"])
def test_temperature_scales_the_latent(method):
    sde = VPSDE()
    data = Gaussian(sde, 0.0, 0.25)
    flow = {"method": method, "probability_flow": method == "pc"}
    flow |= {"predictor": "euler_maruyama"} if method == "pc" else {}
    plain, one, cold = (
        drawn(build_sampler(config_with(**flow, **fields), sde), data.score)
        for fields in ({}, {"temperature": 1.0}, {"temperature": 0.7})
    )
    assert torch.equal(plain, one)
    # The flow of centred Gaussian data is linear, and so is each of its solvers.
    assert_close(cold, 0.7 * plain, 1e-4 if method == "ode" else 1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "pc"},
        {"predictor": "euler_maruyama", "probability_flow": True, "corrector": "langevin"},
        {"method": "adaptive_sde"},
        {"method": "heun", "s_churn": 5.0},
        {"method": "ddim", "eta": 1.0},
    ],
    ids=str,
)
def test_temperature_is_refused_where_noise_is_drawn_on_the_way(fields):
    build_sampler(config_with(**fields), VPSDE())
    with pytest.raises(ValueError, match=r"temperature=0\.7 scales the noise that an image is"):
        build_sampler(config_with(**fields, temperature=0.7), VPSDE())


def test_a_sampler_that_draws_noise_refuses_a_temperature_in_python_too():
    sde = VPSDE()
    GridSampler(sde, time_grid(sde, 4), DDIM(sde), temperature=0.5)
    with pytest.raises(ValueError, match=r"temperature=0\.5 .* forget it"):
        GridSampler(sde, time_grid(sde, 4), AncestralSamplingPredictor(sde), temperature=0.5)
