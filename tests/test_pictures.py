"""Pictures hold the pixels that they were given."""

import resource
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde import pictures
from score_sde.pictures import plots


def save_npz(path, images, index):
    pictures.stream_npz(path, [(images, index)], len(images))


def ramp(n: int = 1, channels: int = 1, height: int = 4, width: int = 6) -> torch.Tensor:
    count = n * channels * height * width
    return (torch.arange(count) % 256).to(torch.uint8).reshape(n, channels, height, width)


def test_rounding_is_to_the_nearest_level():
    levels = torch.arange(256)
    assert pictures.to_uint8(levels / 255).equal(levels.to(torch.uint8))
    # Truncation would lose every level that is a hair too low.
    assert pictures.to_uint8(levels / 255 - 0.4 / 255).equal(levels.to(torch.uint8))
    assert pictures.to_uint8(torch.tensor([-0.2, 1.7])).tolist() == [0, 255]
    assert pictures.to_uint8(torch.ones(2, dtype=torch.bfloat16)).tolist() == [255, 255]
    assert pictures.to_uint8(torch.full((2,), 0.2, dtype=torch.float64)).tolist() == [51, 51]
    assert pictures.to_uint8(levels.to(torch.uint8)).equal(levels.to(torch.uint8))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match="1 of 3 pixel values are not finite"):
        pictures.to_uint8(torch.tensor([0.1, broken, 0.3]))


def test_a_grid_holds_every_image_in_its_place():
    images = ramp(5, 3)
    laid = pictures.grid(images, columns=3, scale=1, padding=1)
    assert laid.shape == (2 * 4 + 3, 3 * 6 + 4, 3)
    assert laid.dtype == np.uint8
    for i in range(5):
        top, left = 1 + i // 3 * 5, 1 + i % 3 * 7
        part = laid[top : top + 4, left : left + 6]
        assert np.array_equal(part, images[i].permute(1, 2, 0).numpy())
    # The sixth place and the lines between are white.
    assert (laid[6:10, 15:21] == 255).all()
    assert (laid[:, ::7] == 255).all()
    assert (laid[::5] == 255).all()


def test_enlarged_images_keep_their_brightness_where_it_was():
    images = ramp(1, 3)
    laid = pictures.grid(images, scale=4, padding=0).astype(float)
    means = laid.reshape(4, 4, 6, 4, 3).mean(axis=(1, 3))
    assert np.abs(means - images[0].permute(1, 2, 0).numpy()).max() < 2
    assert len(np.unique(laid)) > len(np.unique(images))  # smoothly, not in squares


def test_tiny_images_are_enlarged_and_columns_follow_the_number():
    assert pictures.grid(torch.zeros(10, 1, 8, 8), padding=0).shape == (3 * 64, 4 * 64, 1)
    assert pictures.grid(torch.zeros(1, 3, 28, 28), padding=0).shape == (56, 56, 3)
    assert pictures.grid(torch.zeros(2, 1, 100, 20), padding=0).shape == (100, 40, 1)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (torch.zeros(0, 1, 8, 8), {}),
        (torch.zeros(1, 0, 8, 8), {}),
        (torch.zeros(1, 8, 8), {}),
        (torch.zeros(1, 1, 8, 8), {"columns": 0}),
        (torch.zeros(1, 1, 8, 8), {"scale": 0}),
        (torch.zeros(1, 1, 8, 8), {"padding": -1}),
    ],
)
def test_impossible_grids_are_refused(images, options):
    with pytest.raises(ValueError, match=r"images|columns"):
        pictures.grid(images, **options)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_round_trip(tmp_path, channels, mode):
    picture = ramp(1, channels)[0].permute(1, 2, 0).numpy()
    pictures.save_png(tmp_path / "new" / "a.png", picture)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(picture.shape), picture)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    pictures.save_png(path, np.zeros((2, 2, 1), np.uint8))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("score_sde.atomic.writing.os.replace", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.png \(No space left on device\)"):
        pictures.save_png(path, np.ones((2, 2, 1), np.uint8))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "picture", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1)), np.zeros((2, 2, 5), np.uint8)]
)
def test_what_is_no_picture_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="uint8"):
        pictures.save_png(tmp_path / "a.png", picture)
    assert not list(tmp_path.iterdir())


def test_a_film_has_every_frame_and_holds_the_last(tmp_path):
    frames = [np.roll(ramp(1, 1, 16, 16)[0].permute(1, 2, 0).numpy(), i, axis=0) for i in range(7)]
    pictures.save_film(tmp_path / "film.gif", frames, frame_ms=50, hold_ms=1500)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 7
        assert film.info["loop"] == 0
        for i, frame in enumerate(frames):
            film.seek(i)
            assert film.info["duration"] == (1500 if i == 6 else 50)
            assert np.array_equal(np.asarray(film.convert("L")), frame[..., 0])


def test_a_film_in_colour(tmp_path):
    frames = [
        np.full((8, 8, 3), value, np.uint8) for value in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    ]
    pictures.save_film(tmp_path / "film.gif", frames)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        film.seek(1)
        assert film.convert("RGB").getpixel((4, 4)) == (0, 255, 0)


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((2, 2, 1), np.uint8), np.zeros((2, 3, 1), np.uint8)]]
)
def test_films_of_nothing_or_of_unequal_frames_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="all of one shape"):
        pictures.save_film(tmp_path / "film.gif", frames)


def test_loss_curves_are_drawn_without_global_state(tmp_path):
    import matplotlib

    settings = dict(matplotlib.rcParams)
    steps, losses = list(range(1, 50)), [1 / step for step in range(1, 50)]
    losses[20] = float("nan")
    pictures.loss_curve(tmp_path / "plain.png", steps, losses)
    pictures.loss_curve(
        tmp_path / "all.png",
        steps,
        losses,
        held_out=([10, 20], [0.3, 0.2]),
        by_level={"t < 0.5": (steps, losses), "t > 0.5": ([1], [-2.0])},
    )
    assert dict(matplotlib.rcParams) == settings
    with Image.open(tmp_path / "plain.png") as small, Image.open(tmp_path / "all.png") as wide:
        assert wide.width > small.width
        # The training curve is there: its colour is on the canvas.
        colours = np.asarray(small.convert("RGB")).reshape(-1, 3)
        assert (colours == (0x1F, 0x4E, 0x89)).all(axis=1).sum() > 100


def test_the_running_mean_looks_back_only():
    mean = plots.running_mean([4.0, 2.0, 0.0, 6.0], 2)
    assert mean.tolist() == [4.0, 3.0, 1.0, 3.0]


@pytest.mark.parametrize(("steps", "losses"), [([], []), ([1, 2], [0.5]), ([1], [float("nan")])])
def test_curves_without_matching_points_are_refused(tmp_path, steps, losses):
    with pytest.raises(ValueError, match=r"give one for each|at least one"):
        pictures.loss_curve(tmp_path / "loss.png", steps, losses)


def test_samples_are_saved_by_their_index(tmp_path):
    images = ramp(3)
    paths = pictures.save_images(tmp_path / "samples", images, torch.tensor([12, 0, 1_000_000]))
    assert [path.name for path in paths] == ["000012.png", "000000.png", "1000000.png"]
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as opened:
            assert opened.mode == "L"
            assert np.array_equal(np.asarray(opened), image[0].numpy())


def test_npz_content(tmp_path):
    images = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    save_npz(tmp_path / "samples.npz", images, torch.tensor([3, 1, 0, 2]))
    with np.load(tmp_path / "samples.npz") as data:
        assert sorted(data.files) == ["images", "index"]
        assert data["images"].dtype == np.uint8
        assert np.array_equal(
            data["images"], pictures.to_uint8(images).permute(0, 2, 3, 1).numpy()
        )
        assert data["index"].dtype == np.int64
        assert data["index"].tolist() == [3, 1, 0, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["samples.npz"]


@pytest.mark.parametrize(
    "index", [torch.tensor([0]), torch.tensor([0, -1]), torch.tensor([0.0, 1.0])]
)
def test_indices_that_do_not_fit_are_refused(tmp_path, index):
    with pytest.raises(ValueError, match="indices"):
        save_npz(tmp_path / "samples.npz", ramp(2), index)


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*000000\.png"):
        pictures.save_images(tmp_path / "file" / "samples", ramp(1), torch.tensor([0]))


@pytest.mark.parametrize("channels", [2, 5])
def test_other_numbers_of_channels_are_drawn_as_panels_and_kept_whole(tmp_path, channels):
    images, index = ramp(3, channels), torch.arange(3)
    panels = np.concatenate(list(images[1].numpy()), axis=1)
    laid = pictures.grid(images, columns=1, scale=1, padding=0)
    assert np.array_equal(laid[4:8, :, 0], panels)
    with Image.open(pictures.save_images(tmp_path, images, index)[1]) as image:
        assert np.array_equal(np.asarray(image), panels)
    save_npz(tmp_path / "a.npz", images, index)
    with np.load(tmp_path / "a.npz") as data:
        assert np.array_equal(data["images"], images.permute(0, 2, 3, 1).numpy())


def test_a_file_of_images_is_written_as_they_come(tmp_path):
    images = ramp(7, 3)
    parts = zip(images.split(3), torch.arange(7).split(3), strict=True)
    pictures.stream_npz(tmp_path / "a.npz", parts, 7)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert np.array_equal(data["images"], images.permute(0, 2, 3, 1).numpy())
        assert data["index"].tolist() == list(range(7))
    with pytest.raises(ValueError, match="got 3 images where 7 were announced"):
        pictures.stream_npz(tmp_path / "b.npz", [(images[:3], torch.arange(3))], 7)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_of_images_that_does_not_fit_on_the_disk_is_one_sentence(tmp_path):
    images, limit = ramp(100, 3), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*a\.npz .*free some space"):
            save_npz(tmp_path / "a.npz", images, torch.arange(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_images_say_where_they_come_from(tmp_path):
    assert pictures.origin_of(tmp_path / "none") is None
    assert pictures.origin_of(tmp_path) is None
    (tmp_path / "000000_grid.png").touch()
    assert pictures.origin_of(tmp_path) is None
    pictures.save_images(tmp_path, ramp(1), torch.tensor([3]), "seed 1")
    assert pictures.origin_of(tmp_path) == "seed 1"
    for content in (b"", b"\x89PNG\r\n\x1a\n cut off"):
        (tmp_path / "000003.png").write_bytes(content)
        assert pictures.origin_of(tmp_path) == ""
    pictures.save_images(tmp_path, ramp(1), torch.tensor([3]))
    assert pictures.origin_of(tmp_path) == ""


def test_a_labelled_picture_is_whole_under_its_text():
    picture = pictures.grid(ramp(4, 3), columns=2, scale=1)
    made = pictures.labelled(picture, ["one line", "σ = 0.01 " * 12])
    height, width = picture.shape[:2]
    assert made.shape[1:] == (260, 3)
    assert np.array_equal(made[-height:, :width], picture)
    assert (made[-height:, width:] == 255).all()
    head = made[: made.shape[0] - height]
    ink = (head < 128).any(axis=(1, 2))
    assert np.diff(ink.astype(int)).clip(0).sum() >= 4  # one line, and a long one that is broken
    assert (head[:, :3] == head[:, -3:]).all()  # no letter touches an edge
    grey = pictures.labelled(picture[..., :1], ["one line"])
    assert grey.shape[2] == 1
    assert np.array_equal(grey[-height:, :width], picture[..., :1])
