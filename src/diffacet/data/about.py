"""dataset.json, which tells what a data directory is; and the refusal of tables that cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from diffacet import files
from diffacet.data.interactions import Times
from diffacet.errors import BadLog

ABOUT, ITEMS = "dataset.json", "items.parquet"
SINGLE, PARTITIONED = 1, 2
"""Formats: one table of interactions; partitions of users."""


def read(path: Path, formats: Sequence[int] = (SINGLE, PARTITIONED)) -> dict[str, Any]:
    """The content of the file `path`; raises BadLog when it is not one of ours or of none of `formats`."""
    try:
        about = files.read_json(path)
    except (OSError, ValueError) as error:
        raise BadLog(f"{path} cannot be read ({error}); import the data again") from error
    missing = [key for key in ("format", "fingerprint", "times", "provenance") if key not in about]
    if missing:
        raise BadLog(f"{path} has no {missing[0]!r}, so it is not of this library; remove it, or import the data again")
    if about["format"] not in formats:
        known = " and ".join(map(str, formats))
        raise BadLog(f"{path} has format {about['format']!r}, and this version reads {known}; import the data again")
    if about["times"] not in get_args(Times):
        raise BadLog(f"{path} says that times are {about['times']!r}; they are {' or '.join(get_args(Times))}")
    return about


def unreadable(path: Path, error: Exception) -> BadLog:
    """The refusal of a table that is no Parquet file, or a damaged one."""
    return BadLog(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})")
