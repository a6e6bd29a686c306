"""What a run tells is appended after a resume, and no step is told twice."""

import json
import math
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from score_sde.logbook import Logbook


def plain(workdir, **options) -> Logbook:
    return Logbook(workdir, tensorboard=False, **options)


def test_the_log_is_appended_with_times_and_a_mark_of_the_resume(tmp_path):
    with plain(tmp_path, quiet=True) as log:
        log.begin(0)
        log.say("one\ntwo")
    with plain(tmp_path, quiet=True) as log:
        log.begin(7)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == ["started", "one", "two", "resumed at step 7"]


def test_a_log_can_be_started_anew(tmp_path):
    with plain(tmp_path, quiet=True) as log:
        log.say("old")
    with plain(tmp_path, quiet=True, append=False) as log:
        log.say("new")
    assert "old" not in (tmp_path / "log.txt").read_text()


def test_text_is_on_disk_before_the_log_is_closed(tmp_path):
    log = plain(tmp_path, quiet=True)
    log.say("hello")
    log.scalars(3, {"loss": 0.5})
    assert (tmp_path / "log.txt").read_text().endswith(" hello\n")
    assert log.history("loss") == ([3], [0.5])
    log.close()
    log.close()


def test_metrics_past_the_resumed_step_are_dropped(tmp_path):
    with plain(tmp_path, quiet=True) as log:
        log.begin(0)
        for step in range(1, 9):
            log.scalars(step, {"loss": torch.tensor(1.0 / step), "rate": 0.1})
    with plain(tmp_path, quiet=True) as log:
        log.begin(5)
        log.scalars(6, {"loss": 60.0})
        log.scalars(7, {"held_out": 70.0})
        assert log.history("loss") == (
            [1, 2, 3, 4, 5, 6],
            [*[pytest.approx(1 / s) for s in range(1, 6)], 60.0],
        )
        assert log.history("held_out") == ([7], [70.0])
        assert log.history("unknown") == ([], [])
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1] == {"step": 7, "held_out": 70.0}


def test_a_start_drops_everything_and_a_resume_at_its_own_step_nothing(tmp_path):
    for _ in range(2):
        with plain(tmp_path, quiet=True) as log:
            log.begin(0)
            log.scalars(0, {"held_out": 1.0})
            log.scalars(1, {"held_out": 0.9})
    with plain(tmp_path, quiet=True) as log:
        log.begin(1)
        assert log.history("held_out") == ([0, 1], [1.0, 0.9])


def test_lines_that_a_crash_tore_are_dropped(tmp_path):
    whole = '{"step": 1, "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole.encode() + b'\x00\xff\x00\n17\n{"step": 2, "lo')
    with plain(tmp_path, quiet=True) as log:
        assert log.history("loss") == ([1], [1.0])
        log.begin(2)
        assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    with plain(tmp_path, quiet=True) as log:
        log.scalars(1, {"norm": math.inf, "loss": math.nan})
        assert math.isnan(log.history("norm")[1][0])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "norm": None,
        "loss": None,
    }


def test_a_metric_called_step_is_refused(tmp_path):
    with plain(tmp_path, quiet=True) as log, pytest.raises(ValueError, match="rename"):
        log.scalars(1, {"step": 2.0})


def test_tensorboard_curves_do_not_double(tmp_path):
    for first, last in ((1, 6), (4, 8)):
        with Logbook(tmp_path, quiet=True) as log:
            log.begin(first - 1)
            for step in range(first, last):
                log.scalars(step, {"loss": 10.0 * first + step})
            log.images(last, "samples", np.zeros((4, 6, 1), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    loss = [(event.step, event.value) for event in events.Scalars("loss")]
    assert loss == [(1, 11.0), (2, 12.0), (3, 13.0), (4, 44.0), (5, 45.0), (6, 46.0), (7, 47.0)]
    assert [(image.step, image.width, image.height) for image in events.Images("samples")] == [
        (8, 6, 4)
    ]


def test_text_goes_to_the_screen_unless_quiet(tmp_path, capsys):
    with plain(tmp_path) as log:
        log.say("hello")
        with log.progress(10, initial=4, unit="step") as bar:
            bar.update(6)
    shown = capsys.readouterr()
    assert "hello\n" in shown.out
    assert "10/10" in shown.err
    with plain(tmp_path, quiet=True) as log:
        log.say("hello")
        log.progress(10).close()
    assert capsys.readouterr() == ("", "")


def test_other_processes_write_nothing(tmp_path, capsys):
    with Logbook(tmp_path / "run", active=False) as log:
        log.begin(3)
        log.say("hello")
        log.scalars(1, {"loss": 1.0})
        log.images(1, "samples", np.zeros((2, 2, 1), np.uint8))
        log.progress(5).update(1)
        assert log.history("loss") == ([], [])
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_a_work_directory_that_can_not_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot write to the work directory .*file.run.*--workdir"
    ) as caught:
        Logbook(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_full_disk_is_one_sentence_with_the_remedy(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    with plain(tmp_path, quiet=True) as log:
        record = {"log.txt": log.say, "metrics.jsonl": lambda _: log.scalars(1, {"loss": 1.0})}
        with pytest.raises(OSError, match=r"No space left.*free some.*untouched") as caught:
            record[name]("hello")
    assert "\n" not in str(caught.value)


def test_what_tensorboard_cannot_write_is_told_without_a_stack_trace(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's
    log = Logbook(tmp_path, quiet=True)
    log.scalars(1, {"loss": 1.0})
    thread = threading.Thread(target=lambda: os.open(tmp_path / "gone", os.O_RDONLY))
    thread.start()
    thread.join()
    log.close()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is threading.__excepthook__


def test_a_resume_that_cannot_be_written_keeps_the_curves(tmp_path, monkeypatch):
    with plain(tmp_path, quiet=True) as log:
        log.begin(0)
        log.scalars(1, {"loss": 0.5})
        log.scalars(2, {"loss": 0.4})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("score_sde.atomic.os.replace", full)
    with plain(tmp_path, quiet=True) as log, pytest.raises(OSError, match="free some space"):
        log.begin(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "metrics.jsonl"]
    with plain(tmp_path, quiet=True) as log:
        assert log.history("loss") == ([1, 2], [0.5, 0.4])
