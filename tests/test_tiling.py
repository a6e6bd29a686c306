"""Tiles of large images: windows, blended scores where they are known, what runs on them."""

import math

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian

from score_sde.noise import normal
from score_sde.posteriors.measurements import Mask
from score_sde.posteriors.scores import POSTERIORS
from score_sde.samplers import GridSampler, ODESampler
from score_sde.score import GuidedScore, TiledScore, Tiling, denoised_from_score, evaluations_at
from score_sde.sde import VPSDE
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import PREDICTORS

DOUBLE = torch.float64
TILINGS = [
    Tiling((16, 16), (8, 8)),
    Tiling((19, 8), (8, 8)),
    Tiling((11, 23), (5, 7), 0.7),
    Tiling((9, 9), (8, 8), 0.25),
    Tiling((24, 16), (8, 8), 0.0),
    Tiling((20,), (6,), 0.99),
]
WIDE = Tiling((12, 20), (8, 8))


def states(count, size=WIDE.size, channels=1):
    """States (count, channels, *size) and times of them, of all kinds."""
    x = normal(3, torch.arange(count), 0, (channels, *size), dtype=DOUBLE)
    return x, torch.linspace(0.05, 0.95, count, dtype=DOUBLE)


def tiled(score, count, tiling=WIDE, **how):
    return TiledScore(lambda index: score, torch.arange(count), tiling, **how)


# Windows


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_windows_are_above_0_and_sum_to_one_at_every_pixel(tiling):
    assert (tiling.windows > 0).all()
    total = tiling.add(tiling.windows)
    assert total.shape == tiling.size
    assert (total - 1).abs().max() <= 2 * torch.finfo(DOUBLE).eps


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_tiles_reach_from_side_to_side_and_share_at_least_what_is_asked_for(tiling):
    for axis, (side, n) in enumerate(zip(tiling.size, tiling.tile, strict=True)):
        starts = sorted({start[axis] for start in tiling.starts})
        assert starts[0] == 0
        assert starts[-1] == side - n
        apart = torch.tensor(starts).diff()
        assert (apart <= max(1, n * (1 - tiling.overlap))).all()


def test_windows_fall_smoothly_to_the_borders_of_their_tiles():
    # Halves that are shared: sin² of one tile and cos² of the next, which sum to one as they are.
    window = Tiling((16,), (8,)).windows[1]
    expected = torch.sin(math.pi * (torch.arange(8) + 0.5).double() / 8) ** 2
    assert_close(window, expected, 1e-15)


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_what_is_cut_is_blended_to_what_it_was(tiling):
    x, _ = states(2, tiling.size, channels=3)
    assert tiling.cut(x).shape == (len(tiling), 2, 3, *tiling.tile)
    assert_close(tiling.blend(tiling.cut(x)), x, 1e-15)


def test_hard_tiles_stand_side_by_side_and_change_nothing():
    tiling = Tiling((24, 16), (8, 8), 0.0)
    assert len(tiling) == 6
    assert (tiling.windows == 1).all()


# Scores that are known


@pytest.mark.parametrize("kind", SDES)
def test_of_independent_pixels_the_blended_score_is_exact(kind):
    x, t = states(3)
    score = Gaussian(SDES[kind](), 0.3, 0.2).score
    assert_close(tiled(score, 3)(x, t), score(x, t), 1e-12)


def covariance(points):
    """Of a stationary Gaussian on a grid (n, 2): smooth, over a length of two pixels."""
    return torch.exp(-(torch.cdist(points, points) ** 2) / 8)


def grid(size):
    axes = [torch.arange(n, dtype=DOUBLE) for n in size]
    return torch.cartesian_prod(*axes)


def correlated(sde, mean):
    """The exact score of images of any size with that covariance."""

    def score(x, t):
        data = covariance(grid(x.shape[2:]))
        alpha, sigma = sde.mean_scale(t), sde.std(t)
        eye = torch.eye(len(data), dtype=DOUBLE)
        total = alpha[:, None, None] ** 2 * data + sigma[:, None, None] ** 2 * eye
        off = x.flatten(1) - alpha[:, None] * mean
        return -torch.linalg.solve(total, off).reshape(x.shape)

    return score


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_constant_image_at_the_mean_is_denoised_to_itself_without_a_seam(overlap):
    sde = VPSDE()
    tiling = Tiling((24, 16), (8, 8), overlap)
    t = torch.linspace(0.05, 0.95, 3, dtype=DOUBLE)
    x = sde.mean_scale(t)[:, None, None, None] * 0.6 * torch.ones(3, 1, *tiling.size, dtype=DOUBLE)
    score = tiled(correlated(sde, 0.6), 3, tiling)
    assert_close(denoised_from_score(sde, x, score(x, t), t), torch.full_like(x, 0.6), 1e-14)


def test_seams_of_another_constant_are_six_times_smaller_where_tiles_are_blended():
    sde = VPSDE()
    t = torch.full((1,), 0.3, dtype=DOUBLE)
    x = sde.mean_scale(t) * torch.ones(1, 1, 24, 24, dtype=DOUBLE)
    whole = denoised_from_score(sde, x, correlated(sde, 0.0)(x, t), t)

    def off(overlap):
        score = tiled(correlated(sde, 0.0), 1, Tiling((24, 24), (8, 8), overlap))
        return (denoised_from_score(sde, x, score(x, t), t) - whole).abs().max()

    assert off(0.0) > 0.1
    assert off(0.5) < off(0.0) / 6


def test_a_markov_chain_is_wrong_at_borders_alone_by_their_windows():
    # Without noise a pixel of the chain wants its two neighbours: of tiles only those at a border
    # lack one, j, and with it ρ (x_j − ρ x_i)/(1 − ρ²).
    rho, n, tiling = 0.7, 20, Tiling((20,), (8,), 0.5)

    def score(x, t):
        i = torch.arange(x.shape[-1], dtype=DOUBLE)
        return -torch.linalg.solve(rho ** (i[:, None] - i).abs(), x[..., None])[..., 0]

    x = normal(0, torch.arange(1), 0, (n,), dtype=DOUBLE)
    lacking = torch.zeros(n, dtype=DOUBLE)
    for (a,), w in zip(tiling.starts, tiling.windows, strict=True):
        for i, j, weight in ((a, a - 1, w[0]), (a + 7, a + 8, w[7])):
            if 0 <= j < n:
                lacking[i] += weight * rho * (x[0, j] - rho * x[0, i]) / (1 - rho**2)
    assert (lacking != 0).sum() > 4
    assert_close(tiled(score, 1, tiling)(x, 0.5)[0], score(x, 0.5)[0] - lacking, 1e-12)


# What it is given, and what runs on it


def test_labels_follow_their_samples_into_every_tile():
    sde, means = VPSDE(), torch.tensor([-1.0, 0.0, 2.0], dtype=DOUBLE)
    x, t = states(5)
    index = torch.tensor([4, 0, 7, 2, 2])

    def score_for(of):
        return Gaussian(sde, means[of % 3].reshape(-1, 1, 1, 1)).score

    for at_a_time in (1, 12, 1000):
        score = TiledScore(score_for, index, WIDE, at_a_time)
        assert_close(score(x, t), score_for(index)(x, t), 1e-12)


def test_guidance_acts_in_every_tile_and_all_evaluations_are_counted():
    sde = VPSDE()
    x, t = states(4)
    one, none = Gaussian(sde, 1.0).score, Gaussian(sde, 0.0, 0.5).score
    guided = GuidedScore(one, none, sde, 2.5, interval=(0.5, 10.0))
    score = tiled(guided, 4)
    assert_close(score(x, t), guided(x, t), 1e-12)
    each = evaluations_at(guided, t)
    assert isinstance(each, torch.Tensor)
    assert sorted(set(each.tolist())) == [1, 2]
    assert len(WIDE) == 8
    assert torch.equal(score.evaluations_at(t), 8 * each)


@pytest.mark.parametrize(("at_a_time", "rows"), [(1, 3), (6, 6), (7, 6), (64, 24)])
def test_tiles_come_in_whole_batches_of_the_size_that_is_asked_for(at_a_time, rows):
    seen = []

    def score(x, t):
        seen.append(len(x))
        return -x * t[:, None, None, None]

    x, t = states(3)
    result = tiled(score, 3, at_a_time=at_a_time)(x, t)
    assert set(seen) == {rows}
    assert sum(seen) == 3 * len(WIDE)
    assert_close(result, score(x, t), 1e-14)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_scores_differentiate_through_tiles(name):
    sde = VPSDE()
    exact = Gaussian(sde, 0.3, 0.2).score
    x, t = states(2)
    known = torch.rand(1, *WIDE.size, generator=torch.Generator().manual_seed(0)) < 0.5
    measurement = Mask((1, *WIDE.size), 0.1, known)
    y = measurement.forward(states(2)[0].roll(1, 0))
    of_whole, of_tiles = (
        POSTERIORS[name](score, sde, measurement, y) for score in (exact, tiled(exact, 2))
    )
    assert_close(of_tiles(x, t), of_whole(x, t), 1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_samplers_draw_large_images_as_they_do_others(adaptive):
    sde = VPSDE()
    score = Gaussian(sde, 0.3, 0.2).score
    if adaptive:
        sampler = ODESampler(sde, eps=1e-3, rtol=1e-6, atol=1e-6)
    else:
        predictor = PREDICTORS["reverse_diffusion"](sde)
        sampler = GridSampler(sde, time_grid(sde, 10, "uniform"), predictor)

    def draw(score_for):
        given = {"seed": 1, "batch_size": 2, "device": "cpu", "dtype": DOUBLE}
        parts = list(sampler.draw(score_for, torch.arange(3), (1, *WIDE.size), **given))
        return (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "nfe"))

    x, nfe = draw(lambda index: score)
    x_tiled, nfe_tiled = draw(lambda index: TiledScore(lambda _: score, index, WIDE))
    assert_close(x_tiled, x, 1e-10)
    assert torch.equal(nfe_tiled, len(WIDE) * nfe)


# Refusals


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "sentence"),
    [
        ((7, 20), (8, 8), 0.5, "an image of 7x20 is not covered by tiles of 8x8"),
        ((8, 8), (8,), 0.5, "an image of 8x8 is not covered by tiles of 8:"),
        ((16, 16), (8, 8), 1.0, "overlap=1: give a share of a tile's side from 0 to below 1"),
    ],
)
def test_tilings_that_are_none_are_refused(size, tile, overlap, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tiling(size, tile, overlap)


@pytest.mark.parametrize("shape", [(2, 1, 12, 20), (3, 1, 8, 8)])
def test_images_of_another_number_or_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"the tiles are of 3 images whose last axes are"):
        tiled(lambda x, t: x, 3)(torch.zeros(shape), 0.5)
