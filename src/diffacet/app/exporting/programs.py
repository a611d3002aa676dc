"""The encoder of a run as programs that need no diffacet: torch.export's, and ONNX.

Both map item numbers (B, L) int64, oldest first and 0 behind the last, to interests (B, K, d) float32: those of a
request, whose user is unknown and whose case is 0.
"""

import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from diffacet import seeds
from diffacet.app.exporting.parts import followable
from diffacet.core.batch import Histories
from diffacet.core.diffusion import noise
from diffacet.data.sequences import IntArray
from diffacet.errors import require

FloatArray = NDArray[np.float32]
Encode = Callable[[IntArray], FloatArray]
"""Item numbers (B, L) int64 -> interests (B, K, d) float32."""

OPSET = 18
MOST_OPERATIONS = 6_000
"""Of a program, in which the steps of a walk stand one after another; more would take minutes to trace and convert."""
_PLACES = (
    re.compile(r"Caused by:.*# \S*?(diffacet/[\w/]+\.py):(\d+)"),
    re.compile(r'File "\S*?(diffacet/[\w/]+\.py)", line (\d+)'),
)
_TRACED = 3  # histories in the trace; torch takes 0 and 1 for sizes of their own


class NoProgram(Exception):
    """Why a model is not to be had as a program; a clause that follows "because"."""


class Encoder(nn.Module):
    """A trained Matcher as a function of item numbers alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, items: Tensor) -> Tensor:
        """(B, L) int64 -> (B, K, d) float32."""
        nobody = torch.full_like(items[:, 0], -1)
        return self.model.interests(Histories(items, nobody, torch.zeros_like(nobody))).float()


def of_model(model: nn.Module) -> Encode:
    """The model itself, asked as a service asks it."""
    return _encode(Encoder(model).eval())


def trace(model: nn.Module, length: int) -> ExportedProgram:
    """The encoder of a Matcher that reads `length` items, on the CPU; any number of histories at once.

    Raises:
        NoProgram: torch.export cannot follow the model, or the program would be too long.
    """
    if not length:
        raise NoProgram("it reads whole histories, and a program has a length of its own")
    encoder = Encoder(followable(model)).eval()
    items = torch.ones(_TRACED, length, dtype=torch.int64)
    if (count := _operations(encoder, items)) > MOST_OPERATIONS:
        most = f"{MOST_OPERATIONS:,} at most; a walk of fewer steps takes fewer"
        raise NoProgram(f"its program would have {count:,} operations, of {most}")
    # What they say does not depend on a history, but they say it by hashing and by NumPy, which no trace can follow.
    for constant in (seeds.number, noise.request_noise):
        torch.compiler.assume_constant_result(constant)  # type: ignore[no-untyped-call]
    said = io.StringIO()
    try:
        with torch.no_grad(), _quiet(), redirect_stderr(said):  # where it fails it prints the graph that it has so far
            # Strict, since `len` of a tensor is a number of Python's, fixed in the program, where it is not.
            program = torch.export.export(encoder, (items,), dynamic_shapes={"items": {0: Dim("batch")}}, strict=True)
    except Exception as error:  # torch has a dozen classes for this, and others than those it documents
        raise NoProgram(f"torch.export cannot follow it ({_first_line(error)})") from error
    sys.stderr.write(said.getvalue())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def save(program: ExportedProgram, path: Path) -> None:
    """Write the program to `path`; raises OSError."""
    # By way of memory: torch's own writer takes the process down when the disk is full.
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content)
    with path.open("wb") as file:
        file.write(content.getbuffer())


def load(path: Path) -> Encode:
    """The program in `path`, which `save` has just written: torch's format is not for files of strangers."""
    with _quiet():
        return _encode(torch.export.load(path).module())


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write the program to `path` as ONNX, opset 18; weights of 2 GB or more go into a file beside it.

    Raises:
        NoProgram: an operation has no form in ONNX.
        OSError: `path` cannot be written.
    """
    optimizer = require("onnxscript.optimizer", "onnx")
    try:
        with torch.no_grad(), _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["items"],
                output_names=["interests"],
                verbose=False,
                optimize=False,  # its search for patterns takes minutes where a walk has been unrolled
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
            assert made is not None, "a program of the new exporter"
            optimizer.inline(made.model)
            optimizer.fold_constants(made.model)
            optimizer.remove_unused_nodes(made.model)
            for node in made.model.graph:
                node.metadata_props.clear()  # paths of this machine
    except Exception as error:  # as in `trace`
        raise NoProgram(f"ONNX cannot say it ({_first_line(error)})") from error
    made.save(path)


def load_onnx(path: Path) -> Encode:
    """The ONNX program in `path`, run by onnxruntime."""
    onnxruntime = require("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda items: session.run(["interests"], {"items": items})[0]


def _encode(module: Any) -> Encode:
    def encode(items: IntArray) -> FloatArray:
        with torch.no_grad():
            return module(torch.from_numpy(items)).numpy()

    return encode


def _operations(encoder: Encoder, items: Tensor) -> int:
    with torch.no_grad(), _Counter() as counter:
        encoder(items)
    return counter.count


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _stable_sort(self: Any, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
    """aten::sort.stable for ONNX: TopK of all, of which equal ones keep their order, as its specification says."""
    del stable
    op: Any = require("onnxscript", "onnx").opset18
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of itself: a deprecation inside it, and a package that no model here needs."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        registry.addFilter(_needed)
        try:
            yield
        finally:
            registry.removeFilter(_needed)


def _needed(record: logging.LogRecord) -> bool:
    return "torchvision" not in record.getMessage()


def _first_line(error: BaseException) -> str:
    """What is wrong, in one line, and at which line of the house where torch tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if "data-dependent" in text.lower():
        text = "what it does depends on values that it computes"
    places = next((found for pattern in _PLACES if (found := pattern.findall(str(error)))), None)
    where = f", {':'.join(places[-1])}" if places else ""
    return (text if len(text) <= 160 else text[:160] + "…") + where
