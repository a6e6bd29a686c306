"""Corpora of a user's own into shards: what is read, what is kept of it, and training from it."""

import errno
import hashlib
import io
import json
import os
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.commands import cli
from score_sde.data import open_source, train_batches
from score_sde.data.memory import BeyondMemory
from score_sde.data.prepare import prepare
from score_sde.data.prepare.pictures import Maker
from score_sde.data.prepare.tfrecords import crc32c

SIZE = (8, 6)


def no_bar(total):
    return nullcontext(SimpleNamespace(update=lambda n: None))


def prepared(source, output, size=SIZE, **options):
    return prepare(source, output, size, bar=no_bar, num_workers=0, **options).index


def pixels(count=24, shape=(*SIZE, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write_folder(root, images, folders=("",)):
    """Image k as `NNN.png` in one folder after another, in their order."""
    names = []
    for k, image in enumerate(images):
        folder = folders[k * len(folders) // len(images)]
        (root / folder).mkdir(parents=True, exist_ok=True)
        names.append(f"{folder}{'/' if folder else ''}{k:03d}.png")
        Image.fromarray(image.squeeze()).save(root / names[-1])
    return names


def zipped(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def checksum_bit_by_bit(content):
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def framed(content):
    def masked(part):
        crc = checksum_bit_by_bit(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def example(image, packed=True):
    """`tf.train.Example` of an image (H, W, C), written as the message is specified."""

    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def message(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    chw = np.moveaxis(image, -1, 0)
    if packed:
        shape = message(1, b"".join(varint(n) for n in chw.shape))
    else:
        shape = b"".join(b"\x08" + varint(n) for n in chw.shape)
    entries = {b"shape": message(3, shape), b"data": message(1, message(1, chw.tobytes()))}
    features = b"".join(message(1, message(1, k) + message(2, v)) for k, v in entries.items())
    return message(1, features)


def write_records(root, images, labels=None, level=3):
    root.mkdir(exist_ok=True)
    content = b"".join(framed(example(image, k % 2 == 0)) for k, image in enumerate(images))
    (root / f"set-r{level:02d}.tfrecords").write_bytes(content)
    if labels is not None:
        with open(root / f"set-r{level:02d}.labels", "wb") as file:
            np.save(file, np.eye(max(labels) + 1, dtype=np.float32)[labels])
    return root


def shards_of(root):
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.tar"))}


def content_of(root):
    """What the shards hold: key with ending → bytes."""
    found = {}
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                file = archive.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def images_of(root):
    files = content_of(root)
    return {
        int(name[:8]): np.asarray(Image.open(io.BytesIO(content)))
        for name, content in sorted(files.items())
        if name.endswith(".png")
    }


def open_split(root, split="train", size=SIZE, channels=3, dataset="shards", **options):
    return open_source(
        dataset, split, root=root, image_size=size, num_channels=channels, **options
    )


# TFRecords


def test_crc32c_is_castagnoli_s_for_short_and_long_messages():
    assert crc32c(b"123456789") == 0xE3069283  # the polynomial's check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    for length in (511, 512, 513, 2**14 + 3):
        content = np.random.default_rng(length).bytes(length)
        assert crc32c(content) == checksum_bit_by_bit(content)


def test_folder_zip_and_records_of_the_same_images_give_the_same_shards(tmp_path):
    images, labels = pixels(30), [k % 3 for k in range(30)]
    names = write_folder(tmp_path / "folder", images, folders=("b/c", "b/d e", "b/é"))
    pairs = [[name, label] for name, label in zip(names, labels, strict=True)]
    (tmp_path / "folder" / "dataset.json").write_text(json.dumps({"labels": pairs}))
    zipped(tmp_path / "folder", tmp_path / "some.zip", "top/")
    write_records(tmp_path / "records", pixels(30, (4, 3, 3)), level=2)
    write_records(tmp_path / "records", images, labels)
    few = {"shard_bytes": 7 * 8 * 6 * 3}
    indices = [
        prepared(tmp_path / name, tmp_path / f"of_{name}", **few)
        for name in ("folder", "some.zip", "records")
    ]
    of_folder = shards_of(tmp_path / "of_folder")
    assert shards_of(tmp_path / "of_some.zip") == of_folder == shards_of(tmp_path / "of_records")
    assert [index["splits"] for index in indices] == [indices[0]["splits"]] * 3
    train = indices[0]["splits"]["train"]
    assert [shard["images"] for shard in train["shards"][:-1]] == [7] * (len(of_folder) - 2)
    for split in indices[0]["splits"].values():
        for shard in split["shards"]:
            content = of_folder[shard["name"]]
            assert shard["sha256"] == hashlib.sha256(content).hexdigest()
            assert shard["bytes"] == len(content)
    stored = images_of(tmp_path / "of_folder")
    assert list(stored) == list(range(30))
    assert all(np.array_equal(stored[k], images[k]) for k in range(30))
    files = content_of(tmp_path / "of_folder")
    assert {json.loads(files[f"{k:08d}.json"])["label"] == k % 3 for k in range(30)} == {True}
    assert not any(b"d e" in content for content in of_folder.values())
    table = json.loads((tmp_path / "of_folder" / "train-00000.json").read_text())
    assert table["source"][0] == "b/c/000.png"


def test_damaged_records_are_left_out_and_listed(tmp_path):
    images = pixels(12)
    path = write_records(tmp_path / "records", images) / "set-r03.tfrecords"
    content, length = bytearray(path.read_bytes()), len(framed(example(images[0], True)))
    content[60] ^= 1  # within the first record's data
    path.write_bytes(content[:-5])
    index = prepared(path, tmp_path / "out")
    assert [name for name, _ in index["left_out"]] == [
        "set-r03.tfrecords[11] and what follows",
        "set-r03.tfrecords[0]",
    ]
    assert "checksum" in index["left_out"][1][1]
    assert length > 60
    stored = images_of(tmp_path / "out")
    assert all(np.array_equal(stored[k], images[k + 1]) for k in range(10))
    assert len(stored) == 10


# Pictures


def test_odd_pictures_are_converted_and_damaged_ones_listed(tmp_path):
    root, image = tmp_path / "in", pixels(1)[0]
    root.mkdir()
    plain = Image.fromarray(image)
    plain.quantize(4).save(root / "a_palette.png")
    Image.new("CMYK", (6, 8), (255, 0, 0, 0)).save(root / "b_cmyk.TIFF")
    deep = np.full(SIZE, 0x8080, np.uint16)
    Image.fromarray(deep).save(root / "c_16_bits.png")
    clear = np.dstack([image, np.full(SIZE, 0, np.uint8)])
    clear[0, :, 3] = 255
    Image.fromarray(clear).save(root / "d_clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(image)).save(root / "e_turned.png", exif=exif)
    Image.fromarray(image[..., 0]).save(root / "f_grey.bmp")
    (root / "g_cut.png").write_bytes((root / "e_turned.png").read_bytes()[:90])
    (root / "h_empty.jpg").touch()
    (root / "i_text.gif").write_text("no picture")
    os.symlink("nowhere", root / "j_link.png")
    Image.fromarray(np.zeros(SIZE, np.float32)).save(root / "k_float.tif")
    (root / "notes.txt").touch()
    (root / ".hidden.png").touch()
    index = prepared(root, tmp_path / "out", ground="#ff0000")
    palette, cmyk, sixteen, shown, turned, grey = images_of(tmp_path / "out").values()
    assert np.array_equal(palette, np.asarray(plain.quantize(4).convert("RGB")))
    assert (cmyk == (0, 255, 255)).all()
    assert sixteen.shape == SIZE
    assert (sixteen == 0x80).all()
    assert np.array_equal(shown[0], image[0])
    assert (shown[1:] == (255, 0, 0)).all()
    assert np.array_equal(turned, image)
    assert np.array_equal(grey, image[..., 0])
    left_out = [name for name, _ in index["left_out"]]
    assert sorted(left_out) == [
        f"{name}"
        for name in ("g_cut.png", "h_empty.jpg", "i_text.gif", "j_link.png", "k_float.tif")
    ]
    assert index["notes"] == ["left out as no images: 1 file(s) (1 .txt)"]


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        # Of a picture of 4x16 pixels, its left half 40 and its right half 200.
        ("crop", (4, 4), [[40, 40, 200, 200]] * 4),
        ("crop", (2, 2), [[40, 200]] * 2),
        ("pad", (4, 2), [[0, 0], [40, 200], [0, 0], [0, 0]]),
        ("pad", (6, 16), [[0] * 16, *[[40] * 8 + [200] * 8] * 4, [0] * 16]),
    ],
)
def test_pictures_are_cropped_or_padded(fit, size, expected, tmp_path):
    (tmp_path / "in").mkdir()
    image = np.repeat([[40] * 8 + [200] * 8], 4, axis=0).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "in" / "one.png")
    prepared(tmp_path / "in", tmp_path / "out", size, fit=fit, ground="black")
    (stored,) = images_of(tmp_path / "out").values()
    # The filter reaches over the edge between the halves, where it shrinks.
    assert stored.shape == size
    slack = 0 if size[1] in (4, 16) else 25
    assert np.abs(stored.astype(int) - expected).max() <= slack


def test_what_shrinks_is_antialiased(tmp_path):
    (tmp_path / "in").mkdir()
    checkers = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    Image.fromarray(checkers).save(tmp_path / "in" / "one.png")
    prepared(tmp_path / "in", tmp_path / "out", (8, 8))
    (stored,) = images_of(tmp_path / "out").values()
    assert np.abs(stored.astype(int) - 127.5).max() < 2


def test_arrays_stay_float_and_their_range_is_stated(tmp_path):
    (tmp_path / "in").mkdir()
    arrays = np.random.default_rng(0).normal(size=(5, *SIZE, 4)).astype(np.float32)
    for k, array in enumerate(arrays):
        np.save(tmp_path / "in" / f"{k}.npy", array)
    np.savez(tmp_path / "in" / "5.npz", image=arrays[0])
    np.save(tmp_path / "in" / "6.npy", np.full((*SIZE, 4), np.nan, np.float32))
    np.save(tmp_path / "in" / "7.npy", arrays[0].astype(np.float64))
    index = prepared(tmp_path / "in", tmp_path / "out")
    files = content_of(tmp_path / "out")
    for k in range(6):
        stored = np.load(io.BytesIO(files[f"{k:08d}.npy"]))
        assert stored.dtype == np.float32
        assert np.array_equal(stored, arrays[k % 5])
    assert index["range"] == [arrays.min(), arrays.max()]
    assert [name for name, _ in index["left_out"]] == ["6.npy", "7.npy"]
    with pytest.raises(ValueError, match=r"has 4 channels, .* set data\.num_channels=4"):
        open_split(tmp_path / "out")


# Zips, splits, labels


def test_odd_names_in_a_zip(tmp_path):
    images = pixels(6)
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:

        def add(name, image, system=3):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.create_system = system
            archive.writestr(info, file.getvalue())

        add("Poster\\drama\\a.png", images[0], system=0)  # of Windows
        add("Poster/comedy/ä b.PNG", images[1])
        add("../Poster/drama/c.png", images[2])
        add("./Poster/comedy/c.png", images[3])
        add("__MACOSX/Poster/drama/._a.png", images[4])
        add("Poster/drama/.b.png", images[5])
        archive.writestr("Poster/empty/", b"")
    index = prepared(tmp_path / "odd.zip", tmp_path / "out")
    assert index["classes"] == ["comedy", "drama"]
    assert index["images_of_classes"] == [2, 2]
    assert not index["left_out"]
    stored = images_of(tmp_path / "out")
    assert all(np.array_equal(stored[k], images[j]) for k, j in enumerate((3, 1, 0, 2)))


def test_what_two_files_of_one_name_leave_of_a_zip_is_told(tmp_path):
    images, path = pixels(3), tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(("a.png", "b.png", "../a.png"), images, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            archive.writestr(name, file.getvalue())
    index = prepared(path, tmp_path / "out")
    assert index["left_out"] == [["a.png", "a later file of this name is taken in its place"]]
    assert np.array_equal(images_of(tmp_path / "out")[0], images[2])


def test_a_folder_that_cannot_be_read_is_listed_under_any_name(tmp_path, monkeypatch):
    write_folder(tmp_path / "in", pixels(2), ("Vol. 1", "Vol. 2"))
    listed, closed = os.listdir, str(tmp_path / "in" / "Vol. 1")

    def refuse(path):
        if str(path).rstrip("/") == closed:
            raise PermissionError(13, "Permission denied", closed)
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    index = prepared(tmp_path / "in", tmp_path / "out")
    assert index["left_out"] == [["Vol. 1/", "Permission denied"]]


def test_a_grey_picture_is_padded_with_the_colour_that_was_asked_for(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((2, 4), 40, np.uint8)).save(tmp_path / "in" / "one.png")
    prepared(tmp_path / "in", tmp_path / "out", (4, 4), fit="pad", ground="#ff0000")
    (stored,) = images_of(tmp_path / "out").values()
    assert stored.shape == (4, 4, 3)
    assert (stored[1:3] == 40).all()
    assert (stored[[0, 3]] == (255, 0, 0)).all()


def test_images_beside_the_splits_are_told(tmp_path):
    write_folder(tmp_path / "in", pixels(3), ("", "test", "train"))
    index = prepared(tmp_path / "in", tmp_path / "out")
    assert "beside the splits, 1 image(s) in no folder are left out" in index["notes"]
    assert [index["splits"][split]["images"] for split in ("train", "test")] == [1, 1]


def test_splits_of_the_source_are_kept(tmp_path):
    images = pixels(20)
    folders = ("train/a", "train/b", "val/a", "val/b")
    write_folder(tmp_path / "in", images, folders)
    index = prepared(tmp_path / "in", tmp_path / "out")
    assert index["classes"] == ["a", "b"]
    for split, expected in (("train", images[:10]), ("test", images[10:])):
        source = open_split(tmp_path / "out", split)
        every = torch.arange(10)
        assert np.array_equal(source.images(every).movedim(1, -1).numpy(), expected)
        assert source.labels(every).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("count", [2, 12, 60])
def test_without_splits_the_hash_of_the_number_decides_as_for_array_files(count, tmp_path):
    images = pixels(count)
    write_folder(tmp_path / "in", images)
    prepared(tmp_path / "in", tmp_path / "out")
    np.save(tmp_path / "all.npy", images)
    for split in ("train", "test"):
        ours = open_split(tmp_path / "out", split)
        array = open_split(tmp_path / "all.npy", split, dataset="folder")
        every = torch.arange(len(array))
        assert len(array) > 0
        assert torch.equal(ours.images(torch.arange(len(ours))), array.images(every))


@pytest.mark.parametrize(
    ("file", "content", "classes", "labels"),
    [
        ("dataset.json", {"labels": [["000.png", 2], ["001.png", 0]]}, "012", (2, 0)),
        ("dataset.json", {"labels": None}, "", ()),
        ("labels.csv", 'path,class\n./001.png,noir\n000.png,"a, b"\n', ["a, b", "noir"], (0, 1)),
        ("metadata.csv", "file_name,label\r\n000.png,1\r\n001.png,3\r\n", "0123", (1, 3)),
    ],
)
def test_labels_from_a_file(file, content, classes, labels, tmp_path):
    write_folder(tmp_path / "in", pixels(2))
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "in" / file).write_text(text)
    index = prepared(tmp_path / "in", tmp_path / "out")
    assert index["classes"] == list(classes)
    files = content_of(tmp_path / "out")
    for k, label in enumerate(labels or (None, None)):
        assert json.loads(files[f"{k:08d}.json"]) == {"label": label}


# Interrupted, and done again


class KilledError(Exception):
    pass


def killed_after(count):
    def update(n):
        nonlocal count
        count -= n
        if count < 0:
            raise KilledError

    return lambda total: nullcontext(SimpleNamespace(update=update))


def test_a_killed_preparation_goes_on_where_it_was(tmp_path, monkeypatch):
    write_folder(tmp_path / "in", pixels(40))
    (tmp_path / "in" / "0015.png").write_text("damaged")
    few = {"shard_bytes": 5 * 8 * 6 * 3}
    prepared(tmp_path / "in", tmp_path / "whole", **few)
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        prepare(tmp_path / "in", out, SIZE, bar=killed_after(24), num_workers=0, **few)
    with pytest.raises(ValueError, match="not prepared to its end: give the command"):
        open_split(out)
    before = {path: path.stat().st_ino for path in out.glob("*.tar")}
    assert 2 <= len(before) < len(shards_of(tmp_path / "whole"))
    read, make = [], Maker._picture

    def counting(self, image):
        read.append(image)
        return make(self, image)

    monkeypatch.setattr(Maker, "_picture", counting)
    index = prepared(tmp_path / "in", out, **few)
    assert shards_of(out) == shards_of(tmp_path / "whole")
    assert index == json.loads((tmp_path / "whole" / "index.json").read_text())
    assert {path: path.stat().st_ino for path in before} == before
    assert len(read) == 40 - 5 * len(before)
    # Once more: nothing is made, but for a shard that was damaged meanwhile.
    read.clear()
    prepared(tmp_path / "in", out, **few)
    assert not read
    path = out / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    prepared(tmp_path / "in", out, **few)
    assert len(read) == 5
    assert shards_of(out) == shards_of(tmp_path / "whole")


def test_worker_processes_give_the_same(tmp_path):
    write_folder(tmp_path / "in", pixels(40))
    zipped(tmp_path / "in", tmp_path / "in.zip")
    prepared(tmp_path / "in", tmp_path / "one")
    prepare(tmp_path / "in.zip", tmp_path / "two", SIZE, bar=no_bar, num_workers=2)
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "two")


# Training


def test_batches_from_shards_are_those_of_the_same_images_in_memory(tmp_path):
    images, labels = pixels(30), np.arange(30) % 4
    write_folder(tmp_path / "in", images)
    lines = "".join(f"{k:03d}.png,{label}\n" for k, label in enumerate(labels))
    (tmp_path / "in" / "labels.csv").write_text(lines)
    prepared(tmp_path / "in", tmp_path / "out", shard_bytes=7 * 8 * 6 * 3)
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    memory = open_split(tmp_path / "all.npz", dataset="folder")
    sources = [open_split(tmp_path / "out", memory_limit_bytes=limit) for limit in (0, 2**30)]
    assert sources[0].info == sources[1].info
    options = {"batch_size": 8, "seed": 3, "random_flip": True, "label_dropout": 0.2}
    for source in sources:
        for rank in (0, 1):
            more = {**options, "rank": rank, "world": 2, "start": 16}
            ours, theirs = train_batches(source, **more), train_batches(memory, **more)
            for _ in range(9):  # beyond the first epoch
                mine, other = next(ours), next(theirs)
                assert all(torch.equal(mine[name], other[name]) for name in other)
            ours.close()


def test_training_from_shards_is_that_from_memory_loss_for_loss(tmp_path, capsys):
    images = pixels(24, (8, 8, 1))
    write_folder(tmp_path / "in", images)
    words = ["main.py", "--mode=prepare", f"--input={tmp_path / 'in'}", "--size=8"]
    assert cli.main([*words, f"--output={tmp_path / 'my images'}"]) == 0
    told = capsys.readouterr().out.partition("train on them with ")[2].splitlines()[0]
    np.save(tmp_path / "all.npy", images)
    arrays = ["--config.data.dataset=folder", f"--config.data.root={tmp_path / 'all.npy'}"]
    losses = []
    for number, given in enumerate((shlex.split(told), arrays)):
        workdir = tmp_path / str(number)
        tiny = ["model.nf=8", "model.ch_mult=(1,)", "training.n_iters=3", "training.batch_size=4"]
        tiny += ["training.snapshot_sampling=False", "training.log_freq=1", "device=cpu"]
        tiny += ["data.num_channels=1", "model.attn_resolutions=(8,)", "model.num_res_blocks=1"]
        config = [f"--config.{word}" for word in tiny]
        recipe = ["--config=vp/digits", "--mode=train", f"--workdir={workdir}"]
        assert cli.main(["main.py", *recipe, *given, *config]) == 0
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        losses.append([entry["loss"] for entry in map(json.loads, lines) if "loss" in entry])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


# What is refused


def test_what_cannot_be_prepared_is_told_in_a_sentence(tmp_path, capsys):
    write_folder(tmp_path / "in", pixels(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    out = tmp_path / "out"
    for words, sentence in (
        ({}, "takes --input, --output and --size"),
        ({"input": "nowhere", "output": out, "size": 8}, "there is nothing at"),
        ({"input": "empty", "output": out, "size": 8}, "no images in"),
        ({"input": "bad.zip", "output": out, "size": 8}, "is no folder, no zip"),
        ({"input": "in", "output": out, "size": "8x"}, "a number of pixels, as 64, or height"),
        ({"input": "in", "output": out, "size": 8, "fit": "tile"}, "crop"),
        ({"input": "in", "output": out, "size": 8, "ground": "x"}, "give a colour"),
        ({"input": "in", "output": "other", "size": 8}, "holds other files"),
        ({"input": "in", "output": "in/out", "size": 8}, "lies in --input"),
    ):
        given = [
            f"--{name}={tmp_path / value}" if name in ("input", "output") else f"--{name}={value}"
            for name, value in words.items()
        ]
        assert cli.main(["main.py", "--mode=prepare", *given]) == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert not out.exists()
    prepared(tmp_path / "in", out)
    with pytest.raises(ValueError, match="prepared in another way"):
        prepared(tmp_path / "in", out, (8, 8))
    with pytest.raises(ValueError, match=r"holds images of 8x6, and 8x8 are asked for: set"):
        open_split(out, size=(8, 8))
    with pytest.raises(FileNotFoundError, match="write them with --mode prepare"):
        open_split(tmp_path / "in")
    (out / "train-00000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has 0 bytes, and index.json says .* again"):
        open_split(out)
    (tmp_path / "in" / "dataset.json").write_text('{"labels": [["000.png", 1]]}')
    with pytest.raises(ValueError, match=r"no class for 2 of 3 images, first 001\.png"):
        prepared(tmp_path / "in", tmp_path / "more")


@pytest.mark.skipif(os.name == "nt", reason="a backslash is no letter of a name")
def test_a_backslash_is_a_letter_of_a_name_in_folders_and_zips_of_unix(tmp_path):
    root, archive = tmp_path / "in", tmp_path / "in.zip"
    names = write_folder(root, pixels(2))
    (root / names[0]).rename(root / "a\\b.png")
    (root / "labels.csv").write_text(f"a\\b.png,cat\n{names[1]},dog\n")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.iterdir()):
            file.write(path, path.name)
    of_folder, of_zip = (
        prepared(place, tmp_path / f"out{k}") for k, place in enumerate((root, archive))
    )
    assert of_folder["classes"] == of_zip["classes"] == ["cat", "dog"]
    assert of_folder["images_of_classes"] == of_zip["images_of_classes"] == [1, 1]
    assert shards_of(tmp_path / "out0") == shards_of(tmp_path / "out1")


def test_cut_off_records_with_labels_of_all_are_told(tmp_path):
    path = write_records(tmp_path / "in", pixels(12), [0, 1] * 6) / "set-r03.tfrecords"
    path.write_bytes(path.read_bytes()[:-5])
    words = r"beyond its first 11 records \(the file is cut off\), and set-r03\.labels holds the"
    with pytest.raises(ValueError, match=words):
        prepared(path, tmp_path / "out")


def test_a_folder_that_another_process_prepares_into_is_left_alone(tmp_path):
    write_folder(tmp_path / "in", pixels(3))
    (tmp_path / "out").mkdir()
    other = "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX)"
    other += "; print(flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", other, str(tmp_path / "out" / ".lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(
            OSError, match=r"another process is preparing images in .*: wait until"
        ):
            prepared(tmp_path / "in", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
        holder.kill()
    prepared(tmp_path / "in", tmp_path / "out")  # what was killed holds nothing
    assert not (tmp_path / "out" / ".lock").exists()


def test_captions_are_not_taken_for_classes(tmp_path):
    names = write_folder(tmp_path / "in", pixels())
    lines = "file_name,text\n" + "".join(f"{name},poster of {name}\n" for name in names)
    (tmp_path / "in" / "metadata.csv").write_text(lines)
    with pytest.raises(ValueError, match="names 24 classes for 24 images, as captions would"):
        prepared(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        MemoryError("no room"),
        BeyondMemory("8x6 pixels would take 3 GiB"),
    ],
)
def test_what_is_no_fault_of_an_image_ends_the_run(tmp_path, monkeypatch, error):
    write_folder(tmp_path / "in", pixels())

    def fails(maker, image):
        raise error

    monkeypatch.setattr(Maker, "_picture", fails)
    with pytest.raises(type(error), match=str(error.args[-1])):
        prepared(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists() or not json.loads(
        (tmp_path / "out" / "index.json").read_text()
    ).get("complete")
