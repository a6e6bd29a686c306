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

from score_sde.logbook import Logbook, curves


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

    monkeypatch.setattr("score_sde.atomic.writing.os.replace", full)
    with plain(tmp_path, quiet=True) as log, pytest.raises(OSError, match="free some space"):
        log.begin(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "metrics.jsonl"]
    with plain(tmp_path, quiet=True) as log:
        assert log.history("loss") == ([1, 2], [0.5, 0.4])


# Beside others


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_resume_keeps_what_an_evaluation_writes_meanwhile(tmp_path):
    with plain(tmp_path, quiet=True) as log:
        log.begin(0)
        for step in range(1, 6):
            log.scalars(step, {"loss": 1.0})
    with plain(tmp_path, quiet=True) as evaluation:
        evaluation.scalars(5, {"eval/fid": 1.0})
        with plain(tmp_path, quiet=True) as log:
            log.begin(2)
            evaluation.scalars(4, {"eval/fid": 2.0})
            log.scalars(3, {"loss": 3.0})
    assert lines(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 1.0},
        {"step": 5, "eval/fid": 1.0},
        {"step": 4, "eval/fid": 2.0},
        {"step": 3, "loss": 3.0},
    ]


def test_no_line_is_lost_where_many_write_and_a_run_resumes_again_and_again(tmp_path):
    def write(first):
        with plain(tmp_path, quiet=True) as log:
            for step in range(first, first + 50):
                log.scalars(step, {"eval/fid": float(step)})

    threads = [threading.Thread(target=write, args=(first,)) for first in (1000, 2000)]
    for thread in threads:
        thread.start()
    with plain(tmp_path, quiet=True) as log:
        for _ in range(20):
            log.scalars(7, {"loss": 7.0})
            log.begin(5)
    for thread in threads:
        thread.join()
    with plain(tmp_path, quiet=True) as log:
        assert log.history("loss") == ([], [])
        steps, values = log.history("eval/fid")
    assert sorted(steps) == [*range(1000, 1050), *range(2000, 2050)]
    assert values == [float(step) for step in steps]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "2", "loss": 1}',
        '{"step": null, "loss": 1}',
        '{"step": NaN, "loss": 1}',
        '{"step": 2.5, "loss": 1}',
        '{"step": true, "loss": 1}',
        '{"step": -1, "loss": 1}',
        '{"step": 1' + "0" * 5000 + ', "loss": 1}',
        '{"step": 10000000000000000000000, "loss": 1}',
        '["step"]',
        "3",
        "[" * 100_000,
        "",
    ],
    ids=lambda line: line[:20],
)
def test_lines_that_are_no_metrics_are_left_out_with_a_word(tmp_path, line):
    whole = '{"step": 1, "loss": 1.0}'
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{whole}\n")
    with plain(tmp_path, quiet=True) as log:
        assert log.history("loss") == ([1], [1.0])
        log.begin(2)
    assert (tmp_path / "metrics.jsonl").read_text() == f"{whole}\n"
    assert "1 lines of" in (tmp_path / "log.txt").read_text()


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("score_sde.logbook._LINE_BYTES", 1000)
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "loss": 0.5}\n'
    path.write_bytes(whole + b" " * 998 + b"\n" + whole)
    assert curves(path) == {"loss": ([1, 1], [0.5, 0.5])}
    path.write_bytes(whole + bytes(1000) + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl has a line of .* repair it or remove it"):
        curves(path)


def test_values_that_are_no_numbers_are_passed_over(tmp_path):
    values = ('"high"', "[1]", "{}", "true", "1" + "0" * 400, "NaN", "Infinity", "null", "2")
    text = "".join(f'{{"step": {k}, "loss": {value}}}\n' for k, value in enumerate(values))
    (tmp_path / "metrics.jsonl").write_text(text)
    with plain(tmp_path, quiet=True) as log:
        steps, losses = log.history("loss")
    assert steps == [5, 6, 7, 8]
    assert math.isnan(losses[0])
    assert math.isnan(losses[2])
    assert losses[1::2] == [math.inf, 2.0]


def test_a_line_does_not_join_half_a_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    with plain(tmp_path, quiet=True) as log:
        log.scalars(2, {"loss": 0.5})
        assert log.history("loss") == ([2], [0.5])


def test_a_disk_that_fills_up_leaves_no_half_line(tmp_path, monkeypatch):
    with plain(tmp_path, quiet=True) as log:
        log.scalars(1, {"loss": 0.5})
        write = os.write

        def full(file, content):
            if len(content) < 10:
                raise OSError(28, "No space left on device")
            return write(file, content[:-5])

        monkeypatch.setattr("score_sde.logbook.os.write", full)
        with pytest.raises(OSError, match="free some space"):
            log.scalars(2, {"loss": 0.25})
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_the_log_goes_beside_the_output_where_the_work_directory_cannot_be_written(tmp_path):
    for name in ("log.txt", "metrics.jsonl"):
        workdir, beside = tmp_path / f"no {name}", tmp_path / f"beside {name}"
        (workdir / name).mkdir(parents=True)
        with plain(workdir, beside=beside, quiet=True) as log:
            log.say("hello")
            log.scalars(1, {"eval/fid": 0.5})
        text = (beside / "log.txt").read_text()
        assert "the log goes to" in text
        assert str(workdir / name) in text
        assert "hello" in text
        assert lines(beside) == [{"step": 1, "eval/fid": 0.5}]


def test_a_pipe_in_place_of_a_file_does_not_wait(tmp_path):
    for name in ("log.txt", "metrics.jsonl"):
        (tmp_path / name[:3]).mkdir()
        os.mkfifo(tmp_path / name[:3] / name)
        with pytest.raises(OSError, match=f"{name} is a pipe"):
            plain(tmp_path / name[:3])


def test_a_name_that_is_no_text_is_logged_and_tensorboard_left_out(tmp_path):
    workdir = tmp_path / os.fsdecode(b"out-" + bytes([255]))
    with Logbook(workdir, quiet=True) as log:
        log.say(f"into {workdir}")
        log.scalars(1, {"loss": 0.5})
    text = (workdir / "log.txt").read_text()
    assert f"into {tmp_path}/out-" in text
    assert "no files for TensorBoard" in text
    assert lines(workdir) == [{"step": 1, "loss": 0.5}]
