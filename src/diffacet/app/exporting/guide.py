"""What stands beside an export for people: README.md, and example.py, which needs no diffacet."""

import re
from collections.abc import Mapping
from pathlib import Path

from diffacet import files

README, EXAMPLE = "README.md", "example.py"
_HERE = Path(__file__).parent
_MARK, _NAME = re.compile(r"<!-- (if (?P<kind>\w+)|end) -->"), re.compile(r"\{\{(\w+)\}\}")
_RUNTIMES = {
    "encoder.onnx": {"runtime": "onnxruntime", "module": "onnxruntime", "packages": "numpy faiss-cpu onnxruntime"},
    "encoder.pt2": {"runtime": "PyTorch", "module": "torch", "packages": "numpy faiss-cpu torch"},
}


def write(folder: Path, values: Mapping[str, object], encoders: list[str]) -> None:
    """Write README.md, and example.py where there is an encoder.

    Args:
        folder: of the export.
        values: what stands for `{{name}}` in both.
        encoders: those that there are, of "encoder.onnx" and "encoder.pt2".

    Raises:
        OSError: a file cannot be written.
    """
    there = {name.split(".")[1] for name in encoders} | {"encoder" if encoders else "none"}
    best = next((name for name in _RUNTIMES if name in encoders), None)
    told = dict(values) | (_RUNTIMES[best] if best else {})
    files.write_text(folder / README, filled((_HERE / f"{README}.in").read_text(encoding="utf-8"), told, there))
    if best:
        kind = {"onnx" if best == "encoder.onnx" else "torch"}
        files.write_text(folder / EXAMPLE, filled((_HERE / f"{EXAMPLE}.in").read_text(encoding="utf-8"), told, kind))


def filled(text: str, values: Mapping[str, object], there: set[str]) -> str:
    """`text` with its names replaced, and without the parts for what is not there.

    A part begins at a line `<!-- if kind -->` and ends where the next one begins, or at `<!-- end -->`.
    """
    kept, shown = list[str](), True
    for line in text.splitlines(keepends=True):
        mark = _MARK.fullmatch(line.strip())
        if mark:
            shown = mark["kind"] is None or mark["kind"] in there
        elif shown:
            kept.append(_NAME.sub(lambda name: str(values[name[1]]), line))
    return "".join(kept)
