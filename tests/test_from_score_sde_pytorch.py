"""The guide for users of the 2021 release names what is there."""

import pydoc
import re

import pytest
from conftest import ROOT

from score_sde import checkpoints

GUIDE = (ROOT / "docs" / "from_score_sde_pytorch.md").read_text("utf-8")


def column(section: str, number: int) -> list[str]:
    """The cells of a column of a section's table."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE, flags=re.M | re.S)
    rows = [
        re.findall(r"\|\s(.*?)\s(?=\|)", line)
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert all(len(row) == len(rows[0]) for row in rows)
    return [row[number] for row in rows[1:]]


CELLS = [*column("Calls", 1), *column("Moved within this library", 1)]
NAMES = sorted({name for cell in CELLS for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", cell)})


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_it_gives_exists(name):
    assert pydoc.locate(name) is not None


def test_enough_names_are_looked_up():
    assert len(NAMES) > 15


@pytest.mark.parametrize(
    "field", re.findall(r"`((?:data|training)\.\w+)", " ".join(column("Fields", 1)))
)
def test_every_field_that_it_gives_exists(field):
    from configs.ve.cifar10 import get_config

    group, leaf = field.split(".")
    assert leaf.partition("=")[0] in get_config()[group]


def test_what_replaces_the_old_loading_runs(monkeypatch, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.S)
    (code,) = [block for block in blocks if "load_official" in block]
    given = []
    monkeypatch.setattr(checkpoints, "load_official", lambda *words: given.append(words))
    exec(code, {})
    ((path, config),) = given
    assert path == "checkpoint_24.pth"
    assert config.model.name == "ncsnpp"
