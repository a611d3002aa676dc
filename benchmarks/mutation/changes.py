"""The small changes that mutants are made of, and the import that puts one in place: see `run`."""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARED = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
PAIRS = "min max|sum mean|amin amax|argmin argmax|any all|zeros ones|zeros_like ones_like|floor ceil|minimum maximum"
PAIRS += "|sin cos|cumsum cumprod|exp expm1|log2 log|clamp_min clamp_max|softmax log_softmax|left right|unbind chunk"
NAMES = {a: b for one, two in map(str.split, PAIRS.split("|")) for a, b in ((one, two), (two, one))}

CALLS = (
    "abs acos ceil clamp clamp_min clip clone cos cumprod cumsum detach div double dropout exp expm1 flip float floor"
)
CALLS += " gelu log log1p log2 log_softmax logsigmoid long masked_fill masked_fill_ maximum minimum mul normalize relu"
CALLS += " roll round sigmoid silu sin softmax softplus sort sqrt square tanh to where"
STEPS = set(CALLS.split())
"""Calls that give what they got in another value: without one the rest still fits."""


def changes(node: ast.AST, modules: set[str]) -> Iterator[ast.AST]:
    """What may stand in the place of a node; `modules` are the names that were imported."""
    match node:
        case ast.Compare(ops=[op]):
            yield from (ast.Compare(node.left, [other()], node.comparators) for other in COMPARED[type(op)])
        case ast.BinOp() | ast.AugAssign() if type(node.op) in COMPUTED:
            yield type(node)(**(dict(ast.iter_fields(node)) | {"op": COMPUTED[type(node.op)]()}))
        case ast.BoolOp(op=op):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
        case ast.Constant(value=float()):
            yield from (ast.Constant(other) for other in sorted({node.value * 2, node.value + 1} - {node.value}))
        case ast.If() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            yield type(node)(**(dict(ast.iter_fields(node)) | {"test": ast.UnaryOp(ast.Not(), node.test)}))
        case ast.Expr() | ast.Raise() | ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case ast.Attribute(attr=name) if name in NAMES:
            yield ast.Attribute(node.value, NAMES[name], node.ctx)
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield ast.Call(ast.Name(NAMES[name], ast.Load()), node.args, node.keywords)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in STEPS:
            # A step of the computation is left out: x.detach() is x, torch.log(x) is x.
            if not (isinstance(value, ast.Name) and value.id in modules):
                yield value
            elif node.args:
                yield node.args[0]


@dataclass(frozen=True)
class Site:
    """One mutant.

    Attributes:
        function: its function, with the class; empty in the module's own lines.
        lines: first and last line; a test that reaches none of them cannot notice.
        before: what stands there.
        after: what the mutant has.
        put: changes the tree.
    """

    function: str
    lines: tuple[int, int]
    before: str
    after: str
    put: Callable[[], None]


def sites(tree: ast.Module) -> list[Site]:
    """Every mutant of a module.

    Types, docstrings, messages of errors, `__all__` and what only a type checker reads have none.
    """
    found: list[Site] = []
    modules = {
        (name.asname or name.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    whole = (1, 1 << 30)

    def visit(parent: ast.AST, function: str, lines: tuple[int, int], within: bool) -> None:
        for field, place, node in _children(parent):
            name, reach, inner = function, lines, within
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = f"{function}.{node.name}".lstrip(".")
                inner = within or isinstance(node, ast.FunctionDef)
                reach = (node.lineno, node.end_lineno or node.lineno)
            elif isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
                reach = (node.lineno, last) if within else whole
            found.extend(
                Site(name, reach, _text(node), _text(other), _putter(parent, field, place, other))
                for other in changes(node, modules)
            )
            visit(node, name, reach, inner)

    visit(tree, "", whole, False)
    return found


def _children(parent: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """The nodes below, each with its field and its place in it, without those that have no mutants."""
    if isinstance(parent, ast.Raise) or (
        isinstance(parent, ast.Subscript) and "Annotated" in ast.unparse(parent.value)
    ):
        return
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield field, place, node


def _text(node: ast.AST) -> str:
    """The code of a node; of a compound statement its head."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


def _putter(parent: ast.AST, field: str, place: int | None, other: ast.AST) -> Callable[[], None]:
    def put() -> None:
        if place is None:
            setattr(parent, field, other)
        else:
            getattr(parent, field)[place] = other

    return put


class Mutated(importlib.abc.MetaPathFinder):
    """Finds one module, and compiles it changed."""

    def __init__(self, source: Path, path: Path, number: int) -> None:
        """The mutant `number` of the file `path`; packages lie in the folder `source`."""
        self.name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        self.path, self.number = path, number

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        """The changed module's specification, or None for every other module."""
        if fullname != self.name:
            return None
        number = self.number

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                tree = ast.parse(Path(self.get_filename(fullname)).read_text(encoding="utf-8"))
                sites(tree)[number].put()
                return compile(ast.fix_missing_locations(tree), self.path, "exec")

        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=Loader(fullname, str(self.path)),
            submodule_search_locations=[str(self.path.parent)] if self.path.stem == "__init__" else None,
        )  # fmt: skip

    def pass_on(self, source: Path) -> None:
        """Let scripts that the tests start as processes of their own have the mutant, too."""
        start, words = subprocess.Popen.__init__, [__file__, str(source), str(self.path), str(self.number)]

        def changed(popen: Any, command: Any, *rest: Any, **named: Any) -> None:
            if isinstance(command, list) and command[0] == sys.executable:
                place = next((at for at, word in enumerate(command) if str(word).endswith(".py")), len(command))
                command = [*command[:place], *(words if place < len(command) else []), *command[place:]]
            start(popen, command, *rest, **named)

        subprocess.Popen.__init__ = changed  # type: ignore[method-assign]


if __name__ == "__main__":
    home, changed_file, which, script = sys.argv[1:5]
    sys.argv = sys.argv[4:]
    sys.path[:1] = [str(Path(script).parent), home]
    sys.meta_path.insert(0, Mutated(Path(home), Path(changed_file), int(which)))
    runpy.run_path(script, run_name="__main__")
