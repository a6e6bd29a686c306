"""Arrays of floats and of many channels: their scaling, samples and densities in their units."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LITTLE_BPD, TINY
from PIL import Image
from problems import Gaussian
from torch import nn

import score_sde
from score_sde import likelihoods
from score_sde.commands import cli
from score_sde.commands import evaluate as evaluation_run
from score_sde.config.build import with_range
from score_sde.config.subject import build_references
from score_sde.data import (
    DatasetInfo,
    Downsampled,
    MemorySource,
    eval_batches,
    from_unit,
    open_pictures,
    open_source,
    train_batches,
)
from score_sde.data.distances import largest_distance
from score_sde.data.prepare import prepare
from score_sde.evaluation import Classifier, likelihood
from score_sde.sde import VPSDE
from score_sde.tensor_ops import expand_to

SIZE, COUNT, MEAN, STD = (8, 6), 40, 5.0, 2.0


def arrays(channels=4, dtype=np.float32):
    drawn = np.random.default_rng(0).normal(MEAN, STD, (COUNT, *SIZE, channels))
    return drawn.astype(dtype)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Shards of arrays of 4 channels."""
    folder = tmp_path_factory.mktemp("floats")
    (folder / "in").mkdir()
    for k, array in enumerate(arrays()):
        np.save(folder / "in" / f"{k:02d}.npy", array)
    np.save(folder / "all.npy", arrays())
    bar = nullcontext(SimpleNamespace(update=lambda n: None))
    prepare(folder / "in", folder / "out", SIZE, bar=lambda total: bar, num_workers=0)
    return folder


def opened(root, name="shards", split="train", channels=4, **options):
    return open_source(name, split, root=root, image_size=SIZE, num_channels=channels, **options)


def floats(images, low, high, name="floats"):
    count, *shape = images.shape
    info = DatasetInfo(name, "train", count, tuple(shape), 0, 0, (), "", "", range=(low, high))
    return MemorySource(info, images)


def all_images(source):
    return source.images(torch.arange(len(source)))


# ---- Sources and batches ----


def test_a_range_becomes_0_to_1_and_what_lies_beyond_is_not_clipped():
    images = torch.tensor([-3.0, -1.0, 4.0, 9.0]).view(1, 1, 1, 4)
    (batch,) = eval_batches(floats(images, -1.0, 4.0), batch_size=2)
    assert batch["image"].flatten().tolist() == pytest.approx([-0.4, 0.0, 1.0, 2.0])
    assert torch.equal(from_unit(batch["image"], (-1.0, 4.0)), images)


def test_floats_are_mirrored_bit_for_bit_and_each_process_has_its_part():
    images = torch.from_numpy(np.moveaxis(arrays(), -1, 1).copy())
    source, options = floats(images, 0.0, 1.0), {"batch_size": 6, "seed": 3, "random_flip": True}
    whole, *parts = (
        next(train_batches(source, **options, **share))
        for share in ({}, {"rank": 0, "world": 2}, {"rank": 1, "world": 2})
    )
    assert torch.equal(torch.cat([part["image"] for part in parts]), whole["image"])
    flipped = 0
    for index, image in zip(whole["index"], whole["image"], strict=True):
        mirrored = not torch.equal(image, images[index])
        assert torch.equal(image.flip(-1) if mirrored else image, images[index])
        flipped += mirrored
    assert 0 < flipped < 6


def test_means_and_distances_of_floats_are_of_the_numbers_themselves():
    images = torch.from_numpy(np.moveaxis(arrays(), -1, 1).copy())
    source = floats(1000 + images, 1000.0, 1010.0)
    found = largest_distance(source, 0)
    farthest = torch.pdist(images.double().flatten(1)).max().item() / 10
    assert found.distance == pytest.approx(farthest, rel=1e-5)  # of float32 at 1,000
    small = Downsampled(source, 2)
    means = images.unflatten(2, (4, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(all_images(small) - 1000, means, rtol=0, atol=2e-4)
    assert small.info.range == source.info.range


def test_shards_and_a_file_hold_the_same_arrays_streamed_or_in_memory(prepared):
    numbers = arrays()
    for split in ("train", "test"):
        kept = opened(prepared / "out", split=split)
        assert kept.info.range == (numbers.min(), numbers.max())  # of both splits
        assert kept.info.levels == 0
        sources = [
            opened(prepared / "out", split=split, memory_limit_bytes=0),
            opened(prepared / "all.npy", "folder", split),
        ]
        for other in sources:
            assert torch.equal(all_images(other), all_images(kept))
            assert other.info.range == kept.info.range
    batches = [
        next(train_batches(source, batch_size=9, seed=1, random_flip=True))["image"]
        for source in (kept, sources[0])
    ]
    assert torch.equal(*batches)
    stored = {image.tobytes() for image in np.moveaxis(numbers, -1, 1)}
    assert {image.numpy().tobytes() for image in all_images(kept)} < stored


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.float16])
def test_numbers_of_other_types_become_float32(tmp_path, dtype):
    numbers = arrays(2, np.float64).clip(0).astype(dtype)
    np.save(tmp_path / "a.npy", numbers)
    source = opened(tmp_path / "a.npy", "folder", channels=2, test_fraction=0.0)
    assert np.array_equal(all_images(source).numpy(), np.moveaxis(numbers, -1, 1).astype("f4"))
    assert source.info.range == (float(numbers.min()), float(numbers.max()))


def test_many_channels_of_8_bits_keep_their_levels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, *SIZE, 5), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    source = opened(tmp_path / "a.npy", "folder", channels=5, test_fraction=0.0, dequantised=True)
    assert (source.info.levels, source.info.range) == (256, ())
    assert np.array_equal(all_images(source).numpy(), np.moveaxis(pixels, -1, 1))
    with pytest.raises(ValueError, match=r"is no array file, .* levels of 8 bits in 5 channels"):
        open_pictures(tmp_path, SIZE, 5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x: x, {"channels": 3}, r"has 4 channels, and 3 .* set data\.num_channels=4"),
        (lambda x: x[:, :4], {}, r"4x6 .* set data\.image_size=4 and data\.image_width=6"),
        (lambda x: x, {"dequantised": True}, r"no grey levels .*\.uniform_dequantization=False"),
        (lambda x: np.where(x > 8, np.nan, x), {}, "not finite"),
        (lambda x: 0 * x + 3, {}, r"from 3 to 3, .* subtract their mean"),
        (lambda x: 1e9 + x, {}, r"hardly tell apart: subtract their mean"),
    ],
)
def test_arrays_that_are_not_what_was_asked_for_are_refused(tmp_path, change, options, message):
    np.save(tmp_path / "a.npy", change(arrays(dtype=np.float64)))
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "a.npy", "folder", **options)


def test_shards_refuse_by_their_index_before_any_is_read(prepared, tmp_path):
    index = json.loads((prepared / "out" / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"no grey levels"):
        opened(tmp_path, dequantised=True)
    with pytest.raises(ValueError, match=r"has 4 channels"):
        opened(tmp_path, channels=1)
    with pytest.raises(ValueError, match=r"holds pictures of 8 bits"):
        opened(tmp_path, "cifar10", channels=3, range=(0.0, 2.0))


# ---- Commands ----

CHANNELS = 4


def words(workdir, *more, channels=CHANNELS):
    return [
        *("main.py", "--config=configs/vp/digits.py", f"--workdir={workdir}", *TINY),
        "--config.model.num_res_blocks=1",
        *(f"--config.data.{word}" for word in ("image_size=8", "image_width=6")),
        f"--config.data.num_channels={channels}",
        *("--config.sampling.num_steps=3", *map(str, more)),
    ]


@pytest.fixture(scope="module")
def trained(prepared):
    """The work directory of a run on the shards, with snapshots."""
    data = ("--config.data.dataset=shards", f"--config.data.root={prepared / 'out'}")
    shown = ("--config.training.snapshot_sampling=True", "--config.training.snapshot_images=3")
    assert cli.main(words(prepared / "run", *data, *shown, "--mode=train")) == 0
    return prepared / "run"


def again(trained, *more):
    """The exit code of a command on that run, by its recipe."""
    data = ("--config.data.dataset=shards", f"--config.data.root={trained.parent / 'out'}")
    return cli.main(words(trained, *data, *more))


def test_a_run_takes_the_range_of_its_data_and_keeps_it(trained, capsys):
    numbers = arrays()
    written = json.loads((trained / "config.json").read_text())["config"]["data"]
    assert written["range"] == [numbers.min(), numbers.max()]
    assert again(trained, "--mode=train", "--config.training.n_iters=5") == 0
    said = (trained / "log.txt").read_text()
    assert f"of which {numbers.min():g} becomes 0 and {numbers.max():g} 1" in said
    assert "each channel grey, side by side" in said
    with Image.open(trained / "samples" / "step_00000002.png") as sheet:
        assert sheet.mode == "L"
    assert again(trained, "--mode=train", "--config.data.range=(0, 1)") == 1
    assert "no run changes data.range" in capsys.readouterr().err


def test_samples_are_in_the_units_of_the_data(trained, tmp_path, capsys):
    output = tmp_path / "a.npz"
    assert again(trained, "--mode=sample", "--num_samples=3", f"--output={output}") == 0
    with np.load(output) as file:
        images = file["images"]
        assert file["index"].tolist() == [0, 1, 2]
    assert images.dtype == np.float32
    assert images.shape == (3, *SIZE, CHANNELS)
    loaded = score_sde.load(trained)
    own = loaded.draw(3).numpy()
    assert np.allclose(images, np.moveaxis(own, 1, -1), rtol=1e-6)
    assert np.abs(own).max() > 5  # and not in [0, 1]
    assert again(trained, "--mode=sample", f"--output={tmp_path / 'folder'}") == 1
    assert "these numbers have 4 channels: give a name in .npz" in capsys.readouterr().err
    assert again(trained, "--mode=sample", "--num_samples=1") == 0  # of itself an .npz
    assert [*(trained / "samples").glob("*_pc.npz")]


class Exact(nn.Module):
    """A network whose score is that of data N(mean, variance I), as it sees them."""

    def __init__(self, mean, variance):
        super().__init__()
        self.data = Gaussian(VPSDE(), mean, variance)

    def forward(self, x, c):
        return -expand_to(self.data.sde.std(c / 999), x) * self.data.score(x, c / 999)


def exact():
    """The network that knows where the numbers of `arrays` come from."""
    numbers = arrays()
    low, scale = float(numbers.min()), 2 / float(numbers.max() - numbers.min())
    return Exact(scale * (MEAN - low) - 1, (scale * STD) ** 2)


def test_images_of_ones_own_are_arrays_in_these_units(trained, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "own.npy", arrays()[:2])
    monkeypatch.setattr("score_sde.commands.encode.network_of", lambda *_, **__: exact())
    options = ("--config.sampling.rtol=1e-5", "--config.sampling.atol=1e-5")
    given = f"--input={tmp_path / 'own.npy'}"
    assert again(trained, "--mode=encode", given, f"--output={tmp_path / 'e'}", *options) == 0
    assert "of numbers scaled to [0, 1]" in capsys.readouterr().out
    with np.load(tmp_path / "e" / "reconstructions.npz") as file:
        assert np.abs(file["images"] - arrays()[:2]).max() < 1e-2
    output = tmp_path / "i.npz"
    assert again(trained, "--mode=inpaint", given, "--mask=left", f"--output={output}") == 0
    with np.load(output) as file:
        known = file["images"][0, :, 3:], arrays()[0, :, 3:]
        assert np.abs(known[0] - known[1]).max() < 1e-4
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "other.npy", arrays()[:2, ..., :3])
    broken = arrays()[:2]
    broken[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "broken.npy", broken)
    capsys.readouterr()
    for name, message in (
        ("broken.npy", "must be finite, and [1] is not: leave it out"),
        ("folder", "is no array file, and this network knows numbers from"),
        ("other.npy", "has 3 channels, and 4 are asked for"),
    ):
        assert again(trained, "--mode=edit", f"--input={tmp_path / name}") == 1
        assert message in capsys.readouterr().err
    measured = ("--mode=restore", "--task=super_resolution", "--measured", given)
    assert again(trained, *measured) == 1
    assert "--measured takes pictures of 8 bits" in capsys.readouterr().err


def test_nats_per_dim_are_those_of_the_density_of_the_numbers(
    trained, prepared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evaluation_run, "network_of", lambda *_, **__: exact())
    fine = ("rtol=1e-6", "atol=1e-6", "bpd_eps=1e-5")
    options = (*LITTLE_BPD, *(f"--config.eval.{word}" for word in fine))
    assert again(trained, "--mode=eval", *options, f"--eval_folder={tmp_path}") == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    source = opened(prepared / "out", split="test")
    y = source.images(likelihood.subset(source, len(source))).double()
    each = ((y - MEAN) / STD) ** 2 / 2 + np.log(STD * np.sqrt(2 * np.pi))
    assert report["nats_per_dim"]["value"] == pytest.approx(each.mean().item(), rel=1e-3)
    assert report["nats_per_dim"]["range"] == [arrays().min(), arrays().max()]
    # The bound of the exact score is off by the prior's mismatch alone, which is small.
    bound = report["bound_nats"]
    error = 4 * bound["se_draws"] + 1e-3
    assert bound["value"] == pytest.approx(each.mean().item(), abs=error)
    assert report["held_out_loss"]["n"] == len(source)
    left_out = report["left_out"]
    assert "see nats_per_dim" in left_out["bits/dim"]
    assert (
        "see grey, RGB and RGBA pictures, and these images have 4 channels" in left_out["samples"]
    )
    assert not report.keys() & {"bits_per_dim", "bound", "fd"}
    features = ("--config.eval.features=classifier", f"--eval_folder={tmp_path}")
    assert again(trained, "--mode=eval", *features) == 1
    assert "--output NAME.npz" in capsys.readouterr().err


def test_nats_in_other_units_differ_by_the_logarithm_of_the_unit():
    logp, unscale = torch.tensor([-3.0, 5.0], dtype=torch.float64), lambda x: (x + 1) / 2
    metres = likelihoods.nats_per_dim(logp, 7, likelihoods.unit_width(unscale, 1.0, 3.0))
    millimetres = likelihoods.nats_per_dim(logp, 7, likelihoods.unit_width(unscale, 1e3, 3e3))
    torch.testing.assert_close(millimetres - metres, torch.full_like(metres, np.log(1e3)))
    assert metres.tolist() == pytest.approx([3 / 7, -5 / 7])  # one unit of data is one of x
    with pytest.raises(ValueError, match="take log_likelihood, which is in nats"):
        likelihoods.bin_width(unscale, 0)


def test_floats_of_one_channel_are_drawn_as_pictures_of_their_range(tmp_path, capsys):
    np.save(tmp_path / "a.npy", arrays(1)[..., 0])
    data = ("--config.data.dataset=folder", f"--config.data.root={tmp_path / 'a.npy'}")
    run = words(tmp_path / "run", *data, channels=1)
    assert cli.main([*run, "--mode=train"]) == 0
    sample = [*run, "--mode=sample", "--num_samples=2"]
    assert cli.main([*sample, f"--output={tmp_path / 'png'}"]) == 0
    assert "an --output in .npz keeps the numbers" in capsys.readouterr().out
    assert cli.main([*sample, f"--output={tmp_path / 'n.npz'}"]) == 0
    numbers = arrays(1)
    with np.load(tmp_path / "n.npz") as file:
        unit = (file["images"] - numbers.min()) / (numbers.max() - numbers.min())
    for k in range(2):
        with Image.open(tmp_path / "png" / f"{k:06d}.png") as picture:
            off = np.asarray(picture) - 255 * unit[k, ..., 0].clip(0, 1)
        assert np.abs(off).max() < 0.501


@pytest.mark.parametrize(("range", "seen"), [((), True), ((-1.0, 4.0), False)])
def test_images_of_four_channels_have_features_where_they_are_pictures(tmp_path, range, seen):
    word = f"--config.eval.stats_folder={tmp_path}"
    words = ["main.py", "--config=vp/digits", f"--workdir={tmp_path}", "--mode=stats", word]
    config = with_range(cli.parse(words).config, range)
    config.data.dataset, config.data.num_channels = "folder", 4
    references = build_references(config)
    Classifier("folder", (4, 8, 8), 2).save(references.classifier_path)
    assert references.are_there() is seen


def test_statistics_of_many_channels_are_refused_before_anything_is_trained(tmp_path, capsys):
    fields = ("data.num_channels=5", "data.dataset=folder", f"eval.stats_folder={tmp_path}")
    words = ["--config=vp/digits", f"--workdir={tmp_path}", "--mode=stats"]
    assert cli.main(["main.py", *words, *(f"--config.{field}" for field in fields)]) == 1
    said = capsys.readouterr().err
    assert "RGBA pictures, and these images have 5 channels" in said
    assert said.count("\n") == 1
