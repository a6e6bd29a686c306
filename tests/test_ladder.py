"""The ladder of examples/ladder: its checks tell answers apart, and its notebooks run."""

import importlib
import math
import sys

import pytest
import torch
from conftest import ROOT
from executed import assert_stored_whole, execute, pictures_of

nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")
pytest.importorskip("IPython", reason="pip install -r requirements-dev.txt")

LADDER = ROOT / "examples" / "ladder"
NOTEBOOKS = sorted(LADDER.glob("*.ipynb"))

sys.path.append(str(LADDER))
checks = importlib.import_module("checks")

UNANSWERED = "Not answered yet"


SOME = "for some of the numbers tried"

# For each check the right answer, and typical mistakes with a word of what is said of each.
ANSWERS = {
    "check_stationary_variance": [
        lambda e: 2 / (2 - e),
        (lambda e: 1.0, "infinitely short"),
        (lambda e: 1 + e / 2, "series"),
        (lambda e: 2 * e, "one step adds"),
        (lambda e: 1 / (1 - 0.6 / 2), SOME),
    ],
    "check_largest_step": [
        lambda s: 2 * s * s,
        (lambda s: s * s, "forgets"),
        (lambda s: 2 * s, "squared"),
        (lambda s: 2 * 0.4**2, SOME),
    ],
    "check_dsm_target": [
        lambda x, noisy, sigma: -(noisy - x) / sigma**2,
        (lambda x, noisy, sigma: (noisy - x) / sigma**2, "away"),
        (lambda x, noisy, sigma: (x - noisy) / sigma, "noise"),
    ],
    "check_denoised": [
        lambda noisy, score, sigma: noisy + sigma**2 * score,
        (lambda noisy, score, sigma: noisy - sigma**2 * score, "sign"),
        (lambda noisy, score, sigma: sigma**2 * score, "add x̃"),
    ],
    "check_weighting": [
        lambda sigma: (3 * sigma**2, 3.0),
        (lambda sigma: (sigma, 1.0), "leaves 1/σ"),
        (lambda sigma: (sigma**-2, 1.0), "even more"),
        (lambda sigma: (sigma**2, sigma**2), "no σ in it"),
        (lambda sigma: (sigma**2, 0.5), "½"),
        (lambda sigma: (3 * sigma**2, 1.0), "what is left"),
        (lambda sigma: sigma**2, "2 values"),
    ],
    "check_langevin_steps": [
        lambda L, steps, e, s, last: (L * steps, e * (s / last) ** 2),
        (lambda L, steps, e, s, last: (L * steps, e * s / last), "squared"),
        (lambda L, steps, e, s, last: (steps, e), "in all"),
        (lambda L, steps, e, s, last: (1000, e * (s / last) ** 2), SOME),
        (lambda L, steps, e, s, last: (L * steps, e), "step of its own"),
    ],
    "check_farthest_pair": [
        lambda images: torch.cdist(images, images).max(),
        (lambda images: 2 * (images - images.mean(0)).norm(dim=1).max(), "no pair need"),
        (lambda images: (images[:, None] - images).abs().max(), "one pixel"),
        (lambda images: images.norm(dim=1).max(), "origin"),
        (lambda images: (images - images[0]).norm(dim=1).max(), "first image"),
        (lambda images: images.diff(dim=0).norm(dim=1).max(), "neighbours"),
        (lambda images: torch.cdist(images, images, p=1).max(), "squares"),
        (lambda images: 5.0, SOME),
    ],
    "check_number_of_levels": [
        lambda first, last, gamma: round(1 + math.log(first / last, gamma)),
        (lambda first, last, gamma: round(math.log(first / last, gamma)), "fence"),
        (lambda first, last, gamma: 1 + math.log(first / last, gamma), "round it"),
        (lambda first, last, gamma: 1 + math.ceil(math.log(first / last, gamma)), "rounded up"),
        (lambda first, last, gamma: int(1 + math.log(first / last, gamma)), "rounded down"),
    ],
    "check_posterior_variance": [
        lambda beta, before, now: 1 / ((1 - beta) / beta + 1 / (1 - before)),
        (lambda beta, before, now: beta, "forwards"),
        (lambda beta, before, now: (1 - beta) / beta + 1 / (1 - before), "precision"),
    ],
    "check_elbo_weight": [
        lambda beta, before, now: beta / (2 * (1 - beta) * (1 - before)),
        (lambda beta, before, now: beta / (2 * (1 - beta) * (1 - now)), "β̃_t"),
        (lambda beta, before, now: 1.0, "L_simple"),
    ],
    "check_drift_and_diffusion": [
        lambda t: (-1 / (1 - t), 2 * t + 2 * t**2 / (1 - t)),
        (lambda t: (-1 / (1 - t), 2 * t), "alone"),
        (lambda t: (-1.0, 2 * t / (1 - t)), "not α'"),
        (lambda t: (1 / (1 - t), 2 * t / (1 - t)), "negative"),
    ],
    "check_reverse_drifts": [
        lambda f, g, s: (f - g**2 * s, f - 0.5 * g**2 * s),
        (lambda f, g, s: (f + g**2 * s, f + 0.5 * g**2 * s), "uphill"),
        (lambda f, g, s: (f - 0.5 * g**2 * s, f - g**2 * s), "exchanged"),
    ],
    "check_reverse_diffusion": [
        lambda x, s, a, b, z: x + (a**2 - b**2) * s + (a**2 - b**2) ** 0.5 * z,
        (lambda x, s, a, b, z: x - (a**2 - b**2) * s + (a**2 - b**2) ** 0.5 * z, "away"),
        (lambda x, s, a, b, z: x + (a**2 - b**2) * s, "missing"),
        (lambda x, s, a, b, z: x + (a**2 - b**2) * s + (b**2 - a**2) ** 0.5 * z, "root of a neg"),
        (lambda x, s, a, b, z: x + 2.56 * s + 1.6 * z, SOME),
    ],
    "check_bits_per_dim": [
        lambda logp, D, L: -logp / (D * math.log(2)) - math.log2(2 / L),
        (lambda logp, D, L: -logp / (D * math.log(2)), "grey level"),
        (lambda logp, D, L: -logp / (D * math.log(2)) + math.log2(L), "not 1/L"),
        (lambda logp, D, L: -logp / (D * math.log(2)) + 7, SOME),
        (lambda logp, D, L: -logp / (D * math.log(2)) + math.log(L / 2), "only log p"),
    ],
    "check_scaled_density": [
        lambda log_normal, a, D: log_normal + D * math.log(a),
        (lambda log_normal, a, D: log_normal - D * math.log(a), "sign"),
        (lambda log_normal, a, D: log_normal + math.log(a), "every one"),
    ],
    "check_order": [
        lambda error, twice: math.log2(error / twice),
        (lambda error, twice: math.log(error / twice), "natural"),
        (lambda error, twice: error / twice, "base 2"),
        (lambda error, twice: round(math.log2(error / twice)), "unrounded"),
    ],
    "check_heun": [
        lambda y, a, b, n: y + (b - a) * (n(y, a) + n(y + (b - a) * n(y, a), b)) / 2,
        (lambda y, a, b, n: y + (b - a) * n(y, a), "DDIM"),
        (lambda y, a, b, n: y + (b - a) * (n(y, a) + n(y, b)) / 2, "not at y"),
        (lambda y, a, b, n: y + (b - a) * (n(y, a) + n(y + (b - a) * n(y, a), b)), "added"),
    ],
    "check_guided_score": [
        lambda own, other, w: (1 - w) * other + w * own,
        (lambda own, other, w: own + w * (own - other), "less by 1"),
        (lambda own, other, w: other - w * (own - other), "away"),
    ],
    "check_posterior": [
        lambda y, m, s, r: ((m * r**2 + y * s**2) / (s**2 + r**2), s**2 * r**2 / (s**2 + r**2)),
        (lambda y, m, s, r: ((m * r**2 + y * s**2) / (s**2 + r**2), s**2 + r**2), "inverses"),
        (lambda y, m, s, r: ((m + y) / 2, s**2 * r**2 / (s**2 + r**2)), "half-way"),
        (lambda y, m, s, r: ((m * r**2 + y * s**2) / (s**2 + r**2), s**-2 + r**-2), "precision"),
        (lambda y, m, s, r: (m * r**2 + y * s**2) / (s**2 + r**2), "2 values"),
    ],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_check_knows_the_right_answer_and_typical_mistakes(name):
    check, (right, *mistakes) = getattr(checks, name), ANSWERS[name]
    assert check(right).startswith("Right: ")
    for wrong, word in mistakes:
        said = check(wrong)
        assert said.startswith("Not yet: ")
        assert word in said
    assert check(lambda *given: ...).startswith(UNANSWERED)
    assert check(lambda *given: torch.zeros(2, 3, 4)).startswith("Not yet: ")


def test_evaluations_are_counted_with_their_budget():
    def counted(steps, corrections):
        return steps * (1 + corrections)

    def afforded(budget, corrections):
        return budget // (1 + corrections)

    check = checks.check_evaluations
    assert check(counted, afforded).startswith("Right: ")
    assert "evaluation too" in check(lambda steps, corrections: steps * corrections, afforded)
    assert "not once" in check(lambda steps, corrections: steps + corrections, afforded)
    assert "costs two" in check(counted, lambda budget, corrections: budget)
    assert "not at all" in check(counted, lambda budget, corrections: budget / (1 + corrections))
    for rounded, word in ((math.ceil, "rounded up"), (round, "to the nearest")):
        said = check(counted, lambda budget, c, rounded=rounded: rounded(budget / (1 + c)))
        assert said.startswith("Not yet: ")
        assert word in said
    assert check(counted, lambda budget, corrections: ...).startswith(UNANSWERED)
    assert check(lambda *given: ..., lambda *given: ...).startswith(UNANSWERED)


def test_every_exercise_has_a_check_and_is_left_to_the_reader():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{k:02d}" for k in range(1, 11)]
    used = []
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        asked = [cell for cell in notebook.cells if "print(check_" in cell.source]
        assert asked, path.name
        for cell in asked:
            used += [name for name in checks.__all__ if f"print({name}(" in cell.source]
            assert cell.outputs[0].text.startswith(UNANSWERED)
    assert sorted(used) == sorted(checks.__all__) == sorted([*ANSWERS, "check_evaluations"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_comes_from_one_whole_run(path):
    text = path.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert_stored_whole(notebook)
    assert sum(pictures_of(cell) for cell in notebook.cells) >= 4
    assert str(ROOT) not in text
    assert len(text) < 700_000


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    shown = [pictures_of(cell) for cell in notebook.cells]
    execute(notebook, LADDER)
    assert [pictures_of(cell) for cell in notebook.cells] == shown
