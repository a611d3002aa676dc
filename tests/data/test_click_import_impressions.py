"""One table of showings becomes samples and behaviours; merging against a loop."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data import clicks
from diffacet.data.clicks.importing import folder, impressions
from diffacet.data.clicks.importing.impressions import Columns
from diffacet.data.clicks.importing.wanted import Asked, Wanted
from diffacet.errors import BadLog

HEAD = "user_id,item_id,timestamp,clicked,clicked_at,request_id,rank,device\n"
ROWS = [
    "a,1,1000,0,,r1,1,phone",
    "a,2,1000,1,1004,r1,2,phone",
    "a,3,1000,0,,r1,3,phone",
    "a,2,1001,0,,r1,2,phone",  # shown again within a second
    "a,2,1003,0,,r1,2,phone",  # and again, later than that
    "b,1,1100,1,,r2,1,desk",
    "b,2,1100,1,1102,r2,2,desk",
    "a,1,1200,1,1190,r3,1,phone",
    "a,3,1200,0,,r3,2,phone",
    "b,3,1300,0,,r4,1,desk",
    "b,1,1400,1,1401,r5,1,desk",
]


@pytest.fixture
def make(tmp_path):
    def run(rows=ROWS, columns=Columns("clicked_at"), behaviours=None, **said):  # noqa: B008
        path = tmp_path / "shown.csv"
        path.write_text(HEAD + "\n".join(rows) + "\n")
        options = {name: said.pop(name) for name in ("exposures",) if name in said}
        fields = tuple(Asked(name) for name in said.pop("fields", ()))
        if behaviours is not None:
            (tmp_path / "cart.csv").write_text(behaviours)
            options["behaviours"] = [tmp_path / "cart.csv"]
        return impressions.read([path], Wanted(name="feed", fields=fields, **said), columns, **options)

    return run


def test_rows_are_samples_and_clicked_rows_behaviours(make, tmp_path):
    made = make()
    assert made.samples.height == len(ROWS) - 1
    assert dict(made.counts) == {"repeated showings within a second, merged": 1}
    assert made.samples["label"].to_list() == [0, 1, 0, 0, 1, 1, 1, 0, 0, 1]
    assert made.samples["timestamp"].to_list()[:4] == [1_000_000, 1_000_000, 1_000_000, 1_003_000]
    assert made.schema.group == "request_id"
    assert made.behaviours.select("user_id", "item_id", "timestamp").rows() == [
        ("a", 2, 1_004_000),
        ("b", 1, 1_100_000),  # no time of its own
        ("b", 2, 1_102_000),
        ("a", 1, 1_190_000),
        ("b", 1, 1_401_000),
    ]
    assert any("1 clicks are earlier than their showings" in note for note in made.notes)
    assert made.schema.names == ("item",)
    folder.write(made, tmp_path / "out", "impressions")
    assert len(clicks.open(tmp_path / "out").log) == 10


def test_clicks_have_the_time_of_the_showing_without_a_column_for_it(make):
    made = make(columns=Columns())
    assert made.behaviours["timestamp"].to_list() == [1_000_000, 1_100_000, 1_100_000, 1_200_000, 1_400_000]


def test_exposures_are_behaviours_of_a_type_when_asked_for(make):
    made = make(exposures=True)
    assert made.schema.names == ("item", "type")
    assert made.behaviours.height == made.samples.height
    assert made.behaviours["behaviour_type"].value_counts().sort("behaviour_type").rows() == [
        ("click", 5),
        ("exposed", 5),
    ]


def test_position_describes_the_sample_and_other_columns_both(make):
    made = make(columns=Columns(position="rank"), fields=["device"])
    assert made.schema.context_fields == ("rank",)
    assert [(one.name, one.target) for one in made.schema.behaviour_fields] == [
        ("item", "item_id"),
        ("device", "device"),
    ]
    assert any("old ranker" in note for note in made.notes)
    assert "rank" not in made.behaviours.columns


def test_other_logs_are_further_types(make):
    made = make(behaviours="user_id,item_id,timestamp,shop\na,3,900,x\nb,7,950,y\n", fields=["shop", "device"])
    assert made.behaviours["behaviour_type"].to_list() == ["click"] * 5 + ["cart"] * 2
    assert made.behaviours["shop"].to_list() == [None] * 5 + ["x", "y"]
    assert made.behaviours["device"].to_list()[-2:] == [None, None]
    assert made.schema.names == ("item", "shop", "device", "type")
    typed = make(behaviours="user_id,item_id,timestamp,event\na,3,900,buy\nb,7,950,fav\n")
    assert typed.behaviours["behaviour_type"].to_list()[-2:] == ["buy", "fav"]


def test_without_clicks_or_columns_it_is_refused(make):
    with pytest.raises(BadLog, match="no row is clicked"):
        make([row for row in ROWS if row.split(",")[3] == "0"])
    with pytest.raises(BadLog, match=r"row 3: column 'clicked': '2' is no answer.*--clicked COL"):
        make([*ROWS[:1], ROWS[1].replace("1000,1", "1000,2"), *ROWS[2:]])
    with pytest.raises(BadLog, match=r"row 3: column 'clicked_at': 'x' is no time"):
        make([*ROWS[:1], ROWS[1].replace("1004", "x"), *ROWS[2:]])
    with pytest.raises(BadLog, match="no column 'place', which --position names"):
        make(columns=Columns(position="place"))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 60), st.booleans()), max_size=25))
def test_merging_is_a_loop(rows):
    frame = pl.DataFrame(
        [(user, item, time * 100, int(y), None) for user, item, time, y in rows],
        schema={
            "user_id": pl.Int64,
            "item_id": pl.Int64,
            "timestamp": pl.Int64,
            "label": pl.Int8,
            "clicked_at": pl.Int64,
        },
        orient="row",
    )
    merged, gone = impressions._merged(frame, "user_id")
    expected = []
    for place, (user, item, time, y) in sorted(enumerate(rows), key=lambda row: (*row[1][:3], row[0])):
        last = expected[-1] if expected else None
        if last and last["key"] == (user, item) and time * 100 - last["latest"] <= 1000:
            last |= {"latest": time * 100, "label": last["label"] or int(y)}
            last["click"] = time * 100 if y and last["click"] is None else last["click"]
        else:
            expected.append(
                {"key": (user, item), "latest": time * 100, "time": time * 100, "label": int(y), "row": place}
                | {"click": time * 100 if y else None}
            )
    expected.sort(key=lambda one: one["row"])
    assert merged.rows() == [(*one["key"], one["time"], one["label"], one["click"]) for one in expected]
    assert gone == len(rows) - len(expected)
