"""Feature networks and the statistics of what they give."""

import dataclasses
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from spoilt import SPOILT, spoil

from configs.vp import digits as digits_recipe
from score_sde.config.build import open_split
from score_sde.config.subject import build_references
from score_sde.evaluation import (
    INCEPTION_FILE,
    Classifier,
    Facts,
    Moments,
    Reference,
    collect,
    digits_classifier,
    inception,
    metric_name,
    spread_levels,
    to_uint8,
    train_classifier,
)
from score_sde.evaluation.classifier_training import accuracy, turned
from score_sde.evaluation.statistics import cache_name, check_comparable


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments_of(*batches: torch.Tensor) -> Moments:
    moments = Moments(batches[0].shape[1])
    for batch in batches:
        moments.update(batch)
    return moments


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of 256 levels, labels, and which of them are the test split."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 8, 8)
    return spread_levels(images, 17), torch.from_numpy(labels).long(), torch.arange(1797) % 6 == 0


def test_moments_batch_by_batch_are_those_of_all_at_once_in_any_order():
    x = normal(5000, 6) * torch.arange(1, 7) + 1e6  # a naive sum of squares would lose 12 digits
    mu, sigma = x.mean(0), torch.from_numpy(np.cov((x - 1e6).numpy(), rowvar=False))
    parts = [x[:4500], x[4500:4501], x[4501:]]
    for found in (moments_of(*parts), moments_of(*parts[::-1])):
        assert found.n == 5000
        torch.testing.assert_close(found.mu, mu, rtol=1e-14, atol=0)
        torch.testing.assert_close(found.sigma, sigma, rtol=1e-9, atol=1e-9)


def test_counts_stand_for_repeated_rows():
    x, counts = normal(6, 3), torch.tensor([2, 0, 1, 3, 1, 0])
    weighted = Moments(3)
    weighted.update(x, counts)
    repeated = moments_of(x.repeat_interleave(counts, 0))
    assert weighted.n == repeated.n == 7
    torch.testing.assert_close(weighted.mu, repeated.mu)
    torch.testing.assert_close(weighted.sigma, repeated.sigma)


def test_moments_refuse_what_they_cannot_take():
    moments = Moments(3)
    with pytest.raises(ValueError, match=r"\(4, 2\) where \(B, 3\)"):
        moments.update(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="not finite"):
        moments.update(torch.full((4, 3), torch.nan))
    moments.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="1 images: at least 2"):
        _ = moments.sigma


FACTS = Facts(
    dataset="digits",
    split="train",
    shape=(1, 8, 8),
    preprocessing="8x8 as stored, grey",
    network="classifier-digits",
    fingerprint="0123",
    dimensions=4,
    n=20,
)


def test_a_reference_comes_back_from_its_file_as_it_was(tmp_path):
    features, logits = normal(20, 4).float(), normal(20, 3, seed=1).float()
    path = tmp_path / "new" / "reference.npz"
    written = Reference.of(FACTS, moments_of(features), features, logits)
    written.save(path)
    read = Reference.load(path)
    assert read.facts == written.facts == FACTS
    for name in ("mu", "sigma", "features", "logits"):
        assert torch.equal(getattr(read, name), getattr(written, name))
    Reference.of(FACTS, moments_of(features)).save(path)
    assert Reference.load(path).features is None
    assert [file.name for file in path.parent.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize("name", ["pool_3", "features", "feats"])
def test_files_that_hold_features_alone_are_read(tmp_path, name):
    features = normal(20, 4).float()
    np.savez(tmp_path / "other.npz", **{name: features.numpy()})
    read = Reference.load(tmp_path / "other.npz")
    assert read.facts == Facts(dimensions=4, n=20)
    assert torch.equal(read.features, features)
    torch.testing.assert_close(read.sigma, torch.cov(features.double().T))


def test_files_of_mu_and_sigma_are_read_whatever_lies_beside_them(tmp_path):
    mu, sigma = normal(4).numpy(), np.eye(4)
    np.savez(tmp_path / "other.npz", mu=mu, sigma=sigma, mu_s=mu, shape="square", n=np.ones(3))
    read = Reference.load(tmp_path / "other.npz")
    assert read.facts == Facts(dimensions=4)
    assert np.array_equal(read.mu, mu)
    assert np.array_equal(read.sigma, sigma)


def test_files_without_statistics_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "wrong.npz"
    with pytest.raises(FileNotFoundError, match="--mode stats"):
        Reference.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no file of reference statistics"):
        Reference.load(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match="neither mu and sigma nor pool_3"):
        Reference.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(ValueError, match=r"not \(D,\) and \(D, D\)"):
        Reference.load(path)
    np.savez(path, mu=np.full(2, np.nan), sigma=np.eye(2))
    with pytest.raises(ValueError, match="not all finite"):
        Reference.load(path)
    np.savez(path, mu=np.array([{}]), sigma=np.eye(1))  # would be unpickled
    with pytest.raises(ValueError, match="it holds objects of Python") as raised:
        Reference.load(path)
    assert "allow_pickle" not in str(raised.value)
    for sigma in (-np.eye(2), np.array([[1.0, 0.5], [0.2, 1.0]])):
        np.savez(path, mu=np.zeros(2), sigma=sigma)
        with pytest.raises(ValueError, match="its sigma is no covariance"):
            Reference.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="File is not a zip file"):
        Reference.load(tmp_path / "one.npy")
    with pytest.raises(ValueError, match="is a folder: a file is needed here"):
        Reference.load(tmp_path)
    whole = tmp_path / "whole.npz"
    np.savez(whole, mu=np.zeros(300), sigma=np.eye(300))
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match="no file of reference statistics"):
        Reference.load(path)


@pytest.mark.parametrize("kind", SPOILT)
def test_kept_statistics_that_are_none_are_computed_again_with_a_word(tmp_path, kind):
    config = digits_recipe.get_config()
    config.eval.stats_folder, config.device = str(tmp_path), "cpu"
    test, told = open_split(config, "test"), []

    def kept(say):
        references = build_references(config, say)
        return references.statistics(test), references.path(test)

    first, path = kept(told.append)
    spoil(path, kind)
    assert not told
    again, _ = kept(told.append)
    assert len(told) == 1
    assert str(path) in told[0]
    assert torch.equal(again.mu, first.mu)
    assert torch.equal(again.features, first.features)
    told.clear()
    assert torch.equal(kept(told.append)[0].sigma, first.sigma)
    assert not told


@pytest.mark.parametrize("kind", [kind for kind in SPOILT if kind != "another type"])
def test_a_reference_that_is_none_is_refused_in_a_sentence(tmp_path, kind):
    path = tmp_path / "given.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), pool_3=np.eye(2), n=2)
    Reference.load(path)
    spoil(path, kind)
    with pytest.raises((ValueError, FileNotFoundError), match="reference statistics") as raised:
        Reference.load(path)
    assert "\n" not in str(raised.value)


OTHERS = {
    "dataset": "mnist",
    "split": "test",
    "shape": (3, 8, 8),
    "preprocessing": "resized",
    "network": "inception",
    "fingerprint": "4567",
    "dimensions": 5,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_not_compared(name):
    other = dataclasses.replace(FACTS, **{name: OTHERS[name]})
    with pytest.raises(ValueError, match=r"of the reference is .* and of the samples") as raised:
        check_comparable(FACTS, other)
    assert f"reference is {getattr(FACTS, name)} and" in str(raised.value)
    assert f"samples {OTHERS[name]}:" in str(raised.value)
    unknown = dataclasses.replace(FACTS, **{name: getattr(Facts(), name)})
    check_comparable(unknown, other)
    assert cache_name(FACTS) != cache_name(other)


def test_numbers_of_images_may_differ_between_reference_and_samples():
    check_comparable(FACTS, dataclasses.replace(FACTS, n=7))


def test_cache_names_are_readable_and_follow_the_images():
    first, other = cache_name(FACTS, "a"), cache_name(FACTS, "b")
    assert first.startswith("digits-train-1x8x8-classifier-digits-")
    assert first == cache_name(dataclasses.replace(FACTS), "a") != other
    assert "/" not in cache_name(Facts(dataset="a/b"))


def test_images_are_rounded_to_the_nearest_level_and_clipped():
    values = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.2])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
    assert spread_levels(torch.arange(17, dtype=torch.uint8), 17)[[0, 1, 8, 16]].tolist() == [
        *(0, 16, 128, 255)
    ]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(spread_levels(every, 256), every)
    assert torch.equal(to_uint8(every / 255), every)


def test_collecting_does_not_depend_on_batches(digits):
    network, images = digits_classifier(), digits[0][:100]
    whole, parts = collect(network, [images]), collect(network, images.split(33))
    torch.testing.assert_close(whole.features, parts.features)
    torch.testing.assert_close(whole.moments.sigma, parts.moments.sigma)
    assert whole.logits.shape == (100, 10)
    flat = collect(network, images.split(33), keep=False)
    assert flat.features is flat.logits is None
    assert torch.equal(flat.moments.sigma, parts.moments.sigma)


def test_the_shipped_network_reads_digits_that_it_has_not_seen(digits):
    images, labels, in_test = digits
    network = digits_classifier()
    assert network.name == "classifier-digits"
    assert [metric_name(name, network) for name in ("frechet", "kernel", "score")] == [
        *("FD-digits", "KD-digits", "CS-digits")
    ]
    assert accuracy(network, images[in_test], labels[in_test]) == pytest.approx(
        0.99, abs=1.01 / 300
    )
    sigma = collect(network, [images[~in_test]]).moments.sigma
    assert sigma.trace().item() == pytest.approx(network.dimensions, rel=0.1)


def test_training_learns_and_repeats_itself(digits, tmp_path):
    images, labels, in_test = digits
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def train(seed: int) -> Classifier:
        return train_classifier(
            *(images[~in_test], labels[~in_test], 10), dataset="digits", seed=seed, num_steps=40
        )

    first, again, other = train(0), train(0), train(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert accuracy(first, images[in_test], labels[in_test]) > 0.9
    first.save(tmp_path / "network.pt")
    read = Classifier.load(tmp_path / "network.pt")
    assert read.fingerprint == first.fingerprint
    assert torch.equal(read(images[:9])[0], first(images[:9])[0])


def test_without_labels_the_network_learns_which_way_up_an_image_is(digits):
    images, _, in_test = digits
    network = train_classifier(images[~in_test], None, dataset="digits", num_steps=70)
    assert network.label == "digits-turns"
    assert network(images[:2])[1] is None
    assert accuracy(network, *turned(images[in_test], (0, 1, 2, 3))) > 0.75


def test_images_that_are_not_square_are_turned_by_half(digits):
    images = torch.cat((digits[0], digits[0]), 3)
    network = train_classifier(images, None, dataset="pairs", num_steps=2)
    assert network.num_outputs == 2
    turned_images, which = turned(images[:4], (0, 2))
    assert which.tolist() == [0, 1, 0, 1]
    assert torch.equal(turned_images[1], images[1].flip(1, 2))
    assert torch.equal(turned_images[2], images[2])


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 9, 15), (3, 16, 16), (1, 28, 28), (3, 64, 40)])
def test_the_classifier_takes_images_of_8_to_64_pixels(shape):
    network = Classifier("some", shape, 3).eval()
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    features, logits = network(images)
    assert (features.shape, logits.shape) == ((5, 64), (5, 3))
    assert sum(value.numel() for value in network.parameters()) < 450_000
    with pytest.raises(ValueError, match="use samples of the same size"):
        network(images[:, :, 1:])


def test_the_classifier_refuses_what_it_cannot_learn_from():
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(6)
    with pytest.raises(ValueError, match="8x8 to 64x64 pixels, not 128x128"):
        Classifier("some", (3, 128, 128), 2)
    with pytest.raises(ValueError, match="give uint8"):
        train_classifier(images.float(), labels, 6, dataset="some")
    with pytest.raises(ValueError, match="0 to 5 for 5 classes"):
        train_classifier(images, labels, 5, dataset="some")
    with pytest.raises(ValueError, match="one label each"):
        train_classifier(images, labels[:3], 6, dataset="some")


def test_a_damaged_network_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "network.pt"
    with pytest.raises(FileNotFoundError, match="--mode stats"):
        Classifier.load(path)
    for content in ({}, [1], {"weights": {}, **_settings()}, Path("code")):
        torch.save(content, path)
        with pytest.raises(ValueError, match="no feature network, or damaged"):
            Classifier.load(path)


def _settings() -> dict:
    return {"dataset": "a", "shape": (1, 8, 8), "num_outputs": 2, "labelled": True}


def test_missing_inception_weights_end_in_a_sentence_that_says_what_goes_where(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints" / INCEPTION_FILE
    for given in ("", tmp_path / "here.pth"):
        with pytest.raises(FileNotFoundError) as raised:
            inception(given)
        sentence = str(raised.value)
        assert f"no Inception weights at {given or cache}" in sentence
        for part in (INCEPTION_FILE, "6726825d", "--config.eval.inception_path", str(cache)):
            assert part in sentence
        assert "\n" not in sentence


@pytest.fixture(scope="module")
def ours(random_inception):
    return inception(random_inception)


def test_inception_features_are_torch_fidelitys_own_on_grey_and_colour(random_inception, ours):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], str(random_inception)
    )
    grey = torch.randint(0, 256, (2, 1, 16, 20), dtype=torch.uint8)
    for images in (grey, grey.repeat(1, 3, 1, 1)):
        features, logits = ours(images)
        expected = theirs(grey.repeat(1, 3, 1, 1))
        assert torch.equal(features, expected[0])
        assert torch.equal(logits, expected[1])
    assert features.shape == (2, ours.dimensions)
    assert (features[0] - features[1]).abs().max() > 0
    with pytest.raises(ValueError, match="use grey or colour images"):
        ours(grey.repeat(1, 4, 1, 1))


def test_a_distance_is_called_fid_only_with_the_weights_that_fid_means(
    random_inception, ours, monkeypatch
):
    digest = hashlib.sha256(random_inception.read_bytes()).hexdigest()
    assert ours.fingerprint == digest[:16]
    assert metric_name("frechet", ours) == f"FD-inception-{digest[:8]}"
    monkeypatch.setattr("score_sde.evaluation.features._INCEPTION_DIGEST", digest[:8])
    genuine = inception(random_inception)
    names = [metric_name(name, genuine) for name in ("frechet", "kernel")]
    assert names == ["FID", "KID"]


def test_other_files_in_inceptions_place_are_refused_without_running_their_code(
    tmp_path, monkeypatch
):
    path = tmp_path / "weights.pth"
    for content in (b"nothing", None, {"a": torch.zeros(2)}, {"a": Path("code")}, [1]):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(ValueError, match="does not hold the weights of Inception"):
            inception(path)
    torch.save({"a": torch.zeros(2)}, path)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        inception(path)
