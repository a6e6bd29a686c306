"""`--mode tune`: the paper's values, exact distances, and overrides that work when pasted."""

import json
import math

import pytest
import torch
from conftest import ROOT
from PIL import Image
from scipy.stats import chi
from test_train_command import final, sentence, train

from configs.ve.ncsnv2 import bedroom, celeba, cifar10
from score_sde.commands import cli
from score_sde.config.build import build_sampler, build_sde, build_sources
from score_sde.config.check import check_config
from score_sde.data import DatasetInfo, MemorySource, StreamingSource, distances
from score_sde.data.distances import largest_distance
from score_sde.sde import VESDE
from score_sde.solvers.correctors import AnnealedLangevinDynamics
from score_sde.solvers.noise_levels import (
    count_levels,
    level_ratio,
    ratio_of,
    shell_overlap,
    snr_of_step,
    step_size,
    variance_kept,
)

# Song & Ermon 2020: σ_max, D, levels, T, ε, and the levels that an overlap of 0.5 itself gives.
PUBLISHED = {
    "cifar10": (50.0, 3 * 32 * 32, 232, 5, "6.2e-06", 219),
    "celeba": (90.0, 3 * 64 * 64, 500, 5, "3.3e-06", 472),
    "bedroom": (190.0, 3 * 128 * 128, 1086, 3, "1.8e-06", 1026),
}
RECIPES = {"cifar10": cifar10, "celeba": celeba, "bedroom": bedroom}
published = pytest.mark.parametrize("name", PUBLISHED)


@published
def test_the_numbers_of_levels_are_the_papers(name):
    sigma_max, dimensions, levels, *_ = PUBLISHED[name]
    assert count_levels(0.01, sigma_max, dimensions) == levels


@published
def test_the_papers_levels_overlap_by_more_than_the_half_that_it_rounds_to(name):
    sigma_max, dimensions, levels, _, _, of_a_half = PUBLISHED[name]
    overlap = shell_overlap(ratio_of(0.01, sigma_max, levels), dimensions)
    assert 0.5664 < overlap < 0.5670
    assert count_levels(0.01, sigma_max, dimensions, overlap=0.5) == of_a_half


@published
def test_the_langevin_steps_are_the_papers_to_the_two_digits_it_prints(name):
    sigma_max, _, levels, n_steps, epsilon, _ = PUBLISHED[name]
    found = step_size(0.01, ratio_of(0.01, sigma_max, levels), n_steps)
    assert f"{found:.1e}" == epsilon


@published
def test_the_recipes_of_ncsnv2_hold_the_papers_values(name):
    sigma_max, _, levels, n_steps, epsilon, _ = PUBLISHED[name]
    model, sampling = RECIPES[name].get_config().model, RECIPES[name].get_config().sampling
    assert (model.sigma_min, model.sigma_max, model.num_scales) == (0.01, sigma_max, levels)
    assert sampling.n_steps_each == n_steps
    assert sampling.snr == round(snr_of_step(float(epsilon), 0.01), 3)


@pytest.mark.parametrize("dimensions", [64, 784, 3072])
def test_the_overlap_is_the_share_of_a_gaussian_in_the_next_shell(dimensions):
    gamma = level_ratio(dimensions)
    middle, half = gamma * math.sqrt(dimensions), 3 * gamma / math.sqrt(2)
    share = chi.cdf(middle + half, dimensions) - chi.cdf(middle - half, dimensions)
    assert shell_overlap(gamma, dimensions) == pytest.approx(0.5665, abs=1e-9)
    assert shell_overlap(gamma, dimensions) == pytest.approx(share, abs=0.3 / dimensions**0.5)


def test_the_variance_kept_is_that_of_the_correctors_own_steps():
    n_steps, sigma_min, sigma_max, levels = 5, 0.01, 50.0, 232
    gamma = ratio_of(sigma_min, sigma_max, levels)
    epsilon = step_size(sigma_min, gamma, n_steps)
    sde = VESDE(sigma_min, sigma_max, levels)
    corrector = AnnealedLangevinDynamics(sde, snr_of_step(epsilon, sigma_min))
    t = torch.tensor([0.6, 0.6], dtype=torch.float64)
    sigma = sde.std(t)[0].item()

    def score(x, t):  # of data that are one point, the origin
        return -x / sde.std(t)[:, None] ** 2

    # The step is a x + c z: a from (x, z) = (1, 0), c from (0, 1).
    x, z = torch.eye(2, dtype=torch.float64)[:, :, None].unbind(1)
    (a,), (c,) = corrector.step(x, t, None, score, lambda _: z)[0]
    variance = (gamma * sigma) ** 2
    for _ in range(n_steps):
        variance = (a**2 * variance + c**2).item()
    kept = variance_kept(epsilon / sigma_min**2, gamma, n_steps)
    assert variance / sigma**2 == pytest.approx(kept, rel=1e-9)


@pytest.mark.parametrize("snr_from", [(0.01, 50.0, 232), (0.05, 6.0, 20)])
def test_the_corrector_steps_by_epsilon_in_units_of_each_level(snr_from):
    sigma_min, sigma_max, levels = snr_from
    epsilon = step_size(sigma_min, ratio_of(sigma_min, sigma_max, levels), 3)
    sde = VESDE(sigma_min, sigma_max, levels)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    corrector = AnnealedLangevinDynamics(sde, snr_of_step(epsilon, sigma_min))
    _, x_mean = corrector.step(
        torch.zeros(7, 1).double(), t, None, lambda x, t: x + 1, torch.zeros
    )
    assert torch.allclose(x_mean[:, 0], epsilon * (sde.std(t) / sigma_min) ** 2, rtol=1e-9)


@pytest.mark.parametrize("n_steps", [1, 5, 100])
@pytest.mark.parametrize("gamma", [1.01, 1.3, 2.0, 10.0])
def test_no_other_step_keeps_the_variance_better(gamma, n_steps):
    best = variance_kept(step_size(1.0, gamma, n_steps), gamma, n_steps)
    grid = torch.linspace(1e-5, 1, 20001, dtype=torch.float64).tolist()
    assert 1 < best <= min(variance_kept(eta, gamma, n_steps) for eta in grid) + 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_levels(1.0, 0.5, 100), "0 < sigma_min < sigma_max"),
        (lambda: level_ratio(4), "at least 5"),
    ],
)
def test_levels_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def source(images, levels=256):
    info = DatasetInfo(
        "set", "train", len(images), tuple(images.shape[1:]), levels, 0, (), "none", "none"
    )
    return MemorySource(info, images)


def random_images(n, shape=(3, 4, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def farthest(images, levels=256):
    flat = images.flatten(1).double() / (levels - 1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").max().item()


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("n", [2, 300])
def test_the_largest_distance_is_that_of_all_pairs(n, block, monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_IMAGES", block)
    images = random_images(n)
    found = largest_distance(source(images), 0)
    assert found.exact
    assert found.distance == pytest.approx(farthest(images), rel=1e-14)


def test_no_pair_is_left_out_that_could_be_the_farthest(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_IMAGES", 1)
    for seed in range(100):  # in two dimensions nearly opposite images compete
        images = random_images(25, (1, 1, 2), seed)
        found = largest_distance(source(images), 0)
        assert found.distance == pytest.approx(farthest(images), rel=1e-14)


def test_opposite_images_are_found_behind_outer_ones_that_are_not_opposite(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_IMAGES", 1)
    images = torch.full((22, 1, 1, 21), 128, dtype=torch.uint8)
    for k in range(20):
        images[k, 0, 0, k] = 228  # radius about 100, √2 · 100 apart
    images[20, 0, 0, 20], images[21, 0, 0, 20] = 38, 218
    assert largest_distance(source(images), 0).distance == pytest.approx(180 / 255, rel=1e-14)


def test_a_pixels_range_is_the_sets_own():
    images = random_images(50) % 17
    found = largest_distance(source(images, levels=17), 0)
    assert found.distance == pytest.approx(farthest(images, levels=17), rel=1e-14)


def test_a_planted_pair_is_found_and_most_pairs_are_left_out(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_IMAGES", 50)
    compared, whole = [], distances._largest_between
    monkeypatch.setattr(
        distances,
        "_largest_between",
        lambda a, b, low: (compared.append(len(a) * len(b)), whole(a, b, low))[1],
    )
    images = random_images(3000) // 4 + 96
    images[17], images[2718] = 0, 255
    found = largest_distance(source(images), 0)
    assert found.exact
    assert found.distance == pytest.approx(math.sqrt(48), rel=1e-14)
    assert sum(compared) < 3000**2 / 100


def test_one_image_and_equal_images_are_no_distance_apart():
    assert largest_distance(source(random_images(1)), 0).distance == 0
    assert largest_distance(source(random_images(1).expand(9, -1, -1, -1)), 0).distance == 0


def test_a_streamed_set_gives_the_same():
    images = random_images(40)
    streamed = StreamingSource(source(images).info, images.__getitem__, num_workers=0)
    assert largest_distance(streamed, 0) == largest_distance(source(images), 0)


def test_of_a_large_set_a_sample_by_the_seed_is_looked_at_and_said_to_be_one():
    images = random_images(200)
    found = [largest_distance(source(images), seed, most_images=100) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert not found[0].exact
    assert found[0].num_images == 100
    assert found[0].distance <= farthest(images)
    reordered = images[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert largest_distance(source(reordered), 0).distance == pytest.approx(farthest(images))


def test_a_search_cut_short_bounds_what_it_did_not_see(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_IMAGES", 10)
    images = random_images(300)  # of white noise no pair can be left out
    found = largest_distance(source(images), 0, most_products=10 * 10 * 48)
    assert not found.exact
    assert found.distance < farthest(images) < found.at_most


def tune(tmp_path, capsys, recipe, *words):
    """What the command prints, and what it writes."""
    command = ["main.py", f"--config={recipe}", "--mode=tune", f"--workdir={tmp_path}", *words]
    assert cli.main(command) == 0
    return capsys.readouterr().out, json.loads((tmp_path / "tune.json").read_text())


def pasted(recipe, printed, *words):
    """The config of a command with the printed overrides."""
    overrides = [word for word in printed.split() if word.startswith("--config.")]
    return cli.parse(["main.py", f"--config={recipe}", "--mode=train", *words, *overrides])


def test_the_overrides_for_the_digits_work_when_pasted(tmp_path, capsys):
    recipe = "configs/ve/digits.py"
    printed, written = tune(tmp_path, capsys, recipe)
    images = build_sources(cli.parse(["main.py", f"--config={recipe}", "--mode=train"]).config)
    flat = images[0].images(torch.arange(len(images[0]))).flatten(1).double() / 16
    assert written["largest_distance"] == pytest.approx(torch.cdist(flat, flat).max().item())
    assert written["exact"]
    assert "warning" not in printed

    config = pasted(recipe, printed).config
    check_config(config)
    levels = written["levels"]
    assert 0 <= config.model.sigma_max - written["largest_distance"] < 0.01
    assert config.model.num_scales == count_levels(0.01, config.model.sigma_max, 64)
    sampler = build_sampler(config, build_sde(config))
    assert sampler.evaluations == levels["num_scales"]
    step = sampler.corrector.step_size(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1))
    assert step.item() == pytest.approx(levels["step_size"], rel=0.01)  # snr has three digits


def test_a_recipe_that_predicts_is_given_the_largest_level_apart_from_the_rest(tmp_path, capsys):
    _, written = tune(tmp_path, capsys, "configs/ve/digits.py")
    assert set(written["overrides"]) == {"model.sigma_max"}
    assert written["annealed_langevin"]["sampling.corrector"] == "ald"


@pytest.fixture
def black_and_white(tmp_path):
    """A folder whose farthest pair is the farthest that 32x32 colour images can be."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k, colour in enumerate(["black", "white", "red", "grey", "blue"] * 4):
        Image.new("RGB", (32, 32), colour).save(folder / f"{k}.png")
    (folder / "notes.txt").touch()
    return (
        "--config.data.dataset=folder",
        f"--config.data.root={folder}",
        "--config.data.test_fraction=0.0",
    )


def test_recipes_of_annealed_langevin_are_given_everything_at_once(
    tmp_path, capsys, black_and_white
):
    recipe = "configs/ve/ncsnv2/cifar10.py"
    printed, written = tune(tmp_path, capsys, recipe, *black_and_white)
    config = pasted(recipe, printed, *black_and_white).config
    check_config(config)
    assert "left out as no images: 1 file(s) (1 .txt)" in printed
    assert written["annealed_langevin"] == {}
    assert written["largest_distance"] == pytest.approx(math.sqrt(3072))
    assert (config.model.sigma_max, config.sampling.snr) == (55.5, written["levels"]["snr"])
    assert config.model.num_scales == count_levels(0.01, 55.5, 3072)


@pytest.mark.parametrize(
    ("recipe", "warned"),
    [("ve/cifar10", False), ("ve/ncsnv2/cifar10", False), ("ve/ncsn/cifar10", True)],
)
def test_only_a_sigma_max_far_below_the_largest_distance_is_warned_of(
    recipe, warned, tmp_path, capsys, black_and_white
):
    printed, written = tune(tmp_path, capsys, f"configs/{recipe}.py", *black_and_white)
    assert ("warning: config.model.sigma_max=1 is less than half" in printed) == warned
    assert bool(written["warning"]) == warned


@pytest.mark.parametrize("kind", ["vp", "subvp"])
def test_recipes_without_a_sigma_max_compare_the_end_of_their_sde(kind, tmp_path, capsys):
    printed, written = tune(tmp_path, capsys, f"configs/{kind}/digits.py")
    assert written["overrides"] == {}
    assert written["largest_distance"] == pytest.approx(2 * 4.81493, rel=1e-5)  # in [-1, 1]
    assert f"{kind}sde has no chain of noise levels" in printed
    assert "beta_max" not in printed
    # σ/α at T = 1, where ∫β is ½ (0.1 + 20).
    level = math.sqrt(math.expm1(10.05)) if kind == "vp" else 2 * math.sinh(10.05 / 2)
    assert f"{level:.4g}" in printed


def test_images_that_are_all_the_same_are_refused(tmp_path, capsys):
    for k in range(3):
        Image.new("L", (8, 8), "grey").save(tmp_path / f"{k}.png")
    said = sentence(
        capsys,
        "--mode=tune",
        f"--workdir={tmp_path / 'work'}",
        "--config.data.dataset=folder",
        f"--config.data.root={tmp_path}",
        "--config.data.test_fraction=0.0",
    )
    assert "the same" in said


def test_a_work_directory_that_cannot_be_made_is_refused_before_data_are_read(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("score_sde.commands.tune.build_sources", None)
    said = sentence(capsys, "--mode=tune", f"--workdir={tmp_path / 'file' / 'work'}")
    assert "choose another --workdir" in said


def test_tuning_leaves_a_run_in_its_work_directory_alone(tmp_path, capsys):
    tune(tmp_path, capsys, ROOT / "configs/vp/digits.py")
    assert train(tmp_path, 1, "--config.training.snapshot_sampling=false") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    tune(tmp_path, capsys, ROOT / "configs/vp/digits.py")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert train(tmp_path, 2, "--config.training.snapshot_sampling=false") == 0
    assert final(tmp_path, 2)["step"] == 2
