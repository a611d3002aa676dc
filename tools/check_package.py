"""The package as strangers get it: built, looked into, installed in clean environments, and used.

    python tools/check_package.py [STEP ...]        # or: make check-package

Steps, all of them if none is named; each environment is made anew and removed:

    contents  wheel and sdist are built and hold what they should
    core      the wheel and the sdist, without extras: from a log to a candidate; how long, and how many packages
    extras    each extra alone, with a command that needs it
    all       all extras together
    oldest    the same with constraints/oldest.txt, and the tests that need seconds (the extra `ray` apart: see there)
    newest    the tests that need seconds, with constraints/newest.txt

All steps but `oldest` install with constraints/newest.txt. About a quarter of an hour on two cores, 3 GiB of disk.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH, OLDEST, NEWEST = ROOT / "constraints.txt", ROOT / "constraints/oldest.txt", ROOT / "constraints/newest.txt"
EXTRAS = ("report", "tensorboard", "als", "serve", "onnx", "ray", "search")
OLDEST_WITH_RAY = {"faiss-cpu": "1.9.0", "fastapi": "0.133.0", "numpy": "2.0.0", "scipy": "1.13.0"}
"""Where Ray wants more than constraints/oldest.txt: its pyarrow needs NumPy 2, and that a newer SciPy and FAISS."""
FAST = ("tests/test_hall.py", "tests/core", "tests/data", "tests/rank", "tests/learn", "tests/app/test_settings.py")
TESTING = ("pytest>=8.2", "pytest-xdist>=3.6", "hypothesis>=6.100")
TINY = ["max_steps=10", "validate_every=5", "negatives=16", "batch_size=16", "dim=8", "length=8", "metric=recall@5"]
STUDY = """
title = "S"
data = ["data"]
ks = [5]
metrics = ["recall@5"]
tests = ["recall@5"]
[[row]]
label = "Pop"
model = "pop"
"""


def say(*words: object) -> None:
    """A line of the account."""
    print(*words, flush=True)


def done(command: list[object], **how: object) -> str:
    """Standard output of a command; one that fails ends the check, with all that it said."""
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **how)
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{ran.stdout}\n{ran.stderr}\nexit code {ran.returncode}")
    return ran.stdout


@contextmanager
def environment(work: Path) -> Iterator[Path]:
    """The bin/ of a new virtual environment that holds PyTorch and nothing else."""
    first, place = work / "torch", work / "environment"
    if not first.exists():
        venv.create(first, with_pip=True)
        install(first / "bin", "torch", constraint=TORCH)
    # PyTorch is large and is unpacked once; pip replaces files and never writes into them, so links will do.
    shutil.copytree(first, place, symlinks=True, copy_function=os.link)
    yield place / "bin"
    shutil.rmtree(place)


def install(binaries: Path, *what: object, constraint: Path) -> None:
    """Install into an environment, PyTorch staying what it is."""
    both = ["--constraint", TORCH, "--constraint", constraint]
    done([binaries / "python", "-m", "pip", "install", "--quiet", *both, *what])


def packages(binaries: Path) -> set[str]:
    """Names of what is installed."""
    return {one["name"] for one in json.loads(done([binaries / "python", "-m", "pip", "list", "--format", "json"]))}


def build(work: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of this tree."""
    place = work / "building"
    venv.create(place, with_pip=True)
    done([place / "bin/python", "-m", "pip", "install", "--quiet", "build"])
    done([place / "bin/python", "-m", "build", "--outdir", work / "dist", ROOT])
    return next((work / "dist").glob("*.whl")), next((work / "dist").glob("*.tar.gz"))


def contents(wheel: Path, sdist: Path) -> None:
    """Every file of the package is in both, what tests read is in the sdist, and nothing else is in the wheel."""
    source = ROOT / "src/diffacet"
    own = {path.relative_to(source.parent).as_posix() for path in source.rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    others = {name for name in in_wheel - own if ".dist-info/" not in name}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    read = {
        "docs/serving.md",
        "examples/rerank.sh",
        "Makefile",
        "CITATION.cff",
        "SECURITY.md",
        "constraints/oldest.txt",
    }
    assert own <= in_wheel, own - in_wheel
    assert not others, others
    assert {"diffacet/py.typed", "diffacet/app/page.css", "diffacet/studies/dmi-table2.toml"} <= in_wheel
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    missing = ({f"src/{name}" for name in own} | tests | read) - in_sdist
    assert not missing, missing
    kinds = {Path(name).suffix for name in own}
    say(f"contents  {wheel.name} {wheel.stat().st_size:,} bytes, {sdist.name} {sdist.stat().st_size:,} bytes; {kinds}")


def write_log(folder: Path) -> Path:
    """A log of 60 users of two kinds in `folder`."""
    rows = [
        f"u{u},{(u * 7 + n * 3) % 20 + 20 * (u % 2)},{1_600_000_000 + 60 * n}" for u in range(60) for n in range(12)
    ]
    path = folder / "log.csv"
    path.write_text("\n".join(["customer,sku,ts", *rows]) + "\n", encoding="utf-8")
    return path


def journey(binaries: Path, work: Path) -> tuple[Path, Callable[..., str]]:
    """From a log to a candidate, in a directory of its own; returns it, and what calls diffacet there."""
    folder = work / "journey"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_log(folder)

    def diffacet(line: str, *more: str) -> str:
        return done([binaries / "diffacet", *line.split(), *more], cwd=folder)

    version = diffacet("--version").strip()
    code = "import diffacet, sys; sys.stdout.write(diffacet.__version__)"
    assert version == done([binaries / "python", "-c", code], cwd=folder)
    assert "Commands:" in diffacet("--help")
    diffacet("import log.csv --user customer --item sku --time ts --out data")
    diffacet("train dmi --data data --out run", *[word for one in TINY for word in ("--set", one)])
    measured = json.loads(diffacet("evaluate run --json"))
    assert 0 <= measured["metrics"]["recall@20"] <= 1
    found = json.loads(diffacet("recommend run --history 1,2,3 --k 5 --json"))
    assert len(json.dumps(found)) > 20
    return folder, diffacet


def use(extra: str, folder: Path, diffacet: Callable[..., str], binaries: Path) -> None:
    """A command that does its work only with the extra."""
    if extra == "report":
        (folder / "s.toml").write_text(STUDY, encoding="utf-8")
        diffacet("study s.toml --data data --out study")
        assert (folder / "study/report.html").stat().st_size > 10_000
    elif extra == "tensorboard":
        diffacet("train pop --data data --out board")
        diffacet("train remi --data data --out board2", *[word for one in TINY for word in ("--set", one)])
        assert any((folder / "board2/tensorboard").iterdir())
    elif extra == "als":
        diffacet("train als --data data --out als --set dim=8")
    elif extra == "onnx":
        diffacet("export run --out exported --onnx --require-encoder")
        assert (folder / "exported/encoder.onnx").is_file()
    elif extra == "ray":
        diffacet(
            "import log.csv --user customer --item sku --time ts --partitions 2 --engine ray --workers 1 --out rayed"
        )
    elif extra == "search":
        diffacet("tune item-knn --data data --out tuned --trials 2")
    elif extra == "serve":
        serve(folder, binaries)


def serve(folder: Path, binaries: Path) -> None:
    """Start the service on a free port, ask whether it is well and for candidates, and end it."""
    command = [str(binaries / "diffacet"), "serve", "run", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            address = re.search(r"http://[\d.]+:\d+", line)
            assert address, line + process.stderr.read()
            with urllib.request.urlopen(f"{address[0]}/healthz") as answer:
                assert answer.status == 200
            asked = urllib.request.Request(
                f"{address[0]}/v1/recommend",
                json.dumps({"history": ["1", "2"], "k": 3}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(asked) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(f"{address[0]}/") as page:
                assert b"<html" in page.read()
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    assert process.returncode == 0, process.returncode


def examined(diffacet: Callable[..., str], extras: tuple[str, ...]) -> None:
    """The doctor finds the extras that were installed whole, and nothing wrong."""
    told = json.loads(diffacet("doctor --json"))
    assert told["healthy"], told["troubles"]
    assert all(told["extras"][extra]["state"] == "ok" for extra in extras), told["extras"]


def try_out(name: str, work: Path, what: Path, extras: tuple[str, ...], constraint: Path, tests: Path | None) -> None:
    """Install a wheel or an sdist with extras in a new environment and use all of it; with `tests`, run those there."""
    with environment(work) as binaries:
        before, start = packages(binaries), time.perf_counter()
        install(binaries, f"{what}[{','.join(extras)}]" if extras else what, constraint=constraint)
        seconds, more = time.perf_counter() - start, packages(binaries) - before - {"diffacet"}
        done([binaries / "python", "-m", "pip", "check"])
        folder, diffacet = journey(binaries, work)
        for extra in extras:
            use(extra, folder, diffacet, binaries)
        examined(diffacet, extras)
        if tests is not None:
            install(binaries, *TESTING, constraint=constraint)
            fast(binaries, tests)
    say(f"{name:<24} {len(more):>3} packages beside torch's in {seconds:5.1f} s; used: core {' '.join(extras)}")


def fast(binaries: Path, tree: Path) -> None:
    """The tests that need seconds, of an unpacked sdist, against what is installed. Old libraries may warn."""
    command = [binaries / "python", "-m", "pytest", "-n", os.cpu_count(), "-o", "filterwarnings=default", *FAST]
    said = done([*command, "-p", "no:cacheprovider", "-W", "ignore"], cwd=tree)
    say("   ", said.strip().splitlines()[-1])


def main(steps: list[str]) -> None:
    """Do the steps, in order."""
    every = ("contents", "core", "extras", "all", "oldest", "newest")
    if unknown := set(steps) - set(every):
        raise SystemExit(f"no step {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    todo = steps or every
    with tempfile.TemporaryDirectory(prefix="diffacet-package-") as place:
        work = Path(place)
        wheel, sdist = build(work)
        with tarfile.open(sdist) as archive:
            archive.extractall(work / "sdist", filter="data")
        tree = next((work / "sdist").iterdir())
        old = work / "oldest-ray.txt"
        lines = [line.partition("==") for line in OLDEST.read_text(encoding="utf-8").splitlines() if "==" in line]
        old.write_text("".join(f"{name}=={OLDEST_WITH_RAY.get(name, version)}\n" for name, _, version in lines))
        without_ray = tuple(extra for extra in EXTRAS if extra != "ray")
        if "contents" in todo:
            contents(wheel, sdist)
        if "core" in todo:
            try_out("core, wheel", work, wheel, (), NEWEST, None)
            try_out("core, sdist", work, sdist, (), NEWEST, None)
        if "extras" in todo:
            for extra in EXTRAS:
                try_out(extra, work, wheel, (extra,), NEWEST, None)
        if "all" in todo:
            try_out("all", work, wheel, EXTRAS, NEWEST, None)
        if "oldest" in todo:
            try_out("oldest, all but ray", work, wheel, without_ray, OLDEST, tree)
            try_out("oldest, ray", work, wheel, ("ray",), old, None)
        if "newest" in todo:
            try_out("newest", work, wheel, (), NEWEST, tree)
    say("the package is well")


if __name__ == "__main__":
    main(sys.argv[1:])
