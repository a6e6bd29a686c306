"""Thresholding of denoised images: what it leaves alone, and its formulas."""

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian

from configs.vp import digits
from score_sde.config.build import build_sde, draw
from score_sde.noise import normal
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import denoised_from_score
from score_sde.tensor_ops import UnknownName


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("name", SDES)
def test_denoised_images_within_the_range_leave_the_score_as_it_is(name, kind, centered):
    sde = SDES[name]()
    score = Gaussian(sde, 0.5, 0.01).score
    x, t = normal(0, torch.arange(4), 0, (1, 3, 3)), torch.tensor([1e-3, 0.1, 0.4, 0.6])
    x = sde.mean_scale(t)[:, None, None, None] * 0.5 + 0.01 * x  # near the data's mean
    thresholded = ThresholdedScore(score, sde, kind, centered)
    assert_close(thresholded(x, t), score(x, t), 1e-6)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("name", SDES)
def test_the_denoised_image_is_clipped_as_the_formulas_say(name, centered):
    sde = SDES[name]()
    D = 3 * normal(0, torch.arange(3), 0, (2, 10, 10), dtype=torch.float64)
    D[2] /= 100  # within the range
    t = torch.tensor([0.2, 0.5, 0.5], dtype=torch.float64)
    x = normal(0, torch.arange(3), 1, (2, 10, 10), dtype=torch.float64)
    alpha, sigma = (v(t)[:, None, None, None] for v in (sde.mean_scale, sde.std))
    low, high = (-1, 1) if centered else (0, 1)
    if not centered:
        D = (D + 1) / 2

    def denoised(kind):
        score = ThresholdedScore(lambda x, t: (alpha * D - x) / sigma**2, sde, kind, centered)
        return denoised_from_score(sde, x, score(x, t), t)

    assert_close(denoised("static"), D.clamp(low, high), 1e-9)
    unit = D if centered else 2 * D - 1
    s = unit.abs().flatten(1).quantile(0.995, dim=1).clamp_min(1)[:, None, None, None]
    assert s[0] > 2
    assert s[2] == 1
    expected = torch.minimum(torch.maximum(unit, -s), s) / s
    assert_close(denoised("dynamic"), expected if centered else (expected + 1) / 2, 1e-9)


@pytest.mark.parametrize("method", ["pc", "ode", "ddim", "heun", "unipc", "deis"])
def test_samples_of_every_method_are_kept_to_the_range(method):
    config = digits.get_config()
    config.sampling.method, config.sampling.num_steps = method, 8
    config.sampling.corrector = "none"
    sde = build_sde(config)

    def network(x, cond):  # the noise of data far outside
        t = cond / 999
        alpha, sigma = (v(t)[:, None, None, None] for v in (sde.mean_scale, sde.std))
        return (x - alpha * 5) / sigma

    def largest(threshold):
        config.sampling.threshold = threshold
        drawn = draw(config, network, sde, torch.arange(2), torch.device("cpu"))
        return torch.cat([part.x for part in drawn]).max().item()

    assert largest("none") == pytest.approx(5, abs=0.1)
    # The last step of pc leaves its own noise.
    assert largest("static") == pytest.approx(1, abs=0.1 if method == "pc" else 1e-3)


def test_another_kind_is_refused_by_name():
    with pytest.raises(UnknownName, match=r"threshold='soft': it must be one of static, dynamic"):
        ThresholdedScore(lambda x, t: x, SDES["vp"](), "soft", True)
