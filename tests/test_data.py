"""Sources, splits and labels; what happens to pixels; the order of batches."""

import gzip
import hashlib
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import urllib.error
import warnings

import hostile_files
import ml_collections
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, PngImagePlugin

from datasets import get_dataset
from score_sde import noise
from score_sde.config.build import build_inverse_scaler, build_scaler, open_split
from score_sde.data import (
    EpochOrder,
    MemorySource,
    StreamingSource,
    canonical_name,
    conform,
    dequantise,
    eval_batches,
    open_source,
    to_unit,
    train_batches,
)
from score_sde.data.batches import AT_ONCE
from score_sde.data.folder import open_folder
from score_sde.data.pixels import FileDecoder
from score_sde.data.public import read_idx
from score_sde.data.sources import Request
from score_sde.tensor_ops import UnknownName


def memory_source(n=10, shape=(1, 4, 6), levels=256):
    """Image i is a ramp that starts at level i: no two are alike, and none is its own mirror."""
    ramp = torch.arange(np.prod(shape)).reshape(1, *shape) + torch.arange(n).reshape(-1, 1, 1, 1)
    request = Request("folder", "train", ROOT, shape[1:], shape[0], False, 0.0, 0, "")
    info = request.info(n, "as made", class_names=("a", "b", "c"), levels=levels)
    return MemorySource(info, (ramp % levels).to(torch.uint8), torch.arange(n) % 3)


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def write_image(path, size=(6, 4), colour=(10, 20, 30), mode="RGB"):
    """Writes one picture; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, format=None if path.suffix else "png")


def open_images(root, split="train", image_size=(4, 6), num_channels=3, **options):
    return open_source(
        "folder", split, root=root, image_size=image_size, num_channels=num_channels, **options
    )


def all_images(source):
    return source.images(torch.arange(len(source)))


# Levels and floats


@pytest.mark.parametrize("levels", [17, 256])
def test_plain_levels_run_from_black_at_0_to_white_at_1(levels):
    k = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    x = to_unit(k, levels).flatten()
    assert x.dtype == torch.float32
    assert x[0] == 0
    assert x[-1] == 1
    assert torch.equal((x * (levels - 1)).round(), torch.arange(levels).float())


@pytest.mark.parametrize("levels", [17, 256])
def test_every_dequantised_value_lies_in_its_own_level(levels):
    k = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels).expand(64, 1, 1, levels)
    u = torch.rand(k.shape, generator=torch.Generator().manual_seed(0))
    u[0], u[1] = 0, 1 - 2**-24  # the ends of what a float32 uniform can be
    x = dequantise(k, levels, u)
    assert torch.equal((x * levels).floor().to(torch.uint8), k)
    assert 0 < x.min()
    assert x.max() < 1
    torch.testing.assert_close(x * levels - k, u, rtol=0, atol=4e-5)


def test_scalers_are_inverse_and_follow_centered():
    image = torch.rand(2, 1, 3, 3)
    for centered, low in ((True, -1), (False, 0)):
        config = ml_collections.ConfigDict({"data": {"centered": centered}})
        scaled = build_scaler(config)(image)
        assert scaled.min() >= low
        torch.testing.assert_close(scaled, image * (1 - low) + low)
        torch.testing.assert_close(build_inverse_scaler(config)(scaled), image)


# Training batches


def test_each_epoch_shows_every_image_once_and_batches_cross_epochs():
    index = torch.cat(
        [b["index"] for b in take(train_batches(memory_source(10), batch_size=4, seed=3), 15)]
    )
    epochs = index.reshape(6, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6


def test_order_depends_on_seed_and_not_on_batch_size():
    def order(seed, batch_size):
        batches = take(train_batches(memory_source(), batch_size=batch_size, seed=seed), 6)
        return torch.cat([b["index"] for b in batches])[:30]

    assert torch.equal(order(1, 5), order(1, 10))
    assert not torch.equal(order(1, 5), order(2, 5))
    assert not torch.equal(order(1, 5), order(1 + 2**40, 5))


def test_batches_of_another_size_go_on_at_the_same_image():
    options = dict(seed=3, random_flip=True, dequantise=True, label_dropout=0.3)
    whole = take(train_batches(memory_source(), batch_size=4, **options), 9)
    (first,) = take(train_batches(memory_source(), batch_size=12, **options), 1)
    rest = take(train_batches(memory_source(), batch_size=6, start=12, **options), 4)
    for entry in ("index", "image", "label"):
        expected = torch.cat([batch[entry] for batch in whole])
        assert torch.equal(torch.cat([b[entry] for b in [first, *rest]]), expected)


@pytest.mark.parametrize("start_step", [1, 2, 7])
def test_resumed_stream_equals_the_uninterrupted_one(start_step):
    options = dict(batch_size=4, seed=3, random_flip=True, label_dropout=0.3)
    whole = take(train_batches(memory_source(), **options), 10)
    resumed = take(
        train_batches(memory_source(), start=4 * start_step, **options), 10 - start_step
    )
    assert_same(resumed, whole[start_step:])


def test_batches_hold_their_images_and_labels():
    source = memory_source()
    for batch in take(train_batches(source, batch_size=4, seed=0), 5):
        expected = source.images(batch["index"]).float() / 255
        assert torch.equal(batch["image"], expected)
        assert torch.equal(batch["label"], batch["index"] % 3)


def test_a_batch_may_exceed_the_data_set():
    (batch,) = take(train_batches(memory_source(3), batch_size=20, seed=0, random_flip=True), 1)
    assert batch["image"].shape == (20, 1, 4, 6)
    assert batch["index"].bincount().tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7])


def test_flips_belong_to_an_image_in_an_epoch():
    source = memory_source(200)

    def flipped(batch_size):
        found = {}
        for batch in take(
            train_batches(source, batch_size=batch_size, seed=5, random_flip=True),
            600 // batch_size,
        ):
            plain = source.images(batch["index"]).float() / 255
            for place, index in enumerate(batch["index"].tolist()):
                same = torch.equal(batch["image"][place], plain[place])
                assert same or torch.equal(batch["image"][place], plain[place].flip(-1))
                found.setdefault(index, []).append(not same)
        return found

    found = flipped(100)
    assert found == flipped(30)
    flips = torch.tensor([found[index] for index in range(200)]).float()
    assert (flips.mean(0) - 0.5).abs().max() < 0.15  # four standard errors
    assert 0.3 < (flips[:, 0] == flips[:, 1]).float().mean() < 0.7


@pytest.mark.parametrize(("batch_size", "start"), [(1, 0), (37, 5000), (AT_ONCE + 1, 3)])
def test_what_is_drawn_for_many_batches_at_once_belongs_to_each_image(batch_size, start):
    source = memory_source(11)
    options = dict(seed=4, start=start, random_flip=True)
    (batch,) = take(train_batches(source, batch_size=batch_size, **options), 1)
    places = torch.arange(start, start + batch_size)
    order = EpochOrder(len(source), 4)
    for row in (0, batch_size // 2, batch_size - 1):
        index, epoch = order(range(places[row], places[row] + 1))
        sample = index + epoch * len(source)
        coin = noise.uniform(4, sample, 0, (), stream=noise.Stream.AUGMENT) < 0.5
        image = source.images(index)
        expected = image.flip(-1) if coin else image
        assert torch.equal(batch["image"][row], to_unit(expected, 256)[0])
        assert batch["index"][row] == index


def test_labels_are_left_out_with_their_probability_anew_in_every_epoch():
    options = dict(batch_size=500, seed=5, random_flip=True)
    plain = take(train_batches(memory_source(500), **options), 8)
    batches = take(train_batches(memory_source(500), **options, label_dropout=0.2), 8)
    images, left_out, flips = all_images(memory_source(500)).float() / 255, [], []
    for batch, with_all in zip(batches, plain, strict=True):
        for entry in ("index", "image"):  # the rest is as it was
            assert torch.equal(batch[entry], with_all[entry])
        gone, order = batch["label"] == 3, batch["index"].argsort()  # of classes 0, 1, 2
        assert torch.equal(batch["label"][~gone], with_all["label"][~gone])
        left_out.append(gone[order].double() - 0.2)
        flips.append((batch["image"][order] != images).flatten(1).any(1).double() - 0.5)
    gone, flipped = torch.stack(left_out), torch.stack(flips)
    sizes = 0.16 / gone.numel() ** 0.5, 0.4 / gone.numel() ** 0.5
    assert gone.mean().abs() < 4 * sizes[1]
    # Two epochs, and labels and flips, have nothing to do with one another.
    assert (gone[:-1] * gone[1:]).mean().abs() < 4 * sizes[0]
    assert (gone * flipped).mean().abs() < 4 * sizes[1] / 2


def test_dequantisation_noise_is_uniform_and_new_in_every_epoch():
    source = memory_source(500, levels=17)
    first, second = take(train_batches(source, batch_size=500, seed=5, dequantise=True), 2)
    noise = []
    for batch in (first, second):
        order = batch["index"].argsort()
        noise.append(batch["image"][order] * 17 - all_images(source))
        assert 0 < noise[-1].min()
        assert noise[-1].max() < 1
    u = torch.stack(noise)
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(u.var() - 1 / 12) < 2e-3
    assert abs(torch.corrcoef(u.flatten(1))[0, 1]) < 0.05


def test_ranks_share_one_global_batch():
    options = dict(batch_size=6, seed=3, random_flip=True, label_dropout=0.3)
    whole = take(train_batches(memory_source(), **options), 4)
    for size in (3, 4):  # of four, two have an image more than the others
        parts = [
            take(train_batches(memory_source(), rank=rank, world=size, **options), 4)
            for rank in range(size)
        ]
        for step, batch in enumerate(whole):
            for key in batch:
                assert torch.equal(torch.cat([part[step][key] for part in parts]), batch[key])
    with pytest.raises(ValueError, match=r"training\.batch_size=6 over 7 processes"):
        train_batches(memory_source(), rank=0, world=7, **options)


def test_labels_that_are_not_there_can_not_be_left_out(tmp_path):
    write_image(tmp_path / "a.png")
    source = open_images(tmp_path, test_fraction=0.0)
    with pytest.raises(ValueError, match="folder has no labels to leave out: give 0"):
        train_batches(source, batch_size=4, seed=5, label_dropout=0.2)


def test_training_does_not_touch_the_global_generator(tmp_path):
    write_image(tmp_path / "a.png")
    streaming = open_images(tmp_path, test_fraction=0.0, memory_limit_bytes=0)
    state = torch.get_rng_state()
    for source in (memory_source(), streaming):
        take(train_batches(source, batch_size=2, seed=0, random_flip=True, dequantise=True), 2)
    assert torch.equal(torch.get_rng_state(), state)


# Evaluation batches


def test_evaluation_counts_every_image_once_in_order():
    batches = list(eval_batches(memory_source(10), batch_size=4))
    assert [len(b["index"]) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b["index"] for b in batches]), torch.arange(10))
    assert list(eval_batches(memory_source(0), batch_size=4)) == []


def test_evaluation_noise_depends_on_seed_image_and_draw_only():
    def images(batch_size, **options):
        batches = eval_batches(memory_source(10), batch_size=batch_size, **options)
        return torch.cat([b["image"] for b in batches])

    assert torch.equal(images(4, dequantise_seed=1), images(10, dequantise_seed=1))
    assert not torch.equal(images(4, dequantise_seed=1), images(4, dequantise_seed=2))
    assert not torch.equal(images(4, dequantise_seed=1), images(4, dequantise_seed=1, draw=1))
    assert torch.equal((images(4, dequantise_seed=1) * 256).floor() / 255, images(4))


# Digits


def test_digits_are_split_by_index_with_seventeen_levels():
    train, test = (
        open_source("digits", split, root="", image_size=(8, 8), num_channels=1)
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (1497, 300)
    assert train.info.shape == (1, 8, 8)
    assert train.info.levels == 17
    assert train.info.fingerprint != test.info.fingerprint
    for source in (train, test):
        images, labels = all_images(source), source.labels(torch.arange(len(source)))
        assert (images.min(), images.max()) == (0, 16)
        assert labels.unique().tolist() == list(range(10))
        assert source.info.num_classes == len(source.info.class_names) == 10
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    assert torch.equal(test.images(torch.tensor([2])).flatten().double(), torch.tensor(pixels[12]))
    assert train.labels(torch.tensor([0, 5])).tolist() == labels[[1, 7]].tolist()


@pytest.mark.parametrize(("image_size", "num_channels"), [((16, 16), 1), ((8, 8), 3)])
def test_digits_refuse_other_shapes(image_size, num_channels):
    with pytest.raises(ValueError, match=r"set data\.num_channels=1, data\.image_size=8"):
        open_source("digits", "train", root="", image_size=image_size, num_channels=num_channels)


def test_coloured_digits_keep_the_grey_digit_and_have_two_hues_a_class():
    for split, n in (("train", 1497), ("test", 300)):
        grey = open_source("digits", split, root="", image_size=(8, 8), num_channels=1)
        source = open_source("colour-digits", split, root="", image_size=(8, 8), num_channels=3)
        assert source.info.shape == (3, 8, 8)
        assert source.info.levels == 256
        images, expected = all_images(source).double(), all_images(grey).double()
        assert (images.mean(1, keepdim=True) - expected / 16 * 127.5).abs().max() < 0.5
        labels = source.labels(torch.arange(n))
        assert torch.equal(labels, grey.labels(torch.arange(n)))
        # The channels of a whole image lie on one ray: its colour.
        colour = images.sum((2, 3))
        colour /= colour.sum(1, keepdim=True)
        for label in range(10):
            of_class = colour[labels == label]
            hues = (of_class[:, None] - of_class[None]).norm(dim=-1) > 0.05
            assert hues.unique(dim=0).shape[0] == 2
    with pytest.raises(ValueError, match=r"set data\.num_channels=3"):
        open_source("colour_digits", "test", root="", image_size=(8, 8), num_channels=1)


# Folders


def test_folder_finds_nested_files_with_any_case_of_extension(tmp_path):
    for name in ("a.PNG", "b/c.JpEg", "b/d/e.bmp", "b/d/f.WEBP", "g.tif", "h.GIF", "i.ppm"):
        write_image(tmp_path / name)
    for name in (".hidden.png", "b/._c.jpg", ".trash/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    source = open_images(tmp_path, test_fraction=0.0)
    assert len(source) == 7
    assert source.info.num_classes == 0
    assert source.labels(torch.arange(7)).tolist() == [0] * 7
    lossless = source.images(torch.tensor([0]))
    assert torch.equal(
        lossless, torch.tensor([10, 20, 30]).byte().reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    )


def test_class_folders_give_labels_that_agree_between_the_splits(tmp_path):
    for number, name in enumerate(["train/cat/1.png", "train/dog/1.png", "Test/dog/1.png"]):
        write_image(tmp_path / name, colour=(number, 0, 0))
    train, test = open_images(tmp_path), open_images(tmp_path, "test")
    assert train.info.class_names == test.info.class_names == ("cat", "dog")
    assert train.labels(torch.arange(2)).tolist() == [0, 1]
    assert test.labels(torch.arange(1)).tolist() == [1]
    assert all_images(test)[0, 0, 0, 0] == 2


def test_folders_that_are_no_classes_give_no_labels(tmp_path):
    for layout in (["a/1.png", "b/c/1.png"], ["a/1.png", "2.png"], ["a/1.png", "a/2.png"]):
        root = tmp_path / layout[1].replace("/", "-")
        for name in layout:
            write_image(root / name)
        assert open_images(root, test_fraction=0.0).info.num_classes == 0


def test_val_serves_where_there_is_no_test_folder(tmp_path):
    for name in ("train/1.png", "train/2.png", "val/1.png"):
        write_image(tmp_path / name)
    assert len(open_images(tmp_path, "test")) == 1
    write_image(tmp_path / "test/1.png")
    write_image(tmp_path / "test/2.png")
    assert len(open_images(tmp_path, "test")) == 2


def names_of(root, split):
    source = open_images(root, split, memory_limit_bytes=0, test_fraction=0.25)
    return set(source._decode.decode.paths)


def test_hash_split_is_disjoint_complete_and_stable_under_additions(tmp_path):
    for number in range(200):
        write_image(tmp_path / f"{number}.png", size=(1, 1))
    train, test = names_of(tmp_path, "train"), names_of(tmp_path, "test")
    assert len(train) + len(test) == 200
    assert not train & test
    assert 25 <= len(test) <= 75  # four standard errors around 50
    for number in range(200, 260):
        write_image(tmp_path / f"{number}.png", size=(1, 1))
    assert train < names_of(tmp_path, "train")
    assert test < names_of(tmp_path, "test")


@pytest.mark.parametrize("count", [2, 5, 14])
def test_of_a_small_folder_at_least_one_image_is_held_out(tmp_path, count):
    for number in range(count):
        write_image(tmp_path / f"{number}.png", size=(1, 1))
    train, test = (open_images(tmp_path, split, test_fraction=1e-9) for split in ("train", "test"))
    assert (len(train), len(test)) == (count - 1, 1)
    assert len(open_images(tmp_path, test_fraction=0.0)) == count


@pytest.mark.parametrize("first", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize(
    "second", ["test", "Testing", "VAL", "validation", "valid", "dev", "eval"]
)
def test_folders_of_both_splits_are_known_by_their_names(tmp_path, first, second):
    for name in ("cat/1.png", "dog/2.png", "dog/3.png"):
        write_image(tmp_path / first / name)
    write_image(tmp_path / second / "cat/4.png")
    train, test = open_images(tmp_path), open_images(tmp_path, "test")
    assert (len(train), len(test)) == (3, 1)
    assert train.info.class_names == test.info.class_names == ("cat", "dog")


def test_of_several_folders_held_out_test_is_used_and_that_is_said(tmp_path):
    for name in ("train/1.png", "valid/2.png", "valid/3.png", "Test/4.png", "more/5.png"):
        write_image(tmp_path / name)
    assert len(open_images(tmp_path, "test")) == 1
    notes = open_images(tmp_path).info.notes
    assert "held out are the images of Test/, not valid/" in notes
    assert "beside the splits, more/ is left out" in notes


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "training", "test"], "has train/, training/ and test/, and which"),
        (["train", "test", "Test"], "has train/, Test/ and test/, and which"),
        (["validation"], "has a folder validation/ but none called train/"),
        (["dev", "train2017"], r"dev/ but none called train/ \(it has train2017/\)"),
        (["train2017", "val2017"], "has train2017/ beside val2017/, which look like splits"),
        (["trainImages", "testImages"], "trainImages/ beside testImages/"),
        (["train", "test_set"], "has train/ beside test_set/, which look like splits"),
        (["train", "holdout"], "has train/ beside holdout/, and whether that is held out"),
        (["images/train", "images/val"], "splits one below: images/ holds train/ and val/; set"),
        (["a/b/Training", "a/b/Testing"], "a/b/ holds Training/ and Testing/; set data.root"),
    ],
)
def test_folders_that_may_be_splits_and_are_not_understood_are_refused(tmp_path, folders, message):
    for number, folder in enumerate(folders):
        write_image(tmp_path / folder / f"{number}.png")
        write_image(tmp_path / folder / f"{number + 10}.png")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=message):
            open_images(tmp_path, split)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "plane", "train"):
        write_image(tmp_path / name / "1.png")
    assert open_images(tmp_path, test_fraction=0.0).info.class_names == ("bus", "plane", "train")


@pytest.mark.parametrize("name", ["test", "val", "Test"])
def test_images_for_testing_are_not_trained_on_for_want_of_a_train_folder(tmp_path, name):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / name / "b.png")
    with pytest.raises(ValueError, match=f"has a folder {name}/ but none called train/"):
        open_images(tmp_path)


def test_a_small_folder_trains_with_an_empty_test_split(tmp_path):
    write_image(tmp_path / "a.png")
    assert len(open_images(tmp_path, "test", test_fraction=0.0)) == 0
    with pytest.raises(ValueError, match=r"lower data\.test_fraction=0\.999"):
        open_images(tmp_path, test_fraction=0.999)


def test_fingerprint_follows_files_split_and_size_but_not_the_place(tmp_path):
    for root in ("one", "two"):
        for name in ("train/a.png", "test/a.png"):
            write_image(tmp_path / root / name)
    first = open_images(tmp_path / "one").info.fingerprint
    assert open_images(tmp_path / "two").info.fingerprint == first
    assert open_images(tmp_path / "one", "test").info.fingerprint != first
    assert open_images(tmp_path / "one", image_size=(6, 4)).info.fingerprint != first
    write_image(tmp_path / "one/train/b.png")
    assert open_images(tmp_path / "one").info.fingerprint != first


def test_an_empty_folder_is_refused_with_what_was_seen(tmp_path):
    (tmp_path / "readme.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"1 other file\(s\), such as readme\.md.*\.png"):
        open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"set data\.root"):
        open_images(tmp_path / "absent")


def test_a_link_back_up_does_not_count_images_twice(tmp_path):
    write_image(tmp_path / "inner" / "a.png")
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    assert len(open_images(tmp_path, test_fraction=0.0)) == 1


def test_a_link_to_nothing_is_named_with_the_remedy(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match=r"gone\.png cannot be read .*repair the link or remove"):
        open_images(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_does_not_end_the_workers(number, tmp_path):
    write_image(tmp_path / "a.png")
    source = open_images(tmp_path, test_fraction=0.0, memory_limit_bytes=0)
    source = StreamingSource(source.info, source._decode.decode, num_workers=1)
    batches = train_batches(source, batch_size=1, seed=0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len(take(batches, 20)) == 20  # more than are decoded ahead


@pytest.mark.parametrize("memory_limit_bytes", [0, 2**20])
def test_an_undecodable_file_is_named_with_the_remedy(tmp_path, memory_limit_bytes):
    write_image(tmp_path / "a.png", size=(64, 64))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])

    def use():
        source = open_images(tmp_path, test_fraction=0.0, memory_limit_bytes=memory_limit_bytes)
        take(train_batches(source, batch_size=2, seed=0), 1)

    with pytest.raises(ValueError, match=r"^[^\n]*b\.png cannot be decoded[^\n]*--mode prepare"):
        use()


def test_streaming_gives_what_memory_gives_and_resumes(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(7):
        pixels = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{number % 2}" / f"{number}.png")
    kept = open_images(tmp_path, test_fraction=0.0)
    streamed = open_images(tmp_path, test_fraction=0.0, memory_limit_bytes=0)
    assert isinstance(kept, MemorySource)
    assert isinstance(streamed, StreamingSource)
    assert kept.info == streamed.info
    options = dict(batch_size=4, seed=1, random_flip=True, dequantise=True)
    whole = take(train_batches(kept, **options), 5)
    assert_same(take(train_batches(streamed, **options), 5), whole)
    assert_same(take(train_batches(streamed, start=12, **options), 2), whole[3:])
    # From the midst of a batch on, and the second of two processes.
    (batch,) = take(train_batches(kept, start=5, **options), 1)
    part = take(train_batches(streamed, start=5, rank=1, world=2, **options), 1)
    assert_same(part, [{name: rows[2:] for name, rows in batch.items()}])
    assert_same(
        list(eval_batches(streamed, batch_size=4)),
        list(eval_batches(kept, batch_size=4)),
    )
    # Workers may be spawned, so what they are given must pickle.
    again = pickle.loads(pickle.dumps(streamed._decode))
    assert torch.equal(torch.from_numpy(again[[0, 6]]), kept.images(torch.tensor([0, 6])))


def test_a_cut_off_file_of_a_streamed_folder_is_found_before_the_first_step(tmp_path):
    for number, name in enumerate(
        ["a.jpg", "b.png", "c.gif", "d.bmp", "e.webp", "f.tif", "g.ppm"]
    ):
        root = tmp_path / name
        for other in range(20):
            write_image(root / f"{other:02}.png", size=(30, 20), colour=(other, 2, 3))
        write_image(root / name, size=(30, 20), colour=(number, 20, 30))
        open_images(root, memory_limit_bytes=0)
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(ValueError, match=rf"{name} cannot be decoded.*remove it"):
            open_images(root, memory_limit_bytes=0, test_fraction=0.0)


def test_a_whole_file_that_goes_on_behind_its_end_is_taken(tmp_path):
    for name in ("a.jpg", "b.png", "c.gif", "d.bmp"):
        write_image(tmp_path / name)
        with (tmp_path / name).open("ab") as file:
            file.write(b"what a camera adds " * 20)
    source = open_images(tmp_path, memory_limit_bytes=0, test_fraction=0.0)
    assert all_images(source).shape == (4, 3, 4, 6)


@pytest.mark.parametrize(
    "ending",
    ["pgm", "pbm", "pnm", "jfif", "jp2", "avif", "tga", "pcx", "sgi", "qoi", "dib"],
)
def test_every_raster_format_of_pillow_is_read(tmp_path, ending):
    known = {"pbm": "1", "pgm": "L", "pnm": "L"}
    if f".{ending}" not in Image.registered_extensions():
        pytest.skip("Pillow was built without it")
    mode = known.get(ending, "RGB")
    write_image(tmp_path / f"a.{ending}", mode=mode, colour=1 if mode != "RGB" else (9, 9, 9))
    assert len(open_images(tmp_path, test_fraction=0.0)) == 1


def test_files_left_out_are_counted_in_one_line(tmp_path):
    for name in ("a.png", "b.PGM"):
        write_image(tmp_path / name, mode="L", colour=200)
    for name in ("c.txt", "d.txt", "e.pdf", "f.eps", "g.mpg", "README", ".hidden", "h.ico"):
        (tmp_path / name).write_bytes(b"")
    source = open_images(tmp_path, test_fraction=0.0)
    assert len(source) == 2
    (note,) = source.info.notes
    assert note.startswith("left out as no images: 7 file(s) (2 .txt, 1 ")
    assert all(ending in note for ending in (".pdf", ".eps", ".mpg", ".ico", "without ending"))


def test_names_in_no_encoding_are_read_and_quoted(tmp_path):
    for folder in (b"cat\xe9", b"dog\nline"):
        inner = os.path.join(os.fsencode(tmp_path), folder)
        os.mkdir(inner)
        with open(os.path.join(inner, b"\xff.png"), "wb") as file:
            Image.new("RGB", (6, 4), "white").save(file, "png")
    source = open_images(tmp_path, test_fraction=0.0)
    assert all_images(source).min() == 255
    assert source.info.class_names == ("cat\\xe9", "dog\\nline")
    with open(os.path.join(inner, b"\xff.png"), "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ValueError, match=r"dog\\nline/\\xff\.png cannot be decoded"):
        open_images(tmp_path, test_fraction=0.0)


# Pixels


def test_the_shorter_side_is_fitted_and_the_centre_kept():
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8))
    whole = torch.from_numpy(np.array(stored.resize((12, 4), Image.Resampling.BILINEAR)))
    assert torch.equal(conform(stored, (4, 4), 3), whole[:, 4:8].movedim(-1, 0))
    assert torch.equal(conform(stored, (4, 12), 3), whole.movedim(-1, 0))
    tall = conform(stored.transpose(Image.Transpose.TRANSPOSE), (4, 4), 3)
    assert torch.equal(tall, whole[:, 4:8].movedim(-1, 0).mT)


def test_reduction_averages_instead_of_picking():
    checkered = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = conform(Image.fromarray(checkered), (8, 8), 1)
    assert (image.float() - 127.5).abs().max() <= 1.5


def test_an_image_of_the_right_size_passes_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = conform(Image.fromarray(pixels), (5, 7), 3)
    assert torch.equal(image, torch.from_numpy(pixels).movedim(-1, 0))


def test_colours_are_converted_by_the_number_of_channels():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert conform(red, (2, 2), 1).unique().tolist() == [76]  # 0.299 · 255
    assert conform(Image.new("L", (2, 2), 9), (2, 2), 3).unique().tolist() == [9]
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert conform(clear, (2, 2), 3).unique().tolist() == [255]
    assert conform(clear, (2, 2), 4).unique().tolist() == [0]
    deep = Image.fromarray(np.full((2, 2), 257 * 100, dtype=np.uint16))
    assert conform(deep, (2, 2), 1).unique().tolist() == [100]


def decoded(path, num_channels=1, size=(2, 2)):
    return FileDecoder(path.parent, (path.name,), size, num_channels)(0)


def test_sixteen_bits_fill_the_range_in_every_format_and_byte_order(tmp_path):
    pixels = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    levels = [0, 100, 200, 255]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.tif")
    big = Image.frombytes("I;16B", (2, 2), pixels.astype(">u2").tobytes())
    big.save(tmp_path / "c.tif")
    (tmp_path / "d.pgm").write_bytes(b"P5 2 2 65535\n" + pixels.astype(">u2").tobytes())
    (tmp_path / "e.pgm").write_bytes(b"P5 2 2 4095\n" + (pixels >> 4).astype(">u2").tobytes())
    (tmp_path / "f.png").write_bytes(
        hostile_files.png(
            2,
            2,
            depth=16,
            data=b"".join(
                b"\0" + row.astype(">u2").tobytes() for row in np.repeat(pixels[..., None], 3, 2)
            ),
        )
    )
    (tmp_path / "g.png").write_bytes(
        hostile_files.png(
            2,
            2,
            depth=16,
            colour=4,
            data=b"".join(
                b"\0" + np.stack([row, np.full(2, 65535)], 1).astype(">u2").tobytes()
                for row in pixels
            ),
        )
    )
    for path in sorted(tmp_path.iterdir()):
        assert decoded(path).flatten().tolist() == levels, path.name


@pytest.mark.parametrize("values", [[[0, 65535], [70000, 2**31 - 1]], [[0, 1], [1, 0]]])
def test_integers_of_32_bits_are_refused_like_floats(tmp_path, values):
    Image.fromarray(np.array(values, np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        with pytest.raises(ValueError, match=rf"{name} cannot .*have no range to map: save them"):
            decoded(tmp_path / name)


@pytest.mark.parametrize(
    ("dtype", "largest", "brightest"), [(np.uint16, 4095, 16), (np.uint8, 1, 1)]
)
def test_images_that_use_a_small_part_of_the_range_are_told(tmp_path, dtype, largest, brightest):
    for number in range(3):
        pixels = np.linspace(0, largest, 64).astype(dtype).reshape(8, 8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    options = dict(image_size=(8, 8), num_channels=1, test_fraction=0.0)
    for limit in (0, 2**20):
        (note,) = open_images(tmp_path, memory_limit_bytes=limit, **options).info.notes
        assert f"nearly black: the brightest pixel of 3 looked at is {brightest} of 255" in note
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "3.png")
    assert not open_images(tmp_path, **options).info.notes
    np.save(tmp_path / "a.npy", np.ones((5, 8, 8), np.uint8))
    assert "nearly black" in open_images(tmp_path / "a.npy", **options).info.notes[0]


def test_whole_large_images_are_decoded_without_a_word(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # as of a slide of 10^8 pixels
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "a" * 2**21, zip=True)
    text.add_itxt("prompt", "b" * 2**21, zip=True)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png", pnginfo=text)
    write_image(tmp_path / "b.jpg", size=(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_images(tmp_path, test_fraction=0.0)
        assert len(open_images(tmp_path, test_fraction=0.0, memory_limit_bytes=0)) == 2
    assert all_images(source)[0, :, 0, 0].tolist() == [255, 0, 0]
    assert Image.MAX_IMAGE_PIXELS == 50  # the limits of others are as they were
    assert capfd.readouterr() == ("", "")


def test_of_several_pages_the_first_is_read(tmp_path):
    first, second = Image.new("L", (4, 4), 50), Image.new("L", (4, 4), 200)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "b.gif", save_all=True, append_images=[second])
    for name in ("a.tif", "b.gif"):
        assert decoded(tmp_path / name).unique().tolist() == [50]


def test_damaged_exif_does_not_damage_the_pixels(tmp_path):
    Image.new("L", (4, 4), 50).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decoded(tmp_path / "a.png").unique().tolist() == [50]


def test_postscript_under_an_images_name_is_never_run(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: ran.append(a))
    (tmp_path / "a.png").write_bytes(hostile_files.POSTSCRIPT)
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded"):
        decoded(tmp_path / "a.png")
    assert not ran


def test_photographs_stand_upright(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.png", exif=exif)
    source = open_images(tmp_path, test_fraction=0.0, image_size=(6, 4))
    assert all_images(source).shape == (1, 3, 6, 4)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.size == (6, 4)
    assert all_images(source).max() == 0


# Array files


def test_array_files_are_split_by_row(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 6, 3), dtype=np.uint8)
    labels = np.arange(60) % 4
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    np.save(tmp_path / "a.npy", pixels)
    train = open_images(tmp_path / "a.npz", test_fraction=0.3)
    test = open_images(tmp_path / "a.npz", "test", test_fraction=0.3)
    assert len(train) + len(test) == 60
    assert 4 < len(test) < 32
    assert train.info.num_classes == 4
    # Every image is found again, with its own label.
    rows = {
        row.tobytes(): label for row, label in zip(np.moveaxis(pixels, -1, 1), labels, strict=True)
    }
    for source in (train, test):
        images, found = all_images(source), source.labels(torch.arange(len(source)))
        for image, label in zip(images, found.tolist(), strict=True):
            assert rows.pop(image.numpy().tobytes()) == label
    assert not rows
    plain = open_images(tmp_path / "a.npy", test_fraction=0.3)
    assert torch.equal(all_images(plain), all_images(train))
    assert plain.info.num_classes == 0
    assert plain.info.policy == "4x6 as stored, RGB"


def test_array_files_are_resized_and_grey_arrays_need_no_channel_axis(tmp_path):
    np.save(tmp_path / "a.npy", np.full((5, 8, 8), 7, dtype=np.uint8))
    source = open_images(tmp_path / "a.npy", test_fraction=0.0, image_size=(4, 4))
    assert all_images(source).shape == (5, 3, 4, 4)
    assert all_images(source).unique().tolist() == [7]
    assert "reduced from 8x8" in source.info.policy


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr": np.zeros((2, 4, 4, 3), np.uint8)}, "name the array of images 'images'"),
        ({"images": np.zeros((2, 4, 4, 3), np.complex64)}, "give numbers .*: pictures as"),
        ({"images": np.zeros((2, 4, 6, 2), np.uint8)}, r"set data\.num_channels=2"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, "like one colour image"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(3, int)}, "labels in"),
    ],
)
def test_bad_array_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "a.npz")


def test_other_files_are_refused_as_root(tmp_path):
    for name, message in (("a.txt", "neither a folder nor"), ("a.npy", "cannot be read")):
        (tmp_path / name).write_bytes(b"abc")
        with pytest.raises(ValueError, match=message):
            open_images(tmp_path / name)


# Sets by name


def write_idx(path, array, zipped):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    )
    path.with_name(path.name + ".gz" if zipped else path.name).write_bytes(
        gzip.compress(content) if zipped else content
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"), [("Fashion-MNIST", "FashionMNIST"), ("mnist", "MNIST")]
)
def test_idx_sets_are_read_zipped_or_not(tmp_path, zipped, name, folder):
    generator = np.random.default_rng(0)
    raw = tmp_path / folder / "raw"
    stored = {}
    for stem, count in (("train", 12), ("t10k", 5)):
        stored[stem] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{stem}-images-idx3-ubyte", stored[stem], zipped)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10, zipped)
    options = dict(image_size=(28, 28), num_channels=1, download=False)
    test = open_source(name, "test", root=tmp_path, **options)
    assert torch.equal(all_images(test), torch.from_numpy(stored["t10k"])[:, None])
    assert test.labels(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert test.info.num_classes == 10
    train = open_source(name, "train", root=tmp_path / folder, **options)  # the set's own folder
    assert torch.equal(all_images(train), torch.from_numpy(stored["train"])[:, None])
    assert train.info.levels == 256


def test_damaged_idx_files_are_named(tmp_path):
    write_idx(tmp_path / "whole", np.zeros((3, 2), np.uint8), True)
    content = (tmp_path / "whole.gz").read_bytes()
    (tmp_path / "cut.gz").write_bytes(content[:-12])
    (tmp_path / "short").write_bytes(gzip.decompress(content)[:-1])
    (tmp_path / "other").write_bytes(b"<html>")
    for name in ("cut.gz", "short", "other"):
        with pytest.raises(ValueError, match=rf"{name} is .*remove it"):
            read_idx(tmp_path / name)
    assert read_idx(tmp_path / "whole.gz").shape == (3, 2)


def test_cifar10_comes_through_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(4, -1), "labels": [3, 1, 0, 2]}
    (folder / "batch").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}))
    monkeypatch.setattr(CIFAR10, "train_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    source = open_source("CIFAR10", "train", root=tmp_path, image_size=(32, 32), num_channels=3)
    assert torch.equal(all_images(source), torch.from_numpy(pixels))
    assert source.labels(torch.arange(4)).tolist() == [3, 1, 0, 2]
    assert source.info.class_names == ("a", "b", "c", "d")


def test_svhn_comes_through_torchvision(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [2], [3]])})
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {"train": ["", path.name, digest]})
    source = open_source("svhn", "train", root=tmp_path, image_size=(32, 32), num_channels=3)
    assert torch.equal(all_images(source), torch.from_numpy(pixels))
    assert source.labels(torch.arange(4)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", r"train-images-idx3-ubyte\.gz.*MNIST.raw.*data\.download=True"),
        ("fashion_mnist", r"train-images-idx3-ubyte\.gz.*FashionMNIST.raw"),
        ("cifar10", r"cifar-10-batches-py.*data\.download=True"),
        ("svhn", r"train_32x32\.mat.*data\.download=True"),
        ("celeba", r"img_align_celeba.*list_eval_partition\.txt into .*celeba"),
        ("lsun", r"church_outdoor_train_lmdb.*lsun.church_outdoor_train"),
        ("celebahq", r"put its images.*celebahq"),
        ("ffhq", r"put its images.*ffhq"),
    ],
)
def test_missing_files_give_one_sentence(tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=message) as caught:
        open_source(
            name,
            "train",
            root=tmp_path,
            image_size=(32, 32),
            num_channels=3,
            download=False,
            category="church_outdoor",
        )
    assert "\n" not in str(caught.value)
    assert str(tmp_path.resolve()) in str(caught.value)


def test_a_failed_fetch_gives_one_sentence(tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    def no_network(self):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(FashionMNIST, "download", no_network)
    with pytest.raises(OSError, match=r"could not be fetched .*no network.*\.gz into"):
        open_source("fashion_mnist", "train", root=tmp_path, image_size=(28, 28), num_channels=1)


def test_celeba_uses_the_official_parts_and_the_centre(tmp_path):
    folder = tmp_path / "celeba" / "img_align_celeba"
    framed = np.zeros((218, 178, 3), dtype=np.uint8)
    framed[39:179, 19:159] = 90  # the centred 140x140 square
    folder.mkdir(parents=True)
    for number in range(1, 6):
        Image.fromarray(framed).save(folder / f"{number:06}.jpg", quality=100, subsampling=0)
    table = tmp_path / "celeba" / "list_eval_partition.txt"
    table.write_text(
        "".join(f"{n:06}.jpg {p}\n" for n, p in zip(range(1, 6), (0, 0, 1, 2, 0), strict=True))
    )
    options = dict(root=tmp_path, image_size=(64, 64), num_channels=3)
    train, test = (
        open_source("CelebA", "train", **options),
        open_source("CelebA", "test", **options),
    )
    assert (len(train), len(test)) == (3, 1)
    assert (all_images(train).float() - 90).abs().max() < 30
    assert (all_images(train)[..., 4:-4, 4:-4].float() - 90).abs().max() < 3
    assert "140x140" in train.info.policy
    (folder / "000005.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 3 train images.*000005\.jpg"):
        open_source("CelebA", "train", **options)


def test_lsun_and_faces_are_folders_under_the_root(tmp_path):
    for name in ("bedroom_train/a/1.jpg", "bedroom_train/b/2.webp", "bedroom_val/3.jpg"):
        write_image(tmp_path / "lsun" / name)
    options = dict(root=tmp_path, image_size=(4, 6), num_channels=3)
    train = open_source("LSUN", "train", category="bedroom", **options)
    assert (len(train), train.info.num_classes) == (2, 0)
    assert len(open_source("LSUN", "test", category="bedroom", **options)) == 1
    for name in ("00000/1.png", "01000/2.png"):
        write_image(tmp_path / "ffhq" / name)
    faces = open_source("FFHQ", "train", test_fraction=0.0, **options)
    assert (len(faces), faces.info.num_classes) == (2, 0)


# Bad requests, names, cost of import


def test_names_are_taken_in_any_spelling_and_others_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"'fashoin-mnist'.*did you mean 'fashion_mnist'"):
        canonical_name("fashoin-mnist")
    with pytest.raises(UnknownName, match="did you mean 'cifar10'"):
        canonical_name("CIFAR")
    spelled = ["CIFAR10", "CelebAHQ", "Fashion-MNIST", "FashionMNIST", "LSUN", "Folder"]
    assert [canonical_name(name) for name in spelled] == [
        "cifar10",
        "celebahq",
        "fashion_mnist",
        "fashion_mnist",
        "lsun",
        "folder",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "valid"}, "must be one of train, test"),
        (
            {"name": "cifar10", "num_channels": 2},
            r"data\.num_channels=2: it must be one of 1, 3, 4",
        ),
        ({"image_size": (0, 4)}, r"data\.image_size"),
        ({"test_fraction": 1.0}, r"data\.test_fraction=1"),
        ({"name": "lsun"}, r"set data\.category"),
    ],
)
def test_bad_values_are_refused_before_anything_is_read(changes, message):
    request = {"name": "folder", "split": "train", "root": "/nowhere"}
    request |= {"image_size": (4, 4), "num_channels": 3} | changes
    with pytest.raises(ValueError, match=message):
        open_source(**request)


def test_importing_datasets_loads_neither_torchvision_nor_sklearn():
    program = (
        "import sys, score_sde.data\n"
        "print(*(m for m in ('torchvision', 'sklearn', 'scipy') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# The 2021 release's entry point


def original_config(**data):
    """The fields that a config written for the 2021 release has, and no others."""
    config = ml_collections.ConfigDict()
    config.seed = 42
    config.device = torch.device("cpu")
    config.training = ml_collections.ConfigDict({"batch_size": 64})
    config.eval = ml_collections.ConfigDict({"batch_size": 128})
    config.data = ml_collections.ConfigDict(
        {
            "dataset": "DIGITS",
            "image_size": 8,
            "random_flip": True,
            "centered": False,
            "uniform_dequantization": False,
            "num_channels": 1,
        }
        | data
    )
    config.lock()
    return config


def test_get_dataset_takes_a_config_of_the_2021_release():
    train, test, info = get_dataset(original_config())
    first, second = take(train, 1), take(train, 1)
    assert_same(first, second)
    assert first[0]["image"].shape == (64, 1, 8, 8)
    assert len(take(train, 30)) == 30  # more than an epoch
    # Neither split has an end, as in the release; a length is one pass.
    assert (len(train), len(test)) == (24, 3)
    assert [len(b["label"]) for b in take(test, 4)] == [128] * 4
    assert (info.name, info.split, info.num_images) == ("digits", "train", 1497)


def test_get_dataset_in_evaluation_goes_once_through_everything_unflipped():
    train, test, _ = get_dataset(original_config(), evaluation=True)
    assert [len(b["label"]) for b in test] == [128, 128, 44]
    batches = list(train)
    assert torch.equal(torch.cat([b["index"] for b in batches]), torch.arange(1497))
    source = open_split(original_config(), "train")
    image = torch.cat([b["image"] for b in batches])
    assert torch.equal(image, all_images(source).float() / 16)
    noisy, _, _ = get_dataset(original_config(), True, True)
    dequantised = torch.cat([b["image"] for b in noisy])
    assert torch.equal((dequantised * 17).floor() / 16, image)


def test_new_config_fields_are_used(tmp_path):
    for number in range(4):
        write_image(tmp_path / f"{number}.png", size=(6, 4))
    config = original_config(
        dataset="folder", root=str(tmp_path), image_size=4, image_width=6, test_fraction=0.0
    )
    source = open_split(config, "train")
    assert source.info.shape == (1, 4, 6)
    assert len(source) == 4
    request = Request("folder", "train", tmp_path, (4, 6), 1, True, 0.0, 2**30, "")
    assert open_folder(request).info == source.info
