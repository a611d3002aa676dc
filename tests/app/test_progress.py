import io
import json

import pytest
import torch
from rich.console import Console

from diffacet.app import progress
from diffacet.app.progress import Watcher
from diffacet.learn.checkpoint import Record, Trail
from diffacet.learn.fit import Moment


@pytest.fixture
def run(tmp_path):
    about = {"format": 1, "settings": {"training": {"max_steps": 4}}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    return tmp_path


def play(watcher):
    """Four steps with validations after the second and the fourth."""
    trail = Trail("recall@20")
    with watcher:
        for step in range(1, 5):
            record = None
            if step % 2 == 0:
                record = Record(step, {"recall@20": 0.1 * step}, {"softmax": 5.0 / step}, {}, float(step))
                trail.records.append(record)
            watcher(Moment(step, {"softmax": torch.tensor(1.0)}, trail, record))


def test_without_a_terminal_each_validation_is_a_line(run):
    out = io.StringIO()
    play(Watcher(run, Console(file=out), "dmi"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    for word in ("dmi  step 4/4", "softmax 1.25", "recall@20 0.4000", "best recall@20 0.4000 at 4", "steps/s", "left"):
        assert word in lines[1]


def test_a_pace_is_told_when_there_is_one(run):
    """One step says nothing of the time that a step takes."""
    out, trail = io.StringIO(), Trail("recall@20")
    with Watcher(run, Console(file=out), "dmi") as watcher:
        trail.records.append(Record(1, {"recall@20": 0.1}, {"softmax": 5.0}, {}, 1.0))
        watcher(Moment(1, {"softmax": torch.tensor(1.0)}, trail, trail.records[0]))
    assert "step 1/4" in out.getvalue()
    assert "steps/s" not in out.getvalue()
    assert "left" not in out.getvalue()


def test_in_a_terminal_there_is_a_bar(run):
    out = io.StringIO()
    play(Watcher(run, Console(file=out, force_terminal=True, width=160), "dmi"))
    for word in ("dmi", "4/4", "softmax 1", "best recall@20 0.4000 at 4", "steps/s"):
        assert word in out.getvalue()


def test_tensorboard_gets_every_validation(run):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    play(Watcher(run, Console(quiet=True), "dmi"))
    (file,) = (run / "tensorboard").iterdir()
    events = list(reader.RawEventFileLoader(str(file)).Load())
    assert len(events) == 4  # the file's version, the start of the session, two validations


def test_a_tensorboard_that_cannot_write_stops_nothing(run, monkeypatch):
    (run / "tensorboard").write_text("a file where the folder should be")
    out = io.StringIO()
    play(Watcher(run, Console(file=out), "dmi"))
    assert len(out.getvalue().splitlines()) == 2
    assert progress._Board(run / "tensorboard", 0)._writer is None


@pytest.fixture
def clock(monkeypatch):
    """Stands for time.perf_counter; tests set it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_count_is_a_line_for_each_tenth_or_ten_seconds(clock):
    out = io.StringIO()
    with progress.counting(Console(file=out), "users", lines=True) as count:
        for done, seconds in ((400, 0), (420, 1), (500, 2), (520, 11.9), (540, 13), (1000, 14)):
            clock[0] = 100.0 + seconds
            count(done, 1000)
    assert out.getvalue().splitlines() == [
        "500/1,000 users  50 users/s  0:10 left",  # the first 400 were there before
        "540/1,000 users  11 users/s  0:42 left",
        "1,000/1,000 users  43 users/s  0:00 left",
    ]


def test_a_count_is_silent_without_a_terminal_unless_lines_are_asked_for(clock):
    out = io.StringIO()
    with progress.counting(Console(file=out), "users") as count:
        count(0, 10)
        count(10, 10)
    assert out.getvalue() == ""


def test_a_count_is_a_bar_with_its_pace_in_a_terminal(clock):
    out = io.StringIO()
    with progress.counting(Console(file=out, force_terminal=True, width=120), "users", lines=True) as count:
        count(0, 1000)
        clock[0] += 2
        count(5, 1000)
    for word in ("users", "5/1000", "2.5 users/s", "6:38 left"):
        assert word in out.getvalue()
