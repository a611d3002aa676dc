"""The doctor, examining installations that are made here: whole, old, lacking, broken, deadly."""

import json
import sys
from importlib import metadata

import pytest

from diffacet.app import doctor
from diffacet.app.doctor import check, machine, packages, processes
from diffacet.app.doctor.packages import BROKEN, MISSING, OK, OLD
from diffacet.errors import BadRun

SOURCES = {
    "wellpack": ("2.10.0", ""),
    "oldpack": ("0.9.1", ""),
    "loudpack": ("1.0", "print('hello')"),
    "brokenpack": ("1.2", "raise ImportError('libfoo.so.1: cannot open\\nshared object file')"),
    "deadlypack": ("3.0", "import os; os.abort()"),
}
SEEN = {"cpu": "AVX2", "cuda": [], "cuda_build": None, "mps": False, "threads": 2}
CHECKED = {"model": "dmi", "device": "cpu", "items": 5, "seconds": {"import": 0.1, "train": 0.2}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory of installed packages."""
    folder = tmp_path_factory.mktemp("site")
    for name, (version, code) in SOURCES.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
        told = folder / f"{name}-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.fixture
def patient(installed, monkeypatch):
    """Sets what the examined program needs; what takes long is said to be well."""
    monkeypatch.setattr(doctor, "self_check", lambda: CHECKED)
    monkeypatch.setattr(machine, "devices", lambda: SEEN)
    monkeypatch.setattr(machine, "room", lambda: ROOM)

    def needs(**extras):
        lines = [f"{line}; extra == '{extra}'" if extra != "core" else line for extra, line in extras.items()]
        monkeypatch.setattr(metadata, "requires", lambda _name: lines)

    return needs


ROOM = {
    "memory": 2**34,
    "memory_free": 2**33,
    "here": {"path": "/here", "free": 2**40},
    "temporary": {"path": "/tmp", "free": 2**40},
}


def test_needs_are_read_from_metadata():
    lines = ["Ab-C>=1.8", "any", "uvicorn[standard]>=0.34; extra == 'serve'", 'x_y >= 2 ; extra == "serve"']
    lines.append("uvloop>=0.19; (sys_platform != 'win32') and extra == 'serve'")
    assert packages.requirements(lines) == {
        "": [("ab-c", "1.8"), ("any", "")],
        "serve": [("uvicorn", "0.34"), ("x_y", "2")],
    }


def test_own_metadata_name_torch_and_every_extra():
    needs = packages.requirements(metadata.requires("diffacet"))
    assert "torch" in dict(needs[""])
    assert {"report", "serve", "als", "onnx", "ray", "search", "tensorboard"} <= set(needs)
    assert all(least for extra in needs.values() for _, least in extra)


def test_each_state_of_a_package_is_told_with_its_reason(installed):
    wanted = [("deadlypack", "1"), ("wellpack", "2.9"), ("brokenpack", ""), ("oldpack", "0.10"), ("lostpack", "1")]
    found = {one.name: one for one in packages.needed("some", wanted).packages}
    assert {name: one.state for name, one in found.items()} == {
        "deadlypack": BROKEN,
        "wellpack": OK,
        "brokenpack": BROKEN,
        "oldpack": OLD,
        "lostpack": MISSING,
    }
    assert "killed by signal 6" in found["deadlypack"].reason
    assert found["brokenpack"].reason == "ImportError: libfoo.so.1: cannot open shared object file"
    assert (found["wellpack"].version, found["lostpack"].version) == ("2.10.0", None)


@pytest.mark.parametrize(
    ("wanted", "state", "remedy"),
    [
        ([("wellpack", "2.10")], OK, None),
        ([("loudpack", "1")], OK, None),
        ([("brokenpack", "1")], BROKEN, "pip install --force-reinstall --no-deps brokenpack"),
        ([("brokenpack", "1"), ("lostpack", "1")], MISSING, "pip install 'diffacet[some]'"),
        ([("oldpack", "1")], OLD, "pip install 'diffacet[some]'"),
    ],
)
def test_remedies(installed, wanted, state, remedy):
    found = packages.needed("some", wanted)
    assert (found.state, found.remedy) == (state, remedy)


def test_a_whole_installation_is_well_though_an_extra_is_missing(patient, call):
    patient(core="wellpack>=2", serve="lostpack>=1", dev="brokenpack>=1")
    code, out, err = call("doctor", "--json")
    told = json.loads(out)
    assert (code, err, told["troubles"], told["hints"]) == (0, "", [], [])
    assert told["healthy"]
    assert told["core"]["packages"]["wellpack"] == {"version": "2.10.0", "least": "2", "state": "ok"}
    assert told["extras"].keys() == {"serve"}
    assert told["extras"]["serve"]["remedy"] == "pip install 'diffacet[serve]'"
    code, out, _ = call("doctor")
    assert code == 0
    assert "wellpack 2.10.0" in out
    assert "missing  lostpack missing; pip install 'diffacet[serve]'" in out
    assert out.endswith("all that is installed works\n")


def test_what_is_broken_is_said_with_what_to_do(patient, call, monkeypatch):
    patient(core="oldpack>=1", serve="brokenpack>=1")
    monkeypatch.setattr(doctor, "self_check", lambda: {"error": "OSError: no"})
    code, out, _ = call("doctor")
    assert code == 1
    assert "trouble: the core: oldpack is 0.9.1, and 1 is the oldest that works; try: pip install --upgrade" in out
    assert "trouble: extra 'serve': brokenpack 1.2 is installed and cannot be imported (ImportError: libfoo.so.1" in out
    assert "trouble: the self-check fails: OSError: no" in out
    assert out.endswith("3 to mend\n")


def test_a_broken_package_of_an_extra_that_is_not_whole_is_a_hint(patient, monkeypatch):
    lines = ["wellpack", "brokenpack; extra == 'serve'", "lostpack; extra == 'serve'"]
    monkeypatch.setattr(metadata, "requires", lambda _name: lines)
    told = doctor.examine()
    assert told["healthy"]
    assert [hint for hint in told["hints"] if "brokenpack 1.2 cannot be imported (ImportError" in hint]


def test_hints_about_devices_and_room(patient, monkeypatch):
    patient(core="wellpack>=2")
    monkeypatch.setattr(machine, "devices", lambda: SEEN | {"cuda_build": "13.0", "mps": True})
    little = {"path": "/here", "free": 2**20}
    monkeypatch.setattr(machine, "room", lambda: ROOM | {"here": little, "memory_free": 2**28})
    hints = " ".join(doctor.examine()["hints"])
    for part in ("built for CUDA 13.0", "MPS", "/here has 0.00 GiB", "0.25 GiB of memory"):
        assert part in hints


def test_torch_that_does_not_answer_is_told(patient, call, monkeypatch):
    patient(core="wellpack>=2")
    monkeypatch.setattr(machine, "devices", lambda: {"error": "ImportError: libcudart"})
    code, out, _ = call("doctor")
    assert code == 1
    assert "devices    unknown: ImportError: libcudart" in out


def test_the_self_check_goes_from_a_log_to_candidates(tmp_path):
    told = check.check(tmp_path)
    assert told["items"] == check.K
    assert list(told["seconds"]) == ["import", "train", "evaluate", "recommend"]


def test_a_self_check_that_fails_says_why(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(processes, "run", lambda *_: processes.Done("", "RuntimeError: no kernel"))
    assert check.self_check() == {"error": "RuntimeError: no kernel"}

    def refuse(_folder):
        raise BadRun("of 5 candidates there are 0")

    monkeypatch.setattr(check, "check", refuse)
    assert check.main(str(tmp_path)) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "of 5 candidates there are 0"}


def test_processes_do_not_import_from_the_directory_they_are_in(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert packages.tried(["json"]) == {"json": ""}


def test_a_process_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.01)
    assert processes.run("while True: pass").end == "no answer within 0 s"


def test_a_source_tree_that_is_not_installed_is_refused(monkeypatch, call):
    def lost(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", lost)
    code, _, err = call("doctor", "--json")
    assert code == 2
    assert "is not installed" in err


def test_room_and_threads_are_numbers_of_this_machine():
    room = machine.room()
    assert room["here"]["free"] > 0
    assert (room["memory"] is None) == (sys.platform != "linux")
    assert 1 <= machine.threads({})["usable"] <= machine.threads({})["cores"]
