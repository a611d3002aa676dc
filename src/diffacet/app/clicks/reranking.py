"""Candidates of a matching run in the order in which a user would click them, by a click run.

What a user has done becomes behaviours of the click run, one second apart, the last one second before the showing;
each candidate becomes a showing to that user. All showings share the behaviours, so a request is one batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from diffacet.app.clicks.evaluation import clicker
from diffacet.app.clicks.run import ClickRun
from diffacet.data import clicks
from diffacet.data.clicks import BehaviourField, source_of
from diffacet.errors import BadSetting, nearest
from diffacet.rank.click_evaluate import evaluate_clicks
from diffacet.rank.clicks import sigmoid

SECOND = 1000
NOBODY = "\x00"
"""A user id that no data has: whoever asks without one is unknown."""


@dataclass(frozen=True)
class Request:
    """What is asked of a click run.

    Attributes:
        history: own item ids that the user has met, oldest first; may be empty.
        candidates: own item ids to bring into order, at least one.
        scores: of the candidates, by whatever found them; they are handed through.
        user: the user's id; None: an unknown user.
        at: when the candidates are shown, milliseconds since 1970 in UTC or an ISO 8601 text, by the data's clock where
            it names no zone; None: when the run's last training sample was shown.
        context: column of a sample or of users ("users.x") -> its value; those not named are unknown.
        behaviour: column of a behaviour -> its value, the same for all of the history; those not named are unknown.
    """

    history: Sequence[Any]
    candidates: Sequence[Any]
    scores: Sequence[float] | None
    user: Any
    at: int | str | None
    context: Mapping[str, Any]
    behaviour: Mapping[str, Any]


def reranked(run: ClickRun, asked: Request) -> pl.DataFrame:
    """The candidates by falling click probability, ties as they came.

    Items' own fields are those of the run's data, whose items the history and the candidates are; what the run does not
    know of an item is unknown to the model.

    Returns:
        item_id, score (if scores were given), place (among the candidates as they came, from 1), probability, known
        (whether a training sample shows the item).

    Raises:
        BadSetting: no candidate, scores of another number, an unknown column, or a time that is none.
        BadRun: an answer is not finite.
    """
    if not len(asked.candidates) or isinstance(asked.candidates, str) or isinstance(asked.history, str):
        raise BadSetting("history and candidates are lists of item ids, and there is at least one candidate")
    if asked.scores is not None and len(asked.scores) != len(asked.candidates):
        raise BadSetting(f"there are {len(asked.candidates)} candidates and {len(asked.scores)} scores; give one each")
    schema = replace(run.schema, group=None, history="log")
    moment = _moment(run, asked.at)
    samples, users = _samples(run, asked, moment)
    raw = clicks.from_frames(schema, samples, _behaviours(run, asked, moment), run.items, users)
    log = clicks.encode(raw, run.vocabularies, run.statistics)
    rows = np.arange(len(log), dtype=np.int64)
    length = run.settings.training.length
    found = evaluate_clicks(clicker(run), run.as_read(log), rows, length=length, batch_size=len(log))
    columns = {
        "item_id": _ids(asked.candidates),
        **({} if asked.scores is None else {"score": pl.Series(np.asarray(asked.scores, np.float32))}),
        "place": pl.Series(rows + 1),
        "probability": pl.Series(sigmoid(found.logits)),
        "known": pl.Series(log.known_item),
    }
    order = np.lexsort((rows, -found.logits.astype(np.float64)))
    return pl.DataFrame(columns)[order]


def _samples(run: ClickRun, asked: Request, moment: int) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """A showing of each candidate, and what is known of the user, if the schema asks for that."""
    wanted = {name: [column for column, _ in columns] for name, columns in clicks.wanted(run.schema).items()}
    given = dict(asked.context)
    keys = ("user_id", "item_id", "timestamp", "label")
    free = [column for column in run.schema.sample_columns if source_of(column)[0] != "items" and column not in keys]
    for name in given:
        if name not in free:
            allowed = f"it takes {', '.join(free)}" if free else "this run knows none"
            raise BadSetting(f"there is no context '{name}'{nearest(name, free)}; {allowed}")
    n, dense = len(asked.candidates), set(run.schema.dense_fields)
    user = NOBODY if asked.user is None else asked.user
    frame = {
        "user_id": pl.Series([str(user)] * n),
        "item_id": _ids(asked.candidates),
        "timestamp": pl.Series([moment] * n, dtype=pl.Int64),
        "label": pl.Series([0] * n, dtype=pl.Int8),
    }
    own = {column for column in free if source_of(column)[0] is None}
    frame |= {column: _constant(column, given.get(column), n, column in dense) for column in sorted(own)}
    profile = [column for column in wanted[clicks.USERS] if column != "user_id"]
    if not profile:
        return pl.DataFrame(frame), None
    told = {c: _constant(c, given.get(f"users.{c}"), 1, f"users.{c}" in dense) for c in dict.fromkeys(profile)}
    return pl.DataFrame(frame), pl.DataFrame({"user_id": pl.Series([str(user)]), **told})


def _behaviours(run: ClickRun, asked: Request, moment: int) -> pl.DataFrame:
    """What the user has met, one second apart, the last one second before `moment`."""
    n = len(asked.history)
    items = _ids(asked.history)
    user = NOBODY if asked.user is None else asked.user
    frame = {
        "user_id": pl.Series([str(user)] * n, dtype=pl.String),
        "item_id": items,
        "timestamp": pl.Series(moment - SECOND * np.arange(n, 0, -1), dtype=pl.Int64),
    }
    fields = {one.behaviour: one for one in run.schema.behaviour_fields if source_of(one.behaviour)[0] is None}
    for name in asked.behaviour:
        if name not in fields or name in frame:
            allowed = ", ".join(name for name in fields if name not in frame) or "none"
            raise BadSetting(f"there is no column '{name}'{nearest(name, fields)} of behaviours; it takes {allowed}")
    for column, field in fields.items():
        if column not in frame:
            value = asked.behaviour.get(column)
            frame[column] = _of_target(run, field, items) if value is None else _constant(column, value, n, False)
    return pl.DataFrame(frame)


def _of_target(run: ClickRun, field: BehaviourField, items: pl.Series) -> pl.Series:
    """A behaviour's column, which the history does not tell, from what the items are as targets; else nulls."""
    table, name = source_of(field.target or "")
    if field.target == "item_id":
        return items.alias(field.behaviour)
    known = run.items
    if table != "items" or known is None:
        return pl.Series(field.behaviour, [None] * len(items), dtype=pl.String)
    told = known.select(pl.col("item_id").cast(pl.String), pl.col(name).alias("told"))
    asked = pl.DataFrame({"item_id": items})
    return asked.join(told, on="item_id", how="left", maintain_order="left")["told"].alias(field.behaviour)


def _ids(ids: Sequence[Any]) -> pl.Series:
    """Ids as text, in which they are compared."""
    return pl.Series([str(one) for one in ids], dtype=pl.String)


def _constant(name: str, value: Any, n: int, dense: bool) -> pl.Series:
    """A column of n times `value`, None being unknown; raises BadSetting for a number that is none."""
    if not dense:
        return pl.Series([None if value is None else str(value)] * n, dtype=pl.String)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise BadSetting(f"the context '{name}' is a number; got '{value}'") from error
    if number is not None and not math.isfinite(number):
        raise BadSetting(f"the context '{name}' is a finite number; got '{value}'")
    return pl.Series([number] * n, dtype=pl.Float64)


def _moment(run: ClickRun, at: int | str | None) -> int:
    """Milliseconds since 1970 in UTC; raises BadSetting for a text that is no time."""
    if at is None:
        return int(run.about["split"]["last"])
    text = str(at).strip()
    if text.lstrip("-").isdigit():
        return int(text)
    try:
        told = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadSetting(
            f"--at is a time in milliseconds since 1970, or such as 2024-05-01T18:30; got '{at}'"
        ) from error
    zone = run.schema.timezone
    if told.tzinfo is not None:
        return round(told.timestamp() * SECOND)
    wall = pl.Series([told]).cast(pl.Datetime("ms"))
    # Polars brings the zones along; the system may have none.
    found = wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").cast(pl.Int64).item()
    if found is None:
        raise BadSetting(f"--at {at}: the clocks of {zone} never show that; name a time with its zone, such as +00:00")
    return int(found)
