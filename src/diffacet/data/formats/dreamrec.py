"""DreamRec's files: `train_data.df`, `val_data.df`, `test_data.df` beside `data_statis.df`, pickled frames of pandas.

Each row of the first three is a step of a session: `seq`, the latest `seq_size` items before it, padded on the right
with the number `item_num`; `len_seq`, how many they are, with 1 written where there are none; and `next`, the item that
follows. A session begins at a row without items, and its rows stand in order. Items are 0..item_num - 1.

The sessions come back as users, numbered in the order of the files; the files are the parts of a split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data import atlas
from diffacet.data.formats.frames import Column, plain, read_frame
from diffacet.data.formats.source import Block, Items, Names, Source
from diffacet.errors import BadLog

FILES = {"train_data.df": "train", "val_data.df": "valid", "test_data.df": "test"}
STATISTICS = "data_statis.df"
_SESSION, _ITEM = "session", "item"
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class _Sessions:
    """The sessions of one file, a row an item."""

    path: Path
    session: IntArray
    item: IntArray
    columns: tuple[str, ...] = (_SESSION, _ITEM)

    def read(self, columns: Sequence[str]) -> Block:
        """The columns `session` and `item`."""
        both = pl.DataFrame({_SESSION: self.session, _ITEM: self.item})
        return Block(both.select(list(dict.fromkeys(columns))), lambda index: index + 1)


def source(paths: Sequence[Path]) -> Source:
    """The sessions of a folder, or of some of its files; the split is kept where all three are there.

    Raises:
        BadLog: none of the files is there, `data_statis.df` is not, or one cannot be read; a row does not continue
            the one before it (with its number, from 1), or holds what is no item.
    """
    folder, files = _files(paths)
    length, n_items = _statistics(folder / STATISTICS)
    tables: list[_Sessions] = []
    notes = []
    before = 0
    for path in files:
        session, item = _rebuilt(path, length, n_items)
        tables.append(_Sessions(path, session + before, item))
        found = int(session[-1]) + 1
        before += found
        notes.append(f"{path.name}: {found:,} sessions, {len(item):,} rows")
    items = np.bincount(np.concatenate([table.item for table in tables]), minlength=n_items)
    if (items == 0).any():
        notes.append(f"items without a row: {int((items == 0).sum()):,} of {n_items:,}; they stay in the catalogue")
    whole = {path.name for path in files} == FILES.keys()
    if not whole:
        lost = ", ".join(name for name in FILES if name not in {path.name for path in files})
        notes.append(f"the files' own split is not kept, since {lost} is not read; --split next-item cuts anew")
    counts = {"users": before, "items": n_items, "interactions": int(items.sum())}
    notes += map(str, atlas.of_home(atlas.DREAMREC, counts))
    parts = [pl.repeat(FILES[table.path.name], len(table.item), dtype=pl.String, eager=True) for table in tables]
    catalogue = pl.DataFrame({"item_id": pl.int_range(n_items, eager=True).cast(pl.String)})
    return Source(
        tuple(tables),
        Names(_SESSION, _ITEM, "none", "none"),
        items=lambda: Items(catalogue, folder / STATISTICS),
        notes=tuple(notes),
        parts=pl.concat(parts, rechunk=True) if whole else None,
        catalogue=True,
    )


def _files(paths: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The one folder, and which of FILES are read, in their order."""
    folders = list(dict.fromkeys(path if path.is_dir() else path.parent for path in paths))
    if len(folders) > 1:
        raise BadLog(f"{folders[0]} and {folders[1]} are two folders; DreamRec's files of one data set lie in one")
    folder = folders[0]
    if any(path.is_dir() for path in paths):
        files = [folder / name for name in FILES if (folder / name).is_file()]
    else:
        stray = next((path for path in paths if path.name not in {*FILES, STATISTICS}), None)
        if stray is not None:
            raise BadLog(f"{stray} is none of DreamRec's files, which are called {', '.join(FILES)}")
        files = [folder / name for name in FILES if folder / name in paths]
    if not files:
        raise BadLog(f"{folder} holds none of {', '.join(FILES)}; pass the folder that does")
    return folder, files


def _statistics(path: Path) -> tuple[int, int]:
    """The length of a history, and how many items there are."""
    found = read_frame(path, ("seq_size", "item_num"))
    if any(len(column) != 1 for column in found.values()):
        raise BadLog(f"{path} has {len(found['item_num'])} rows; the one row of DreamRec's file was expected")
    length, n_items = (int(_whole(path, name, column)[0]) for name, column in found.items())
    if min(length, n_items) < 1:
        raise BadLog(f"{path} says seq_size {length} and item_num {n_items}; both are at least 1")
    return length, n_items


def _rebuilt(path: Path, length: int, n_items: int) -> tuple[IntArray, IntArray]:
    """The session (n,) of each row, from 0, and its item (n,)."""
    found = read_frame(path, ("seq", "len_seq", "next"))
    shown, told, item = _histories(path, found["seq"], length), found["len_seq"], _whole(path, "next", found["next"])
    told = _whole(path, "len_seq", told)
    if not len(item):
        raise BadLog(f"{path} has no rows; a part needs at least one session")
    begins = (shown == n_items).all(1)
    session = np.cumsum(begins) - 1
    if session[0]:
        raise BadLog(f"{path}, row 1: the history is not empty, but a session must have begun before; get it again")
    row = np.arange(len(item))
    place = row - np.flatnonzero(begins)[session]  # of a row in its session
    kept = np.minimum(place, length)
    steps = np.arange(length)
    expected = item[np.minimum(row[:, None] - kept[:, None] + steps, len(item) - 1)]  # (n, length)
    expected[steps >= kept[:, None]] = n_items
    _refuse_first(path, (item < 0) | (item >= n_items), lambda i: f"next is {item[i]}; items are 0..{n_items - 1}")
    _refuse_first(
        path,
        (shown != expected).any(1),
        lambda i: (
            f"the history {shown[i].tolist()} does not continue the row before it, after which it would be "
            f"{expected[i].tolist()}"
        ),
    )
    odd = (told != kept) & ~((kept == 0) & (told == 1))
    _refuse_first(path, odd, lambda i: f"len_seq is {told[i]}, but the history has {kept[i]} items")
    return session, item


def _histories(path: Path, column: Column, length: int) -> IntArray:
    """The histories (n, length), padding included."""
    try:
        found = np.array([plain(cell) for cell in column]).reshape(len(column), -1)
    except (TypeError, ValueError) as error:
        raise BadLog(f"{path}: column 'seq' holds no lists of {length} items each ({error}); get it again") from error
    if len(column) and (found.shape[1] != length or found.dtype.kind not in "iu"):
        raise BadLog(
            f"{path}: column 'seq' holds {found.shape[1]} values a row, of type {found.dtype}; {STATISTICS} says "
            f"{length} items"
        )
    return found.astype(np.int64)


def _whole(path: Path, name: str, column: Column) -> IntArray:
    """A column (n,) of whole numbers, which may be written as floats."""
    try:
        values = np.array([plain(cell) for cell in column] if isinstance(column, list) else column, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadLog(f"{path}: column '{name}' holds more than numbers ({error}); get it again") from error
    odd = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= 2**53)
    _refuse_first(path, odd, lambda i: f"{name} is {values[i]}, no whole number")
    return values.astype(np.int64)


def _refuse_first(path: Path, bad: NDArray[np.bool_], told: Callable[[int], str]) -> None:
    if bad.any():
        index = int(bad.argmax())
        raise BadLog(f"{path}, row {index + 1}: {told(index)}; get the file from its publisher again")
