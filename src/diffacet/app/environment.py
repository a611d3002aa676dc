"""What a run's numbers may depend on beside its settings: the device, the code, the machine."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from diffacet.errors import BadSetting


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises BadSetting when it is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadSetting(f"--device takes auto, cpu or cuda; got '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadSetting("--device cuda: PyTorch sees no CUDA device here; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """What a run's numbers may depend on beside its settings: code, libraries, machine, threads."""
    return {
        "diffacet": metadata.version("diffacet"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The source's commit, "-dirty" when it is changed; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
