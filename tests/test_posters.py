"""docs/your_own_images.md on drawn posters: from a folder to images restored and edited."""

import json
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from score_sde.commands import cli

DRAW = ROOT / "examples" / "posters" / "draw.py"
TINY = (
    "--config.data.root=prepared",
    "--config.device=cpu",
    "--config.data.image_size=12",
    "--config.data.image_width=8",
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,2)",
    "--config.training.batch_size=4",
    "--config.training.n_iters=3",
    "--config.training.snapshot_images=5",
    "--config.sampling.num_steps=2",
)


def draw(output, number, *words):
    sys.argv = ["draw.py", "--output", str(output), "--number", str(number), *words]
    runpy.run_path(str(DRAW), run_name="__main__")


def test_a_poster_is_a_function_of_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    draw(tmp_path / "few", 5)
    draw(tmp_path / "more", 10)
    few = sorted((tmp_path / "few").rglob("*.jpg"))
    assert len(few) == 5
    for path in few:
        again = tmp_path / "more" / path.relative_to(tmp_path / "few")
        assert path.read_bytes() == again.read_bytes()
        width, height = Image.open(path).size
        assert 0.63 < width / height < 0.70


def test_a_file_in_the_way_and_no_posters_at_all_are_said_in_a_sentence(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", sys.argv)
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for number, said in ((5, "choose another --output"), (0, "1 or more")):
        with pytest.raises(SystemExit) as stopped:
            draw(mine, number)
        assert stopped.value.code == 1
        assert said in capsys.readouterr().err
    assert mine.read_text() == "kept"


def test_from_a_collection_to_restored_posters(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    draw("posters", 40, "--odd")
    prepare = ("--mode", "prepare", "--input", "posters", "--output", "prepared")
    assert cli.main(["main.py", *prepare, "--size", "12x8"]) == 0
    index = json.loads((tmp_path / "prepared" / "index.json").read_text())
    assert index["classes"] == ["horror", "noir", "romance", "science_fiction", "western"]
    # CMYK, turned, transparent and 16-bit ones count; what was truncated is listed.
    assert index["images_of_classes"] == [8, 12, 8, 8, 8]
    assert [name for name, _ in index["left_out"]] == ["noir/truncated.jpg"]

    def run(*words):
        assert cli.main(["main.py", "--config", "edm/posters", *TINY, *words]) == 0
        return capsys.readouterr().out

    run("--mode=train")
    run("--mode=sample", "--label=all", "--guidance=2", "--num_samples=5", "--output=by_genre.npz")
    drawn = np.load("by_genre.npz")
    assert drawn["images"].shape == (5, 12, 8, 3)
    assert drawn["label"].tolist() == [0, 1, 2, 3, 4]
    restored = run("--mode=restore", "--task=super_resolution", "--factor=2", "--num_samples=2")
    assert "psnr" in restored
    # A poster of any size begins an edit where it is brought to the network's.
    words = ("--input=posters/western", "--num_samples=1", "--output=edited.npz")
    run("--mode=edit", "--strength=0.5", "--label=4", *words)
    assert np.load("edited.npz")["images"].shape[1:] == (12, 8, 3)
