"""Mutation testing: small errors are put into the mathematics, and the tests must notice.

    python benchmarks/mutation/run.py OUT               # a sample, resumable mutant by mutant -> OUT/0.jsonl
    python benchmarks/mutation/run.py OUT --seed 1      # another one
    python benchmarks/mutation/report.py OUT            # every sample of OUT -> results/mutation.md

A mutant is one change to the syntax tree of one module (`changes`). It lives in a child of a process that has imported
torch and pytest but nothing of diffacet; the child imports the changed module in the place of the real one, and runs
the tests that reach the changed line, quickest first, until one fails. Which tests reach which lines is traced once a
file of tests, and again when the file or the sources change. A mutant that has been killed is not run again; one that
survived is, so that new tests are tried by the same command. Needs a system with fork.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from changes import Mutated, sites

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
MODULES = ("core/**/*.py", "rank/metrics.py", "rank/ranking.py", "data/splits.py", "data/cuts.py", "data/holdouts.py")
WIDE = ("rank/metrics", "data/splits", "data/cuts", "data/holdouts", "core/diffusion/")
"""Modules of which more mutants are drawn."""
TESTS = {
    "core": (
        "core/*", "learn/test_*batches.py", "data/test_click_clustering.py", "rank/test_evaluate.py",
        "models/test_sdim.py", "models/test_eta.py", "models/test_twin*.py", "models/test_ldiffrec.py",
        "models/test_lightgcn.py", "models/test_mf.py", "models/test_dimerec.py", "models/test_diffrec.py",
        "models/test_dmi_bases.py", "models/test_multivae.py", "models/test_sasrec.py", "models/test_din.py",
    ),
    "data": (
        "data/test_splits.py", "data/test_next_item.py", "data/test_parts.py", "data/test_presplit.py",
        "data/test_streamed_split.py", "data/test_sequences.py",
    ),
    "rank": (
        "rank/test_metrics.py", "rank/test_ranking.py", "rank/test_evaluate.py", "rank/test_collaborative.py",
        "rank/test_retriever.py", "rank/test_exposure.py",
    ),
}  # fmt: skip
"""Tests that may judge the modules of a room; which of them do is traced."""
SPAWNING = ("tests/core/test_world.py::test_three_processes",)
"""Tests whose processes reach lines of core/world and its callers that no trace sees: tried last."""
SECONDS = 10.0
"""Tests of one mutant, together, at most; the quickest are taken."""
MEMORY = 12 << 30
LATE = 99
"""Exit code of a child that was ended; it counts as killed, but is tried again, for the machine may have been busy."""
BROKEN = 98
"""Exit code of a child that did not come to run its tests."""
WARM = ("numpy", "torch", "polars", "pydantic", "scipy.stats", "sklearn.cluster", "faiss", "hypothesis", "pytest")
"""What every child has imported already."""


T = TypeVar("T")


class Tracer:
    """A plugin of pytest: which lines of the modules each test reaches, and how long it takes."""

    def __init__(self, paths: set[str]) -> None:
        """Of the files `paths`."""
        self.paths, self.lines, self.tests, self.failed = paths, set(), {}, set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        """Trace one test, with its fixtures."""
        self.lines.clear()
        begin = time.perf_counter()
        sys.settrace(self._trace)
        yield
        sys.settrace(None)
        if item.nodeid not in self.failed:
            reached = sorted({(str(Path(path).relative_to(SOURCE / "diffacet")), line) for path, line in self.lines})
            self.tests[item.nodeid] = {"seconds": time.perf_counter() - begin, "lines": reached}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Tests that fail without any change, or are skipped, judge no mutant."""
        if not report.passed:
            self.failed.add(report.nodeid)

    def _trace(self, frame: Any, *_: Any) -> Any:
        path = frame.f_code.co_filename
        if path not in self.paths:
            return None
        self.lines.add((path, frame.f_lineno))
        return self._trace


def forked(work: Callable[[], int], seconds: float, log: Path) -> Callable[[], int | None]:
    """Starts `work` in a child; the function that asks for its exit code: None while it runs, LATE past the time."""
    end = time.monotonic() + seconds
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        nothing = os.open(os.devnull, os.O_RDWR)
        for one in (0, 1, 2):
            os.dup2(nothing, one)
        try:
            os._exit(work())
        except BaseException:
            log.write_text(traceback.format_exc(), encoding="utf-8")
            os._exit(BROKEN)

    def ask() -> int | None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return LATE
        return None

    return ask


def module_paths() -> list[Path]:
    """The files that are changed; core/papers is a table of years and titles."""
    package = SOURCE / "diffacet"
    found = {path for pattern in MODULES for path in package.glob(pattern)}
    return sorted(found - {package / "core" / "papers.py"})


def name_of(path: Path) -> str:
    """core/layers of the file."""
    return str(path.relative_to(SOURCE / "diffacet").with_suffix(""))


def traced(out: Path, rooms: set[str], workers: int, end: float) -> dict[str, dict[str, Any]] | None:
    """Every test with its seconds and the lines that it reaches, kept in OUT/traces; None where the time was over."""
    paths = module_paths()
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).digest()
    patterns = sorted(pattern for room in rooms for pattern in TESTS[room])
    files = sorted({path for pattern in patterns for path in (ROOT / "tests").glob(pattern) if path.suffix == ".py"})
    (out / "traces").mkdir(exist_ok=True)
    places = {}
    for path in files:
        key = hashlib.sha256(sources + path.read_bytes()).hexdigest()[:16]
        places[str(path.relative_to(ROOT))] = out / "traces" / f"{path.parent.name}-{path.stem}-{key}.json"

    def start(name: str) -> Callable[[], int | None]:
        def work() -> int:
            tracer = Tracer({str(path) for path in paths})
            run_tests([name], [tracer], stop=False)
            places[name].write_text(json.dumps(tracer.tests))
            return 0

        return forked(work, 600, out / "error.log")

    for name, code in pool([name for name in places if not places[name].exists()], start, workers, end):
        print(f"{name}: traced" if places[name].exists() else f"{name}: not traced, {code}", flush=True)
    if not all(place.exists() for place in places.values()):
        return None
    return {
        test: facts | {"file": place.name}
        for place in places.values()
        for test, facts in json.loads(place.read_text()).items()
    }


def pool(
    work: list[T], start: Callable[[T], Callable[[], int | None]], workers: int, end: float
) -> Iterator[tuple[T, int]]:
    """Runs children, so many at a time; yields each with its exit code. None is started after `end`."""
    work, running = list(work), []
    while running or (work and time.monotonic() < end):
        while work and len(running) < workers and time.monotonic() < end:
            running.append((work[0], start(work.pop(0))))
        for place, (one, ask) in enumerate(running):
            code = ask()
            if code is not None:
                del running[place]
                yield one, code
                break
        else:
            time.sleep(0.02)


def run_tests(tests: list[str], plugins: list[Any], stop: bool = True) -> int:
    """Pytest's exit code."""
    words = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--rootdir", str(ROOT)]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what the warm process has imported
    return int(pytest.main([*words, *(["-x"] if stop else []), *tests], plugins=plugins))


def drawn(seed: int, few: int, many: int) -> list[dict[str, Any]]:
    """The sample of a seed: so many mutants of each module, one of each in turn; a larger sample has the smaller."""
    chosen = []
    for path in module_paths():
        module = name_of(path)
        found = sites(ast.parse(path.read_text(encoding="utf-8")))
        order = random.Random(f"{seed}/{module}").sample(range(len(found)), len(found))
        for turn, number in enumerate(order[: many if module.startswith(WIDE) else few]):
            one = found[number]
            told = {"function": one.function, "lines": one.lines, "before": one.before, "after": one.after}
            chosen.append((turn, {"module": module, "of": len(found), "number": number} | told))
    return [mutant for _, mutant in sorted(chosen, key=lambda pair: pair[0])]


def reaching(mutant: dict[str, Any], tests: dict[str, dict[str, Any]]) -> list[str]:
    """The tests that reach a mutant's lines, quickest first."""
    (first, last), file = mutant["lines"], mutant["module"] + ".py"
    near = [
        (facts["seconds"], name) for name, facts in tests.items()
        if any(path == file and first <= line <= last for path, line in facts["lines"])
    ]  # fmt: skip
    if last > len((SOURCE / "diffacet" / file).read_text(encoding="utf-8").splitlines()):
        # A module's own lines run when it is imported, which no trace of a test has: the files that use it judge them.
        files = {name.partition("::")[0] for _, name in near}
        files |= {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob(f"test_{Path(file).stem}.py")}
        near = [(facts["seconds"], name) for name, facts in tests.items() if name.partition("::")[0] in files]
    chosen, spent = [], 0.0
    for seconds, name in sorted(near):
        spent += seconds
        if spent > SECONDS and chosen:
            break
        chosen.append(name)
    source = (SOURCE / "diffacet" / file).read_text(encoding="utf-8")
    return chosen + [name for name in SPAWNING if "world" in source and name in tests and name not in chosen]


def start(mutant: dict[str, Any], tests: dict[str, dict[str, Any]], log: Path) -> Callable[[], int | None]:
    """A child in which the tests of a mutant run."""
    names = reaching(mutant, tests)
    if not names:
        return lambda: 0
    path = SOURCE / "diffacet" / (mutant["module"] + ".py")

    def work() -> int:
        mutated = Mutated(SOURCE, path, mutant["number"])
        sys.meta_path.insert(0, mutated)
        mutated.pass_on(SOURCE)
        return run_tests(names, [])

    return forked(work, 60 + 10 * sum(tests[name]["seconds"] for name in names), log)


def run(out: Path, mutants: list[dict[str, Any]], place: Path, workers: int, seconds: float) -> bool:
    """Runs the sample's mutants that are not known to be killed; false where the time was over before the last."""
    end = time.monotonic() + seconds
    tests = traced(out, {mutant["module"].split("/")[0] for mutant in mutants}, workers, end)
    if tests is None:
        return False
    known = {mutant_key(one): one for one in read(place)}
    waiting = []
    for mutant in mutants:
        one = known.get(mutant_key(mutant))
        near = [(name, tests[name]["file"]) for name in reaching(mutant, tests)]
        mutant["tests"] = hashlib.sha256(json.dumps(near).encode()).hexdigest()[:16]
        if one is None or one["code"] == LATE or not (one["killed"] or one["tests"] == mutant["tests"]):
            waiting.append(mutant)
    print(f"{len(waiting)} of {len(mutants)} mutants to run", flush=True)
    through = 0
    with place.open("a") as lines:
        for mutant, code in pool(waiting, lambda mutant: start(mutant, tests, out / "error.log"), workers, end):
            if code == BROKEN:
                raise SystemExit(f"{mutant}: the child itself failed; see {out / 'error.log'}")
            through += 1
            lines.write(json.dumps(mutant | {"killed": code != 0, "code": code}) + "\n")
            lines.flush()
            if code == 0:
                print("{module} {lines} {function}: {before}  ->  {after}".format(**mutant), flush=True)
    print(f"{len(waiting) - through} left", flush=True)
    return through == len(waiting)


def read(place: Path, first: bool = False) -> list[dict[str, Any]]:
    """The mutants of a file of results, each as it was run last, or first: before tests were added."""
    lines = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    return list({mutant_key(one): one for one in (reversed(lines) if first else lines)}.values())


def mutant_key(mutant: dict[str, Any]) -> tuple[Any, ...]:
    """What tells mutants apart; other lines or numbers are another mutant."""
    return tuple(mutant[key] for key in ("module", "of", "number", "function", "before", "after"))


def main() -> int:
    """The command line: 0 when the sample is through, 1 when the time was over before."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--few", type=int, default=12, help="mutants of a module")
    words.add_argument("--many", type=int, default=40, help="mutants of a module of WIDE")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--seconds", type=float, default=1e9, help="start no mutant later than this")
    words.add_argument("--only", nargs="*", default=[""], help="beginnings of modules, such as data/ core/diffusion")
    given = words.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    sys.path[:0] = [str(SOURCE), str(ROOT / "tests")]
    for name in WARM:
        importlib.import_module(name)
    assert not any(name.split(".")[0] == "diffacet" for name in sys.modules)
    out = given.out.resolve()
    mutants = [one for one in drawn(given.seed, given.few, given.many) if one["module"].startswith(tuple(given.only))]
    return 0 if run(out, mutants, out / f"{given.seed}.jsonl", given.workers, given.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
