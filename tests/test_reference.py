"""Results pinned where no closed form does; see `reference.py` for what they are."""

import json

import pytest
import reference

HELD = json.loads(reference.FILE.read_text())


@pytest.fixture(scope="module")
def computed() -> dict:
    return reference.compute()


@pytest.mark.parametrize("subject", HELD)
def test_numbers_are_those_on_file(subject, computed):
    assert computed[subject].keys() == HELD[subject].keys()
    # The networks compute in float32, the rest in float64.
    tolerance = 2e-4 if subject == "networks" else 1e-6
    for name, expected in HELD[subject].items():
        assert computed[subject][name] == pytest.approx(expected, rel=tolerance, abs=1e-6), name


def test_every_subject_is_on_file(computed):
    assert computed.keys() == HELD.keys()
