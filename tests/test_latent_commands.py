"""`--mode encode`, `--mode interpolate` and `--mode edit` as a user has them."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from configs.vp import digits
from score_sde.commands import cli, interpolate
from score_sde.config.build import open_split
from score_sde.data import to_unit
from score_sde.pictures import grid

CLASSES = ("--config.model.num_classes=10", "--config.model.label_dropout=0.3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A work directory of a network with classes, and a folder of three images of one's own."""
    place = tmp_path_factory.mktemp("latent")
    assert run(place, "--mode=train") == 0
    (place / "mine").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for name, image in zip("abc", pixels, strict=True):
        Image.fromarray(image).save(place / "mine" / f"{name}.png")
    return place


FEW = {
    "sampling.rtol": "1e-3",
    "sampling.atol": "1e-3",
    "sampling.num_steps": "10",
    "sampling.batch_size": "4",
}


def run(place, *words, recipe="ve"):
    # On VE a network that has hardly learnt leaves images much as they are, and its flow is well
    # conditioned; VP's would shrink them to nothing at T.
    recipe = ("main.py", f"--config=configs/{recipe}/digits.py", f"--workdir={place / 'run'}")
    few = (f"--config.{name}={value}" for name, value in FEW.items())  # the last of each counts
    return cli.main([*recipe, *TINY, *CLASSES, *few, *map(str, words)])


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def refused(place, capsys, *words, **recipe):
    capsys.readouterr()
    assert run(place, *words, **recipe) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# Encoding


def test_encoded_images_come_back_and_their_latents_are_kept(place, tmp_path):
    out, mine = tmp_path / "out", place / "mine"
    words = ("--mode=encode", f"--input={mine}", "--label=3", f"--output={out}")
    assert run(place, *words) == 0
    kept = np.load(out / "latents.npz")
    assert kept["latent"].shape == (3, 1, 8, 8)
    assert kept["latent"].dtype == np.float32
    assert kept["name"].tolist() == ["a.png", "b.png", "c.png"]
    assert kept["label"].tolist() == [3, 3, 3]
    report = json.loads((out / "round_trip.json").read_text())
    assert [row["name"] for row in report["images"]] == kept["name"].tolist()
    assert [row["nfe"] for row in report["images"]] == kept["nfe"].tolist()
    assert all(row["status"] == "DONE" for row in report["images"])
    assert (report["rtol"], report["atol"], report["eps"]) == (1e-3, 1e-3, 1e-5)
    for k, (name, row) in enumerate(zip(kept["name"], report["images"], strict=True)):
        off = np.abs(read(out / f"{k:06d}.png") - read(mine / name)) / 255
        assert off.max() <= row["max"] + 0.002  # which is told before they are rounded
        assert np.sqrt((off**2).mean()) <= row["rms"] + 0.002
    assert 0 < report["max"] == max(row["max"] for row in report["images"]) < 0.05
    # Three images, their latents and their reconstructions, each 8 pixels enlarged to 64.
    assert read(tmp_path / "out_grid.png").shape == (3 * 66 + 2, 3 * 66 + 2)


def test_a_finer_tolerance_brings_images_nearer_and_costs_more(place, tmp_path):
    reports = []
    for tolerance in ("1e-3", "1e-5"):
        out = tmp_path / tolerance
        fields = [f"--config.sampling.{name}={tolerance}" for name in ("rtol", "atol")]
        words = ("--mode=encode", "--num_samples=2", *fields, f"--output={out}")
        assert run(place, *words) == 0
        reports.append(json.loads((out / "round_trip.json").read_text()))
    assert reports[1]["max"] < reports[0]["max"] / 3
    assert reports[1]["nfe"] > reports[0]["nfe"]
    assert reports[0]["images"][1]["name"] == "digits test 1"


def test_latents_are_the_same_whatever_comes_with_them(place, tmp_path):
    latents = []
    for count in (1, 3):
        out = tmp_path / str(count)
        assert run(place, "--mode=encode", f"--num_samples={count}", f"--output={out}") == 0
        latents.append(np.load(out / "latents.npz")["latent"])
    assert np.array_equal(latents[0][0], latents[1][0])


def test_latents_of_fewer_images_take_the_place_of_none(place, tmp_path, capsys):
    out = tmp_path / "out"
    for count in (3, 2):
        assert run(place, "--mode=encode", f"--num_samples={count}", f"--output={out}") == 0
    assert len(np.load(out / "latents.npz")["latent"]) == 3
    assert "these go to" in capsys.readouterr().out
    (other,) = [path for path in tmp_path.glob("out_*") if path.is_dir()]
    assert len(np.load(other / "latents.npz")["latent"]) == 2


# Interpolation


def test_a_strip_leads_from_one_image_to_the_other_and_a_grid_between_four(place, tmp_path):
    out = tmp_path / "out"
    fine = [f"--config.sampling.{name}=1e-4" for name in ("rtol", "atol")]
    fine += ["--config.sampling.batch_size=16"]
    words = ("--mode=interpolate", "--num_samples=2", "--frames=3", f"--output={out}")
    assert run(place, *words, *fine) == 0
    assert len(list(out.iterdir())) == 6
    source = open_split(digits.get_config(), "test")
    test = 255 * to_unit(source.images(torch.arange(4)), source.info.levels)
    for frame, image in ((0, 0), (2, 1), (3, 2), (5, 3)):
        assert np.abs(read(out / f"{frame:06d}.png") - test[image, 0].numpy()).max() < 4
    assert read(tmp_path / "out_grid.png").shape == (2 * 66 + 2, 3 * 66 + 2)
    square = read(tmp_path / "out_corners.png")
    assert square.shape == (3 * 66 + 2, 3 * 66 + 2)
    # Its upper edge is the first strip, and its lower edge the second.
    sheet = read(tmp_path / "out_grid.png")
    assert np.abs(square[:68] - sheet[:68]).max() <= 1
    assert np.abs(square[-68:] - sheet[-68:]).max() <= 1


def test_an_image_without_a_second_is_named(place, tmp_path, capsys):
    words = ("--mode=interpolate", f"--input={place / 'mine'}", "--label=1", "--frames=2")
    assert run(place, *words, f"--output={tmp_path / 'x'}") == 0
    said = capsys.readouterr().out
    assert "c.png is left without a second image" in said
    assert "drawing 1 strips of 2 images" in said


def test_random_latents_are_those_of_samples(place, tmp_path):
    fields = ("--config.sampling.method=ddim", "--config.sampling.temperature=0.8", "--label=2")
    words = ("--mode=interpolate", "--random", "--num_samples=1", "--frames=3", *fields)
    assert run(place, *words, f"--output={tmp_path / 'strip'}") == 0
    words = ("--mode=sample", "--num_samples=2", *fields, f"--output={tmp_path / 'samples'}")
    assert run(place, *words) == 0
    for frame, sample in ((0, 0), (2, 1)):
        one, other = (
            read(tmp_path / folder / f"{k:06d}.png")
            for folder, k in (("strip", frame), ("samples", sample))
        )
        assert np.array_equal(one, other)
    assert not (tmp_path / "strip_corners.png").exists()


def test_each_half_of_a_strip_has_the_class_of_its_end(place, tmp_path, monkeypatch):
    asked, guided = [], interpolate.guided

    def note(config, network, sde, labels):
        asked.append(labels)
        return guided(config, network, sde, labels)

    monkeypatch.setattr(interpolate, "guided", note)
    words = ("--mode=interpolate", "--num_samples=2", "--frames=3", f"--output={tmp_path / 'x'}")
    assert run(place, *words, "--config.sampling.method=ddim") == 0
    ends, strips, square = (
        labels(torch.arange(count)).tolist()
        for labels, count in zip(asked, (4, 6, 9), strict=True)
    )
    a, b, c, d = ends
    assert len({a, b, c, d}) == 4
    assert strips == [a, a, b, c, c, d]
    assert square == [a, a, b, a, a, b, c, c, d]


# Editing


def test_edits_begin_with_the_image_and_the_less_noise_the_nearer_they_stay(place, tmp_path):
    mine, off = place / "mine", []
    for strength in (0.1, 0.5, 1):
        out = tmp_path / str(strength)
        words = ("--mode=edit", f"--input={mine}", "--label=1", "--completions=2")
        assert run(place, *words, f"--strength={strength}", f"--output={out}") == 0
        assert len(list(out.iterdir())) == 6
        pairs = (
            (read(out / f"{k:06d}.png"), read(mine / f"{'abc'[k // 2]}.png")) for k in range(6)
        )
        off.append(np.mean([np.abs(one - other).mean() for one, other in pairs]))
    assert off[0] < 0.2 * off[1]
    assert off[1] < off[2]
    first, second = (read(tmp_path / "0.5" / f"00000{k}.png") for k in (0, 1))
    assert (first != second).mean() > 0.5
    # In each row the image, what the first edit begins with and two edits.
    assert read(tmp_path / "0.5_grid.png").shape == (3 * 66 + 2, 4 * 66 + 2)


def test_an_edit_is_the_same_however_many_are_drawn_at_a_time(place, tmp_path):
    for size in (1, 4):
        out = f"--output={tmp_path / str(size)}.npz"
        words = ("--mode=edit", "--num_samples=3", "--completions=2", out)
        assert run(place, *words, f"--config.sampling.batch_size={size}") == 0
    one, four = (np.load(tmp_path / f"{size}.npz") for size in (1, 4))
    assert np.abs(one["images"].astype(int) - four["images"]).max() <= 1


@pytest.mark.parametrize(
    ("fields", "nfe"),
    [
        (["sampling.corrector=langevin"], 4 * 2),  # the last 4 of 10 steps
        (["sampling.method=dpm_solver++"], 4 + 1),  # and Tweedie's formula
        (["sampling.method=heun"], 4 * 2 + 1),
    ],
)
def test_the_sampler_walks_the_last_part_of_its_grid(place, tmp_path, capsys, fields, nfe):
    words = [f"--config.{field}" for field in fields]
    words += ["--mode=edit", "--strength=0.4", "--num_samples=1", "--completions=1"]
    assert run(place, *words, f"--output={tmp_path / 'x'}") == 0
    assert f"1 edits, {nfe}.0 network evaluations each" in capsys.readouterr().out


def test_methods_that_choose_their_times_begin_at_that_part_of_the_sdes_grid(
    place, tmp_path, capsys
):
    for method in ("ode", "adaptive_sde"):
        words = (f"--config.sampling.method={method}", "--config.sampling.sde_rtol=0.5")
        few = ("--mode=edit", "--strength=0.4", "--num_samples=1", "--completions=1")
        assert run(place, *words, *few, f"--output={tmp_path / method}") == 0
        assert "from t=0.4 on (strength 0.4)" in capsys.readouterr().out


def test_larger_images_are_edited_through_tiles_and_not_encoded(place, tmp_path, capsys):
    large = np.random.default_rng(1).integers(0, 256, (8, 12), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    words = (f"--input={tmp_path / 'large.png'}", "--label=3", f"--output={tmp_path / 'out'}")
    given = ("--mode=edit", "--fit=tile", "--completions=2", "--config.sampling.method=ddim")
    assert run(place, *words, *given) == 0
    assert read(tmp_path / "out" / "000001.png").shape == (8, 12)
    # Two tiles, each evaluated at the last 5 of 10 steps and in Tweedie's formula.
    assert "2 edits, 12.0 network evaluations each" in capsys.readouterr().out
    said = refused(place, capsys, *words, "--mode=encode", "--config.sampling.fit=tile")
    assert "here they must have the network's, 8x8: take resize, crop or pad" in said


@pytest.mark.parametrize("mode", ["encode", "interpolate", "edit"])
def test_another_image_at_the_same_place_is_another_origin(place, tmp_path, capsys, mode):
    given, out = tmp_path / "given.npy", tmp_path / "out"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    words = (f"--mode={mode}", f"--input={given}", f"--output={out}", "--label=3")
    few = ("--num_samples=1",) if mode == "interpolate" else ("--num_samples=2",)
    for images, said in ((pixels, False), (pixels, False), (255 - pixels, True)):
        np.save(given, images)
        assert run(place, *words, *few) == 0
        assert ("images of other weights, seed or settings" in capsys.readouterr().out) == said


def test_another_strength_is_another_origin(place, tmp_path, capsys):
    few = ("--mode=edit", "--num_samples=1", "--completions=1", f"--output={tmp_path / 'x'}")
    assert run(place, *few) == 0
    assert run(place, *few, "--strength=0.6") == 0
    assert "other weights, seed or settings: these go to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["edit", "--strength=0"], "config.sampling.strength=0.0: it must be above 0 and up to 1"),
        (["edit", "--strength=1.5"], "config.sampling.strength=1.5: it must be above 0 and up to"),
        (["edit", "--strength=0.04"], "--strength 0.04: 0.04 of a grid of 10 steps holds none of"),
        (["sample", "--strength=0.5"], "--strength has no use in --mode sample"),
        (["edit", "--config.sampling.temperature=0.8"], "--mode edit begins with noised images"),
        (["encode", "--config.sampling.temperature=0.8"], "are to come back to their images"),
        (["encode", "--config.sampling.method=ddim"], "takes the adaptive ODE there and back"),
        (["encode", "--output=x.npz"], "so give a folder for them"),
        (["interpolate", "--config.sampling.method=pc"], "draws noise on the way"),
        (["interpolate", "--random", "--input=x"], "--random takes latents of no images"),
        (["interpolate", "--frames=1"], "--frames=1"),
        (["sample", "--config.sampling.temperature=0.8"], "draws more noise on the way"),
        (
            [
                "sample",
                "--config.sampling.temperature=0.8",
                "--config.sampling.method=adaptive_sde",
            ],
            "config.sampling.method='adaptive_sde' as it is set draws more noise",
        ),
    ],
)
def test_a_mistake_is_one_sentence(place, capsys, words, sentence):
    assert sentence in refused(place, capsys, f"--mode={words[0]}", *words[1:])


@pytest.mark.parametrize("mode", ["encode", "interpolate"])
def test_another_image_of_the_same_name_is_another_origin(place, tmp_path, capsys, mode):
    pixels = np.random.default_rng(2).integers(0, 256, (2, 2, 8, 8), dtype=np.uint8)
    words = (f"--mode={mode}", f"--input={tmp_path / 'own.npy'}", "--label=3", "--num_samples=2")
    words = (*words, f"--output={tmp_path / 'out'}")
    for images in pixels:
        np.save(tmp_path / "own.npy", images[..., None])
        assert run(place, *words) == 0
    assert "other weights, seed or settings: these go to" in capsys.readouterr().out


def test_images_are_encoded_as_they_are_fitted(place, tmp_path):
    large = np.random.default_rng(1).integers(0, 256, (10, 12), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(large[1:9, 2:10]).save(tmp_path / "middle.png")
    for name in ("large", "middle"):
        own = (f"--input={tmp_path / name}.png", "--label=3", f"--output={tmp_path / name}")
        assert run(place, "--mode=encode", "--fit=crop", *own) == 0
    large, middle = (np.load(tmp_path / x / "latents.npz")["latent"] for x in ("large", "middle"))
    assert np.array_equal(large, middle)


def test_one_image_is_no_pair(place, capsys):
    words = ("--mode=interpolate", f"--input={place / 'mine' / 'a.png'}", "--label=1")
    assert "one image (a.png), and an arc has two ends" in refused(place, capsys, *words)


def test_networks_of_discrete_chains_are_edited_but_not_encoded(tmp_path, capsys):
    chain = ("--config.training.continuous=False", "--config.training.time_sampling=uniform")
    chain += ("--config.model.num_scales=20", "--config.sampling.num_steps=0")
    assert run(tmp_path, *chain, "--mode=train", recipe="vp") == 0
    for mode in ("encode", "interpolate"):
        said = refused(tmp_path, capsys, *chain, f"--mode={mode}", recipe="vp")
        assert "trained in continuous time (config.training.continuous=True)" in said
    few = ("--mode=edit", "--strength=0.25", "--num_samples=1", "--completions=1")
    assert run(tmp_path, *chain, *few, f"--output={tmp_path / 'x'}", recipe="vp") == 0
    assert "1 edits, 5.0 network evaluations each" in capsys.readouterr().out


# Sheets and films with their method


def test_a_sheet_and_a_film_show_the_samples_under_what_made_them(place, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "score_sde.commands.drawing.labelled", lambda picture, text: said.append(text) or picture
    )
    words = ("--mode=sample", "--num_samples=6", "--grid", "--config.sampling.num_steps=4")
    assert run(place, *words, "--config.sampling.method=ddim", f"--output={tmp_path / 'out'}") == 0
    assert np.array_equal(read(tmp_path / "out_sheet.png"), read(tmp_path / "out_grid.png"))
    with Image.open(tmp_path / "out_film.gif") as film:
        assert film.n_frames == 4 + 2  # with the noise, and the images
        film.seek(5)
        last = np.asarray(film.convert("RGB"))[..., 0]
    drawn = [read(tmp_path / "out" / f"00000{k}.png") for k in range(4)]  # of the first batch
    shown = grid(torch.tensor(np.stack(drawn), dtype=torch.uint8)[:, None], scale=4)
    # Of 256 levels a frame that changes another one has 255, as one says that nothing changed.
    assert np.abs(last.astype(int) - shown[..., 0].astype(int)).max() <= 1
    both = ["step_00000004.pt", "ddim, 4 steps, 5 evaluations each"]
    assert said[0] == both
    steps = [[*both, f"step {k} of 4, t = "] for k in range(5)]
    assert [[*text[:2], text[2][:17]] for text in said[1:6]] == steps
    assert said[1][2].endswith("t = 1")
    assert said[6:] == [[*both, "the images"]]
