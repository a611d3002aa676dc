"""What a person sees of a search: a bar in a terminal, a line for each trial in a log file."""

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from diffacet.app.search.trials import Standing


class Board:
    """Shows one search; used as a context manager and given to `tune(..., watch=board)`."""

    def __init__(self, console: Console, label: str) -> None:
        """`label` is what the bar is called."""
        self.console, self.label = console, label
        columns = ("{task.fields[best]}", "{task.fields[left]}", "{task.fields[running]}")
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            *(TextColumn(column) for column in columns),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, standing: Standing) -> None:
        """Take note of a validation or a trial."""
        best, left, running = _best(standing), _left(standing), escape(standing.running)
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=standing.total, best=best, left=left, running=running)
        self._bar.update(
            self._task, total=standing.total, completed=standing.done, best=best, left=left, running=running
        )
        if self.console.is_terminal or standing.latest is None:
            return
        tried = standing.latest
        value = tried.error if tried.value is None else f"{tried.value:.4f}"
        words = (f"{self.label}  trial {tried.number}", tried.state, value, f"{tried.seconds:.1f} s")
        progress = f"{standing.done}/{standing.total}"
        line = "  ".join(word for word in (*words, progress, best, left) if word)
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def _best(standing: Standing) -> str:
    best = standing.best
    return "" if best is None else f"best {best.value:.4f} (trial {best.number})"


def _left(standing: Standing) -> str:
    if standing.left is None:
        return ""
    seconds = int(standing.left)
    return f"about {seconds // 60}:{seconds % 60:02d} left"
