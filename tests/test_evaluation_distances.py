"""Distances between features: closed forms, brute force, and torch-fidelity's own numbers."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from score_sde import noise
from score_sde.evaluation import (
    bootstrap,
    collect,
    distances,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)

D = 30


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(seed: int, d: int = D) -> torch.Tensor:
    return torch.cov(normal(d, 3 * d, seed=seed))


def statistics_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(0), torch.cov(x.T)


def test_frechet_distance_of_gaussians_with_commuting_covariances_is_the_closed_form():
    axes = torch.linalg.qr(normal(D, D)).Q
    a, b = normal(D, seed=1).square(), normal(D, seed=2).square()
    mu_1, mu_2 = normal(D, seed=3), normal(D, seed=4)
    expected = (mu_1 - mu_2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    for q in (torch.eye(D, dtype=torch.float64), axes):
        found = frechet_distance(mu_1, q @ a.diag() @ q.T, mu_2, q @ b.diag() @ q.T)
        assert found == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_distance_in_the_plane_is_the_closed_form_of_two_by_two_roots():
    a, b = covariance(1, 2), covariance(2, 2)
    assert (a @ b - b @ a).abs().max() > 0.1
    product = a @ b  # tr √M = √(tr M + 2 √det M) for 2 x 2
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    zero = torch.zeros(2)
    found = frechet_distance(zero, a, zero, b)
    assert found == pytest.approx((a.trace() + b.trace() - 2 * root).item(), rel=1e-12)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    a, b, mu_1, mu_2 = covariance(1), covariance(2), normal(D, seed=3), normal(D, seed=4)
    root = np.real(np.trace(scipy.linalg.sqrtm((a @ b).numpy())))
    expected = ((mu_1 - mu_2).square().sum() + a.trace() + b.trace()).item() - 2 * root
    assert frechet_distance(mu_1, a, mu_2, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(mu_2, b, mu_1, a) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_covariances_of_rank_one_is_the_closed_form():
    a, b = normal(D, seed=1), normal(D, seed=2)
    expected = a.square().sum() + b.square().sum() - 2 * (a @ b).abs()
    zero = torch.zeros(D)
    found = frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b))
    assert found == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_frechet_distance_of_equal_sets_is_zero_below_as_above_the_number_of_dimensions(n):
    mu, sigma = statistics_of(normal(n, D))
    assert abs(frechet_distance(mu, sigma, mu, sigma)) < 1e-12 * sigma.trace()


def test_frechet_distance_refuses_statistics_that_do_not_fit():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="one feature network"):
        frechet_distance(torch.zeros(3), eye, torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(torch.zeros(3), eye * torch.nan, torch.zeros(3), eye)


def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
    return (((x @ y).item() / len(x)) + 1) ** 3


def of_whole_sets(real: torch.Tensor, fake: torch.Tensor) -> float:
    return kernel_distance(real, fake, subsets=1, subset_size=len(real)).mean


def test_the_kernel_distance_of_whole_sets_is_its_double_sum(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_ROWS", 4)  # several blocks, the last one partial
    real, fake = normal(9, 5), normal(9, 5, seed=1) + 0.5
    within = sum(
        np.mean([kernel(a, b) for a, b in itertools.permutations(x, 2)]) for x in (real, fake)
    )
    across = np.mean([kernel(a, b) for a in real for b in fake])
    assert of_whole_sets(real, fake) == pytest.approx(within - 2 * across, rel=1e-12)


def test_the_kernel_distance_is_unbiased_exactly():
    # Every pair of draws from two distributions of three points each, with equal weight.
    p, q = normal(3, 2), normal(3, 2, seed=1)
    draws = list(itertools.product(range(3), repeat=2))
    found = [of_whole_sets(p[list(i)], q[list(j)]) for i in draws for j in draws]
    mean = [np.mean([kernel(a, b) for a in x for b in y]) for x, y in ((p, p), (q, q), (p, q))]
    assert np.mean(found) == pytest.approx(mean[0] + mean[1] - 2 * mean[2], rel=1e-12)


def test_subsets_of_the_kernel_distance_follow_the_seed():
    real, fake = normal(60, 5), normal(50, 5, seed=1)
    first, again, other = (
        kernel_distance(real, fake, subsets=5, subset_size=20, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(("n", "subset_size"), [(300, 100), (2000, 40)])
def test_the_error_of_a_kernel_distance_is_its_spread_over_fresh_sets(n, subset_size):
    generator = torch.Generator().manual_seed(0)

    def fresh(seed):
        real = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        fake = torch.randn(n, 4, generator=generator, dtype=torch.float64) * 0.8 + 0.5
        return kernel_distance(real, fake, subsets=50, subset_size=subset_size, seed=seed)

    found = [fresh(seed) for seed in range(150)]
    spread = torch.tensor([each.mean for each in found]).std().item()
    told = torch.tensor([each.error for each in found]).mean().item()
    # A standard deviation of 150 is known to 6 %.
    assert told == pytest.approx(spread, rel=0.15)
    assert math.isnan(kernel_distance(torch.eye(6), torch.eye(6), subset_size=6).error)


def test_a_kernel_distance_of_too_few_images_is_refused():
    with pytest.raises(
        ValueError, match=r"subsets of 1000 .* 40 real and 30 generated .* 2 to 30"
    ):
        kernel_distance(normal(40, 5), normal(30, 5))
    with pytest.raises(ValueError, match="one feature network"):
        kernel_distance(normal(40, 5), normal(40, 6))


def test_the_inception_score_counts_classes_told_apart_with_certainty():
    certain = torch.eye(5).log().repeat(20, 1)  # logits of −∞ too
    assert inception_score(certain, splits=1).mean == pytest.approx(5, rel=1e-12)
    assert inception_score(certain, splits=4, seed=None).std == pytest.approx(0, abs=1e-12)
    assert inception_score(torch.zeros(20, 5), splits=4).mean == pytest.approx(1, rel=1e-12)


def test_the_inception_score_of_two_answers_is_the_closed_form():
    p = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    q = p.mean(0)
    expected = (p * (p / q).log()).sum(1).mean().exp().item()
    found = inception_score(p.log().repeat(3, 1), splits=3, seed=None)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="at most N splits"):
        inception_score(p.log(), splits=3)


def test_precision_and_recall_of_points_on_a_line_by_hand():
    # First neighbours: balls of real reach 1, 1, 2 and 4 far; those of fake 0.5, 0.5 and 6.
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    fake = torch.tensor([[5.5], [6.0], [12.0]])
    found = precision_recall(real, fake, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 5.5 and 6 by the ball of 7
    assert found.recall == pytest.approx(1 / 4)  # 7 by the ball of 12, whose reach is 6
    swapped = precision_recall(fake, real, k=1)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_equal_sets_have_full_precision_and_recall_even_of_copies():
    different = normal(50, 61)
    real, fake = (different.repeat(times, 1) + 1000 for times in (6, 5))  # every radius is 0
    assert precision_recall(real, fake.flip(0)) == distances.PrecisionRecall(1.0, 1.0)


def test_precision_is_of_what_is_generated_and_recall_of_what_is_real():
    wide, narrow = normal(400, 2) * 10, normal(400, 2, seed=1)
    found = precision_recall(wide, narrow)
    assert found.precision > 0.95
    assert found.recall < 0.1


def test_precision_and_recall_do_not_depend_on_blocks(monkeypatch):
    real, fake = normal(90, 5), normal(70, 5, seed=1) * 1.2
    whole = precision_recall(real, fake)
    assert 0 < whole.precision < 1
    monkeypatch.setattr(distances, "_BLOCK_ROWS", 32)
    assert precision_recall(real, fake) == whole
    with pytest.raises(ValueError, match="neighbour 70 of 90 real and 70 generated"):
        precision_recall(real, fake, k=70)


def test_the_bootstrap_tells_the_spread_over_fresh_samples():
    mu, sigma = torch.zeros(3), torch.eye(3)

    def fresh(seed: int) -> torch.Tensor:
        return normal(300, 3, seed=seed) + 0.5

    values = [frechet_distance(mu, sigma, *statistics_of(fresh(seed))) for seed in range(400)]
    told = [bootstrap(fresh(seed), mu, sigma, resamples=40, seed=seed) for seed in range(15)]
    assert told[0].value == pytest.approx(values[0], rel=1e-10)
    assert np.mean([one.std for one in told]) == pytest.approx(np.std(values), rel=0.1)


def test_the_bootstrap_tells_the_bias_of_few_samples():
    # To first order D / n from the mean and D (D + 1) / 4n from the covariance.
    d, n = 6, 500
    mu, sigma = torch.zeros(d), torch.eye(d)
    expected = d / n + d * (d + 1) / (4 * n)
    told = [bootstrap(normal(n, d, seed=s), mu, sigma, resamples=30, seed=s) for s in range(12)]
    assert np.mean([one.bias for one in told]) == pytest.approx(expected, rel=0.1)
    # From Gaussians that agree, all of the value is bias.
    values = [
        frechet_distance(mu, sigma, *statistics_of(normal(n, d, seed=s))) for s in range(500)
    ]
    assert np.mean(values) == pytest.approx(expected, rel=0.05)


def test_the_bootstrap_of_fewer_samples_than_dimensions_is_that_of_their_covariances():
    fake, mu, sigma = normal(7, D) + 0.5, normal(D, seed=1), covariance(2)
    found = bootstrap(fake, mu, sigma, resamples=6, seed=3)
    assert found.value == pytest.approx(
        frechet_distance(mu, sigma, *statistics_of(fake)), rel=1e-12
    )
    again = []
    for draw in range(6):
        u = noise.uniform(
            3, torch.arange(7), draw, (1,), stream=noise.Stream.ORDER, dtype=torch.float64
        )
        rows = fake[(u.flatten() * 7).long()]
        again.append(frechet_distance(mu, sigma, *statistics_of(rows)))
    assert found.std == pytest.approx(np.std(again, ddof=1), rel=1e-9)
    assert found.bias == pytest.approx(np.mean(again) - found.value, rel=1e-9)


def test_the_bootstrap_follows_its_seed():
    mu, sigma = torch.zeros(3), torch.eye(3)
    first, again, other = (bootstrap(normal(50, 3), mu, sigma, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    assert first.std != other.std
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(normal(50, 3), mu, sigma, resamples=1)


class TinyFeatures:
    """A random projection of 4x4 patches, shared by torch-fidelity's extractor and ours."""

    name, label, fingerprint, dimensions = "tiny", "tiny", "0", 24

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.patches = torch.randn(24, 3, 4, 4, generator=generator)
        self.head = torch.randn(24, 7, generator=generator)

    def __call__(self, images):
        x = torch.nn.functional.conv2d(images.float() / 255, self.patches, stride=4)
        features = x.relu().mean((2, 3))
        return features, features @ self.head


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of PNG files, and what they hold: uint8 (N, 3, 12, 12)."""
    made = []
    for seed, (n, brightness) in enumerate(((130, 255), (120, 215))):
        folder = tmp_path_factory.mktemp(f"images_{seed}")
        pixels = np.random.default_rng(seed).random((n, 12, 12, 3)) ** 2 * brightness
        pixels = (pixels * np.linspace(0.5, 1, n)[:, None, None, None]).astype(np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{i:06d}.png")
        made.append((folder, torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    return made


def test_two_folders_of_pictures_score_as_torch_fidelity_says(folders):
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    network = TinyFeatures()

    class Extractor(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("features", "logits")

        def forward(self, images):
            made = dict(zip(("features", "logits"), network(images), strict=True))
            return tuple(made[name] for name in self.features_list)

    torch_fidelity.register_feature_extractor("score-sde-tiny", Extractor)
    (fake_folder, fake_images), (real_folder, real_images) = folders
    theirs = torch_fidelity.calculate_metrics(
        input1=str(fake_folder),
        input2=str(real_folder),
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        feature_extractor="score-sde-tiny",
        **{f"feature_layer_{metric}": "features" for metric in ("fid", "kid", "prc")},
        feature_layer_isc="logits",
        kid_subsets=20,
        kid_subset_size=50,
        isc_splits=5,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    real, fake = (collect(network, images.split(32)) for images in (real_images, fake_images))
    frechet = frechet_distance(
        real.moments.mu, real.moments.sigma, fake.moments.mu, fake.moments.sigma
    )
    # torch-fidelity keeps means, kernels and distances in float32.
    assert theirs["frechet_inception_distance"] == pytest.approx(frechet, rel=1e-5)
    kid = kernel_distance(real.features, fake.features, subsets=20, subset_size=50)
    assert theirs["kernel_inception_distance_mean"] == pytest.approx(kid.mean, rel=1e-4)
    assert theirs["kernel_inception_distance_std"] == pytest.approx(kid.std, rel=1e-3)
    score = inception_score(fake.logits, splits=5)
    assert theirs["inception_score_mean"] == pytest.approx(score.mean, rel=1e-6)
    assert theirs["inception_score_std"] == pytest.approx(score.std, rel=1e-4)
    found = precision_recall(real.features, fake.features)
    assert 0 < found.precision != found.recall < 1
    assert theirs["precision"] == pytest.approx(found.precision, rel=1e-6)
    assert theirs["recall"] == pytest.approx(found.recall, rel=1e-6)
