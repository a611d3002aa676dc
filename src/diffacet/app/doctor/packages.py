"""The packages that the core and each extra need: which are there, which are old, and which do not import.

What the core and each extra consist of is read from the package's own metadata, which pyproject.toml made.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from diffacet.app.doctor import processes

OK, MISSING, OLD, BROKEN = "ok", "missing", "too old", "broken"

# What is imported of a package, where it is not the package's own name.
_MODULES = {
    "faiss-cpu": ("faiss",),
    "implicit": ("implicit.als",),
    "ray": ("ray.data", "ray.train", "ray.serve"),
    "scikit-learn": ("sklearn",),
}
_NEED = re.compile(
    r"^(?P<name>[\w.-]+)(\[[^]]*\])?\s*(>=\s*(?P<least>[\d.]+))?[^;]*(;.*extra == ['\"](?P<extra>[\w-]+))?"
)
_SOME_SYSTEMS = re.compile(r"(sys_platform|platform_\w+|os_name|python_version)\s*[=!<>]")
# A line for each module: how it went. Written at once, so that after a crash it is known which one was next. What an
# import writes to standard output itself goes with its errors.
_IMPORT = """
import importlib, json, os, sys
told = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
for module in sys.argv[1:]:
    reason = ""
    try:
        importlib.import_module(module)
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(json.dumps([module, reason]), file=told, flush=True)
"""


@dataclass(frozen=True)
class Package:
    """A package that the core or an extra needs.

    Attributes:
        name: as pip knows it.
        least: the oldest version allowed, "" where any is.
        version: the installed one, or None.
        state: ok, missing, too old, or broken: installed, and its import fails.
        reason: why it is broken.
    """

    name: str
    least: str
    version: str | None
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Needed:
    """What the core ("") or an extra needs, and how that stands; `state` is that of the worst off, missing first."""

    extra: str
    packages: tuple[Package, ...]

    @property
    def state(self) -> str:
        """ok, missing, too old or broken."""
        found = {package.state for package in self.packages}
        return next((state for state in (MISSING, OLD, BROKEN) if state in found), OK)

    @property
    def remedy(self) -> str | None:
        """The command that helps, or None where nothing is wrong."""
        if self.state == OK:
            return None
        if self.state == BROKEN:
            broken = " ".join(package.name for package in self.packages if package.state == BROKEN)
            return f"pip install --force-reinstall --no-deps {broken}"
        return f"pip install 'diffacet[{self.extra}]'" if self.extra else "pip install --upgrade diffacet"


def requirements(lines: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Extra -> (package, oldest version) pairs of the lines of a package's metadata, in their order; core is "".

    What some systems only need is left out.
    """
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in lines:
        parts = _NEED.match(line)
        if parts is not None and not _SOME_SYSTEMS.search(line):
            found.setdefault(parts["extra"] or "", []).append((parts["name"].lower(), parts["least"] or ""))
    return found


def needed(extra: str, packages: Sequence[tuple[str, str]]) -> Needed:
    """How the packages (name, oldest version) of the core or an extra stand; those that are there are imported."""
    versions = {name: _version(name) for name, _ in packages}
    present = [name for name, _ in packages if versions[name] is not None]
    reasons = tried([module for name in present for module in _modules(name)])

    def judged(name: str, least: str) -> Package:
        version = versions[name]
        if version is None:
            return Package(name, least, None, MISSING)
        reason = next((reasons[module] for module in _modules(name) if reasons[module]), "")
        old = bool(least) and _numbers(version) < _numbers(least)
        return Package(name, least, version, OLD if old else BROKEN if reason else OK, reason)

    return Needed(extra, tuple(judged(name, least) for name, least in packages))


def tried(modules: Sequence[str]) -> dict[str, str]:
    """Module -> why its import fails, "" if it does not; each in a process that starts with those before it."""
    left, reasons = list(modules), {}
    while left:
        done = processes.run(_IMPORT, *left)
        for line in done.out.splitlines():
            module, reason = json.loads(line)
            reasons[module] = reason
        rest = [module for module in left if module not in reasons]
        if rest:  # the process died of the next one
            reasons[rest[0]] = f"its import ends Python: {done.end}"
            rest = rest[1:]
        left = rest
    return reasons


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _modules(name: str) -> tuple[str, ...]:
    return _MODULES.get(name, (name.replace("-", "_"),))


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at the end: 2.10.0rc1 is (2, 10)."""
    begin = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in begin.group().split(".")] if begin else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
