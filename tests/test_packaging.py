"""What pyproject.toml says, against what the files beside it and the source say."""

import pkgutil
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import diffacet
from diffacet.app import cli
from diffacet.app.doctor import DEVELOPMENT, packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PRODUCT = PROJECT["dependencies"] + [line for extra in EXTRAS if extra not in DEVELOPMENT for line in EXTRAS[extra]]
NEED = re.compile(r"^([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)")
SOURCE = "\n".join(path.read_text("utf-8") for path in Path(diffacet.__file__).parent.rglob("*.py"))
# Where an extra asks for more than the core does, the core's bound is meant.
BOUNDS = dict(NEED.match(line).groups() for line in reversed(PRODUCT))


def pins(name):
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def numbers(version):
    return packages._numbers(version)


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
    for line in PRODUCT:
        assert NEED.match(line), line
        assert "<" not in line, line


def test_constraints_pin_every_dependency_at_its_oldest_and_newest():
    oldest, newest = pins("oldest.txt"), pins("newest.txt")
    assert oldest.keys() == newest.keys() == BOUNDS.keys() - {"torch"}
    for name, version in oldest.items():
        assert numbers(version) == numbers(BOUNDS[name]), name
        assert numbers(newest[name]) >= numbers(version), name


def test_the_check_of_packages_tries_the_bounds_of_extras():
    """Its steps take minutes and are no part of the tests; what it installs is."""
    check, oldest = runpy.run_path(str(ROOT / "tools/check_package.py")), pins("oldest.txt")
    assert set(check["EXTRAS"]) == EXTRAS.keys() - set(DEVELOPMENT)
    for extra in check["EXTRAS"]:
        tried = oldest | check["OLDEST_WITH_RAY"] if extra == "ray" else oldest
        for name, bound in (NEED.match(line).groups() for line in EXTRAS[extra]):
            assert numbers(tried[name]) == numbers(bound), (extra, name)


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_every_dependency_is_used(name):
    """uvicorn takes uvloop where it is there; PyTorch's exporter makes ONNX by the package of that name."""
    module = {"scikit-learn": "sklearn", "faiss-cpu": "faiss"}.get(name, name.replace("-", "_"))
    used = re.search(rf"(import|from) {module}\b|\"{module}[\".]", SOURCE)
    elsewhere = {"uvloop", "httptools"}
    assert used or name in elsewhere, f"nothing imports {module}"


def test_the_program_is_the_command_line():
    assert list(PROJECT["scripts"]) == ["diffacet"]
    assert pkgutil.resolve_name(PROJECT["scripts"]["diffacet"]) is cli.main


def test_one_version_is_told_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r"^version: (.+)$", citation, re.MULTILINE)[1]
    date = re.search(r"^date-released: \"(.+)\"$", citation, re.MULTILINE)[1]
    assert version == PROJECT["version"]
    assert f"## {version} - {date}\n" in changes
