"""What an installation has, what it lacks, and whether it works: packages, extras, devices, threads, room.

Nothing heavy is imported here: every package is tried in a process of its own, so that one which fails, or takes its
process down with it, is told with its reason and does not end the examination.
"""

import platform
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from diffacet.app.doctor import machine
from diffacet.app.doctor.check import self_check
from diffacet.app.doctor.packages import BROKEN, MISSING, OK, OLD, Needed, needed, requirements
from diffacet.errors import DiffacetError

GIB = 2**30
LITTLE = GIB
"""Bytes of memory or disk below which there is a word of warning."""
DEVELOPMENT = ("dev", "docs")
"""Extras that are no part of the product."""


def examine() -> dict[str, Any]:
    """Everything, as `diffacet doctor --json` prints it; takes seconds.

    Returns:
        diffacet, python, platform, source: which program this is, and where it lies.
        core, extras: name -> packages with their state; the extras with their remedy.
        devices, threads, room: what there is to compute with; see `machine`.
        check: what a tiny import, training, evaluation and recommendation came to.
        troubles: what is wrong, a sentence each with what to do; healthy: whether there are none.
        hints: what is not wrong, and worth knowing.

    Raises:
        DiffacetError: this is a source tree that nobody has installed.
    """
    source = Path(__file__).parents[2]
    try:
        needs = requirements(metadata.requires("diffacet") or [])
    except metadata.PackageNotFoundError as error:
        raise DiffacetError(
            f"diffacet runs from {source} and is not installed, so nothing tells what it needs; "
            "in its checkout: pip install ."
        ) from error
    names = [extra for extra in needs if extra not in DEVELOPMENT]
    with ThreadPoolExecutor(max(1, min(4, machine.cores()))) as pool:
        checking = pool.submit(self_check)
        asking = pool.submit(machine.devices)
        found = list(pool.map(lambda extra: needed(extra, needs[extra]), names))
    core, extras = found[0], found[1:]
    told = {
        "diffacet": metadata.version("diffacet"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "source": str(source),
        "core": _plain(core),
        "extras": {one.extra: _plain(one) for one in extras},
        "devices": asking.result(),
        "threads": machine.threads(asking.result()),
        "room": machine.room(),
        "check": checking.result(),
    }
    troubles = _troubles(core, extras, told)
    return told | {"troubles": troubles, "healthy": not troubles, "hints": _hints(extras, told)}


def _plain(one: Needed) -> dict[str, Any]:
    packages = {
        package.name: {"version": package.version, "least": package.least, "state": package.state}
        | ({"reason": package.reason} if package.reason else {})
        for package in one.packages
    }
    return {"state": one.state, "packages": packages, "remedy": one.remedy}


def _troubles(core: Needed, extras: Sequence[Needed], told: dict[str, Any]) -> list[str]:
    """What keeps the core, or an extra that is installed, from working. An extra that is not there is no trouble."""
    found = []
    for one in (core, *(extra for extra in extras if extra.state != MISSING)):
        whose = f"extra '{one.extra}'" if one.extra else "the core"
        for package in one.packages:
            what = {
                MISSING: "is not installed",
                OLD: f"is {package.version}, and {package.least} is the oldest that works",
                BROKEN: f"{package.version} is installed and cannot be imported ({package.reason})",
            }.get(package.state)
            if what:
                found.append(f"{whose}: {package.name} {what}; try: {one.remedy}")
    if "error" in told["devices"] and core.state == OK:
        found.append(f"PyTorch does not tell its devices ({told['devices']['error']}); install it anew")
    if "error" in told["check"]:
        found.append(f"the self-check fails: {told['check']['error']}")
    return found


def _hints(extras: Sequence[Needed], told: dict[str, Any]) -> list[str]:
    seen, room_ = told["devices"], told["room"]
    hints = [
        f"extra '{one.extra}' is not whole, and its {package.name} {package.version} cannot be imported "
        f"({package.reason})"
        for one in extras
        for package in one.packages
        if one.state == MISSING and package.state == BROKEN
    ]
    if seen.get("cuda_build") and not seen["cuda"]:
        hints.append(
            f"PyTorch is built for CUDA {seen['cuda_build']} and sees no device: nvidia-smi tells what the driver says"
        )
    if "cuda_build" in seen and not seen["cuda_build"] and shutil.which("nvidia-smi"):
        hints.append(
            "there is a driver for CUDA, and this PyTorch is a build for the CPU: pytorch.org names the other one"
        )
    if seen.get("mps"):
        hints.append("PyTorch sees Apple's GPU (MPS); diffacet computes on the CPU or by CUDA only")
    places = (room_["here"], room_["temporary"])
    hints += [
        f"{place['path']} has {place['free'] / GIB:.2f} GiB free: little for data and runs"
        for place in places
        if place["free"] < LITTLE
    ]
    if room_["memory_free"] is not None and room_["memory_free"] < LITTLE:
        hints.append(f"{room_['memory_free'] / GIB:.2f} GiB of memory are free: little for training")
    return hints
