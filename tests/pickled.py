"""DreamRec's files as pandas pickles them, written opcode by opcode: no pandas is needed, and none of it is run."""

import pickle
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Name:
    """A global, written by name."""

    module: str
    name: str


@dataclass
class Made:
    """A call of a global, or with `new` an object of a class, and what it is filled with."""

    made_by: Name
    args: tuple
    state: Any = None
    new: bool = False


def written(thing) -> bytes:
    """The opcodes that put `thing` on the stack."""
    if isinstance(thing, Name):
        return f"c{thing.module}\n{thing.name}\n".encode()
    if isinstance(thing, Made):
        state = b"" if thing.state is None else written(thing.state) + b"b"
        return written(thing.made_by) + written(thing.args) + (b"\x81" if thing.new else b"R") + state
    if isinstance(thing, tuple):
        return b"(" + b"".join(map(written, thing)) + b"t"
    if isinstance(thing, dict):
        return b"}(" + b"".join(written(key) + written(value) for key, value in thing.items()) + b"u"
    if isinstance(thing, list) and all(isinstance(each, list) and isinstance(each[0], int) for each in thing):
        return pickle.dumps(thing, 2)[2:-1]
    if isinstance(thing, list) and any(isinstance(each, Name | Made | list | dict) for each in thing):
        return b"](" + b"".join(map(written, thing)) + b"e"
    if isinstance(thing, bytes):
        return b"B" + struct.pack("<I", len(thing)) + thing
    return pickle.dumps(thing, 2)[2:-1]


def stream(thing) -> bytes:
    return b"\x80\x03" + written(thing) + b"."


def dtype(code, order="<"):
    return Made(Name("numpy", "dtype"), (code, False, True), (3, order, None, None, None, -1, -1, 0))


@dataclass
class Layout:
    """How a version of pandas and NumPy writes a frame."""

    core: str = "core"
    old: bool = False
    buffers: bool = False
    latin: bool = False
    fortran: bool = False
    big: bool = False

    def array(self, values) -> Made:
        values = np.asarray(values)
        if values.dtype == object:
            code, order, data = dtype("O8", "|"), False, list(values.ravel())
        else:
            sign = ">" if self.big else "<"
            flat = values.astype(values.dtype.newbyteorder(sign))
            code, order = dtype(values.dtype.str[1:], sign), self.fortran
            data = flat.tobytes("F" if order else "C")
            if self.buffers:
                name = Name(f"numpy.{self.core}.numeric", "_frombuffer")
                return Made(name, (data, code, values.shape, "F" if order else "C"))
            if self.latin:
                data = Made(Name("_codecs", "encode"), (data.decode("latin1"), "latin1"))
        array = Name(f"numpy.{self.core}.multiarray", "_reconstruct")
        return Made(array, (Name("numpy", "ndarray"), (0,), b"b"), (1, values.shape, code, order, data))

    def frame(self, columns: dict[str, list]) -> bytes:
        """A frame of a column each of objects (`seq`), whole numbers and floats, as these rows' types are."""
        index = Name("pandas.core.indexes.base", "_new_Index")
        names = Made(index, (Name("pandas.core.indexes.base", "Index"),
                             {"data": self.array(np.array(list(columns), object)), "name": None}))  # fmt: skip
        length = len(next(iter(columns.values())))
        rows = Made(index, (Name("pandas.core.indexes.range", "RangeIndex"),
                            {"name": None, "start": 0, "stop": length, "step": 1}))  # fmt: skip
        groups: dict[str, list[int]] = {}
        for place, column in enumerate(columns.values()):
            groups.setdefault("O" if isinstance(column[0], list | Made) else np.asarray(column).dtype.str, []).append(
                place
            )
        blocks = []
        for kind, places in groups.items():
            values = np.empty((len(places), length), object)
            for row, place in enumerate(places):
                for n, value in enumerate(list(columns.values())[place]):
                    values[row, n] = value
            where = self.array(np.array(places)) if len(places) > 1 else Made(
                Name("builtins", "slice"), (places[0], places[0] + 1, 1))  # fmt: skip
            blocks.append((self.array(values if kind == "O" else values.astype(kind)), where))
        manager = Name("pandas.core.internals.managers", "BlockManager")
        if self.old:
            told = {"axes": [names, rows], "blocks": [{"values": v, "mgr_locs": w} for v, w in blocks]}
            made = Made(manager, (), ([names, rows], [], [], {"0.14.1": told}), new=True)
        else:
            block = Name("pandas._libs.internals", "_unpickle_block")
            made = Made(manager, (tuple(Made(block, (v, w, 2)) for v, w in blocks), [names, rows]))
        state = {"_data" if self.old else "_mgr": made, "_typ": "dataframe", "_metadata": [], "attrs": {}}
        return stream(Made(Name("pandas.core.frame", "DataFrame"), (), state, new=True))


LAYOUTS = {
    "pandas 1.0": Layout(old=True),
    "pandas 1.5": Layout(),
    "pandas 2": Layout("_core"),
    "protocol 2": Layout(latin=True),
    "protocol 5": Layout("_core", buffers=True, fortran=True),
    "columns first": Layout(fortran=True),
    "another byte order": Layout(big=True),
}


def expanded(sessions, n_items, length=4, empty=1):
    """The rows of DreamRec's files, session by session."""
    columns = {"seq": [], "len_seq": [], "next": []}
    for session in sessions:
        for place, item in enumerate(session):
            shown = session[max(place - length, 0) : place]
            columns["seq"].append(shown + [n_items] * (length - len(shown)))
            columns["len_seq"].append(len(shown) or empty)
            columns["next"].append(float(item))
    return columns


def put(folder, layout=LAYOUTS["pandas 1.5"], n_items=9, length=4, **files):
    """A folder of these parts, `val=expanded(...)`, with the file that tells their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in files.items():
        (folder / f"{name}_data.df").write_bytes(layout.frame(columns))
    (folder / "data_statis.df").write_bytes(layout.frame({"seq_size": [length], "item_num": [n_items]}))
    return folder
