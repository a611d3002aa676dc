"""The layout of the house, read from the syntax trees: what no single test of a room would notice."""

import ast
import sys
from pathlib import Path

import pytest

import diffacet
from diffacet.models import MODELS, card

SOURCE = Path(diffacet.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
HALL = {"arrays", "errors", "files", "seeds"}
ROOMS = {
    "app": {"app", "models", "learn", "rank", "core", "data"},
    "models": {"core"},
    "learn": {"learn", "core", "data"},
    "rank": {"rank", "core", "data"},
    "core": {"core"},
    "data": {"data"},
    "hall": set(),
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def room_of(parts):
    """The room of a module path below diffacet; the package itself and `python -m` are doors to app."""
    if parts and parts[0] in HALL:
        return "hall"
    return parts[0] if parts and parts[0] in ROOMS else "app"


def imports(tree):
    """Every imported module and `from` name, also inside functions and TYPE_CHECKING: ("diffacet.core", "batch")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def own_imports(tree):
    """Imported modules of the house, as paths below diffacet: ["core", "batch"]."""
    for module, name in imports(tree):
        if module.split(".")[0] == "diffacet":
            path = module.split(".")[1:] + ([name] if name else [])
            yield path


def outside(tree):
    return {module.split(".")[0] for module, _ in imports(tree)} - {"diffacet"}


def parts_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts


def test_there_is_something_to_check():
    assert len(FILES) > 40
    assert {room_of(parts_of(path)) for path in FILES} == set(ROOMS)
    assert sum(len(list(own_imports(tree))) for tree in TREES.values()) > 100


@each_file
def test_imports_point_down(path):
    room = room_of(parts_of(path))
    for target in own_imports(TREES[path]):
        if target == ["__version__"]:
            continue
        aimed = room_of(target)
        assert aimed == "hall" or aimed in ROOMS[room], f"{room} imports {'.'.join(target)}"


def test_hall_is_standard_library_and_numpy():
    for path in FILES:
        if room_of(parts_of(path)) == "hall":
            assert outside(TREES[path]) <= {"numpy"} | set(sys.stdlib_module_names)


def test_rooms_keep_to_their_libraries():
    """data knows no tensors; core and models know no tables of data and no files; nobody but app draws or prints."""
    forbidden = {
        "data": {"torch", "faiss", "typer", "rich", "plotly"},
        "core": {"polars", "pathlib", "json", "typer", "rich", "faiss", "plotly"},
        "models": {"polars", "pathlib", "json", "typer", "rich", "faiss", "plotly"},
        "learn": {"polars", "typer", "rich", "faiss", "plotly"},
        "rank": {"typer", "rich", "plotly"},
    }
    for path in FILES:
        room = room_of(parts_of(path))
        assert not outside(TREES[path]) & forbidden.get(room, set()), path
    assert any("torch" in outside(TREES[path]) for path in FILES if room_of(parts_of(path)) == "core")


def test_only_the_cluster_imports_ray():
    """What runs on one machine never loads it, and a user without the extra never misses it."""
    here = [path for path in FILES if "ray" in outside(TREES[path])]
    assert here
    assert {parts_of(path)[:2] for path in here} == {("app", "cluster")}


def test_models_never_import_each_other():
    for path in FILES:
        parts = parts_of(path)
        if parts[0] == "models":
            assert not any(target[0] == "models" for target in own_imports(TREES[path])), path


def test_every_file_of_models_is_in_the_table():
    there = {path.stem for path in (SOURCE / "models").glob("*.py")} - {"__init__"}
    assert there == set(MODELS.values())
    for name in MODELS:
        assert card(name).name == name
        assert {"best", "paper"} <= set(card(name).presets)


def test_cards_of_a_file_are_all_in_the_table():
    names = []
    for stem in set(MODELS.values()):
        module = __import__(f"diffacet.models.{stem}", fromlist=["CARDS"])
        names += [one.name for one in module.CARDS]
    assert sorted(names) == sorted(MODELS)


@each_file
def test_modules_and_functions_stay_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 350, f"{lines} lines"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The docstring is counted apart: a long one is no long function.
            start = node.body[0].end_lineno + 1 if ast.get_docstring(node) else node.lineno
            length = node.end_lineno - start + 1
            assert length < 60, f"{node.name} has {length} lines"


def test_no_room_for_odds_and_ends():
    for path in FILES:
        assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc", "tools"}, path


@each_file
def test_what_is_public_is_documented(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), "the module"
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owners = [(tree, "")] + [(node, node.name + ".") for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner, prefix in owners:
        if prefix.startswith("_"):
            continue
        for node in owner.body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{prefix}{node.name}"


@each_file
def test_what_must_not_exist(path):
    tree = TREES[path]
    banned = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    if path.name == "frames.py":  # reads DreamRec's files; every global that they name is refused or recorded
        banned -= {"pickle"}
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert {name for name in used if name.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
    assert not outside(tree) & banned
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "torch.save", "eval", "exec"}, f"line {node.lineno}"
            if called in {"np.load", "numpy.load"}:
                allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
                assert not allowed, f"line {node.lineno}"
            if called == "print":
                assert path.name == "cli.py", f"line {node.lineno}: only the command line prints"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "NotImplementedError" not in ast.unparse(node.exc), f"line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"


def test_models_have_no_base_class_and_no_device():
    for path in FILES:
        if parts_of(path)[0] != "models":
            continue
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                assert [ast.unparse(base) for base in node.bases] in ([], ["nn.Module"]), node.name
            if isinstance(node, ast.FunctionDef):
                assert "device" not in [argument.arg for argument in node.args.args], node.name
                assert node.args.kwarg is None, node.name


def test_public_names_are_sorted_and_there():
    assert diffacet.__all__ == sorted(diffacet.__all__)
    assert len(set(diffacet.__all__)) == len(diffacet.__all__)
    for name in diffacet.__all__:
        assert getattr(diffacet, name) is not None
