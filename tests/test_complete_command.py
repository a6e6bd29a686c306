"""`--mode inpaint` and `--mode colorize` as a user has them."""

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.commands import cli
from score_sde.commands import restore as completion_run
from score_sde.samplers.completion import COLOUR_BASIS, rotate

TINY = (
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,2)",
    "--config.device=cpu",
    "--config.data.dataset=folder",
    "--config.data.num_channels=3",
    "--config.training.batch_size=4",
    "--config.training.n_iters=2",
    "--config.training.snapshot_sampling=False",
    "--config.sampling.num_steps=4",
    "--config.optim.warmup=0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A work directory with a checkpoint, and the images that it was trained on."""
    place = tmp_path_factory.mktemp("completion")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 8, 3), dtype=np.uint8)
    for split, images in zip(("train", "test"), pixels, strict=True):
        (place / "images" / split).mkdir(parents=True)
        for k, image in enumerate(images):
            Image.fromarray(image).save(place / "images" / split / f"{k}.png")
    assert run(place, "--mode=train") == 0
    return place


def run(place, *words):
    root = f"--config.data.root={place / 'images'}"
    recipe = ("main.py", "--config", "configs/vp/digits.py", "--workdir", str(place / "run"))
    return cli.main([*recipe, *TINY, root, *map(str, words)])


def read(path):
    return np.asarray(Image.open(path))


def test_inpainted_images_keep_what_is_known(place, tmp_path):
    out = tmp_path / "out"
    words = ("--mode=inpaint", "--mask=left", "--num_samples=2", "--completions=3")
    assert run(place, *words, f"--output={out}") == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{k:06d}.png" for k in range(6)]
    for k in range(6):
        original = read(place / "images" / "test" / f"{k // 3}.png")
        done = read(out / f"{k:06d}.png")
        assert np.array_equal(done[:, 4:], original[:, 4:])
        assert (done[:, :4] != original[:, :4]).mean() > 0.9
    assert not np.array_equal(read(out / "000000.png"), read(out / "000001.png"))
    # Original, what is known, three completions, two images; each 8 pixels enlarged to 64.
    grid = read(tmp_path / "out_grid.png")
    assert grid.shape == (2 * 66 + 2, 5 * 66 + 2, 3)
    assert abs(int(grid[34, 70, 0]) - 128) <= 2  # what is hidden is shown in grey


def test_a_completion_is_the_same_however_many_are_drawn_at_a_time(place, tmp_path):
    words = ("--mode=inpaint", "--mask=scattered", "--num_samples=3", "--completions=2")
    for size in (1, 4):
        out = f"--output={tmp_path / str(size)}.npz"
        assert run(place, *words, out, f"--config.sampling.batch_size={size}") == 0
    one, four = (np.load(tmp_path / f"{size}.npz") for size in (1, 4))
    assert np.array_equal(one["index"], four["index"])
    assert np.abs(one["images"].astype(int) - four["images"]).max() <= 1


def test_colours_are_drawn_and_the_grey_values_kept(place, tmp_path, monkeypatch):
    drawn, write = [], completion_run.write_images

    def note(log, config, parts, *where, **how):
        drawn.extend(parts)
        return write(log, config, iter(drawn), *where, **how)

    monkeypatch.setattr(completion_run, "write_images", note)
    words = ("--mode=colorize", "--num_samples=4", "--completions=1", f"--output={tmp_path}/x")
    assert run(place, *words) == 0
    # Before they are rounded: colours that a picture cannot show would be cut off.
    x = torch.cat([part.x for part in drawn])
    given = np.stack([read(place / "images" / "test" / f"{k}.png") for k in range(4)])
    grey = torch.tensor(given / 127.5 - 1).mean(-1)
    assert torch.allclose(x.mean(1).double(), grey, atol=1e-3 * x.abs().max().item())
    assert rotate(x, COLOUR_BASIS.float())[:, 1:].std() > 0.1
    shown = read(tmp_path / "x_grid.png")[2:66, 68:132]
    assert (shown == shown[..., :1]).all()


def test_own_pictures_and_an_own_mask(place, tmp_path):
    picture = np.full((40, 60, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "poster.png")
    mask = np.full((40, 40), 255, dtype=np.uint8)
    mask[:, :20] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.npz"
    given = (f"--input={tmp_path / 'poster.png'}", f"--mask={tmp_path / 'mask.png'}")
    assert run(place, "--mode=inpaint", *given, "--completions=2", f"--output={out}") == 0
    images = np.load(out)["images"]
    assert images.shape == (2, 8, 8, 3)
    assert (images[:, :, 4:] == (200, 100, 50)).all()
    assert (images[:, :, :4] != (200, 100, 50)).any()


def test_files_that_are_left_out_of_a_folder_are_named(place, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    (folder / "notes.txt").touch()
    out = f"--output={tmp_path / 'out.npz'}"
    assert run(place, "--mode=inpaint", f"--input={folder}", "--completions=1", out) == 0
    log = (place / "run" / "log.txt").read_text()
    assert "left out as no images: 1 file(s) (1 .txt)" in log


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--mode=inpaint", "--mask=centre"],
            "no such file; give middle, left",
        ),
        (["--mode=inpaint", "--config.sampling.method=ode"], "replacement takes hold at the"),
        (["--mode=inpaint", "--completions=0"], "--completions=0: 0 is not a positive integer"),
        (["--mode=inpaint", "--input=nowhere"], "no image and no folder of images at nowhere"),
        (["--mode=inpaint", "--workdir=/nowhere/at/all"], "holds no checkpoint: train first"),
        (["--mode=colorize", "--config.data.num_channels=1"], "contradicts"),
        (["--mode=sample", "--mask=left"], "--mask has no use in --mode sample: leave it out"),
        (["--mode=colorize", "--config.sampling.predictor=none"], "which draws nothing"),
    ],
)
def test_a_mistake_is_one_sentence(place, capsys, words, sentence):
    assert run(place, *words) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1


def test_masks_that_do_not_say_what_they_mean_are_refused(place, tmp_path, capsys):
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    hole = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    hole.putpixel((0, 0), (0, 0, 0, 0))
    hole.save(tmp_path / "hole.png")
    (tmp_path / "note.txt").write_text("left")
    for name, sentence in (
        ("black.png", "leaves nothing known: paint a part white"),
        ("hole.png", "has transparent parts: save it without"),
        ("note.txt", "is no picture: give one that ends in"),
    ):
        assert run(place, "--mode=inpaint", f"--mask={tmp_path / name}") == 1
        assert sentence in capsys.readouterr().err


def test_what_is_there_is_kept_or_told(place, tmp_path, capsys):
    few = ("--mode=inpaint", "--num_samples=1", "--completions=1")
    out = f"--output={tmp_path / 'out'}"
    assert run(place, *few, "--num_samples=3", out) == 0
    # Sheet and figures are of so many images, and completions=3 counts other ones.
    for more in ((), ("--completions=3",)):
        capsys.readouterr()
        assert run(place, *few, *more, out) == 0
        assert "other weights, seed or settings: these go to" in capsys.readouterr().out
    counts = [len(list(folder.iterdir())) for folder in sorted(tmp_path.glob("out*/"))]
    assert counts[0] == 3
    assert sorted(counts[1:]) == [1, 3]
    assert run(place, *few, out) == 0  # again
    assert len(list(tmp_path.glob("out*/"))) == 3
    (tmp_path / "mine.npz").write_bytes(b"mine")
    assert run(place, *few, f"--output={tmp_path / 'mine.npz'}") == 1
    assert "mine.npz exists: move it away" in capsys.readouterr().err
    assert (tmp_path / "mine.npz").read_bytes() == b"mine"


def test_a_mask_that_hides_nothing_and_grey_images_are_refused(place, tmp_path, capsys):
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    assert run(place, "--mode=inpaint", f"--mask={tmp_path / 'white.png'}") == 1
    assert "hides nothing" in capsys.readouterr().err
    recipe = ["main.py", "--config=configs/vp/digits.py", f"--workdir={tmp_path / 'grey'}"]
    grey = [word for word in TINY if not word.startswith("--config.data")]
    assert cli.main([*recipe, *grey, "--mode=train"]) == 0
    assert cli.main([*recipe, "--mode=colorize"]) == 1
    assert "needs images of 3 channels, and this network's have 1" in capsys.readouterr().err
