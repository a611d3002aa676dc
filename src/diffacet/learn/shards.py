"""Checkpoints whose tables are divided: a file of rows for each of W processes, told of by the checkpoint itself.

`last-000020-00001-of-00004.safetensors` holds the first process's rows of every divided tensor after 20 steps: weights
of the items and their moments; the first file also has row 0, the padding. `last.safetensors` has all other tensors
and says which files belong to it, so whoever reads it finds all rows, however many processes read. It is renamed into
place when all rows are on the disk, and files of older checkpoints go after that: killed at any moment, a run has one
whole checkpoint. A mark drawn for each checkpoint stands in all of its files, so that none is taken for another's.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffacet import files
from diffacet.core.world import World, cuts
from diffacet.errors import BadRun

FORMAT = "diffacet-shard-1"
_ROWS_AT_ONCE = 2**16
"""Rows that are held while a divided tensor is copied."""
_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Shard:
    """A file and the rows first..end - 1 of every divided tensor, 0 being the padding, that it holds."""

    file: str
    first: int
    end: int


@dataclass(frozen=True)
class Shards:
    """The divided tensors of one checkpoint, (N + 1, ...) each.

    Attributes:
        folder: where the files are.
        mark: what all files of this checkpoint have in their headers.
        shards: the files, by ascending rows.
        names: of the divided tensors.
    """

    folder: Path
    mark: str
    shards: tuple[Shard, ...]
    names: tuple[str, ...]

    @classmethod
    def planned(cls, folder: Path, step: int, world: World, n_items: int, names: Iterable[str]) -> "Shards":
        """Those of a checkpoint that the processes of `world` write together after `step` steps."""
        mark = int(world.from_first([int.from_bytes(os.urandom(6), "little")])[0])  # 48 bits: exact as a float
        ends = [0, *(end + 1 for end in cuts(n_items, world.size)[1:])]
        file = f"last-{step:06}-{{:05}}-of-{world.size:05}.safetensors"
        shards = (Shard(file.format(rank + 1), ends[rank], ends[rank + 1]) for rank in range(world.size))
        return cls(folder, f"{mark:012x}", tuple(shards), tuple(sorted(names)))

    @classmethod
    def of_story(cls, folder: Path, story: Mapping[str, Any]) -> "Shards | None":
        """Those that the story of a checkpoint tells of; None when it has none. Raises KeyError, TypeError."""
        told = story.get("shards")
        if told is None:
            return None
        shards = tuple(Shard(**shard) for shard in told["files"])
        return cls(folder, told["mark"], shards, tuple(told["tensors"]))

    def story(self) -> dict[str, Any]:
        """What the checkpoint tells of them."""
        told = [{"file": shard.file, "first": shard.first, "end": shard.end} for shard in self.shards]
        return {"mark": self.mark, "files": told, "tensors": list(self.names)}

    @property
    def rows(self) -> int:
        """N + 1."""
        return self.shards[-1].end

    def write(self, rank: int, tensors: Mapping[str, Tensor]) -> None:
        """Write process `rank`'s file, from tensors whose row 0 is padding and whose others are its items."""
        mine = {name: tensors[name].detach()[int(rank > 0) :].cpu().contiguous() for name in self.names}
        header = {"format": FORMAT, "mark": self.mark}
        files.write_file(self.folder / self.shards[rank].file, lambda path: save_file(mine, path, header))

    def check_there(self) -> None:
        """Raise BadRun when this process does not see a file that another has written."""
        for shard in self.shards:
            if not (self.folder / shard.file).exists():
                raise BadRun(
                    f"{self.folder / shard.file} was written by another worker and is not seen by the first one; "
                    "the run directory lies on a file system that all workers share"
                )

    def read(self, own: "Own | None", path: Path) -> dict[str, Tensor]:
        """Every divided tensor of the checkpoint `path`: whole, or the rows that a process wants; raises BadRun."""
        if own is not None:
            own.check(self.rows, path)
        spans = ((0, self.rows),) if own is None else own.spans
        with self.opened() as rows:
            return {name: rows.read(name, *spans) for name in self.names}

    @contextmanager
    def opened(self) -> Iterator["Rows"]:
        """Access to the rows; raises BadRun, naming the file, when one is missing, damaged or another checkpoint's."""
        with ExitStack() as stack:
            yield Rows(self, [stack.enter_context(self._opened(shard)) for shard in self.shards])

    @contextmanager
    def _opened(self, shard: Shard) -> Iterator[Any]:
        path = self.folder / shard.file
        mend = "restore it from a copy, or train again"
        if not path.exists():
            raise BadRun(f"{path} is missing, which holds rows {shard.first}..{shard.end - 1} of the items; {mend}")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT or header.get("mark") != self.mark:
                    raise BadRun(f"{path} is a part of another checkpoint than last.safetensors beside it; {mend}")
                yield file
        except (SafetensorError, OSError) as error:
            raise BadRun(f"{path} is damaged ({error}); {mend}") from error


@dataclass(frozen=True)
class Rows:
    """The open files of divided tensors."""

    shards: Shards
    files: list[Any]

    def read(self, name: str, *spans: tuple[int, int]) -> Tensor:
        """Rows first..end - 1 of each span, one after another, (rows, ...); of the files only these are read."""
        found: Tensor | None = None
        filled, rows = 0, sum(end - first for first, end in spans)
        for first, end in spans:
            for shard, file in zip(self.shards.shards, self.files, strict=True):
                low, high = max(first, shard.first), min(end, shard.end)
                if low < high:
                    part = file.get_slice(name)[low - shard.first : high - shard.first]
                    if len(part) == rows:
                        return part
                    found = part.new_empty(rows, *part.shape[1:]) if found is None else found
                    found[filled : filled + len(part)] = part
                    filled += len(part)
        assert found is not None, "a span has a row"
        return found

    def blocks(self, name: str) -> Iterator[Tensor]:
        """All rows, some (r, ...) at a time."""
        for first in range(0, self.shards.rows, _ROWS_AT_ONCE):
            yield self.read(name, (first, min(first + _ROWS_AT_ONCE, self.shards.rows)))


@dataclass(frozen=True)
class Own:
    """What a process wants of the tensors that it shares: padding, and the rows of its items.

    Attributes:
        divided: name of a tensor of the checkpoint -> whether the processes share it.
        n_items: N, as the model has it.
        first: number of the process's first item.
        last: of its last.
    """

    divided: Callable[[str], bool]
    n_items: int
    first: int
    last: int

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The rows of a whole table that it wants."""
        return (0, 1), (self.first, self.last + 1)

    def rows(self, file: Any, name: str, path: Path) -> Tensor:
        """Its rows (1 + its items, ...) of a tensor that is whole in an open file; raises BadRun, see `check`."""
        whole = file.get_slice(name)
        self.check(whole.get_shape()[0], path)
        return torch.cat([whole[begin:end] for begin, end in self.spans])

    def check(self, rows: int, path: Path) -> None:
        """Raise BadRun when the checkpoint's table has other rows than the model's, N + 1."""
        if rows != self.n_items + 1:
            raise BadRun(
                f"{path} holds another model or other data: its table has {rows - 1} items, the model's "
                f"{self.n_items}; use the run's own settings and data"
            )


def write_joined(
    path: Path, tensors: Mapping[str, Tensor], shards: Shards, names: list[str], header: Mapping[str, str]
) -> None:
    """One safetensors file of `tensors` and of the divided ones called `names`, which `shards` has on the disk.

    These are copied by blocks of rows: the whole table need not fit into memory.
    """
    with shards.opened() as rows:
        kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        for name in names:
            first = rows.read(name, (0, 1))
            kinds[name] = first.dtype, (shards.rows, *first.shape[1:])
        # Wide numbers first, as safetensors itself writes them, so that each begins at a multiple of its width.
        order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(_header(kinds, order, header))
                for name in order:
                    for block in [tensors[name]] if name in tensors else rows.blocks(name):
                        file.write(block.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

        files.write_file(path, write)


def _header(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], order: list[str], header: Mapping[str, str]
) -> bytes:
    """The beginning of a safetensors file: the length of what follows, and where each tensor lies behind it."""
    told: dict[str, Any] = {"__metadata__": dict(header)}
    begin = 0
    for name in order:
        dtype, shape = kinds[name]
        end = begin + dtype.itemsize * torch.Size(shape).numel()
        told[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def sweep(folder: Path, kept: Shards | None) -> None:
    """Remove the files of rows that belong to no checkpoint any more, finished or not; `kept`: those that do."""
    stay = set() if kept is None else {shard.file for shard in kept.shards}
    for pattern in ("last-*-of-*.safetensors", ".last-*-of-*.safetensors.*.tmp"):
        for path in folder.glob(pattern):
            if path.name not in stay:
                path.unlink(missing_ok=True)
