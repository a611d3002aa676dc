"""Python processes that the doctor starts, so that what goes wrong in one is told and does no harm."""

import subprocess
import sys
from dataclasses import dataclass

PATIENCE = 300.0
"""Seconds that a process may take: those of a slow disk that has never read PyTorch."""


@dataclass(frozen=True)
class Done:
    """What a process wrote, and in words how it ended: the last line of its errors, or its signal."""

    out: str
    end: str


def run(code: str, *words: str) -> Done:
    """Run Python code with the paths of this process but for the directory it is in, which may hold anything."""
    command = [sys.executable, "-P", "-c", code, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return Done("", f"no answer within {PATIENCE:.0f} s")
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0:
        return Done(done.stdout, f"killed by signal {-done.returncode}")
    return Done(done.stdout, lines[-1].strip() if lines else f"exit code {done.returncode}")
