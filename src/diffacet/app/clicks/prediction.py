"""Click probabilities for a file of showings, written block by block beside the file's own columns."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet import files
from diffacet.app.clicks import tables
from diffacet.app.clicks.evaluation import batch_size, check_rate, clicker
from diffacet.app.clicks.run import ClickRun
from diffacet.app.clicks.tables import Table
from diffacet.data import clicks
from diffacet.data.clicks import ClickLog, Schema, checks, source_of
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.click_evaluate import evaluate_clicks
from diffacet.rank.clicks import corrected_logits, sigmoid

BLOCK = 1 << 18
"""Showings that are read, answered and written at a time."""
PROBABILITY = "probability"
UNKNOWN = 1


@dataclass(frozen=True)
class Files:
    """What predictions are made from.

    Attributes:
        samples: the showings.
        behaviours: of their users; None where the showings bring their histories along.
        items: what is known of the items; None: what the run knows.
        users: what is known of the users; None: nothing.
    """

    samples: Path
    behaviours: Path | None = None
    items: Path | None = None
    users: Path | None = None


@dataclass(frozen=True)
class Asked:
    """What is predicted, and where it is written.

    Attributes:
        files: the input.
        out: .csv or .parquet; what stands there is replaced.
        columns: the house's name of a column (user_id, item_id, timestamp) -> the files', where they differ.
        negative_rate: see `evaluation.Asked`.
        batch_size: see `evaluation.Asked`.
    """

    files: Files
    out: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    negative_rate: float = 1.0
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The checked files, the behaviours and what is joined in memory."""

    schema: Schema
    samples: Table
    behaviours: pl.DataFrame | None
    items: pl.DataFrame | None
    users: pl.DataFrame | None


def predicted(run: ClickRun, asked: Asked, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write a probability for each showing of a file beside its columns, and say what was met on the way.

    The file is read, answered and written in blocks, so that memory is bounded by the behaviours and one block, and the
    result appears whole or not at all. The answer for a showing does not depend on the others.

    Returns:
        out, samples, mean (probability), unknown (field -> showings whose value training has not seen, or that have
        none), ignored (columns that the model has no use for, but for the label), without_history (showings without any
        behaviour).

    Raises:
        BadLog: a file cannot be read, lacks a column that the model needs, or has a row that cannot be right.
        BadSetting: an option is out of range.
        BadRun: the model gives no finite answer, or the output cannot be written.
    """
    tables.check_out(asked.out)
    check_rate(asked.negative_rate)
    size = batch_size(run, asked.batch_size)
    inputs = _opened(run, asked)
    tally: dict[str, Any] = {"samples": 0, "sum": 0.0, "without_history": 0, "unknown": {}}

    def answered(total: int, blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for block in blocks:
            before = tally["samples"]
            log = _encoded(run, inputs, block, before)
            rows = np.arange(len(log), dtype=np.int64)
            length = run.settings.training.length
            found = evaluate_clicks(clicker(run), run.as_read(log), rows, length=length, batch_size=size)
            values = sigmoid(corrected_logits(found.logits, asked.negative_rate))
            _count(tally, log, values)
            yield block.with_columns(pl.Series(PROBABILITY, values, dtype=pl.Float64))
            if progress is not None:
                progress(tally["samples"], total)

    try:
        with tempfile.TemporaryDirectory(dir=asked.out.parent, prefix=f".{asked.out.name}.") as folder:
            total, blocks = inputs.samples.blocks(BLOCK, Path(folder))
            if not total:
                raise BadLog(f"{inputs.samples.path} has no row; there is nothing to predict")
            _write(asked.out, Path(folder), answered(total, blocks))
    except OSError as error:
        raise BadRun(f"{asked.out} cannot be written ({error}); nothing is left of it; choose another --out") from error
    return {
        "out": str(asked.out),
        "samples": tally["samples"],
        "mean": tally["sum"] / tally["samples"],
        "unknown": tally["unknown"],
        "ignored": _ignored(inputs),
        "without_history": tally["without_history"],
    }


def _opened(run: ClickRun, asked: Asked) -> _Inputs:
    """The files with the columns that the run's schema names; raises BadLog, BadSetting."""
    schema, given = replace(run.schema, group=None), asked.columns
    inline = schema.history == "inline"
    samples = tables.open_table(asked.files.samples, given, ("user_id", "item_id", "timestamp"))
    if PROBABILITY in samples.names.values():
        raise BadLog(f"{samples.path} has a column '{PROBABILITY}' already; rename it")
    wanted = clicks.wanted(schema)
    samples.need((column, use) for column, use in wanted[clicks.SAMPLES] if column != "label")
    if inline != (asked.files.behaviours is None):
        need = "brings histories inside the samples, so it takes no" if inline else "needs"
        raise BadSetting(f"a model of {schema.name} {need} --behaviours FILE")
    behaviours = None
    if asked.files.behaviours is not None:
        keys = ["user_id", "timestamp"]
        table = tables.open_table(asked.files.behaviours, given, ("user_id", "item_id", "timestamp"))
        table.need(wanted[clicks.BEHAVIOURS])
        frame = table.read(column for column, _ in wanted[clicks.BEHAVIOURS])
        behaviours = tables.cast(frame, table.where(), keys=keys, dense=())
    items = _joined(asked.files.items, "item_id", wanted[clicks.ITEMS], "--items", schema, given)
    users = _joined(asked.files.users, "user_id", wanted[clicks.USERS], "--users", schema, given)
    return _Inputs(schema, samples, behaviours, run.items if items is None else items, users)


def _joined(
    path: Path | None, key: str, wanted: list[tuple[str, str]], option: str, schema: Schema, given: Mapping[str, str]
) -> pl.DataFrame | None:
    """The table that fields of items or users are joined from, if one is named or needed."""
    if path is None:
        if wanted and option == "--users":
            raise BadSetting(f"a model of {schema.name} needs {wanted[0][1]} of users; pass --users FILE")
        return None
    table = tables.open_table(path, given, (key,))
    table.need([(key, "every row has one"), *wanted])
    side = option.removeprefix("--")
    dense = [source_of(column)[1] for column in schema.dense_fields if source_of(column)[0] == side]
    frame = tables.cast(table.read([key, *(column for column, _ in wanted)]), table.where(), keys=[key], dense=dense)
    checks.unique_ids(frame[key], str(path))
    return frame


def _encoded(run: ClickRun, inputs: _Inputs, block: pl.DataFrame, before: int) -> ClickLog:
    """A block of showings as a log, with the behaviours of its users only."""
    schema, ours = inputs.schema, inputs.samples.ours(block)
    own = [column for column, _ in clicks.wanted(schema)[clicks.SAMPLES] if column != "label"]
    dense = [column for column in schema.dense_fields if source_of(column)[0] is None]
    keys = ["user_id", "item_id", "timestamp"]
    samples = tables.cast(ours.select(list(dict.fromkeys(own))), inputs.samples.where(before), keys=keys, dense=dense)
    samples = samples.with_columns(pl.lit(0, dtype=pl.Int8).alias("label"))
    behaviours = inputs.behaviours
    if behaviours is not None:
        asked = samples["user_id"].cast(pl.String).unique()
        behaviours = behaviours.filter(pl.col("user_id").cast(pl.String).is_in(asked.implode()))
    raw = clicks.from_frames(schema, samples, behaviours, inputs.items, inputs.users)
    gap = 0 if schema.history == "inline" else run.reading.gap
    return clicks.encode(raw, run.vocabularies, run.statistics, gap=gap)


def _count(tally: dict[str, Any], log: ClickLog, values: Any) -> None:
    tally["samples"] += len(log)
    tally["sum"] += float(values.sum())
    tally["without_history"] += int(np.count_nonzero(log.end == log.begin))
    for names, block in ((log.names, log.target), (log.other_names, log.other)):
        for name, row in zip(names, block, strict=True):
            count = int(np.count_nonzero(row == UNKNOWN))
            if count:
                tally["unknown"][name] = tally["unknown"].get(name, 0) + count


def _ignored(inputs: _Inputs) -> list[str]:
    """Columns of the showings that the model has no use for."""
    used = {column for column, _ in clicks.wanted(inputs.schema)[clicks.SAMPLES]}
    return [theirs for ours, theirs in inputs.samples.names.items() if ours not in used]


def _write(out: Path, folder: Path, blocks: Iterator[pl.DataFrame]) -> None:
    """Write the blocks to `out`, one in memory at a time; raises OSError."""

    def text(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for number, block in enumerate(blocks):
                block.write_csv(file, include_header=number == 0)

    def parquet(temporary: Path) -> None:
        parts = []
        for number, block in enumerate(blocks):
            parts.append(folder / f"{number}.parquet")
            block.write_parquet(parts[-1])
        pl.scan_parquet(parts).sink_parquet(temporary, maintain_order=True)

    files.write_file(out, text if out.suffix.lower() == ".csv" else parquet)
