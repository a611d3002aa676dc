"""What there is to compute with: devices as PyTorch sees them, threads, room in memory and on disk."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffacet.app.doctor import processes

_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "cpu": torch.backends.cpu.get_cpu_capability(),
    "cuda": [
        {"name": torch.cuda.get_device_name(n), "memory": torch.cuda.get_device_properties(n).total_memory}
        for n in range(torch.cuda.device_count() if cuda else 0)
    ],
    "cuda_build": torch.version.cuda or torch.version.hip,
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
}))
"""


def devices() -> dict[str, Any]:
    """What PyTorch sees, or error.

    Returns:
        cpu: the instruction set that it uses; cuda: name and memory (bytes) of each device; cuda_build: the version of
        CUDA that it is built for, or None; mps: whether Apple's GPU is there; threads.
    """
    done = processes.run(_TORCH)
    try:
        told: dict[str, Any] = json.loads(done.out)
    except ValueError:
        return {"error": done.end}
    return told


def threads(seen: dict[str, Any]) -> dict[str, Any]:
    """Cores of the machine and those this process may use, PyTorch's threads, and the variable that sets them."""
    return {
        "cores": os.cpu_count(),
        "usable": cores(),
        "torch": seen.get("threads"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def room() -> dict[str, Any]:
    """Bytes of memory and memory_free, None where the system does not tell, and of disk here and for temporaries."""
    memory: dict[str, int] = {}
    table = Path("/proc/meminfo")
    if table.is_file():
        pairs = (line.split(":") for line in table.read_text(encoding="ascii").splitlines())
        memory = {name: int(value.split()[0]) * 1024 for name, value in pairs if value.endswith("kB")}
    return {
        "memory": memory.get("MemTotal"),
        "memory_free": memory.get("MemAvailable"),
        "here": {"path": str(Path.cwd()), "free": shutil.disk_usage(Path.cwd()).free},
        "temporary": {"path": tempfile.gettempdir(), "free": shutil.disk_usage(tempfile.gettempdir()).free},
    }
