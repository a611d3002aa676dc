"""What a packed click data set is like: the numbers that belong beside every result on it."""

from typing import TypeAlias

import numpy as np

from diffacet.data.clicks import windows
from diffacet.data.clicks.log import ClickLog
from diffacet.data.clicks.store import PARTS, Packed

Number: TypeAlias = int | float

QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}
UNITS = {"millisecond": 1, "second": 1000}


def statistics(packed: Packed) -> dict[str, Number | dict[str, Number] | dict[str, dict[str, Number]]]:
    """Counts and shares of `packed`, ready for JSON.

    users (with samples or behaviours), items (shown), samples and behaviours; for each part its samples, its click
    rate (0..1) and the shares of its samples whose user, and whose item, training does not have; quantiles and mean of
    the length of the history that a sample sees, and the share of samples without one. Of a log with real times also
    the share of samples whose user has a behaviour at the same millisecond, and in the same second: those of the same
    millisecond are never visible.
    """
    log = packed.log
    lengths = log.end - log.begin
    parts: dict[str, dict[str, Number]] = {}
    for name in PARTS:
        rows = getattr(packed.split, name)
        parts[name] = {
            "samples": len(rows),
            "click_rate": float(log.label[rows].mean()),
            "unknown_user": float((~log.known_user[rows]).mean()),
            "unknown_item": float((~log.known_item[rows]).mean()),
        }
    history: dict[str, Number] = {
        name: int(np.quantile(lengths, q, method="inverted_cdf")) for name, q in QUANTILES.items()
    }
    return {
        **packed.counts,
        "samples": len(log),
        "behaviours": log.behaviours.shape[1],
        "parts": parts,
        "history": {**history, "mean": float(lengths.mean())},
        "no_history": float((lengths == 0).mean()),
        **({f"same_{name}": company(log, unit) for name, unit in UNITS.items()} if log.schema.timed else {}),
    }


def company(log: ClickLog, unit: int) -> float:
    """The share of samples whose user has a behaviour in the same `unit` milliseconds; 0 where rows bring histories."""
    if log.pointers is None:
        return 0.0
    start = log.time // unit * unit
    first, last = (windows.ends(log.pointers, log.behaviour_time, log.user, start + add) for add in (0, unit))
    return float((last > first).mean())
