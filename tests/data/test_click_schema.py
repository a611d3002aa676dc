"""Schemas: what dataset.json may say, and what is refused with the nearest name."""

import json

import pytest

from diffacet.data.clicks import BehaviourField, Schema, source_of, wanted
from diffacet.errors import BadLog
from showings import schema

PLAIN = {
    "name": "kuairand",
    "source": "somewhere",
    "licence": "CC BY-SA 4.0",
    "timezone": "Asia/Shanghai",
    "history": "log",
    "behaviour_times": "real",
    "group": "user_id",
    "behaviour_fields": [
        {"name": "item", "behaviour": "item_id", "target": "item_id"},
        {"name": "duration", "behaviour": "items.duration", "target": "items.duration"},
        {"name": "type", "behaviour": "behaviour_type", "target": None},
    ],
    "target_fields": ["items.author"],
    "user_fields": ["user_id", "users.age"],
    "context_fields": ["hour"],
    "dense_fields": [],
    "outcome_columns": ["is_click", "play_time_ms"],
    "split": {"by": "day", "test_days": 2, "valid_days": 1},
}


def test_a_schema_is_what_its_file_says():
    found = Schema.from_json(PLAIN)
    assert found.names == ("item", "duration", "type")
    assert found.other_names == ("user_id", "users.age", "hour", "items.author")
    assert found.behaviour_fields[2] == BehaviourField("type", "behaviour_type", None)
    assert found.outcomes == {"label", "is_click", "play_time_ms"}
    assert found.timed
    assert json.loads(json.dumps(found.to_json())) == PLAIN
    assert Schema.from_json(found.to_json()) == found


def test_what_need_not_be_said():
    found = Schema.from_json({key: PLAIN[key] for key in ("name", "behaviour_fields", "split")})
    assert (found.timezone, found.history, found.group, found.other_names) == ("UTC", "log", None, ())
    assert found.outcomes == {"label"}
    brief = Schema.from_json(PLAIN | {"behaviour_fields": [{"name": "type", "behaviour": "type"}]})
    assert brief.behaviour_fields[0].target is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behavior_fields": []}, r"unknown key 'behavior_fields' \(did you mean 'behaviour_fields'\?\)"),
        ({"timezone": "Asia/Peking"}, "timezone 'Asia/Peking' is unknown"),
        ({"timezone": 8}, "texts; got 8"),
        ({"history": "lists"}, "history is 'log' or 'inline'; got 'lists'"),
        ({"behaviour_times": "none"}, "behaviour_times is 'real' or 'order'"),
        ({"behaviour_fields": []}, "behaviour_fields is empty"),
        ({"behaviour_fields": {"name": "x"}}, "behaviour_fields is a list"),
        ({"behaviour_fields": [{"name": "x"}]}, "behaviour field 1 is an object with name, behaviour and target"),
        ({"behaviour_fields": [{"name": "x", "behaviour": "x", "targets": "x"}]}, "did you mean 'target'"),
        ({"behaviour_fields": [{"name": "", "behaviour": "x"}]}, "is empty; write one"),
        (
            {"behaviour_fields": [{"name": "a", "behaviour": "x"}, {"name": "a", "behaviour": "y"}]},
            "'a' is named twice",
        ),
        ({"behaviour_fields": [{"name": "hour", "behaviour": "x"}]}, "'hour' is named twice"),
        ({"behaviour_fields": [{"name": "samples.user_id", "behaviour": "x"}]}, "'samples.user_id' is named twice"),
        ({"dense_fields": ["a", "a"]}, "twice in dense_fields"),
        ({"user_fields": "user_id"}, "user_fields is a list of column names; got 'user_id'"),
        ({"user_fields": [3]}, "texts; got 3"),
        ({"name": ""}, "the name of the data set"),
        ({"split": "day"}, "split is an object"),
        ({"split": {"by": "week"}}, "split says by 'week'"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(BadLog, match=f"^data.json.*{message}"):
        Schema.from_json(PLAIN | changes, "data.json")


@pytest.mark.parametrize("key", ["name", "behaviour_fields", "split"])
def test_what_must_be_said(key):
    with pytest.raises(BadLog, match=f"lacks '{key}'"):
        Schema.from_json({name: value for name, value in PLAIN.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "column", "use"),
    [
        ({"context_fields": ["is_click"]}, "is_click", "context_fields"),
        ({"dense_fields": ["play_time_ms"]}, "play_time_ms", "dense_fields"),
        ({"user_fields": ["label"]}, "label", "user_fields"),
        ({"target_fields": ["label"]}, "label", "target_fields"),
        ({"behaviour_fields": [{"name": "c", "behaviour": "is_click", "target": "is_click"}]}, "is_click", "'c'"),
        ({"outcome_columns": ["users.age"]}, "users.age", "user_fields"),
    ],
)
def test_outcomes_cannot_describe_a_sample(changes, column, use):
    with pytest.raises(BadLog, match=f"column '{column}' is known only after the showing.*{use}"):
        Schema.from_json(PLAIN | changes)


def test_outcomes_may_describe_past_behaviours():
    fields = [{"name": "c", "behaviour": "is_click", "target": None}]
    assert Schema.from_json(PLAIN | {"behaviour_fields": fields}).names == ("c",)


def test_columns_name_their_files():
    assert source_of("hour") == (None, "hour")
    assert source_of("items.kind") == ("items", "kind")
    assert source_of("users.a.b") == ("users", "a.b")
    assert source_of("other.kind") == (None, "other.kind")


def test_wanted_columns():
    found = {name: [column for column, _ in columns] for name, columns in wanted(schema(group="hour")).items()}
    assert found == {
        "samples.parquet": ["user_id", "item_id", "timestamp", "label", "hour", "item_id", "user_id", "hour", "price"],
        "behaviours.parquet": ["user_id", "timestamp", "item_id", "item_id", "type"],
        "items.parquet": ["kind", "kind"],
        "users.parquet": ["town"],
    }
    assert wanted(schema(user_fields=()))["users.parquet"] == []
