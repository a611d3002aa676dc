import ast
import errno
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet import arrays, errors, files, seeds

# --- files -----------------------------------------------------------------------------------------------------


def content(folder):
    """Every file below `folder` by its path, hidden and temporary ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_write_file_gives_the_whole_new_file(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "two, longer", ""):
        seen = []

        def write(temporary, text=text, seen=seen):
            seen.append((temporary, path.read_text() if path.exists() else None))
            temporary.write_text(text)

        before = path.read_text() if path.exists() else None
        files.write_file(path, write)
        assert path.read_text() == text
        ((temporary, during),) = seen
        assert temporary.parent == path.parent  # else the rename could cross a file system
        assert temporary != path
        assert during == before
        assert content(tmp_path) == {"a.txt": text.encode()}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug"), KeyboardInterrupt]
)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    before = content(tmp_path)

    def write(temporary):
        temporary.write_text("half of the ne")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        files.write_file(path, write)
    assert content(tmp_path) == before


def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(self, target):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        files.write_text(path, "new")
    assert content(tmp_path) == {"a.txt": b"old"}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, on_disk):
    path, synced, fsync = tmp_path / "a.txt", [], os.fsync

    def watched(descriptor):
        synced.append((os.fstat(descriptor).st_ino, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(files, "_sync", on_disk)
    monkeypatch.setattr(os, "fsync", watched)
    files.write_text(path, "new")
    assert synced == [(path.stat().st_ino, False)]


def test_text_and_json(tmp_path):
    files.write_text(tmp_path / "t", "γ ∈ (0, 1]\n")
    assert (tmp_path / "t").read_bytes().decode() == "γ ∈ (0, 1]\n"
    value = {"name": "λ", "list": [1, 2.5, None], "nested": {"a": True}}
    files.write_json(tmp_path / "j", value)
    assert files.read_json(tmp_path / "j") == value
    assert "λ" in (tmp_path / "j").read_text()
    assert (tmp_path / "j").read_text().endswith("}\n")
    for bad in ("[1, 2]", "{", ""):
        (tmp_path / "j").write_text(bad)
        with pytest.raises(ValueError, match=r"does not hold|Expect"):
            files.read_json(tmp_path / "j")
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "missing")


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
    files.write_json(tmp_path / "j", {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "j", {"a": object()})
    assert json.loads((tmp_path / "j").read_text()) == {"a": 1}


def test_a_new_directory_appears_whole(tmp_path):
    path = tmp_path / "deep" / "run"
    with files.new_directory(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
        assert folder.parent == path.parent
    assert content(tmp_path) == {"deep/run/a": b"1"}
    assert (path.stat().st_mode & 0o777) == 0o755  # not the private mode of temporary directories


def test_an_empty_directory_may_be_there_already(tmp_path):
    (tmp_path / "run").mkdir()
    with files.new_directory(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
    assert content(tmp_path) == {"run/a": b"1"}
    assert os.listdir(tmp_path) == ["run"]  # noqa: PTH208 - hidden names too


def test_a_directory_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("0")
    with pytest.raises(OSError, match="not empty"), files.new_directory(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
    assert content(tmp_path) == {"run/old": b"0"}
    assert os.listdir(tmp_path) == ["run"]  # noqa: PTH208


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_directory_whose_writer_fails_never_appears(tmp_path, error):
    def fill():
        with files.new_directory(tmp_path / "run") as folder:
            (folder / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fill()
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_fingerprint_depends_on_all_it_is_given():
    a = np.arange(6)
    different = [
        (a,),
        (a + 1,),
        (a[::-1],),
        (a.reshape(2, 3),),
        (a.reshape(3, 2),),
        (a.astype(np.int32),),
        (a.astype(np.float64),),
        (a, a),
        (a, "x"),
        ("x", a),
        ("xy",),
        ("x", "y"),
        ("", "xy"),
        (np.zeros(0),),
        (np.zeros((0, 2)),),
        (np.zeros(0, np.int8),),
        (np.array(3),),
        (np.array([3]),),
        (),
    ]
    found = [files.fingerprint(*arrays) for arrays in different]
    assert len(set(found)) == len(different)
    assert all(len(f) == 16 and int(f, 16) >= 0 for f in found)


def test_fingerprint_depends_on_nothing_else():
    a = np.arange(12).reshape(3, 4)
    assert files.fingerprint(a) == files.fingerprint(a.copy())
    assert files.fingerprint(a.T) == files.fingerprint(np.ascontiguousarray(a.T))  # not on the order in memory
    assert files.fingerprint(a[:, ::2]) == files.fingerprint(a[:, ::2].copy())
    # A golden number: runs remember it, so it must not change between versions.
    assert files.fingerprint(np.array([1, 2, 3], "<i8"), "beauty") == "3cd280b60a22f547"


# --- seeds -----------------------------------------------------------------------------------------------------


def test_golden_streams():
    """Any change here changes every published number and breaks every resumed run."""
    assert seeds.number(0) == 4_246_866_556_266_386_882
    assert seeds.number(0, "batch", 712) == 3_606_600_666_157_104_240
    assert seeds.number(7, "init") == 6_814_445_399_046_354_404
    assert seeds.stream(0, "batch", 0).integers(0, 1000, 5).tolist() == [170, 875, 242, 204, 933]
    assert seeds.stream(0, "noise", 0).standard_normal(3, np.float32) == pytest.approx(
        [2.09544, 1.08291, 0.53048], abs=1e-5
    )


keys = st.lists(st.one_of(st.integers(-100, 10**9), st.text("abc1:", max_size=4)), max_size=4)


@given(st.integers(0, 2**40), keys, st.integers(0, 2**40), keys)
def test_numbers_are_functions_that_tell_their_arguments_apart(seed, one, other_seed, other):
    number = seeds.number(seed, *one)
    assert 0 <= number < 2**63
    assert number == seeds.number(seed, *one)
    assert (number == seeds.number(other_seed, *other)) == ((seed, one) == (other_seed, other))


def test_neighbouring_keys_are_told_apart():
    told = [(0, "1"), (0, 1), (0, "a", "b"), (0, "ab"), (0, "b", "a"), (0, "a", ""), (0,), (1,), (0, 0), (0, "0")]
    assert len({seeds.number(*keys) for keys in told}) == len(told)


def test_streams_do_not_depend_on_the_order_of_asking():
    forwards = [seeds.stream(3, "batch", step).random(4) for step in range(5)]
    backwards = [seeds.stream(3, "batch", step).random(4) for step in reversed(range(5))][::-1]
    assert np.array_equal(forwards, backwards)
    for one, other in itertools.combinations(forwards, 2):
        assert not np.array_equal(one, other)
    one, other = seeds.stream(3, "a"), seeds.stream(3, "a")
    one.random(100)
    assert other.random() == seeds.stream(3, "a").random()


def test_streams_of_neighbouring_steps_are_uncorrelated():
    drawn = np.array([seeds.stream(0, "batch", step).standard_normal(500) for step in range(40)])
    correlation = np.corrcoef(drawn)[np.triu_indices(40, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(500)


# --- errors ----------------------------------------------------------------------------------------------------


def test_nearest_name():
    names = ["gamma", "eta", "steps", "noise_scale"]
    assert errors.nearest("gama", names) == " (did you mean 'gamma'?)"
    assert errors.nearest("noise-scale", names) == " (did you mean 'noise_scale'?)"
    assert errors.nearest("qqqqqq", names) == ""
    assert errors.nearest("gamma", []) == ""
    assert errors.nearest("dim", ["sdim", "dmi"]) == " (did you mean 'dmi'?)"


def test_require():
    assert errors.require("json", "report") is json
    with pytest.raises(
        errors.MissingExtra, match=r"no_such_module is not installed .*pip install 'diffacet\[report\]'"
    ):
        errors.require("no_such_module", "report")


def test_every_refusal_is_a_diffacet_error_and_is_not_a_bug():
    tree = ast.parse(Path(errors.__file__).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(names) == 6
    for name in names:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.DiffacetError)
        assert not issubclass(kind, (ValueError, OSError, KeyError))
        assert str(kind("the message")) == "the message"


# --- arrays --------------------------------------------------------------------------------------------------------


@given(numbers=st.lists(st.integers(-3, 9)), those=st.lists(st.integers(-3, 9)))
def test_sets_are_those_of_python(numbers, those):
    mine, other = np.array(numbers, np.int64), arrays.distinct(np.array(those, np.int64))
    assert other.tolist() == sorted({*those})
    assert arrays.within(mine, other).tolist() == [number in those for number in numbers]
