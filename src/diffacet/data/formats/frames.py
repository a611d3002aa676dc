"""Frames that pandas pickled, read without pandas and without running anything of the file.

A pickle is a program: it may call whatever it names. Here nothing that it names is ever fetched: `slice` is Python's
own, the few names that pandas' frames and NumPy's arrays are made of become records of what they were called with,
and any other name is refused. Columns are then read off the records, arrays from their plain bytes.
"""

import pickle
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffacet.errors import BadLog

Column = list[Any] | NDArray[Any]
"""A column of a frame: objects as a list, numbers as an array."""

_FRAME = "pandas.core.frame.DataFrame"
_MANAGER = "pandas.core.internals.managers.BlockManager"
_BLOCK = "pandas._libs.internals._unpickle_block"
_INDEX = "pandas.core.indexes.base._new_Index"
_ARRAYS = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_BUFFERS = tuple(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))
_SCALARS = tuple(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core"))
_DTYPE, _BYTES = "numpy.dtype", "_codecs.encode"
_RECORDED = {
    *(_FRAME, _MANAGER, _BLOCK, _INDEX, *_ARRAYS, *_BUFFERS, *_SCALARS, _DTYPE, _BYTES, "numpy.ndarray"),
    *("pandas.core.indexes.base.Index", "pandas.core.indexes.range.RangeIndex"),
    "pandas.core.indexes.numeric.Int64Index",
}
_NUMBERS = {kind + size for kind in "iuf" for size in "248"} | {"i1", "u1"}


class _Record:
    """What a name of the file was called with (`args`), and what it was filled with (`state`); it does nothing."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any
    name = ""

    def __new__(cls, *args: Any) -> "_Record":
        """The record of a call."""
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        """Keep what the file fills the object with."""
        self.state = state


class _Refused(pickle.UnpicklingError):
    """A name that a frame has no use for."""


class _Reader(pickle.Unpickler):
    """Makes lists, numbers, texts and records. The types of the records are its own: a file cannot reach others."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.types: dict[str, type[_Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """`slice`, or the type of record for `module.name`; raises _Refused."""
        full = f"{module}.{name}"
        if full in ("builtins.slice", "__builtin__.slice"):
            return slice
        if full not in _RECORDED:
            raise _Refused(full)
        return self.types.setdefault(full, type("Record", (_Record,), {"__slots__": (), "name": full}))


def read_frame(path: Path, columns: Sequence[str]) -> dict[str, Column]:
    """Those columns of the pickled frame in `path`, each as long as the frame.

    Frames of pandas 1 and 2 with columns of numbers and of plain Python objects are read.

    Raises:
        BadLog: the file is missing, damaged, or no such frame; it names something that a frame has no use for; a
            column is not there.
    """
    try:
        with path.open("rb") as file:
            found = _columns(_Reader(file).load())
    except FileNotFoundError as error:
        raise BadLog(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise BadLog(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    except _Refused as error:
        raise BadLog(
            f"{path} names {error}, which no frame of numbers and lists needs, so it is not read: a pickle can run "
            "code; get the file from its publisher again"
        ) from error
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadLog(f"{path} is no pickled frame of pandas 1 or 2 ({error}); get the file again") from error
    except (MemoryError, OverflowError, RecursionError) as error:
        raise BadLog(f"{path} is damaged ({type(error).__name__}); get the file again") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise BadLog(f"{path} has no column '{missing[0]}'; its columns are {', '.join(map(str, found)) or 'none'}")
    return {name: found[name] for name in columns}


def _columns(frame: Any) -> dict[Any, Column]:
    """The columns of a frame's record, by name."""
    state = _of(frame, _FRAME).state
    manager = _of(state.get("_mgr") or state.get("_data"), _MANAGER)
    if manager.state is None:
        blocks, axes = manager.args
        placed = [_of(block, _BLOCK).args[:2] for block in blocks]
    else:  # before pandas 1.3
        axes = manager.state[0]
        placed = [(block["values"], block["mgr_locs"]) for block in manager.state[3]["0.14.1"]["blocks"]]
    names = _names(axes[0])
    found: dict[Any, Column] = {}
    for values, places in placed:
        rows = _rows(values)
        where = range(len(names))[places] if isinstance(places, slice) else _array(places).tolist()
        found |= {names[place]: row for place, row in zip(where, rows, strict=True)}
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError("its columns differ in length")
    return {name: found[name] for name in names}


def _of(thing: Any, *names: str) -> _Record:
    if not isinstance(thing, _Record) or thing.name not in names:
        got = thing.name if isinstance(thing, _Record) else type(thing).__name__
        raise TypeError(f"{got} stands where {names[0]} was expected")
    return thing


def _names(index: Any) -> list[Any]:
    """The names of the columns."""
    told = _of(index, _INDEX).args[1]
    if "data" not in told:
        return list(range(told["start"], told["stop"], told["step"]))
    (names,) = _rows(told["data"], flat=True)
    return list(names)


def _rows(values: Any, *, flat: bool = False) -> list[Column]:
    """The rows of a two-dimensional array, or the whole of a flat one."""
    dtype, shape, fortran, data = _layout(values)
    if len(shape) != 2 - flat:
        raise ValueError(f"an array has {len(shape)} dimensions")
    if dtype is not None:
        array = _numbers(dtype, shape, fortran, data)
        return [array] if flat else list(array)
    if not isinstance(data, list) or len(data) != prod(shape):
        raise ValueError("an array of objects is not as long as it says")
    if flat:
        return [data]
    return [data[n :: shape[0]] if fortran else data[n * shape[1] : (n + 1) * shape[1]] for n in range(shape[0])]


def _array(values: Any) -> NDArray[Any]:
    """A flat array of numbers."""
    return np.asarray(_rows(values, flat=True)[0])


def _layout(values: Any) -> tuple[str | None, tuple[int, ...], bool, Any]:
    """Of an array's record: the type of its numbers (None: objects), shape, whether columns come first, content."""
    record = _of(values, *_ARRAYS, *_BUFFERS)
    if record.name in _BUFFERS:
        data, dtype, shape, order = record.args
        fortran = order == "F"
    else:
        _, shape, dtype, fortran, data = record.state
    return _type(dtype), tuple(int(n) for n in shape), bool(fortran), data


def _type(dtype: Any) -> str | None:
    """The type of an array's numbers, as NumPy writes it; None for objects."""
    record = _of(dtype, _DTYPE)
    code = record.args[0]
    if code in ("O", "O8", "O4"):
        return None
    if code not in _NUMBERS:
        raise ValueError(f"arrays of type {code!r} are not read")
    order = record.state[1] if record.state else "|"
    return ("<" if order not in ("<", ">") else str(order)) + str(code)


def _numbers(dtype: str, shape: tuple[int, ...], fortran: bool, data: Any) -> NDArray[Any]:
    """An array from its bytes; raises ValueError when there are more or fewer than its shape needs."""
    return np.frombuffer(_bytes(data), np.dtype(dtype)).reshape(shape, order="F" if fortran else "C")


def _bytes(data: Any) -> bytes | bytearray:
    """The bytes of an array; old pickles have them as text."""
    if isinstance(data, bytes | bytearray):
        return data
    text, code = _of(data, _BYTES).args
    if code != "latin1":
        raise ValueError(f"bytes are written as {code!r}")
    return str(text).encode("latin1")


def plain(value: Any) -> Any:
    """An element of a column of objects as Python has it: lists and numbers, those of NumPy, too.

    Raises:
        ValueError, TypeError: it is neither.
    """
    if isinstance(value, list | tuple):
        return [plain(each) if isinstance(each, _Record) else each for each in value]
    if not isinstance(value, _Record):
        return value
    if value.name in _SCALARS:
        dtype = _type(value.args[0])
        if dtype is None:
            raise TypeError("an object is written as a number")
        return _numbers(dtype, (1,), False, value.args[1])[0].item()
    (inner,) = _rows(value, flat=True)
    return inner.tolist() if isinstance(inner, np.ndarray) else plain(inner)
