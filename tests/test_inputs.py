"""Images of one's own: how they come to the network's size, and commands that keep theirs."""

import re

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from configs.vp import digits
from score_sde.commands import cli
from score_sde.commands.inputs import inside_of, open_input
from score_sde.data import open_pictures, read_mask

WANTED = (8, 8)


def pixels(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def stored_as(kind, folder, array):
    """A picture, or an array of one."""
    if kind == "picture":
        return save(folder / "a.png", array)
    np.save(folder / "a.npy", array[None] if array.ndim > 2 else array[None, ..., None])
    return folder / "a.npy"


def planes(array):
    """(H, W[, C]) as a source gives it, (C, H, W)."""
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).movedim(-1, 0)


# What each fit makes of a picture


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", ["picture", "array"])
def test_a_crop_is_the_middle_as_it_is(tmp_path, channels, stored):
    array = pixels(13, 20, channels)
    given = open_pictures(stored_as(stored, tmp_path, array), WANTED, channels, fit="crop")
    assert torch.equal(given.images(torch.tensor([0]))[0], planes(array[2:10, 6:14]))
    assert inside_of(given) is None


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stored", ["picture", "array"])
def test_a_padded_picture_stands_in_the_middle_of_its_own_edges(tmp_path, channels, stored):
    array = pixels(5, 8, channels)
    given = open_pictures(stored_as(stored, tmp_path, array), WANTED, channels, fit="pad")
    image = given.images(torch.tensor([0]))[0]
    assert torch.equal(image[:, 1:6], planes(array))
    assert torch.equal(image[:, :1], planes(array[:1]))
    assert torch.equal(image[:, 6:], planes(array[[-1, -1]]))
    own = inside_of(given)
    assert own is not None
    expected = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    expected[..., 1:6, :] = True
    assert torch.equal(own, expected)


def test_pictures_of_many_sizes_are_padded_each_by_itself(tmp_path):
    save(tmp_path / "a.png", pixels(8, 8))
    save(tmp_path / "b.png", pixels(3, 4, seed=1))
    given = open_pictures(tmp_path, WANTED, 3, 2, "pad")
    assert inside_of(given).sum((1, 2, 3)).tolist() == [64, 12]
    save(tmp_path / "b.png", pixels(8, 8, seed=1))
    assert inside_of(open_pictures(tmp_path, WANTED, 3, 2, "pad")) is None


@pytest.mark.parametrize("fit", ["resize", "crop", "pad", "tile"])
def test_a_picture_of_the_networks_size_passes_unchanged(tmp_path, fit):
    array = pixels(8, 8)
    given = open_pictures(save(tmp_path / "a.png", array), WANTED, 3, fit=fit)
    assert torch.equal(given.images(torch.tensor([0]))[0], planes(array))


def test_tiled_pictures_keep_their_size(tmp_path):
    for k in range(2):
        save(tmp_path / f"{k}.png", pixels(12, 20, seed=k))
    np.save(tmp_path / "all.npy", np.stack([pixels(12, 20, seed=k) for k in range(2)]))
    for path in (tmp_path, tmp_path / "all.npy"):
        given = open_pictures(path, WANTED, 3, 2, "tile")
        assert given.info.shape == (3, 12, 20)
        assert torch.equal(given.images(torch.tensor([1]))[0], planes(pixels(12, 20, seed=1)))


@pytest.mark.parametrize(
    ("fit", "size", "sentence"),
    [
        ("crop", (6, 20), "has 6x20 pixels, and fit=crop takes pictures of at least 8x8: take "
         "fit=resize"),
        ("crop", (6, 7), "at least 8x8: take fit=resize or fit=pad"),
        ("pad", (9, 8), "and fit=pad takes pictures of at most 8x8: take fit=resize or fit=crop "
         "or fit=tile"),
        ("tile", (8, 7), "fit=tile takes pictures of at least 8x8: take fit=resize or fit=pad"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_fit_is_refused_with_what_does(tmp_path, fit, size, sentence):
    save(tmp_path / "a.png", pixels(*size))
    np.save(tmp_path / "b.npy", pixels(*size)[None])
    for name, begin in (("a.png", "a.png "), ("b.npy", "each image of .*b.npy ")):
        with pytest.raises(ValueError, match=f"{begin}.*{re.escape(sentence)}$"):
            open_pictures(tmp_path / name, WANTED, 3, fit=fit)


def test_pictures_that_keep_their_size_must_share_it(tmp_path):
    save(tmp_path / "a.png", pixels(12, 20))
    save(tmp_path / "b.png", pixels(20, 12))
    with pytest.raises(ValueError, match=r"b.png has 20x12 pixels and .*a.png 12x20: .* one size"):
        open_pictures(tmp_path, WANTED, 3, 2, "tile")
    assert len(open_pictures(tmp_path, WANTED, 3, 1, "tile")) == 1
    assert open_pictures(tmp_path, WANTED, 3, 2, "crop").info.shape == (3, 8, 8)


def test_a_mask_is_fitted_as_images_are(tmp_path):
    array = np.zeros((10, 12), dtype=np.uint8)
    array[4:6, 5:9] = 255
    path = save(tmp_path / "mask.png", array)
    expected = torch.zeros(1, 8, 8, dtype=torch.bool)
    expected[0, 3:5, 3:7] = True
    assert torch.equal(read_mask(path, WANTED, "crop"), expected)
    assert torch.equal(read_mask(path, (10, 12), "tile")[0], torch.from_numpy(array == 255))
    with pytest.raises(
        ValueError, match=r"has 10x12 pixels, .* the images keep their 12x12: give"
    ):
        read_mask(path, (12, 12), "tile")


def test_the_recipes_own_images_have_their_size():
    config = digits.get_config()
    config.sampling.fit = "crop"
    with pytest.raises(ValueError, match=r"--fit=crop is for images of one's own, .* --input"):
        open_input(config, None, 1)


# Commands


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A work directory with a checkpoint of digits."""
    workdir = tmp_path_factory.mktemp("run")
    assert run(workdir, "--mode=train") == 0
    return workdir


def run(workdir, *words):
    recipe = ("main.py", "--config", "configs/vp/digits.py", "--workdir", str(workdir))
    return cli.main([*recipe, *TINY, "--config.sampling.num_steps=4", *map(str, words)])


def read(path):
    return np.asarray(Image.open(path))


def inpaint(workdir, picture, out, *words):
    given = (f"--input={picture}", f"--output={out}", "--completions=1")
    return run(workdir, "--mode=inpaint", *given, *words)


def test_a_large_image_is_completed_through_tiles(workdir, tmp_path):
    array = pixels(12, 20, 1)
    picture, out = save(tmp_path / "a.png", array), tmp_path / "out"
    assert inpaint(workdir, picture, out, "--fit=tile", "--mask=left") == 0
    done = read(out / "000000.png")
    assert done.shape == (12, 20)
    assert np.array_equal(done[:, 10:], array[:, 10:])
    assert (done[:, :10] != array[:, :10]).mean() > 0.9
    # Of 12 by 20 pixels are 2 by 4 tiles, each evaluated in 4 steps.
    assert "1 completions, 32.0 network evaluations each" in (workdir / "log.txt").read_text()


def test_tiles_are_the_same_however_many_are_drawn_at_a_time(workdir, tmp_path):
    save(tmp_path / "a.png", pixels(12, 20, 1))
    for size in (1, 3, 64):
        words = ("--fit=tile", "--completions=3", f"--config.sampling.batch_size={size}")
        given = (f"--input={tmp_path / 'a.png'}", f"--output={tmp_path / str(size)}.npz")
        assert run(workdir, "--mode=inpaint", *given, *words) == 0
    one, *others = (np.load(tmp_path / f"{k}.npz")["images"].astype(int) for k in (1, 3, 64))
    assert one.shape == (3, 12, 20, 1)
    for other in others:
        assert np.abs(one - other).max() <= 1


def test_another_overlap_makes_other_images(workdir, tmp_path, capsys):
    picture, out = save(tmp_path / "a.png", pixels(12, 20, 1)), tmp_path / "out"
    assert inpaint(workdir, picture, out, "--fit=tile") == 0
    first = read(out / "000000.png")
    assert inpaint(workdir, picture, out, "--fit=tile", "--config.sampling.tile_overlap=0.25") == 0
    assert "other weights, seed or settings: these go to" in capsys.readouterr().out
    (other,) = tmp_path.glob("out_*/000000.png")
    assert not np.array_equal(read(other), first)


def test_what_lies_around_a_padded_image_is_drawn(workdir, tmp_path):
    array = pixels(6, 4, 1)
    picture, white = save(tmp_path / "a.png", array), np.full((6, 4), 255, dtype=np.uint8)
    mask, out = save(tmp_path / "white.png", white), tmp_path / "out"
    assert inpaint(workdir, picture, out, "--fit=pad", f"--mask={mask}") == 0
    done = read(out / "000000.png")
    assert np.array_equal(done[1:7, 2:6], array)
    edges = np.pad(array, ((1, 1), (2, 2)), mode="edge")
    around = np.ones((8, 8), dtype=bool)
    around[1:7, 2:6] = False
    assert (done != edges)[around].mean() > 0.9
    black = save(tmp_path / "black.png", 0 * white)
    assert inpaint(workdir, picture, out, "--fit=pad", f"--mask={black}") == 1


def test_the_middle_of_an_image_is_completed_as_it_is(workdir, tmp_path):
    array, out = pixels(12, 20, 1), tmp_path / "out"
    assert inpaint(workdir, save(tmp_path / "a.png", array), out, "--fit=crop", "--mask=top") == 0
    assert np.array_equal(read(out / "000000.png")[4:], array[6:10, 6:14])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mode=inpaint", "--fit=crop"], "--fit=crop is for images of one's own"),
        (["--mode=sample", "--fit=crop"], "--fit has no use in --mode sample: leave it out"),
        (["--mode=inpaint", "--fit=stretch"], "config.sampling.fit='stretch'"),
        (["--mode=inpaint", "--fit=pad", "--config.sampling.fit=pad"], "leave one out"),
        (["--mode=inpaint", "--fit=tile", "--input={}"], "takes pictures of at least 8x8: take"),
        (["--mode=inpaint", "--config.sampling.tile_overlap=1.0"], "from 0 to below 1"),
    ],
)
def test_a_mistake_is_one_sentence(workdir, tmp_path, capsys, words, sentence):
    small = save(tmp_path / "small.png", pixels(6, 4, 1))
    assert run(workdir, *(word.format(small) for word in words)) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1
