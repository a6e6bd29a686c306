"""Noise by counter: the published generator, its independence of the batch, its distribution."""

import pytest
import torch
from conftest import assert_close
from scipy import stats

from score_sde import noise
from score_sde.noise import (
    SampleNoise,
    Stream,
    normal,
    permutation,
    rademacher,
    torch_noise,
    uniform,
)

DRAWS = (normal, uniform, rademacher)


# Numbers of our own: they must not move, or finished runs could not be repeated.
NORMAL = [
    [-1.6320055884096902, -0.37060515800251254, -0.9313873084193685],
    [-0.19737466659961447, -0.9100010550883466, -0.008576000468783982],
]
UNIFORM = [[0.02433955669403076, 0.08662235736846924, 0.8572332262992859]]
SIGNS = [1, -1, -1, -1, 1, 1, -1, -1]
ORDER = [6, 5, 0, 7, 1, 4, 2, 3]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


# The known answers that come with Random123 for philox4x32-10: counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    low, high = words(key)
    got = noise.philox([torch.tensor([word]) for word in words(counter)], low | high << 32)
    assert [word.item() for word in got] == words(expected)


def test_the_numbers_are_the_counters_of_the_module_docstring():
    seed, sample, draw = 0x0123456789ABCDEF, 5 * 2**32 + 7, 9
    got = uniform(
        seed, torch.tensor([sample]), draw, (10,), stream=Stream.PROBE, dtype=torch.float64
    )
    expected = []
    for block in range(3):
        counter = (block, (Stream.PROBE << 24) | draw, 7, 5)
        expected += [
            w.item() / 2**32 for w in noise.philox([torch.tensor(c) for c in counter], seed)
        ]
    assert got[0].tolist() == expected[:10]


def test_our_own_numbers_stay_as_they_are():
    z = normal(2021, torch.tensor([0, 12345]), 3, (3,))
    assert_close(z, torch.tensor(NORMAL), 1e-6)
    u = uniform(-1, torch.tensor([2**40]), 0, (3,), stream=Stream.DEQUANTISE)
    assert_close(u, torch.tensor(UNIFORM), 1e-7)
    signs = rademacher(7, torch.tensor([1]), 0, (8,), stream=Stream.PROBE)
    assert signs[0].tolist() == SIGNS
    assert permutation(8, 1, 2).tolist() == ORDER


@pytest.mark.parametrize("draw_noise", DRAWS)
def test_every_bit_of_the_seed_counts(draw_noise):
    index = torch.arange(2)
    seeds = [0] + [1 << bit for bit in range(64)]
    rows = torch.stack([draw_noise(seed, index, 0, (64,)).flatten() for seed in seeds])
    assert len(rows.unique(dim=0)) == 65


def test_seeds_are_taken_modulo_two_to_the_64():
    index = torch.arange(2)
    assert normal(-1, index, 0, (4,)).equal(normal(2**64 - 1, index, 0, (4,)))
    assert normal(2**64 + 5, index, 0, (4,)).equal(normal(5, index, 0, (4,)))


@pytest.mark.parametrize("draw_noise", DRAWS)
def test_a_sample_does_not_know_its_batch(draw_noise):
    index = torch.tensor([3, 2**35, 0, 17, 4, -2, 99])
    whole = draw_noise(11, index, 2, (3, 5, 5))
    split = torch.cat([draw_noise(11, part, 2, (3, 5, 5)) for part in index.split([1, 4, 2])])
    turned = draw_noise(11, index.flip(0), 2, (3, 5, 5)).flip(0)
    # Log and cosine may round otherwise in another place of a vector register.
    assert_close(split, whole, 1e-6)
    assert_close(turned, whole, 1e-6)
    if draw_noise is not normal:
        assert split.equal(whole)
        assert turned.equal(whole)


@pytest.mark.parametrize("draw_noise", [normal, uniform])
def test_float64_gives_the_same_numbers_as_float32(draw_noise):
    index = torch.arange(50)
    single = draw_noise(5, index, 0, (40,))
    double = draw_noise(5, index, 0, (40,), dtype=torch.float64)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert_close(single, double, 1e-6)


def test_draws_streams_and_samples_differ():
    index = torch.arange(3)
    rows = [normal(1, index, draw, (6,), stream=s) for s in Stream for draw in (0, 1, 2**24 - 1)]
    assert len(torch.cat(rows).unique(dim=0)) == 3 * 3 * len(Stream)


def test_no_two_samples_of_100000_are_alike():
    z = normal(0, torch.arange(100_000), 0, (2,))
    assert len(z.unique(dim=0)) == 100_000


def test_normal_noise_is_normal():
    z = normal(42, torch.arange(500), 0, (4, 99), dtype=torch.float64)
    n = z.numel()
    flat = z.flatten()
    assert abs(flat.mean().item()) < 4 / n**0.5
    assert abs(flat.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert abs((flat**3).mean().item()) < 4 * (15 / n) ** 0.5
    assert abs((flat**4).mean().item() - 3) < 4 * (96 / n) ** 0.5
    assert stats.kstest(flat.numpy(), "norm").pvalue > 0.01
    # No correlation between the four outputs of a block, nor between samples or neighbours.
    correlation = torch.corrcoef(flat.reshape(-1, 4).T) - torch.eye(4)
    assert correlation.abs().max().item() < 4 / (n / 4) ** 0.5
    assert abs((z[1:] * z[:-1]).mean().item()) < 4 / n**0.5


def test_uniform_noise_is_uniform_and_signs_are_fair():
    index = torch.arange(300)
    u = uniform(42, index, 0, (301,))
    assert 0 <= u.min().item() < u.max().item() < 1
    assert stats.kstest(u.flatten().double().numpy(), "uniform").pvalue > 0.01
    signs = rademacher(42, index, 0, (301,))
    assert signs.unique().tolist() == [-1, 1]
    assert abs(signs.mean().item()) < 4 / signs.numel() ** 0.5


def test_extreme_words_give_finite_numbers(monkeypatch):
    top = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr(noise.counted, "_blocks", lambda *_: (top, top, top, top))
    z = normal(0, torch.arange(1), 0, (8,))
    assert z.isfinite().all()
    assert z.abs().max().item() == pytest.approx(6.66, abs=0.01)
    assert uniform(0, torch.arange(1), 0, (8,)).max().item() < 1


def test_sample_noise_counts_its_draws():
    index = torch.tensor([4, 9])
    source = SampleNoise(3, index, Stream.PROBE)
    first, second = source((2, 5)), source(torch.Size([2, 3, 2]))
    assert first.equal(normal(3, index, 0, (5,), stream=Stream.PROBE))
    assert second.equal(normal(3, index, 1, (3, 2), stream=Stream.PROBE))
    assert source.draw == 2
    source.draw = 0
    assert source((2, 5)).equal(first)


def test_torch_noise_is_torch_randn():
    torch.manual_seed(5)
    expected = torch.randn(2, 3), torch.randn(4)
    torch.manual_seed(5)
    source = torch_noise()
    assert source((2, 3)).equal(expected[0])
    assert source([4]).equal(expected[1])
    seeded = torch_noise("cpu", torch.float64, torch.Generator().manual_seed(1))
    expected_64 = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert seeded((3,)).equal(expected_64)


def test_a_permutation_is_one_and_depends_on_seed_and_epoch():
    orders = {
        (seed, epoch): permutation(1000, seed, epoch) for seed in (0, 2**63) for epoch in (0, 1, 2)
    }
    for order in orders.values():
        assert order.sort().values.equal(torch.arange(1000))
    assert len(torch.stack(list(orders.values())).unique(dim=0)) == 6
    assert permutation(1000, 0, 1).equal(orders[0, 1])
    assert permutation(0, 0, 0).shape == (0,)


def test_permutations_are_fair():
    places = torch.stack([permutation(5, 8, epoch) for epoch in range(2000)])
    for item in range(5):
        counts = (places == item).sum(0).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3


def test_noise_compiles_into_one_graph():
    compiled = torch.compile(normal, backend="eager", fullgraph=True)
    index = torch.arange(3)
    for seed, draw in ((1, 0), (2**63 + 5, 1), (-3, 2)):
        assert compiled(seed, index, draw, (2, 5)).equal(normal(seed, index, draw, (2, 5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normal(0, torch.arange(2), -1, (1,)), "draw number -1"),
        (lambda: uniform(0, torch.arange(2), 2**24, (1,)), "draw number 16777216"),
        (lambda: permutation(3, 0, 2**24), "draw number"),
        (lambda: normal(0, torch.zeros(2), 0, (1,)), "int64"),
        (lambda: normal(0, torch.tensor(2), 0, (1,)), "shape"),
        (lambda: rademacher(0, torch.arange(2), 0, (1,), dtype=torch.int64), "float32 or float64"),
        (lambda: SampleNoise(0, torch.arange(2))((3, 4)), "2 samples"),
        (lambda: SampleNoise(0, torch.arange(2))(()), "2 samples"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
