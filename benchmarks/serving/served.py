"""`diffacet serve` in a process of its own: started, waited for, watched from /proc, and ended."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TICK, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Served(NamedTuple):
    """A service that is ready: its process and the port it answers at."""

    pid: int
    port: int

    def tree(self) -> list[int]:
        """The process and all its descendants."""
        found, parents = [self.pid], dict[int, int]()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(folder.name)] = int(_fields(int(folder.name))[1])
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def memory(self) -> float:
        """MiB of resident memory, of all its processes; what they share counts once for each."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * PAGE / 2**20

    def cpu(self) -> float:
        """CPU seconds that its processes have used."""
        total = 0.0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = _fields(pid)
                total += (int(fields[11]) + int(fields[12])) / TICK
        return total


@contextlib.contextmanager
def served(run: Path, log: Path, *options: str) -> Iterator[Served]:
    """`diffacet serve` of a run at a free port, ready; its log goes to the file `log`, and SIGTERM ends it."""
    command = [sys.executable, "-m", "diffacet", "serve", str(run), "--port", "0", *options]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()  # the line of readiness, or nothing when it ends
    port = re.search(r"http://[^ ]*:(\d+)", line)
    try:
        if port is None:
            raise SystemExit(f"{' '.join(command)} did not get ready: {log.read_text()[-2000:]}")
        yield Served(process.pid, int(port[1]))
    finally:
        process.terminate()
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}: {log.read_text()[-2000:]}")


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat behind the name: [0] is the state, [1] the parent, [11] and [12] the ticks used."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
