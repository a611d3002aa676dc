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
