"""Every published raw form, a few invented lines of each: recognised, and read to the same RawLog as by its name."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from diffacet.data.formats import FORMATS, read_raw, sniff
from diffacet.errors import BadLog


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def seconds(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())


def refusal(form: str, *paths: Path) -> str:
    with pytest.raises(BadLog) as caught:
        read_raw(form, paths)
    return str(caught.value)


REVIEWS = (
    '{"reviewerID": "A1", "asin": "B000000001", "helpful": [0, 1], "overall": 5.0, "unixReviewTime": 1252800000}\n'
    '{"reviewerID": "A2", "asin": "0000000002", "overall": 3.0, "reviewText": "so, so", "unixReviewTime": 1252886400}\n'
)
AMAZON = [("A1", "B000000001", 1252800000, 5.0), ("A2", "0000000002", 1252886400, 3.0)]


def test_amazon_reviews_with_their_metadata(tmp_path):
    meta = (
        "{'asin': 'B000000001', 'title': \"Soap's best\", 'brand': 'X', "
        "'categories': [['Beauty', 'Bath'], ['Gifts']]}\n"
        "{'asin': 'B000000009', 'categories': [['Beauty']]}\n"
    )
    put(tmp_path, {"reviews_Soap_5.json.gz": gzip.compress(REVIEWS.encode())})
    put(tmp_path, {"meta_Soap.json.gz": gzip.compress(meta.encode())})
    assert sniff([tmp_path]) == "amazon"
    log = read_raw("auto", [tmp_path])
    assert log.format == "amazon"
    assert log.frame.rows() == AMAZON
    assert log.items.rows() == [("B000000001", "Soap's best", ["Beauty", "Bath"]), ("B000000009", None, ["Beauty"])]
    both = sorted(tmp_path.iterdir())
    assert read_raw("auto", both).items.equals(log.items)
    alone = read_raw("amazon", [tmp_path / "reviews_Soap_5.json.gz"])
    assert alone.frame.equals(log.frame)
    assert alone.items is None


def test_amazon_rating_tables_of_both_years(tmp_path):
    users = ("A39HTATAQ9V7YF", "A3JM6GV9MNOF9X")
    put(tmp_path, {"ratings_Soap.csv": f"{users[0]},0205616461,5.0,1369699200\n{users[1]},B000000002,3.0,1355443200\n"})
    put(tmp_path, {"Soap.csv": f"0205616461,{users[0]},5.0,1369699200\nB000000002,{users[1]},3.0,1355443200\n"})
    for name in ("ratings_Soap.csv", "Soap.csv"):
        log = read_raw("auto", [tmp_path / name])
        assert log.format == "amazon"
        assert log.frame.rows() == [
            (users[0], "0205616461", 1369699200, 5.0),
            (users[1], "B000000002", 1355443200, 3.0),
        ]


def test_gowalla_check_ins(tmp_path):
    text = (
        "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n0\t2010-10-18T22:17:43Z\t30.2\t-97.7\t420315\n"
    )
    put(tmp_path, {"loc-gowalla_totalCheckins.txt": text})
    for path in (tmp_path, tmp_path / "loc-gowalla_totalCheckins.txt"):
        log = read_raw("auto", [path])
        assert log.format == "gowalla"
        assert log.frame.rows() == [
            (0, 22847, seconds(2010, 10, 19, 23, 55, 27)),
            (0, 420315, seconds(2010, 10, 18, 22, 17, 43)),
        ]
    put(tmp_path, {"bad.txt": text + "1\tsoon\t30.2\t-97.7\t420315\n"})
    assert "bad.txt, row 3" in refusal("gowalla", tmp_path / "bad.txt")
    assert "no Gowalla check-in" in refusal("gowalla", put(tmp_path, {"odd.txt": "a,b\n"}) / "odd.txt")


def test_gowalla_baskets_train_before_test_and_positions_go_on(tmp_path):
    put(
        tmp_path, {"test.txt": "0 12\n1 \n", "train.txt": "0 10 11\n1 11 10 11\n", "user_list.txt": "org_id remap_id\n"}
    )
    log = read_raw("auto", [tmp_path])
    assert log.format == "gowalla"
    assert [Path(f).name for f in log.files] == ["train.txt", "test.txt"]
    assert log.frame.rows() == [(0, 10, 0), (0, 11, 1), (1, 11, 0), (1, 10, 1), (1, 11, 2), (0, 12, 2)]
    put(tmp_path, {"bad.txt": "0 1 2\n\n1 x\n"})
    assert "bad.txt, row 3: '1 x'" in refusal("gowalla", tmp_path / "bad.txt")


RATINGS = [(196, 242, 881250949, 3.0), (186, 242, 891717742, 4.0)]


def test_movielens_100k(tmp_path):
    flags = ["0"] * 19
    flags[1] = flags[5] = "1"
    films = "|".join(["242", "Amélie (1997)", "24-Jan-1997", "", "http://x", *flags]) + "\n"
    films += "|".join(["243", "Unknown (1997)", "", "", "", "1", *["0"] * 18]) + "\n"
    put(tmp_path, {"u.data": "196\t242\t3\t881250949\n186\t242\t4\t891717742\n", "u.item": films.encode("latin-1")})
    put(tmp_path, {"u.user": "1|24|M|technician|85711\n", "README": "invented"})
    log = read_raw("auto", [tmp_path])
    assert log.format == "movielens"
    assert log.frame.rows() == RATINGS
    assert log.items.rows() == [(242, "Amélie (1997)", ["Action", "Comedy"]), (243, "Unknown (1997)", [])]
    assert sniff([tmp_path / "u.data"]) == "movielens"
    assert read_raw("auto", [tmp_path / "u.data", tmp_path / "u.item"]).files == log.files


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m_and_10m(tmp_path, encoding):
    films = "242::Amélie: two (1997)::Comedy|Children's\n243::Other (1990)::(no genres listed)\n"
    put(
        tmp_path,
        {"ratings.dat": "196::242::3::881250949\n186::242::4::891717742\n", "movies.dat": films.encode(encoding)},
    )
    log = read_raw("auto", [tmp_path])
    assert log.format == "movielens"
    assert log.frame.rows() == RATINGS
    assert log.items.rows() == [(242, "Amélie: two (1997)", ["Comedy", "Children's"]), (243, "Other (1990)", [])]
    assert read_raw("auto", [tmp_path / "ratings.dat"]).frame.equals(log.frame)
    put(tmp_path, {"ratings.dat": "196::242::3::881250949\n186::242::x::891717742\n"})
    assert "ratings.dat, row 2" in refusal("movielens", tmp_path)
    put(tmp_path, {"ratings.dat": "196::242::3::881250949\n186::242\n"})
    assert "ratings.dat, row 2: 2 fields where 4" in refusal("movielens", tmp_path)


def test_movielens_with_headers(tmp_path):
    put(tmp_path, {"ratings.csv": "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n186,242,4.0,891717742\n"})
    put(
        tmp_path,
        {"movies.csv": 'movieId,title,genres\n242,"Amélie, two (1997)",Comedy|Drama\n', "links.csv": "movieId\n1\n"},
    )
    log = read_raw("auto", [tmp_path])
    assert log.format == "movielens"
    assert log.frame.rows() == RATINGS
    assert log.items.rows() == [(242, "Amélie, two (1997)", ["Comedy", "Drama"])]


def test_recbole_atomic_files_with_their_items(tmp_path):
    inter = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t242\t4\t891717742\n"
    )
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    items += '242\tKolya "x\t1996\tComedy War\n7\tY\t\t\n'
    put(
        tmp_path,
        {"ml.inter": inter, "ml.item": items, "ml.user": "user_id:token\tage:token\n1\t2\n", "ml.kg": "a:token\n1\n"},
    )
    for path in (tmp_path, tmp_path / "ml.inter"):
        log = read_raw("auto", [path])
        assert log.format == "csv"
        assert log.frame.rows() == RATINGS
        assert log.items.rows() == [(242, 'Kolya "x', ["Comedy", "War"]), (7, "Y", [])]
        assert [Path(f).name for f in log.files] == ["ml.inter", "ml.item"]


def test_yelp_reviews_with_businesses(tmp_path):
    put(
        tmp_path,
        {
            "yelp_academic_dataset_review.json": '{"review_id":"r","user_id":"u-1","business_id":"b_1","stars":4.0,'
            '"useful":0,"text":"fine\\nplace","date":"2018-07-07 22:09:11"}\n',
            "yelp_academic_dataset_business.json": '{"business_id":"b_1","name":"Café","stars":3.0,"attributes":null,'
            '"categories":"Coffee & Tea, Food"}\n{"business_id":"b_2","name":"Bar","categories":null}\n',
            "yelp_academic_dataset_user.json": '{"user_id":"u-1","name":"Z"}\n',
        },
    )
    log = read_raw("auto", [tmp_path])
    assert log.format == "yelp"
    assert log.frame.rows() == [("u-1", "b_1", seconds(2018, 7, 7, 22, 9, 11), 4.0)]
    assert log.items.rows() == [("b_1", "Café", ["Coffee & Tea", "Food"]), ("b_2", "Bar", [])]
    review = tmp_path / "yelp_academic_dataset_review.json"
    assert read_raw("auto", [review]).frame.equals(log.frame)


def test_yoochoose_clicks_and_buys(tmp_path):
    put(
        tmp_path,
        {"yoochoose-clicks.dat": "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"},
    )
    put(tmp_path, {"yoochoose-buys.dat": "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n"})
    for path in (tmp_path, tmp_path / "yoochoose-clicks.dat"):
        log = read_raw("auto", [path])
        assert log.format == "yoochoose"
        assert log.frame.rows() == [
            (1, 214536502, seconds(2014, 4, 7, 10, 51, 9)),
            (1, 214536500, seconds(2014, 4, 7, 10, 54, 9)),
        ]
    buys = read_raw("auto", [tmp_path / "yoochoose-buys.dat"])
    assert buys.frame.rows() == [(420374, 214537888, seconds(2014, 4, 6, 18, 44, 58))]


def test_kuairec_matrices(tmp_path):
    head = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    put(
        tmp_path, {"big_matrix.csv": head + "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.27\n"}
    )
    put(tmp_path, {"small_matrix.csv": head + "14,148,4381,6067,,,,0.72\n14,183,11635,6100,x,1,1593898261.0,1.9\n"})
    put(tmp_path, {"item_categories.csv": 'video_id,feat\n3649,"[27, 9]"\n183,[8]\n'})
    log = read_raw("auto", [tmp_path])
    assert log.format == "kuairec"
    assert log.frame.rows() == [(0, 3649, 1593878903, 1.27)]
    assert log.items.rows() == [(3649, ["27", "9"]), (183, ["8"])]
    assert any("small_matrix.csv left out" in note for note in log.notes)
    small = read_raw("auto", [tmp_path / "small_matrix.csv"])
    assert small.frame.rows() == [(14, 183, 1593898261, 1.9)]
    assert any(note.startswith("1 rows without a time dropped") for note in small.notes)


def test_a_directory_of_interactions_items_and_users(tmp_path):
    pl.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "timestamp": [0, 1]}).write_parquet(
        tmp_path / "interactions.parquet"
    )
    pl.DataFrame({"item_id": [5, 6], "categories": [["a"], None]}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user_id": [1], "age": [30]}).write_parquet(tmp_path / "users.parquet")
    log = read_raw("auto", [tmp_path])
    assert log.frame.rows() == [(1, 5, 0), (1, 6, 1)]
    assert log.items.rows() == [(5, ["a"]), (6, [])]


@pytest.mark.parametrize("form", [name for name in FORMATS if name not in ("csv", "jsonl", "parquet")])
def test_a_file_of_another_form_is_refused_by_name_and_row(tmp_path, form):
    path = put(tmp_path, {"other.csv": "# nothing;known\n1;2\n"}) / "other.csv"
    message = refusal(form, path)
    assert "other.csv" in message
    empty = tmp_path / "empty"
    empty.mkdir()
    put(empty, {"notes.md": "nothing"})
    assert str(empty) in refusal(form, empty)


def test_files_of_two_forms_are_refused(tmp_path):
    put(tmp_path, {"a.txt": "0 1 2\n", "b.txt": "196\t242\t3\t881250949\n"})
    message = refusal("auto", tmp_path)
    assert "gowalla" in message
    assert "movielens" in message
