"""Scores of restoration: closed forms, the formula by hand, and coverage of known posteriors."""

import math

import pytest
import torch
from conftest import assert_close
from torch.nn import functional as F

from score_sde.evaluation.restoration import (
    LARGEST_PSNR,
    coverage,
    psnr,
    restoration_figures,
    ssim,
    ssim_window,
)
from score_sde.noise import normal, uniform


def images(n, *shape, seed=0):
    return uniform(seed, torch.arange(n), 0, shape, dtype=torch.float64)


# ---- PSNR, SSIM ----


def test_psnr_in_closed_form():
    truth = images(3, 1, 4, 4) / 2
    off = torch.tensor([0.1, 0.01, 0.5], dtype=truth.dtype)
    assert_close(psnr(truth + off[:, None, None, None], truth), -20 * off.log10(), 1e-12)
    part = truth.clone()
    part[:, :, 0] += 0.2  # a quarter of the pixels
    assert_close(psnr(part, truth), torch.full((3,), -10 * math.log10(0.04 / 4)).double(), 1e-12)
    assert psnr(truth, truth).tolist() == [math.inf] * 3
    assert psnr(truth.float(), truth.float()).dtype == torch.float64
    assert pytest.approx(58.9, abs=0.05) == LARGEST_PSNR


def by_hand(x, y, size):
    """Wang et al. 2004, equation 13, one place of the window after the other."""
    at = torch.arange(size, dtype=x.dtype) - size // 2
    window = (-(at**2) / (2 * (1.5 * size / 11) ** 2)).exp()
    window = window[:, None] * window / window.sum() ** 2
    places = []
    for row in range(x.shape[0] - size + 1):
        for column in range(x.shape[1] - size + 1):
            a, b = (v[row : row + size, column : column + size] for v in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            vary_a, vary_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            light = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            places.append(light * (2 * both + 0.03**2) / (vary_a + vary_b + 0.03**2))
    return torch.stack(places).mean()


@pytest.mark.parametrize(("side", "size"), [(14, 11), (11, 11), (8, 7), (7, 7), (4, 3), (3, 3)])
def test_ssim_is_the_formula_in_a_window_that_fits(side, size):
    x, y = images(2, 2, side, side + 2), images(2, 2, side, side + 2, seed=1)
    assert ssim_window(x.shape[-2:]) == size
    expected = [
        torch.stack([by_hand(x[k, c], y[k, c], size) for c in (0, 1)]).mean() for k in (0, 1)
    ]
    assert_close(ssim(x, y), torch.stack(expected), 1e-9)
    assert_close(ssim(x, x), torch.ones(2, dtype=x.dtype), 1e-12)


def test_ssim_of_flat_images_in_closed_form():
    dark, light = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(dark, light).item() == pytest.approx(expected, abs=1e-6)


# ---- Coverage ----


def drawn(n, k, spread=1.0, seed=0, shape=(1, 2, 2)):
    """Truths, and k draws of the posterior N(x̂, 1) with its std times `spread`."""
    z = normal(seed, torch.arange(n), 0, (k + 1, *shape), dtype=torch.float64)
    return z[:, 0], spread * z[:, 1:]


@pytest.mark.parametrize("k", [1, 2, 4, 15])
def test_exact_posterior_draws_cover_at_the_nominal_rate(k):
    truth, completions = drawn(4000, k)
    coarse = [(v * 1.5).round() for v in (truth, completions)]  # with many ties
    for level in (0.5, 0.9):
        for given in ((truth, completions), coarse):
            share = coverage(*given, level)
            share = share[~share.isnan()]
            error = share.std() / len(share) ** 0.5
            # Of one completion each rank is half of all, and every pixel counts the same.
            assert abs(share.mean() - level) <= 4 * error + 1e-12


@pytest.mark.parametrize("k", [4, 15])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_draws_too_much_alike_cover_less_and_wide_ones_more_as_computed(spread, k):
    level = (k - 1) / (k + 1)
    share = coverage(*drawn(2000, k, spread), level)
    # The truth lies outside of all k where all lie on one side of it.
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    below = torch.special.ndtr(x / spread)
    density = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi)
    expected = 1 - torch.trapezoid(density * (below**k + (1 - below) ** k), x)
    error = share.std() / len(share) ** 0.5
    assert abs(share.mean() - expected) < 4 * error
    assert (share.mean() - level) * (spread - 1) > 10 * error


def test_ties_count_by_the_part_of_their_ranks():
    truth = torch.zeros(1, 1, 1, 3)
    completions = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 2.0]])
    completions = completions.reshape(1, 3, 1, 1, 3)
    # Of [0, 1] the first has 1/4 to 3/4, the second agrees with all, the third has 0 to 1/2.
    assert coverage(truth, completions, 0.5).item() == pytest.approx((1 + 1 / 2) / 2)
    assert coverage(truth, completions, 0.25).item() == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert math.isnan(coverage(truth, torch.zeros(1, 3, 1, 1, 3), 0.5).item())


# ---- Figures ----


def test_figures_are_means_over_images_with_their_errors():
    n, k = 6, 4
    truth = images(n, 3, 8, 8)
    completions = (truth[:, None] + 0.1 * (images(n, k, 3, 8, 8, seed=1) - 0.5)).clamp(0, 1)
    found = restoration_figures(truth, completions)
    each = torch.stack([psnr(completions[:, j], truth) for j in range(k)]).mean(0)
    assert found["psnr"]["value"] == pytest.approx(each.mean().item())
    assert found["psnr"]["se"] == pytest.approx(each.std().item() / n**0.5)
    assert found["psnr"]["n"] == n
    assert found["ssim"]["window"] == 7
    mean = psnr(completions.mean(1), truth)
    assert found["psnr_of_mean"]["value"] == pytest.approx(mean.mean().item())
    assert found["psnr_of_mean"]["value"] > found["psnr"]["value"]
    assert found["coverage_of_half"]["nominal"] == 0.5
    assert found["coverage_of_range"]["nominal"] == pytest.approx(3 / 5)
    level = coverage(*((v * 255).round() for v in (truth, completions)), 3 / 5)
    assert found["coverage_of_range"]["value"] == pytest.approx(level.mean().item())
    coarse = restoration_figures(truth, completions, levels=5)
    share = coverage(*((v * 4).round() for v in (truth, completions)), 0.5)
    assert coarse["coverage_of_half"]["value"] == pytest.approx(share.mean().item())
    assert set(restoration_figures(truth, completions[:, :1])) == {"psnr", "ssim"}
    assert "coverage_of_half" not in restoration_figures(truth, completions[:, :2])
    same = restoration_figures(truth, truth[:, None].expand(n, k, 3, 8, 8))
    assert same["psnr"]["value"] == pytest.approx(LARGEST_PSNR)
    assert set(same) == {"psnr", "ssim", "psnr_of_mean", "ssim_of_mean"}


def test_what_cannot_be_scored_is_refused():
    truth = images(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and truth of \(1, 1, 4, 4\)"):
        psnr(truth, truth[:1])
    with pytest.raises(ValueError, match=r"in \[0, 1\], as floats"):
        psnr((truth * 255).to(torch.uint8), truth)
    with pytest.raises(ValueError, match="three a side"):
        ssim(truth[..., :2], truth[..., :2])
    with pytest.raises(ValueError, match=r"give \(B, k, C, H, W\)"):
        restoration_figures(truth, truth)
    with pytest.raises(ValueError, match="level=1"):
        coverage(truth, F.pad(truth[:, None], (0,) * 6), 1.0)
