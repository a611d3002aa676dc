"""What a person sees while a study runs: all runs in one bar with the time left, or a line a run in a log file."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from diffacet.app.studies.plan import Job


class Overview:
    """Shows a study's runs; used as a context manager and given to `farm.run(..., watch=overview)`."""

    def __init__(self, jobs: Sequence[Job], already: int, workers: int, console: Console) -> None:
        """`jobs` are still to be done, `already` runs are finished; `workers` processes work on them."""
        self.jobs, self.already, self.workers, self.console = list(jobs), already, workers, console
        self.running: dict[str, tuple[float, float]] = {}  # run -> when it began, share of its steps
        self.seconds: dict[str, list[float]] = {}  # row -> seconds of its runs that have ended
        self.done = 0
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Overview":
        total = self.already + len(self.jobs)
        self._say(f"{total} runs, {self.already} of them finished before; {self.workers} at a time")
        if self.console.is_terminal:
            columns = (TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[left]}"), console=self.console)
            self._tasks[""] = self._bar.add_task("study", total=total, completed=self.already, left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begun(self, job: Job) -> None:
        """A process has the run."""
        self.running[job.name] = (time.monotonic(), 0.0)
        if self._bar is not None and job.name not in self._tasks:
            self._tasks[job.name] = self._bar.add_task(job.name, total=None, left="")

    def moved(self, job: Job, step: int, total: int) -> None:
        """It has done so many of all steps."""
        self.running[job.name] = (self.running[job.name][0], step / max(total, 1))
        if self._bar is not None:
            left = "measuring" if step == total else ""
            self._bar.update(self._tasks[job.name], completed=step, total=total, left=left)
            self._bar.update(self._tasks[""], left=self._left())

    def ended(self, job: Job, error: str | None) -> None:
        """It has a result, or not."""
        seconds = time.monotonic() - self.running.pop(job.name)[0]
        self.done += 1
        if error is None:
            self.seconds.setdefault(job.variant.label, []).append(seconds)
        place = f"[{self.already + self.done}/{self.already + len(self.jobs)}]"
        said = f"{place} {job.name}: " + (f"{seconds:.0f} s" if error is None else f"failed: {error}")
        if self._bar is not None:
            self._bar.remove_task(self._tasks.pop(job.name))
            self._bar.update(self._tasks[""], completed=self.already + self.done, left=self._left())
            if error is not None:
                self._say(said)
        else:
            left = self._left()
            self._say(f"{said}{f'  {left}' if left else ''}")

    def _left(self) -> str:
        """The time left, from runs of the same row, else from all that is known; empty before anything is."""
        known = {row: sum(s) / len(s) for row, s in self.seconds.items()}
        now, current = time.monotonic(), {}
        by_name = {job.name: job for job in self.jobs}
        for name, (begun, share) in self.running.items():
            if share > 0.02:
                current[name] = (now - begun) / share
                known.setdefault(by_name[name].variant.label, current[name])
        if not known:
            return ""
        usual = sum(known.values()) / len(known)
        waiting = self.jobs[self.done + len(self.running) :]
        left = sum(known.get(job.variant.label, usual) for job in waiting)
        for name, (begun, _) in self.running.items():
            expected = current.get(name, known.get(by_name[name].variant.label, usual))
            left += max(0.0, expected - (now - begun))
        if not waiting and not self.running:
            return ""
        minutes = int(left / min(self.workers, len(waiting) + len(self.running))) // 60 + 1
        return f"about {minutes} min left" if minutes < 100 else f"about {minutes / 60:.1f} h left"

    def _say(self, what: str) -> None:
        self.console.print(what, highlight=False, markup=False, soft_wrap=True)
