"""What a person sees while a model trains: a bar in a terminal, lines in a log file, TensorBoard if it is there."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from diffacet.app import rundir
from diffacet.learn.checkpoint import Record
from diffacet.learn.fit import Moment

_EVERY = 0.25  # seconds between two readings of the loss, each of which waits for the device
_LINES = 10.0  # seconds between two lines of a count, if it is slow


class Watcher:
    """Shows one training; used as a context manager and given to `train(..., watch=watcher)`."""

    def __init__(self, run: Path, console: Console, label: str) -> None:
        """`run` is the run directory, read at the first step; `label` is what the bar is called."""
        self.run, self.console, self.label = run, console, label
        self.best: Record | None = None
        self.stopped = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._begun: tuple[int, float] = (0, 0.0)
        self._read = 0.0
        self._board: _Board | None = None

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def __call__(self, moment: Moment) -> None:
        """Take note of a step."""
        now = time.perf_counter()
        if not self._total:
            self._start(moment, now)
        if moment.record is not None:
            self._validated(moment, moment.record, now)
        if self._bar is not None and (now - self._read > _EVERY or moment.record is not None):
            self._read = now
            terms = "  ".join(f"{name} {term.item():.4g}" for name, term in moment.terms.items())
            self._bar.update(self._task, completed=moment.step, terms=terms, speed=self._speed(moment.step, now))

    def _start(self, moment: Moment, now: float) -> None:
        self._total = moment.total or rundir.read_about(self.run)["settings"]["training"]["max_steps"]
        self._begun = (moment.step, now)
        self.best = moment.trail.best
        if self.console.is_terminal:
            columns = (
                "[bold]{task.description}",
                "{task.fields[terms]}",
                "{task.fields[speed]}",
                "{task.fields[best]}",
            )
            name, *rest = (TextColumn(column) for column in columns)
            self._bar = Progress(
                name, BarColumn(24), MofNCompleteColumn(), *rest, TimeRemainingColumn(), console=self.console
            )
            self._task = self._bar.add_task(
                self.label, total=self._total, completed=moment.step, terms="", speed="", best=self._told(moment)
            )
            self._bar.start()

    def _validated(self, moment: Moment, record: Record, now: float) -> None:
        self.best, self.stopped = moment.trail.best, record.step
        if self._bar is not None:
            self._bar.update(self._task, best=self._told(moment))
        else:
            terms = "  ".join(f"{name} {value:.4g}" for name, value in record.terms.items())
            metric = moment.trail.metric
            self.console.print(
                f"{self.label}  step {record.step}/{self._total}  {terms}  {metric} {record.metrics[metric]:.4f}  "
                f"{self._told(moment)}  {self._speed(record.step, now)}  {self._left(record.step, now)}",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
        if self._board is None:
            self._board = _Board(self.run / "tensorboard", self._begun[0] - 1)
        self._board.add(record)

    def _told(self, moment: Moment) -> str:
        best = moment.trail.best
        return (
            "" if best is None else f"best {moment.trail.metric} {best.metrics[moment.trail.metric]:.4f} at {best.step}"
        )

    def _speed(self, step: int, now: float) -> str:
        """Since the first step that was seen, which took an unknown time."""
        steps = step - self._begun[0]
        pace = steps / max(now - self._begun[1], 1e-9)
        return (f"{pace:.0f} steps/s" if pace >= 10 else f"{pace:.2g} steps/s") if steps else ""

    def _left(self, step: int, now: float) -> str:
        steps = step - self._begun[0]
        if not steps:
            return ""
        seconds = (self._total - step) * (now - self._begun[1]) / steps
        return f"at most {int(seconds) // 60}:{int(seconds) % 60:02d} left"


class _Pace:
    """Rate and time left of a count, from the first call on: what an earlier process did is not its speed."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._begun: tuple[int, float] | None = None
        self._said = (0, 0.0)

    def told(self, done: int, total: int) -> tuple[str, str]:
        """The rate and the time left; empty as long as nothing was done."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun, self._said = (done, now), (done, now)
        first, start = self._begun
        if done == first:
            return "", ""
        rate = (done - first) / max(now - start, 1e-9)
        seconds = int((total - done) / rate)
        per_second = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{per_second} {self.label}/s", f"{seconds // 60}:{seconds % 60:02d} left"

    def due(self, done: int, total: int) -> bool:
        """Whether a line is due: a tenth of all was done since the last one, or ten seconds went by, or all is done."""
        now = time.perf_counter()
        before, when = self._said
        if done == before or (10 * (done - before) < total and now - when < _LINES and done < total):
            return False
        self._said = (done, now)
        return True


@contextmanager
def counting(console: Console, label: str, *, lines: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar over (done, all) with rate and time left, shown in a terminal only and gone when it is full.

    With `lines` there are lines instead where there is no terminal, one for each tenth or each ten seconds.
    """
    fields = (TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[left]}"))
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), *fields)
    pace = _Pace(label)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, rate="", left="")

        def count(done: int, total: int) -> None:
            rate, left = pace.told(done, total)
            bar.update(task, completed=done, total=total, rate=rate, left=left)
            if lines and not console.is_terminal and pace.due(done, total):
                words = "  ".join(word for word in (f"{done:,}/{total:,} {label}", rate, left) if word)
                console.print(words, highlight=False, markup=False, soft_wrap=True)

        yield count


class _Board:
    """TensorBoard's event file, if the package is installed; its troubles never reach the training."""

    def __init__(self, folder: Path, start: int) -> None:
        self._writer: Any = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                from tensorboard.compat.proto import event_pb2, summary_pb2
                from tensorboard.summary.writer.event_file_writer import EventFileWriter

                self._event, self._summary = event_pb2.Event, summary_pb2.Summary
                self._writer = EventFileWriter(str(folder))
                # Steps that a killed run wrote after its last checkpoint are seen once more: the first ones go.
                log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._writer.add_event(self._event(wall_time=time.time(), step=start + 1, session_log=log))
            except Exception:  # a missing, broken or refusing TensorBoard is no reason to stop
                self._writer = None

    def add(self, record: Record) -> None:
        """Write the numbers of a validation."""
        groups = {"validation": record.metrics, "loss": record.terms, "model": record.gauges}
        values = (
            [
                self._summary.Value(tag=f"{group}/{name}", simple_value=value)
                for group, numbers in groups.items()
                for name, value in numbers.items()
            ]
            if self._writer is not None
            else []
        )
        self._try(
            lambda writer: writer.add_event(
                self._event(wall_time=time.time(), step=record.step, summary=self._summary(value=values))
            )
        )
        self._try(lambda writer: writer.flush())

    def close(self) -> None:
        """End the event file."""
        self._try(lambda writer: writer.close())

    def _try(self, act: Any) -> None:
        if self._writer is None:
            return
        try:
            act(self._writer)
        except Exception:  # as above
            self._writer = None
