"""Whether a run directory has changed: the link to it, or the files that a recommender is made of."""

from pathlib import Path

WATCHED = ("run.json", "best.safetensors", "catalogue.parquet", "golden.json")

Signature = tuple[object, ...]


def signature(run: Path) -> Signature:
    """Where `run` leads, and (time in ns, size, inode) of its files; None for a file that is not there."""
    try:
        place = run.resolve(strict=True)
    except (OSError, RuntimeError):  # gone, or a link to itself
        return (None,)
    return (place, *(_of_file(place / name) for name in WATCHED))


class Watch:
    """Looks at a run directory now and then; made before the run is loaded, so that no change falls between."""

    def __init__(self, run: Path) -> None:
        """Take `run` (maybe a link) as it is now for what is loaded."""
        self._run = run
        self._loaded: Signature | None = signature(run)
        self._last = self._loaded

    def look(self) -> bool:
        """Whether the run has changed, and has been still since the look before: once for each change.

        A run that is being copied changes from look to look, and is left alone until the copy is finished.
        """
        now = signature(self._run)
        still, self._last = now == self._last, now
        if now == self._loaded or not still:
            return False
        self._loaded = now
        return True

    def doubt(self) -> None:
        """Somebody else has reloaded, between two looks: the next one tells a change, whatever it sees."""
        self._loaded = None


def _of_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
