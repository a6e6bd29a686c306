"""The tour: it runs as it stands, and what is shown of it was made by a whole run."""

import pytest
from conftest import ROOT
from executed import assert_stored_whole, execute, pictures_of

nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")

TOUR = ROOT / "examples" / "score_sde_tour.ipynb"


@pytest.mark.notebooks
def test_the_tour_runs_and_shows_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_SDE_TOUR_QUICK", "1")
    monkeypatch.setenv("SCORE_SDE_TOUR_WORKDIR", str(tmp_path / "tour"))
    notebook = nbformat.read(TOUR, as_version=4)
    shown = [pictures_of(cell) for cell in notebook.cells]
    # What the cells do is the same at a coarser tolerance of the ODE, in far fewer evaluations.
    assert sum("=1e-4" in cell.source for cell in notebook.cells) == 4
    for cell in notebook.cells:
        cell.source = cell.source.replace("=1e-4", "=1e-2")
    execute(notebook, ROOT / "examples")
    assert [pictures_of(cell) for cell in notebook.cells] == shown
    assert sum(shown) == 9


def test_what_the_repository_shows_comes_from_one_whole_run():
    text = TOUR.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert_stored_whole(notebook)
    said = "".join(
        out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])
    )
    assert "done: 2000 steps" in said
    assert "1000 network evaluations" in said
    assert str(ROOT) not in text
    assert len(text) < 3_000_000
