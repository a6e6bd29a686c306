"""Linear measurements against dense matrices, torch's own filters and their own algebra."""

import math

import pytest
import torch
from conftest import assert_close
from torch.nn import functional as F

from score_sde.noise import normal, torch_noise
from score_sde.posteriors.measurements import (
    MEASUREMENTS,
    BicubicDownsampling,
    BoxDownsampling,
    FourierMask,
    GaussianBlur,
    Grey,
    LinearFunction,
    Mask,
    MotionBlur,
    RandomProjection,
    SoftMask,
)
from score_sde.posteriors.measurements.fourier import hartley

SHAPE = (3, 6, 4)
SIZE = math.prod(SHAPE)


def draws(*shape, seed=0, dtype=torch.float64):
    return normal(seed, torch.arange(shape[0]), 0, shape[1:], dtype=dtype)


SEEN = draws(1, 1, 6, 4)[0] > 0.3
MATRIX = draws(1, 10, SIZE, seed=3)[0]
ARGUMENTS = {
    "mask": {"mask": SEEN},
    "soft_mask": {"mask": draws(1, 1, 6, 4)[0].clamp(0, 1)},
    "grey": {},
    "box_downsampling": {"factor": 2},
    "bicubic_downsampling": {"factor": 2},
    "gaussian_blur": {"width": 0.8},
    "motion_blur": {"length": 3.5, "angle": 30.0},
    "random_projection": {"count": 20, "seed": 5},
    "fourier_mask": {"mask": draws(1, 6, 4, seed=7)[0] > 0.2},
    "function": {"function": lambda x: x.flatten(1) @ MATRIX.mT.to(x)},
}
rows = pytest.mark.parametrize("name", MEASUREMENTS)
spectral = pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name != "function"])


def make(name, std=0.3):
    return MEASUREMENTS[name](SHAPE, std, **ARGUMENTS[name])


def dense(function, shape):
    """The matrix of a linear function of (B, *shape)."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).unflatten(1, shape)
    return function(basis).flatten(1).mT


def matrices(measurement):
    """A, and the shape of y."""
    shape = measurement.forward(draws(1, *SHAPE)).shape[1:]
    return dense(measurement.forward, SHAPE), shape


def test_every_row_declares_its_arguments():
    for name, kind in MEASUREMENTS.items():
        assert kind.name == name
        assert set(ARGUMENTS[name]) == set(kind.arguments)


@rows
def test_the_adjoint_by_dot_products_and_as_a_matrix(name):
    measurement = make(name)
    A, shape = matrices(measurement)
    x, y = draws(5, *SHAPE, seed=1), draws(5, *shape, seed=2)
    left = (measurement.forward(x) * y).flatten(1).sum(1)
    right = (x * measurement.adjoint(y)).flatten(1).sum(1)
    assert_close(left, right, 1e-10)
    assert_close(dense(measurement.adjoint, shape), A.mT, 1e-10)
    assert_close(measurement.forward(x).flatten(1), x.flatten(1) @ A.mT, 1e-10)


@rows
def test_the_pseudo_inverse(name):
    measurement = make(name)
    A, shape = matrices(measurement)
    x, y = draws(5, *SHAPE, seed=1), draws(5, *shape, seed=2)
    projected = measurement.pseudo_inverse(measurement.forward(x))
    assert_close(measurement.forward(projected), measurement.forward(x), 1e-10)
    again = measurement.pseudo_inverse(measurement.forward(projected))
    assert_close(again, projected, 1e-10)
    # An orthogonal projection: what is left is orthogonal to it.
    assert ((x - projected) * projected).flatten(1).sum(1).abs().max() < 1e-9
    expected = y.flatten(1) @ torch.linalg.pinv(A, rtol=1e-9).mT
    assert_close(measurement.pseudo_inverse(y).flatten(1), expected, 1e-9)


@spectral
def test_the_singular_value_decomposition_against_the_dense_matrix(name):
    measurement = make(name)
    A, shape = matrices(measurement)
    c = measurement.to_spectrum(draws(2, *SHAPE))
    V = dense(measurement.from_spectrum, c.shape[1:])
    assert_close(V.mT @ V, torch.eye(SIZE, dtype=V.dtype), 1e-10)
    assert_close(dense(measurement.to_spectrum, SHAPE), V.mT, 1e-10)
    s = measurement.gains(c).expand(c.shape)[0]
    keep = (s > 0).flatten()
    U = dense(measurement.spectrum_to_measured, c.shape[1:])[:, keep]
    assert_close(U.mT @ U, torch.eye(int(keep.sum()), dtype=V.dtype), 1e-10)
    assert_close(dense(measurement.measured_to_spectrum, shape)[keep], U.mT, 1e-10)
    assert_close(U @ (s.flatten()[keep, None] * V.mT[keep]), A, 1e-10)
    found = s.flatten()[keep].sort(descending=True).values
    assert_close(found, torch.linalg.svdvals(A)[: len(found)], 1e-10)
    assert len(found) == torch.linalg.matrix_rank(A, rtol=1e-9)


@rows
def test_noise_covariance_and_the_inverse_of_what_a_residual_has(name):
    measurement = make(name)
    A, shape = matrices(measurement)
    y, r2 = draws(3, *shape, seed=2), torch.tensor([0.0, 0.2, 3.0], dtype=torch.float64)
    covariance = dense(measurement.covariance, shape)
    for row, r2_row in zip(y, r2, strict=True):
        seen = measurement.measured(row[None]).flatten()
        total = r2_row * A @ A.mT + covariance
        expected = torch.linalg.pinv(total, hermitian=True) @ seen
        value = measurement.solve(row[None], float(r2_row)).flatten()
        assert_close(value, expected, 1e-9)
    together = measurement.solve(y, r2)
    assert_close(together[1], measurement.solve(y[1:2], 0.2)[0], 1e-12)
    if name != "soft_mask":
        assert_close(covariance @ covariance, 0.3**2 * covariance, 1e-12)


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shapes_follow_the_input_and_samples_do_not_meet(name, dtype):
    measurement = make(name)
    x = draws(4, *SHAPE, dtype=dtype)
    with torch.inference_mode():
        y = measurement.measure(x, lambda shape: draws(*shape, seed=4, dtype=dtype))
        back = [measurement.adjoint(y), measurement.pseudo_inverse(y)]
        assert all(value.dtype == dtype for value in (y, *back, measurement.solve(y, 0.5)))
        assert all(value.shape == x.shape for value in back)
        alone = measurement.forward(x[1:2])
    assert_close(alone, measurement.forward(x)[1:2], 1e-6 if dtype == torch.float32 else 1e-12)


@rows
def test_the_noise_has_its_variance(name):
    measurement = make(name)
    x = torch.zeros(20_000, *SHAPE)
    generator = torch.Generator().manual_seed(0)
    y = measurement.measure(x, torch_noise(generator=generator)).double().flatten(1)
    _, shape = matrices(measurement)
    covariance = dense(measurement.covariance, shape)
    scale = covariance.diagonal().clamp_min(1e-12).sqrt()
    error = (y.mT @ y / len(y) - covariance) / (scale[:, None] * scale)
    assert error.abs().max() < 5.5 / math.sqrt(len(y)) * math.sqrt(2)


# ---- Each against what it is said to be ----


def test_a_mask_hides_and_what_stands_there_never_counts():
    x = draws(2, *SHAPE)
    spoilt = torch.where(SEEN, x, math.nan)
    measurement = make("mask")
    y = measurement.forward(x)
    assert torch.equal(y, torch.where(SEEN, x, 0.0))
    assert torch.equal(measurement.forward(spoilt), y)
    for function in (
        measurement.measured,
        measurement.adjoint,
        measurement.pseudo_inverse,
        measurement.covariance,
        lambda y: measurement.solve(y, 0.3),
    ):
        assert torch.equal(function(spoilt), function(y))


def test_masks_of_each_sample_broadcast():
    mask = draws(2, 1, 6, 4) > 0
    both = Mask(SHAPE, 0.0, mask).forward(draws(2, *SHAPE))
    for k in (0, 1):
        assert torch.equal(both[k], Mask(SHAPE, 0.0, mask[k]).forward(draws(2, *SHAPE))[k])


def test_a_soft_mask_is_a_pixel_with_more_noise():
    mask = torch.tensor([0.0, 0.5, 0.8, 1.0], dtype=torch.float64).reshape(1, 4)
    measurement = SoftMask((1, 1, 4), 0.1, mask)
    y = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    assert_close(
        measurement.covariance(y)[0, 0, 0],
        torch.tensor([0.0, 1.01, 0.26, 0.01], dtype=mask.dtype),
        1e-12,
    )
    assert measurement.has_noise
    assert not SoftMask((1, 1, 4), 0.0, mask).has_noise
    assert SoftMask((1, 1, 4), 0.0, mask.clamp(0, 0.9)).has_noise
    assert not Mask((1, 1, 4), 0.0, mask > 0.6).has_noise


def test_grey_is_the_mean_of_the_channels():
    x = draws(2, *SHAPE)
    assert_close(make("grey").forward(x), x.mean(1, keepdim=True), 1e-12)
    assert_close(make("grey").pseudo_inverse(x[:, :1]), x[:, :1].expand(x.shape), 1e-12)
    assert torch.equal(Grey((1, 6, 4), 0.0).forward(x[:, :1]), x[:, :1])


def test_downsampling_agrees_with_torch():
    x = draws(2, 3, 12, 8)
    for factor in (2, 4):
        box = BoxDownsampling((3, 12, 8), 0.0, factor)
        assert_close(box.forward(x), F.avg_pool2d(x, factor), 1e-12)
        size = (12 // factor, 8 // factor)
        expected = F.interpolate(x, size, mode="bicubic", antialias=True)
        bicubic = BicubicDownsampling((3, 12, 8), 0.0, factor)
        assert_close(bicubic.forward(x), expected, 1e-6)


def test_gaussian_blur_agrees_with_a_convolution():
    x = draws(2, 3, 12, 8)
    taps = (-0.5 * (torch.arange(-3, 4).double() / 0.75) ** 2).exp()
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = F.pad(x, (3, 3, 3, 3), mode="reflect")
    expected = F.conv2d(padded, kernel.expand(3, 1, 7, 7), groups=3)
    assert_close(GaussianBlur((3, 12, 8), 0.0, 0.75).forward(x), expected, 1e-10)
    # Wider than the image, it leaves nearly its mean.
    wide = GaussianBlur((3, 12, 8), 0.0, 30.0).forward(x)
    assert (wide - wide.mean((2, 3), keepdim=True)).abs().max() < 1e-3


def test_motion_blur_is_a_mean_along_the_line():
    x = draws(2, *SHAPE)
    along = MotionBlur(SHAPE, 0.0, 3.0, 0.0).forward(x)
    taps = torch.zeros(4, dtype=torch.float64)
    at = torch.linspace(-1, 1, 49, dtype=torch.float64)
    for tap in (-1, 0, 1):
        taps[tap] = (1 - (at - tap).abs()).clamp_min(0).sum()
    taps = taps / taps.sum()
    expected = sum(taps[tap] * x.roll(tap, -1) for tap in (-1, 0, 1))
    assert_close(along, expected, 1e-10)
    down = MotionBlur(SHAPE, 0.0, 3.0, 90.0).forward(x)
    expected = sum(taps[tap] * x.roll(tap, -2) for tap in (-1, 0, 1))
    assert_close(down, expected, 1e-10)


def test_frequencies_come_in_pairs_and_are_those_of_the_fourier_transform():
    x = draws(2, *SHAPE)
    mask = torch.zeros(6, 4)
    mask[0, 0] = mask[1, 3] = 1
    y = FourierMask(SHAPE, 0.0, mask).forward(x)
    transform = torch.fft.fft2(x, norm="ortho")
    expected = torch.zeros_like(y)
    for k in ((0, 0), (1, 3), (5, 1)):
        expected[..., k[0], k[1]] = (transform.real - transform.imag)[..., k[0], k[1]]
    assert_close(y, expected, 1e-12)
    assert_close(hartley(hartley(x)), x, 1e-12)


def test_random_projections_are_seeded_and_keep_lengths_on_average():
    x = draws(1, *SHAPE)
    ones = [RandomProjection(SHAPE, 0.0, 18, seed).forward(x) for seed in range(400)]
    assert torch.equal(ones[3], RandomProjection(SHAPE, 0.0, 18, 3).forward(x))
    lengths = torch.stack([y.square().sum() for y in ones]) / x.square().sum()
    assert lengths.mean().item() == pytest.approx(18 / SIZE, abs=5 * lengths.std().item() / 20)


# ---- What is refused ----


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda: BoxDownsampling((1, 28, 28), 0.0, 3), "take one of 2, 4, 7, 14, 28"),
        (lambda: BicubicDownsampling((1, 9, 4), 0.0, 2), "no factor does"),
        (lambda: Mask((1, 4, 4), 0.0, torch.full((4, 4), 0.5)), "soft_mask"),
        (lambda: SoftMask((1, 4, 4), 0.0, torch.full((4, 4), 1.5)), "from 1.5 to 1.5"),
        (lambda: Mask((1, 4, 4), 0.0, torch.ones(4, 5)), r"\(4, 5\) for images of"),
        (lambda: FourierMask((1, 4, 4), 0.0, torch.ones(1, 4)), "its last axes are"),
        (lambda: GaussianBlur((1, 4, 4), 0.0, 0.0), "width above 0"),
        (lambda: GaussianBlur((1, 4, 4), 0.0, 1e9), "at most 64 pixels for 4×4 images"),
        (lambda: MotionBlur((1, 4, 4), 0.0, 5.0), "at most 4"),
        (lambda: RandomProjection((1, 4, 4), 0.0, 17), "1 to 16"),
        (lambda: Grey((3, 4), 0.0), r"needs \(C, H, W\)"),
        (lambda: Grey((3, 4, 4), -0.1), "0 or more"),
    ],
)
def test_what_cannot_be_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        given()


@pytest.mark.parametrize("function", [torch.relu, lambda x: x + 1, lambda x: x.clamp(-1, 1)])
def test_a_function_that_is_not_linear_is_refused(function):
    with pytest.raises(ValueError, match="not linear"):
        LinearFunction(SHAPE, 0.0, function).forward(draws(1, *SHAPE))
