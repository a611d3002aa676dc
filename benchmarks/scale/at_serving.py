"""Puts benchmarks/serving, where `recording` lies, on the path of the scripts beside this one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serving"))
