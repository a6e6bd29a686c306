"""`--mode restore` as a user has it, and the modes that are tasks of it."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import score_sde
from score_sde.commands import cli, restore
from score_sde.commands import restored as command
from score_sde.config.build import Measured
from score_sde.evaluation.restoration import coverage
from score_sde.noise import SampleNoise, Stream
from score_sde.pictures import to_uint8
from score_sde.posteriors import TASKS, Task
from score_sde.posteriors.measurements import LinearFunction
from score_sde.samplers.completion import MASKS, complete, known_gray, known_pixels

STEPS = 3
SMALL = (
    *TINY,
    "--config.data.dataset=folder",
    "--config.data.num_channels=3",
    "--config.training.batch_size=4",
    "--config.training.n_iters=2",
    f"--config.sampling.num_steps={STEPS}",
)
FEW = ("--num_samples=2", "--completions=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A work directory with a checkpoint, and the images that it was trained on."""
    place = tmp_path_factory.mktemp("restoration")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    for split, images in zip(("train", "test"), pixels, strict=True):
        (place / "images" / split).mkdir(parents=True)
        for k, image in enumerate(images):
            Image.fromarray(image).save(place / "images" / split / f"{k}.png")
    np.save(place / "test.npy", pixels[1])
    assert run(place, "--mode=train") == 0
    return place


def run(place, *words):
    root = f"--config.data.root={place / 'images'}"
    recipe = ("main.py", "--config", "configs/vp/digits.py", "--workdir", str(place / "run"))
    return cli.main([*recipe, *SMALL, root, *map(str, words)])


def restored(place, out, *words):
    """The images (N, H, W, C) of a command of --mode restore, and what its JSON file says."""
    assert run(place, "--mode=restore", *FEW, f"--output={out}.npz", *words) == 0
    told = json.loads(out.with_suffix(".json").read_text())
    return np.load(f"{out}.npz")["images"], told


@pytest.mark.parametrize("mode", ["inpaint", "colorize"])
def test_modes_that_are_tasks_draw_what_the_library_does(place, tmp_path, mode):
    out = tmp_path / "out.npz"
    assert run(place, f"--mode={mode}", *FEW, f"--output={out}") == 0
    trained = score_sde.load(place / "run")
    x = torch.from_numpy(np.load(place / "test.npy")[:2]).movedim(-1, 1) / 255 * 2 - 1
    known = known_gray(x) if mode == "colorize" else known_pixels(x, MASKS["middle"](8, 8, 0))
    (drawn,) = complete(
        trained.sampler,
        lambda index: trained.score,
        lambda index: known.of(index // 2),
        torch.arange(4),
        (3, 8, 8),
        seed=trained.config.seed,
        batch_size=64,
        device="cpu",
    )
    expected = to_uint8((drawn.x + 1) / 2).movedim(1, -1)
    assert np.array_equal(np.load(out)["images"], expected)
    # And what --mode restore does with the same task.
    assert np.array_equal(restored(place, tmp_path / "task", f"--task={mode}")[0], expected)


METHODS = ("replacement", "pigdm", "diffpir", "moment_matching", "ddrm", "twisted")


@pytest.mark.parametrize("method", METHODS)
def test_hidden_pixels_never_count_and_known_ones_end_as_they_were(place, tmp_path, method):
    pixels = np.load(place / "test.npy")
    other = pixels.copy()
    other[:, :, :4] = 255 - other[:, :, :4]
    np.save(tmp_path / "other.npy", other)
    words = ("--mask=left", f"--posterior={method}")
    words += ("--config.restore.particles=3",) if method == "twisted" else ()
    one, told = restored(place, tmp_path / "one", *words)
    two, _ = restored(place, tmp_path / "two", *words, f"--input={tmp_path / 'other.npy'}")
    assert np.array_equal(one, two)
    assert np.array_equal(one[:, :, 4:], pixels[[0, 0, 1, 1], :, 4:])
    assert not np.array_equal(one[0], one[1])
    extra = {"ddrm": 1, "twisted": 2 * STEPS + 3}  # with the end, and of each particle
    assert told["nfe"] == STEPS + extra.get(method, 0)
    assert (told["posterior"], told["images"], told["completions"]) == (method, 2, 2)


@pytest.mark.parametrize("method", ["ode", "adaptive_sde", "dpm_solver++"])
def test_a_posterior_score_runs_on_every_sampler(place, tmp_path, method):
    # An untrained network's score is rough: adaptive samplers may give up.
    loose = [f"--config.sampling.{name}=0.5" for name in ("rtol", "atol", "sde_rtol", "sde_atol")]
    loose.append("--config.sampling.max_steps=8")
    words = (f"--config.sampling.method={method}", *loose, "--mask=left")
    images, told = restored(place, tmp_path / "out", "--posterior=pigdm", *words)
    assert np.array_equal(images[:, :, 4:], np.load(place / "test.npy")[[0, 0, 1, 1], :, 4:])
    # Those that choose their own steps take more than those of the grid and Tweedie's formula.
    assert told["nfe"] == STEPS + 1 if method == "dpm_solver++" else told["nfe"] > STEPS + 1


@pytest.mark.parametrize("task", ["inpaint", "super_resolution"])
def test_measurements_of_ones_own_are_those_of_the_images(place, tmp_path, task):
    small = np.load(place / "test.npy")[:, :4, :4]
    given = {"inpaint": np.load(place / "test.npy"), "super_resolution": small}[task]
    clean = {"inpaint": given, "super_resolution": small.repeat(2, 1).repeat(2, 2)}[task]
    np.save(tmp_path / "clean.npy", clean)
    np.save(tmp_path / "given.npy", given)
    words = (f"--task={task}", "--posterior=ddrm")
    images, told = restored(place, tmp_path / "a", *words, f"--input={tmp_path / 'clean.npy'}")
    words = (*words, "--measured", f"--input={tmp_path / 'given.npy'}")
    own, unscored = restored(place, tmp_path / "b", *words)
    assert np.array_equal(images, own)
    assert told["figures"]["psnr"]["n"] == 2
    assert unscored["figures"] == {}
    # What was measured: means of blocks, which stand in each completion.
    blocks = own[0].astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    inside = (own[0] > 0).all() and (own[0] < 255).all()
    assert task == "inpaint" or not inside or np.abs(blocks - small[0]).max() <= 1


@pytest.mark.parametrize("task", ["inpaint", "soft_inpaint"])
def test_another_mask_is_another_origin(place, tmp_path, capsys, task):
    # Measurements of one's own are the same under both.
    words = (f"--task={task}", "--posterior=pigdm", "--noise=0.1", f"--output={tmp_path / 'out'}")
    words = (*words, "--mode=restore", *FEW, "--measured", f"--input={place / 'test.npy'}")
    assert run(place, *words, "--mask=left") == 0
    assert run(place, *words, "--mask=left") == 0
    assert "these go to" not in capsys.readouterr().out
    assert run(place, *words, "--mask=right") == 0
    assert "other weights, seed or settings: these go to" in capsys.readouterr().out


def test_noise_of_measurements_is_a_function_of_seed_and_image(place, tmp_path, monkeypatch):
    seen = []
    noisy = TASKS["denoise"]

    def measure(shape, std):
        made = noisy.measure(shape, std)
        forward = made.noisy
        made.noisy = lambda y, noise: seen.append(forward(y, noise)) or seen[-1]
        return made

    monkeypatch.setitem(TASKS, "denoise", Task(measure))
    words = ("--task=denoise", "--noise=0.1", "--posterior=diffpir", "--completions=1")
    restored(place, tmp_path / "two", *words)
    restored(place, tmp_path / "one", *words, "--num_samples=1")
    assert torch.equal(seen[0][:1], seen[1])
    x = torch.from_numpy(np.load(place / "test.npy")[:2]).movedim(-1, 1) / 255 * 2 - 1
    # 0.1 of [0, 1] pixels are 0.2 for a network whose images lie in [-1, 1].
    z = SampleNoise(42, torch.arange(2), Stream.MEASURE)((2, 3, 8, 8))
    torch.testing.assert_close(seen[0], x + 0.2 * z)


def test_images_of_few_grey_levels_are_scored_at_these(tmp_path):
    # A truth and completions of 17 levels agree where they do at these, not at 256.
    draws = torch.randint(0, 17, (3, 4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    truth, drawn = draws[:, 0] / 16, (draws[:, 1:] / 16 * 255 + 5).clamp(0, 255).byte()
    command.write(tmp_path / "x_grid.png", {}, truth, drawn, 17)
    told = json.loads((tmp_path / "x.json").read_text())["figures"]
    expected = coverage(truth, (drawn / 255 * 16).round() / 16, 1 / 2).mean().item()
    assert told["coverage_of_half"]["value"] == pytest.approx(expected)
    finer = coverage(truth, drawn / 255, 1 / 2).mean().item()
    assert abs(finer - expected) > 0.01


def test_figures_and_particles_are_told_and_a_sheet_is_drawn(place, tmp_path, capsys):
    words = ("--task=super_resolution", "--factor=2", "--noise=0.05", "--posterior=twisted")
    _, told = restored(place, tmp_path / "out", *words, "--config.restore.particles=4")
    assert told["particles"] == 4
    assert 1 <= told["least_ess"] <= told["ess_at_end"] <= 4
    assert told["figures"].keys() >= {"psnr", "ssim", "coverage_of_range"}
    assert "psnr" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "out_grid.png"))
    assert sheet.shape == (2 * 66 + 2, 4 * 66 + 2, 3)  # image, measurement, two completions


def test_figures_of_fewer_images_take_the_place_of_none(place, tmp_path):
    out = tmp_path / "out"
    for count in (3, 2):
        words = (f"--num_samples={count}", "--completions=2", f"--output={out}")
        assert run(place, "--mode=restore", *words) == 0
    (fewer,) = [path for path in tmp_path.glob("out_*.json")]
    told = [json.loads(path.read_text())["images"] for path in (tmp_path / "out.json", fewer)]
    assert told == [3, 2]
    here, there = (sorted(folder.glob("*.png")) for folder in (out, fewer.with_suffix("")))
    assert [len(here), len(there)] == [6, 4]
    for one, other in zip(here, there, strict=False):  # the images are the same
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_two_masks_of_an_image_that_is_black_have_two_origins():
    # Black is 0 to a network whose images lie in [0, 1], as what a mask hides is.
    told = []
    for hidden in (3, 4):
        mask = torch.arange(8).repeat(1, 8, 1) >= hidden
        measurement = TASKS["inpaint"].measure((1, 8, 8), 0.0, mask=mask.float())
        y = measurement.forward(torch.zeros(1, 1, 8, 8))
        told.append(restore._first(Measured(y), measurement))
    assert told[0]["measured"].equal(told[1]["measured"])
    assert not told[0]["measured of ones"].equal(told[1]["measured of ones"])


def test_a_task_of_ones_own(place, tmp_path, monkeypatch):
    columns = Task(lambda shape, std: LinearFunction(shape, std, lambda x: x.mean(-2)))
    monkeypatch.setitem(TASKS, "columns", columns)
    _, told = restored(place, tmp_path / "out", "--task=columns", "--noise=0.01")
    assert told["posterior"] == "pigdm"  # auto: replacement needs a decomposition


def test_a_padded_image_is_restored_by_replacement_alone(place, tmp_path, capsys):
    np.save(tmp_path / "small.npy", np.load(place / "test.npy")[:1, :6])
    words = ("--mode=restore", "--fit=pad", f"--input={tmp_path / 'small.npy'}")
    for more in (("--posterior=pigdm",), ("--task=super_resolution",)):
        assert run(place, *words, *more) == 1
        assert "--fit=pad hides what surrounds an image" in capsys.readouterr().err


def test_measurements_keep_their_size(place, tmp_path, capsys):
    pixels = np.random.default_rng(1).integers(0, 256, (1, 6, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "given.npy", pixels)
    words = ("--task=super_resolution", "--measured", f"--input={tmp_path / 'given.npy'}")
    assert run(place, "--mode=restore", *words) == 1
    assert "has 6x10 pixels, and measurements of the network's images have 4x4" in (
        capsys.readouterr().err
    )
    # Of larger ones the network is given tiles, through which gradients pass.
    words = (*words, "--fit=tile", "--num_samples=1", "--completions=1", "--posterior=pigdm")
    images, told = restored(place, tmp_path / "out", *words)
    assert images.shape == (1, 12, 20, 3)
    assert told["nfe"] == 8 * STEPS  # 2 by 4 tiles
    blocks = images[0].astype(float).reshape(6, 2, 10, 2, 3).mean((1, 3))
    inside = ((images[0] > 0) & (images[0] < 255)).reshape(6, 2, 10, 2, 3).all((1, 3))
    assert np.abs(blocks - pixels[0])[inside].max(initial=0) <= 1


DDIM = ("--config.sampling.method=ddim",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--task=super_resolution", "--factor=3"], "take one of 2, 4, 8"),
        (["--task=upscaling"], "config.restore.task='upscaling'"),
        (["--posterior=dps"], "dps does not run on mask: it weighs what is measured by 1/σ_y²"),
        (["--posterior=replacement", "--noise=0.1"], "replacement does not run on mask"),
        (["--posterior=ddrm", "--config.sampling.method=ode"], "takes hold at the steps of a"),
        (["--posterior=ddrm", "--config.sampling.corrector=langevin"], "takes steps of its own"),
        (
            ["--posterior=ddrm", *DDIM, "--config.sampling.temperature=0.8"],
            "temperature=0.8 has no use beside the posterior ddrm",
        ),
        (["--posterior=pigdm", "--config.sampling.resample=3"], "does not act on the sampler's"),
        (["--posterior=twisted", "--config.restore.twist=diffpir"], "has to have a likelihood"),
        (["--posterior=twisted", "--config.restore.twist=dps"], "this has no noise"),
        (["--factor=2"], "restore.factor=2 has no use in the task inpaint by replacement"),
        (["--task=denoise"], "tells all of an image where there is no noise"),
        (["--noise=-0.1"], "config.restore.noise=-0.1: it may not be negative"),
        (["--measured"], "--measured says that --input holds what was measured"),
        (["--task=fourier", "--measured", "--input=x.png"], "what fourier measures is none"),
        (["--mask=left", "--config.restore.mask=left"], "--mask is short for"),
        (["--mode=inpaint", "--config.restore.task=deblur"], "has no use in --mode inpaint"),
        (["--mode=inpaint", "--noise=0.1"], "--noise has no use in --mode inpaint"),
    ],
)
def test_a_mistake_is_one_sentence(place, capsys, words, sentence):
    assert run(place, "--mode=restore", *words) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1
