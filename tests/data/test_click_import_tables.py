"""Samples, behaviours, items and users in tables of any form become a click folder that opens."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data import clicks
from diffacet.data.clicks.importing import casting, folder, generic
from diffacet.data.clicks.importing.assembly import default_split
from diffacet.data.clicks.importing.earlier import earlier
from diffacet.data.clicks.importing.fields import plan
from diffacet.data.clicks.importing.wanted import Asked, Wanted, asked
from diffacet.errors import BadLog, BadSetting

SAMPLES = """user_id,item_id,timestamp,label,device
a,1,100,0,phone
a,2,150,1,desk
b,1,160,0,
a,3,170,1,phone
b,2,180,0,phone
b,3,200,1,desk
a,1,210,0,desk
b,1,220,1,phone
"""
BEHAVIOURS = "user_id,item_id,timestamp,event\nb,2,90,cart\na,1,50,view\na,,60,view\na,2,155,view\n"
ITEMS = "item_id,category,price\n1,tea,2.5\n2,cups,\n3,tea|green,4\n"
USERS = "user_id,age\na,30\nb,41\n"


@pytest.fixture
def put(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def make(put):
    """Reads the tables with some options changed; items and users only where they are given."""

    def run(samples=SAMPLES, behaviours=BEHAVIOURS, items=None, users=None, **said):
        fields = tuple(asked(text) for text in said.pop("fields", ()))
        paths = [put("samples.csv", samples)], [put("behaviours.csv", behaviours)]
        more = {"items": items and put("items.csv", items), "users": users and put("users.csv", users)}
        return generic.read(*paths, Wanted(name="mine", fields=fields, **said), **more)

    return run


def refusal(make, **options):
    with pytest.raises(BadLog) as caught:
        make(**options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_usual_names_need_no_option_and_the_folder_opens(make, tmp_path):
    made = make(items=ITEMS)
    report = folder.write(made, tmp_path / "out", "tables")
    packed = clicks.open(tmp_path / "out")
    assert packed.log.names == ("item", "category", "type")
    assert packed.log.other_names == ("user_id",)
    assert made.samples["timestamp"].to_list() == [
        100_000,
        150_000,
        160_000,
        170_000,
        180_000,
        200_000,
        210_000,
        220_000,
    ]
    assert made.samples["item_id"].dtype == pl.Int64
    assert made.behaviours["item_id"].to_list() == [2, 1, None, 2]
    assert made.behaviours["behaviour_type"].to_list() == ["cart", "view", "view", "view"]
    assert made.items["category"].to_list() == ["tea", "cups", "tea"]  # the first of several
    seen = packed.log.end - packed.log.begin
    assert seen.tolist() == [2, 2, 1, 3, 1, 1, 3, 1]
    assert (report.figures.samples, report.figures.clicks, report.figures.users, report.figures.items) == (8, 4, 2, 3)
    assert (report.figures.behaviours, report.figures.behaviour_users) == (4, 2)
    assert ("behaviours without an item, kept", 1) in report.counts


def test_a_field_serves_where_its_column_is(make):
    behaviours = BEHAVIOURS.replace("event", "event,device,shop").replace("view\n", "view,phone,x\n")
    behaviours = behaviours.replace("cart\n", "cart,desk,y\n")
    samples = SAMPLES.replace("device\n", "device,hour\n").replace("phone\n", "phone,3\n").replace("desk\n", "desk,4\n")
    samples = samples.replace("0,\n", "0,,5\n")
    made = make(
        samples,
        behaviours,
        ITEMS,
        USERS,
        fields=["device", "shop", "hour", "age", "price:numeric", "category", "item_id"],
    )
    schema = made.schema
    told = [(field.name, field.behaviour, field.target) for field in schema.behaviour_fields]
    assert told == [
        ("item", "item_id", "item_id"),
        ("category", "items.category", "items.category"),
        ("device", "device", "device"),
        ("shop", "shop", None),
        ("type", "behaviour_type", None),
    ]
    assert schema.user_fields == ("user_id", "users.age")
    assert schema.context_fields == ("hour",)
    assert schema.dense_fields == ("items.price",)
    assert made.items["price"].to_list() == [2.5, None, 4.0]
    assert made.samples["device"][2] is None


def test_behaviours_without_items_have_fields_of_items_on_the_samples_side(make):
    behaviours = "user_id,timestamp,category\na,50,tea\nb,60,cups\n"
    schema = make(behaviours=behaviours, items=ITEMS).schema
    assert [(one.name, one.behaviour, one.target) for one in schema.behaviour_fields] == [
        ("category", "category", "items.category")
    ]
    assert schema.target_fields == ("item_id",)
    message = refusal(make, behaviours="user_id,timestamp\na,50\n")
    assert "neither an item nor a field" in message
    assert "--field COL" in message


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet", "csv.gz"])
def test_every_form_of_file_gives_the_same(put, form, make, tmp_path):
    frame = pl.read_csv(SAMPLES.encode())
    path = tmp_path / f"s.{form}"
    if form == "parquet":
        frame.write_parquet(path)
    elif form == "jsonl":
        frame.write_ndjson(path)
    elif form == "tsv":
        frame.write_csv(path, separator="\t")
    else:
        path.write_bytes(gzip.compress(SAMPLES.encode()))
    expected = make(fields=["device"])
    got = generic.read([path], [tmp_path / "behaviours.csv"], Wanted(name="mine", fields=(Asked("device"),)))
    assert got.samples.equals(expected.samples)
    assert got.schema == expected.schema


def test_several_files_are_one_table_and_rows_are_named_in_their_file(put, make):
    make()
    first, second = SAMPLES.splitlines(True)[:5], SAMPLES.splitlines(True)[5:]
    paths = [put("s1.csv", "".join(first)), put("s2.csv", "".join([first[0], *second]))]
    behaviours = [put("b.csv", BEHAVIOURS)]
    whole = make()
    assert generic.read(paths, behaviours, Wanted(name="mine")).samples.equals(whole.samples)
    paths[1] = put("s2.csv", "".join([first[0], *second]).replace("b,3,200,1", "b,3,200,2"))
    with pytest.raises(BadLog, match=r"s2\.csv, row 3: column 'label': '2' is no answer"):
        generic.read(paths, behaviours, Wanted(name="mine"))
    with pytest.raises(BadLog, match=r"other\.csv has no column 'device'"):
        generic.read([paths[0], put("other.csv", "user_id,item_id,timestamp,label\n")], behaviours, Wanted(name="m"))


def test_repeats_and_contradictions_are_counted(make):
    rows = SAMPLES + "b,3,200,1,desk\nb,3,200,0,desk\n"
    made = make(rows, items=ITEMS + "3,late,1\n")
    assert made.samples.height == 9  # the contradiction is kept, the repeat is gone
    assert dict(made.counts) == {
        "samples that repeat another one whole, dropped": 1,
        "pairs of user, item and time with both answers, kept": 1,
        "items that occur again, the first kept": 1,
        "behaviours without an item, kept": 1,
    }
    assert made.items["category"].to_list() == ["tea", "cups", "tea"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"samples": SAMPLES.replace("a,2,150,1", "a,2,150,5")},
            ["row 3", "'label'", "'5'", "0 or 1", "--from-ratings"],
        ),
        ({"samples": SAMPLES.replace("a,2,150,1", "a,2,150,")}, ["row 3", "empty value", "--label COL"]),
        ({"samples": SAMPLES.replace("a,2,150", "a,2,soon")}, ["row 3", "'soon' is no time", "--time COL"]),
        ({"samples": SAMPLES.replace("a,2,150", ",2,150")}, ["row 3", "'user_id'", "is no id", "drop the row"]),
        ({"samples": SAMPLES.replace("label", "lable")}, ["'label'", "did you mean 'lable'", "--label COL"]),
        (
            {"label": "clik", "samples": SAMPLES.replace("label", "click")},
            ["no column 'clik' (did you mean 'click'?), which --label names; its columns are: "],
        ),
        ({"fields": ["devise"]}, ["--field devise (did you mean 'device'?): no file has", "samples: label, device"]),
        ({"fields": ["label"]}, ["--field label", "known only after the showing"]),
        ({"fields": ["timestamp"]}, ["--field timestamp", "the time already"]),
        ({"fields": ["event:numeric"]}, ["event:numeric", "only the behaviours have", "buckets"]),
        ({"fields": ["price:numeric"], "items": ITEMS.replace("2.5", "nan")}, ["items.csv, row 2", "'nan'", "price"]),
        ({"fields": ["price:numeric"], "items": ITEMS.replace("2.5", "x")}, ["items.csv, row 2", "'x'", "finite"]),
        ({"outcomes": ("watched",)}, ["--outcome watched", "neither samples nor behaviours"]),
        ({"outcomes": ("device",), "fields": ["device"]}, ["--field device", "--outcome", "past behaviours"]),
        ({"group": "page"}, ["'page'", "--group", "columns are"]),
        ({"behaviours": "user_id,item_id,timestamp\na,1,220\n"}, ["every behaviour comes after every sample"]),
        ({"behaviours": BEHAVIOURS.replace("user_id", "who")}, ["behaviours.csv", "'user_id'", "--user COL"]),
        ({"samples": SAMPLES[: SAMPLES.index("a,2")]}, ["leaves no sample to", "quantile"]),
        ({"split": {"by": "day", "test_days": 1, "valid_days": 1}}, ["leaves no sample to train"]),
        ({"items": "item_id,category\n1,x\n,y\n"}, ["items.csv, row 3", "is no id"]),
    ],
)
def test_refusals_say_what_where_and_what_to_do(make, change, words):
    message = refusal(make, **change)
    for word in words:
        assert word in message, message


def test_lists_are_no_field(tmp_path, put):
    frame = pl.read_csv(SAMPLES.encode()).with_columns(pl.Series("tags", [["x"]] * 8))
    frame.write_parquet(tmp_path / "s.parquet")
    behaviours = [put("b.csv", BEHAVIOURS)]
    with pytest.raises(BadLog, match="'tags' holds List"):
        generic.read([tmp_path / "s.parquet"], behaviours, Wanted(name="m", fields=(Asked("tags"),)))


def test_an_outcome_may_describe_past_behaviours(make):
    behaviours = (
        BEHAVIOURS.replace("event", "event,watched").replace("view\n", "view,1\n").replace("cart\n", "cart,0\n")
    )
    samples = SAMPLES.replace("device", "watched")
    made = make(samples, behaviours, fields=["watched"], outcomes=("watched",))
    assert made.schema.outcome_columns == ("watched",)
    assert [(one.name, one.target) for one in made.schema.behaviour_fields][1] == ("watched", None)
    assert "watched" in made.samples.columns  # kept beside, for whoever wants to look


def test_groups_and_ids_of_one_kind(make):
    samples = SAMPLES.replace("device", "request_id").replace("0,\n", "0,q\n")
    made = make(samples, BEHAVIOURS.replace("b,2", "b,x2"))
    assert made.schema.group == "request_id"
    assert made.samples["item_id"].dtype == made.behaviours["item_id"].dtype == pl.String  # one id is no number
    message = refusal(make, samples=samples.replace(",q\n", ",\n"))
    assert "'request_id'" in message
    assert "row 4" in message
    other = make(behaviours="user_id,item_id,timestamp\na,77,50\nb,78,60\n")
    assert any("no value of field 'item'" in note for note in other.notes)


def test_a_single_type_is_no_field_unless_it_is_asked_for(make):
    behaviours = BEHAVIOURS.replace("cart", "view")
    assert make(behaviours=behaviours).schema.names == ("item",)
    assert make(behaviours=behaviours, behaviour_type="event").schema.names == ("item", "type")
    assert make(order_only=True).schema.behaviour_times == "order"
    assert make().schema.behaviour_times == "real"


def test_kinds_of_fields():
    assert asked("price:numeric") == Asked("price", "numeric")
    assert asked("a:b:categorical") == Asked("a:b", "categorical")
    with pytest.raises(BadSetting, match=r"'nummeric' \(did you mean 'numeric'\?\) is no kind of field; write"):
        asked("price:nummeric")
    both = {"samples": ("x",), "behaviours": ("x",), "items": ("x",)}
    found = plan([Asked("x")], both, itemised=True, outcomes=(), taken={}).behaviour_fields[0]
    assert (found.behaviour, found.target) == ("x", "x")  # the logs' own columns come first
    del both["samples"]
    found = plan([Asked("x")], both, itemised=True, outcomes=(), taken={}).behaviour_fields[0]
    assert (found.behaviour, found.target) == ("items.x", "items.x")
    with pytest.raises(BadLog, match="needed for another column"):
        plan([Asked("item_id")], {"samples": ("item_id",)}, itemised=True, outcomes=(), taken={})


def where(index):
    return f"row {index}"


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["1400000000", "1400000001"], "auto", [1_400_000_000_000, 1_400_000_001_000]),
        (["1400000000.5"], "auto", [1_400_000_000_500]),
        (["1400000000123"], "auto", [1_400_000_000_123]),
        (["1400000000123456"], "auto", [1_400_000_000_123]),
        (["2014-07-23T10:05:33.120Z"], "auto", [1_406_109_933_120]),
        (["2014-07-23 12:05:33+02:00"], "s", [1_406_109_933_000]),
        (["100", "101"], "ms", [100, 101]),
        (["1400000000123"], "s", [1_400_000_000_123_000]),
        (["0.25"], "s", [250]),
    ],
)
def test_times_become_milliseconds(values, unit, expected):
    assert casting.milliseconds(pl.Series("t", values), where, unit).to_list() == expected


def test_a_time_that_is_no_number_of_the_unit_is_refused():
    with pytest.raises(BadLog, match="row 1: column 't': 'soon' is no number of seconds"):
        casting.milliseconds(pl.Series("t", ["5", "soon"]), where, "s")


def test_values_are_cast_by_their_type():
    assert casting.categories(pl.Series("c", [1.0, None, float("nan")]), where).to_list() == [1, None, None]
    assert casting.categories(pl.Series("c", [1.5, None]), where).to_list() == ["1.5", None]
    assert casting.categories(pl.Series("c", [True, False]), where).to_list() == [1, 0]
    assert casting.categories(pl.Series("c", ["", "x"]), where).to_list() == [None, "x"]
    assert casting.categories(pl.Series("c", [2**64 - 1], dtype=pl.UInt64), where).to_list() == [str(2**64 - 1)]
    assert casting.answers(pl.Series("y", ["1", "0.0", " true "]), where, "").to_list() == [1, 0, 1]
    assert casting.answers(pl.Series("y", [True, False]), where, "").to_list() == [1, 0]
    assert casting.answers(pl.Series("y", [1.0, 0.0]), where, "").to_list() == [1, 0]
    assert casting.first(pl.Series("c", [["a", "b"], []]), where).to_list() == ["a", None]
    assert casting.first(pl.Series("c", ["a|b", None]), where).to_list() == ["a", None]
    assert casting.first(pl.Series("c", ["a, b", ""]), where).to_list() == ["a, b", None]


@given(st.data())
def test_earlier_is_a_filter_written_out(data):
    row = st.tuples(st.integers(0, 3), st.integers(0, 6))
    behaviours = data.draw(st.lists(row, min_size=1, max_size=20))
    samples = data.draw(st.lists(row, min_size=1, max_size=12))
    frames = [pl.DataFrame(rows, schema=["user_id", "timestamp"], orient="row") for rows in (behaviours, samples)]
    count, last = earlier(*frames)
    for (user, time), n, t in zip(samples, count, last, strict=True):
        past = [moment for who, moment in behaviours if who == user and moment < time]
        assert n == len(past)
        assert t == (max(past) if past else 0)


def samples_of(days, each=50):
    times = np.concatenate([np.arange(each) * 60_000 + day * 86_400_000 for day in days])
    return pl.DataFrame({"timestamp": times, "label": np.arange(len(times)) % 2})


def test_the_default_split_goes_by_day_where_days_are_enough():
    by = [default_split(frame, "UTC")[0]["by"] for frame in map(samples_of, (range(5), range(4), [0, 1, 2, 3, 9]))]
    assert by == ["day", "quantile", "quantile"]  # four days are few; of the last two days one is empty
    thin = pl.concat([samples_of(range(5), 200), samples_of([5], 3)])
    assert default_split(thin, "UTC")[0]["by"] == "quantile"  # three rows test nothing
    one_sided = samples_of(range(6)).with_columns(
        pl.when(pl.col("timestamp") < 5 * 86_400_000).then("label").otherwise(1).alias("label")
    )
    assert default_split(one_sided, "UTC")[0]["by"] == "quantile"


def test_a_folder_is_written_once_and_alike(make, tmp_path):
    made = make(items=ITEMS, users=USERS)
    for name in ("one", "two"):
        folder.write(made, tmp_path / name, "tables")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert json.loads((tmp_path / "one" / "dataset.json").read_text())["name"] == "mine"
    with pytest.raises(BadLog, match="not an empty directory"):
        folder.write(made, tmp_path / "one", "tables")
