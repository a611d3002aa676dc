"""DreamRec's pickled frames: read without pandas, refused when they name anything else, sessions rebuilt."""

import base64
import pickle
import zlib
from itertools import chain

import numpy as np
import polars as pl
import pytest

from diffacet.app.importing import import_log
from diffacet.data import splits, store
from diffacet.data.formats import read_raw, sniff
from diffacet.data.formats.frames import plain, read_frame
from diffacet.errors import BadLog
from pickled import LAYOUTS, Layout, Made, Name, dtype, expanded, put, stream, written
from released import DATA

# Frames of five rows (columns seq, len_seq, next), as these versions of pandas pickle them.
REAL = {
    "pandas 1.5.3, protocol 4": (
        "c-oCqO>fjN5Z!Dx&;p{W_$pGxfzxte&m53iQG^6mgVZakEGO}9qB`ExcGRxaO65R5B;Pvx4E`Jc0A`Xb?3Ny|BhPa(o_U_UIU9Wc5%!w"
        "l*DIkjVMpoI$kEt{Qi5N7FP!+$;A?pG6;5I32fUmZ@GlnK3+<%QLfKI%w3tX^!9RGXrs=_MyT{}HX?KFFBC&sufM4Uau8Q<PNuJOda(<"
        "%gvYNHg%UZcY7$asFl^dB(wRNUW9XUpgBlx=*yK%V&*82uKK>`=B2SXO%jLson^HJtz72U-5$8X^3vi%<V;4Q>){OK2tW??-C$<@xVEz"
        "HVxYae%Zv$H?9THD(OboVPsT_8=3_lc}3Qp&^nEMx(tVSQTj`}xCso#^F{mdS1S{^uo1CpRc<5v6??;=@+kDG7&5IQoMZeS!{4jFG=&J"
        "<9r@q>2Sn`R1)v3c51PZU4r8ZlTQ{U{MybUjQ=n8_QzK<gv7)L|ByIJ+9>u|48q!qB--?95-UjP@wSd1w!1srh56%%0pC#lA1SYpyjax"
        "Dg{Ckc3huR6?Xme+ejFpC&Xfp>_X=JON{^73FA<1eqi0S0u~XF2!bZ2qy_s0RfnxaOy_OIOX);IeIMl_oWq7W1%HQ+m6$Z}nNVtaWO-I"
        "sC???~S0a(vEtj@VM!x}NW>gO"
    ),
    "pandas 2.2.3, protocol 5": (
        "c-nPSTWi!n6y9t$wzb7Os|D$sxP6JQJ_s#V1Rc6UU!@F_>|_&~OybOhwqQXY>;=x7M}L&R#($t^W_N8`>?F+jlAOyoU(Wdw{rDC3{DS+"
        "9P!nO|wAM1tw5TM)${S(DTaUlv=2twy5e#@W)d(A1_d;2zl_*VI2_>dd8-%sjWt|@E&Yme8hVuws7KynGLAc9X)fDMLDS6^zobyA~R?T"
        "tDeR{%D7b(Ij&vacSZI=0zqo1Q*cP($v?4!ATI=8>K<__Bkkxxu^VvielEa+!1@#6dp_i)5Q2wvfMJbwR&mfu*<V!{FzogxG~Xvqzhle"
        "Q>rp@@5A$|7}XSf7O~a9LR2?fEJUyJx6ciV#{0s=dawOlxJVZc|IK`8`-7Y5YgZ)cb}zL4q?z!K`-v0Qw)U@cev@=N9q2*vApwY-M&yh"
        "r=s4`iHwd!5mA<k#De`tJ*zEe&<r^;F|5<@ZM7{I+XL_O~U5uPF5-$kcyqcXGrAW$<<Dq$RlauL>TJN+g!;*{?5H~GBSu3*mvrLx)<|j"
        "`Ew^}zPS)Iq=y$yDhQ4Igs@af#XTA*d1TS4K+tvlxIJ~uc47U0B(zXd$70XfPUZaLm>R<hZRuyiz}UJ$7C9gZ1U{#98x0e6A<da%x|lg"
        "$Nh>_{ed;e^Eltx2!Y!VaV(Q^zQI_?g;ghzZ?h{t>QY4Z_>D;tQ{1<d$T^s"
    ),
}
ROWS = [[9, 9, 9, 9], [3, 9, 9, 9], [3, 5, 9, 9], [9, 9, 9, 9], [1, 9, 9, 9]]


TRAIN = [[3, 5, 7, 0, 2, 2, 8], [1, 2, 4], [6, 6, 6, 1, 2, 3, 4, 5]]
VALID, TEST = [[0, 1, 2], [4, 2, 0, 4, 4]], [[5, 4, 3]]


def session_lists(log):
    """Item ids of each session, by its own number."""
    ids = log.users.ids(np.arange(log.n_users)).to_list()
    items = np.split(log.items.ids(log.column("item")).to_numpy(), log.sequences().offsets[1:-1])
    return {user: own.tolist() for user, own in zip(ids, items, strict=True)}


@pytest.mark.parametrize("name", REAL)
def test_what_pandas_wrote_is_read(tmp_path, name):
    path = tmp_path / "frame.df"
    path.write_bytes(zlib.decompress(base64.b85decode(REAL[name])))
    found = read_frame(path, ("seq", "len_seq", "next"))
    assert [plain(cell) for cell in found["seq"]] == ROWS
    assert list(found["len_seq"]) == [1, 1, 2, 1, 1]
    assert list(found["next"]) == [3, 5, 7, 1, 2]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("empty", [0, 1])
def test_sessions_come_back_from_every_layout(tmp_path, name, empty):
    sets = {"train": TRAIN, "val": VALID, "test": TEST}
    folder = put(tmp_path / "ks", LAYOUTS[name], **{part: expanded(s, 9, empty=empty) for part, s in sets.items()})
    assert sniff([folder]) == "dreamrec"
    done = import_log([folder], tmp_path / "out")
    log = store.open(tmp_path / "out").log
    assert session_lists(log) == dict(enumerate(TRAIN + VALID + TEST))
    assert log.times == "rank"
    assert log.parts_divide_users
    assert done.format == "dreamrec"
    assert log.items.values.to_list() == list(range(9))
    split = splits.make_split(log, "next-item-given", 0)
    assert split.train.users.tolist() == [0, 1, 2]
    assert split.valid.history.base.users.tolist() == [3, 4]
    assert split.test.history.base.users.tolist() == [5]
    assert len(splits.next_item.with_empty(split.valid)) == sum(map(len, VALID))


def test_two_columns_of_one_type_are_told_apart(tmp_path):
    """len_seq and next as whole numbers share a block, whose rows are the columns."""
    for layout in LAYOUTS.values():
        columns = expanded(VALID, 9)
        columns["next"] = [int(item) for item in columns["next"]]
        folder = put(tmp_path / str(id(layout)), layout, val=columns)
        assert read_raw("auto", [folder]).frame["item_id"].to_list() == list(chain(*VALID))


def test_numpy_numbers_inside_the_lists_are_read(tmp_path):
    columns = expanded(VALID, 9)
    scalar = Name("numpy.core.multiarray", "scalar")
    columns["seq"] = [[Made(scalar, (dtype("i8"), np.int64(item).tobytes())) for item in row] for row in columns["seq"]]
    folder = put(tmp_path, val=columns)
    assert read_raw("dreamrec", [folder]).frame["item_id"].to_list() == list(chain(*VALID))
    columns["seq"] = [LAYOUTS["pandas 2"].array(np.array(row)) for row in expanded(VALID, 9)["seq"]]
    assert read_raw("dreamrec", [put(tmp_path, val=columns)]).frame["item_id"].to_list() == list(chain(*VALID))


def test_a_part_alone_is_read_without_its_split(tmp_path):
    folder = put(tmp_path, test=expanded(TEST, 9))
    for paths in ([folder], [folder / "test_data.df"], [folder / "test_data.df", folder / "data_statis.df"]):
        raw = read_raw("auto", paths)
        assert raw.frame.columns == ["user_id", "item_id", "timestamp"]
        assert raw.frame.rows() == [(0, 5, 0), (0, 4, 1), (0, 3, 2)]
        assert raw.items["item_id"].to_list() == list(range(9))
        assert raw.catalogue
        assert raw.files == tuple(str(folder / name) for name in ("test_data.df", "data_statis.df"))
        assert "test_data.df: 1 sessions, 3 rows" in raw.notes
        assert any("items without a row: 6 of 9" in note for note in raw.notes)
        assert any("train_data.df, val_data.df is not read; --split next-item" in note for note in raw.notes)


def test_the_distance_to_the_published_counts_is_told(tmp_path):
    notes = read_raw("auto", [put(tmp_path, n_items=4838, val=expanded(VALID, 4838))]).notes
    (told,) = [note for note in notes if "zhihu-dreamrec" in note]
    assert told.startswith("not zhihu-dreamrec")
    assert "users 2 instead of 11,714" in told
    assert "interactions 8 instead of 77,712" in told


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("pandas.core.frame", "DataFrame.eval"),
        ("pandas.io.pickle", "read_pickle"),
        ("numpy", "load"),
        ("diffacet.data.formats.frames", "read_frame"),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, module, name):
    folder, trace = put(tmp_path, val=expanded(VALID, 9)), tmp_path / "trace"
    evil = Made(Name(module, name), (f"touch {trace}",))
    for thing in (evil, {"_mgr": evil}, Made(Name("pandas.core.frame", "DataFrame"), (), {"_mgr": evil}, new=True)):
        (folder / "val_data.df").write_bytes(stream(thing))
        with pytest.raises(BadLog, match=rf"val_data.df names {module}\.{name}, which no frame .* needs"):
            read_raw("dreamrec", [folder])
        assert not trace.exists()
    text = b"\x80\x04" + pickle.dumps(module, 2)[2:-1] + pickle.dumps(name, 2)[2:-1] + b"\x93."  # a name off the stack
    (folder / "val_data.df").write_bytes(text)
    with pytest.raises(BadLog, match=rf"names {module}\.{name}"):
        read_raw("dreamrec", [folder])


def test_a_file_cannot_change_what_the_next_one_is_read_with(tmp_path):
    """BUILD on a class would set its attributes; the records of a file are of types of its own."""
    folder = put(tmp_path, val=expanded(VALID, 9))
    before = read_raw("dreamrec", [folder]).frame
    frame = Name("pandas.core.frame", "DataFrame")
    for state in ({"name": "x"}, (None, {"name": "x", "__new__": 3})):
        (folder / "test_data.df").write_bytes(b"\x80\x03" + written(frame) + written(state) + b"b.")
        with pytest.raises(BadLog, match="is no pickled frame of pandas 1 or 2"):
            read_raw("dreamrec", [folder])
    (folder / "test_data.df").unlink()
    assert read_raw("dreamrec", [folder]).frame.equals(before)


def test_a_type_with_objects_inside_is_no_array_of_numbers(tmp_path):
    """Bytes must never be taken for references, whatever the type of an array says."""
    layout = Layout()
    for code in ("O8", "V16", "S8", "M8", "b1", "i3", "f16", "O"):
        array = layout.array(np.arange(3))
        shape = array.state[1]
        array.state = (1, shape, dtype(code), False, b"\x00" * 24)
        cell = {"seq": [array, array, array], "len_seq": [1, 1, 1], "next": [0.0, 0.0, 0.0]}
        with pytest.raises(BadLog, match=r"val_data\.df"):
            read_raw("dreamrec", [put(tmp_path, val=cell)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["seq"].__setitem__(2, [0, 2, 9, 9]), r"row 3: the history \[0, 2, 9, 9\] does not continue the"),
        (lambda c: c["seq"].__setitem__(7, [0, 2, 0, 4]), r"row 8: .* it would be \[4, 2, 0, 4\]"),
        (lambda c: c["seq"].__setitem__(0, [3, 9, 9, 9]), "row 1: the history is not empty, but a session must have"),
        (lambda c: c["seq"].__setitem__(1, [0, 9, 9]), "'seq' holds no lists of 4 items each"),
        (lambda c: c.__setitem__("seq", [row[:3] for row in c["seq"]]), "holds 3 values a row, of type int64"),
        (lambda c: c.__setitem__("seq", [[0.5] * 4 for _ in c["seq"]]), "holds 4 values a row, of type float64"),
        (lambda c: c["len_seq"].__setitem__(2, 1), "row 3: len_seq is 1, but the history has 2 items"),
        (lambda c: c["len_seq"].__setitem__(0, 2), "row 1: len_seq is 2, but the history has 0 items"),
        (lambda c: c["next"].__setitem__(4, 9.0), "row 5: next is 9; items are 0..8"),
        (lambda c: c["next"].__setitem__(4, -1.0), "row 5: next is -1; items are 0..8"),
        (lambda c: c["next"].__setitem__(4, 0.5), "row 5: next is 0.5, no whole number"),
        (lambda c: c["next"].__setitem__(4, float("nan")), "row 5: next is nan, no whole number"),
        (lambda c: c.pop("next"), "has no column 'next'; its columns are seq, len_seq"),
        (lambda c: c.__setitem__("next", ["x"] * 8), "column|arrays of type 'U1' are not read"),
    ],
)
def test_rows_that_are_no_sessions_are_refused(tmp_path, change, said):
    columns = expanded(VALID, 9)
    change(columns)
    folder = put(tmp_path / "in", val=columns)
    with pytest.raises(BadLog, match=said) as caught:
        import_log([folder], tmp_path / "out")
    assert "val_data.df" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_or_not_whole(tmp_path):
    folder = put(tmp_path / "a", val=expanded(VALID, 9), test=expanded(TEST, 9))
    other = put(tmp_path / "b", val=expanded(VALID, 9))
    with pytest.raises(BadLog, match=r"are two folders; DreamRec's files of one data set lie in one"):
        read_raw("dreamrec", [folder, other])
    (other / "val_data.df").unlink()
    with pytest.raises(BadLog, match=r"holds none of train_data\.df, val_data\.df, test_data\.df"):
        read_raw("dreamrec", [other])
    (other / "mine.df").write_bytes(b"x")
    with pytest.raises(BadLog, match=r"mine\.df is none of DreamRec's files"):
        read_raw("dreamrec", [other / "mine.df"])
    whole = (folder / "val_data.df").read_bytes()
    for content in (b"", whole[:-1], whole[: len(whole) // 2], b"hello\n", stream([1, 2]), stream({"a": 1})):
        (folder / "val_data.df").write_bytes(content)
        with pytest.raises(BadLog, match=r"val_data\.df is no pickled frame of pandas 1 or 2"):
            read_raw("dreamrec", [folder])
    (folder / "val_data.df").write_bytes(whole)
    (folder / "data_statis.df").unlink()
    with pytest.raises(BadLog, match=r"data_statis\.df: no such file"):
        read_raw("auto", [folder])
    for size, items in ((0, 9), (4, 0), (4, -1)):
        with pytest.raises(BadLog, match=rf"says seq_size {size} and item_num {items}; both are at least 1"):
            read_raw("auto", [put(tmp_path / "a", n_items=items, length=size)])


@pytest.mark.skipif(not (DATA / "zhihu").is_dir(), reason="no released data")
def test_the_counts_of_zhihu(tmp_path):
    """Sessions and rows of the published files, from the log that was made of them."""
    frame = pl.read_parquet(DATA / "zhihu" / "interactions.parquet").sort("user_id", "timestamp", maintain_order=True)
    sessions = frame.group_by("part", "user_id", maintain_order=True).agg("item_id")
    sets = {part: sessions.filter(pl.col("part") == part)["item_id"].to_list() for part in ("train", "val", "test")}
    folder = put(tmp_path / "in", n_items=4838, length=10, **{part: expanded(s, 4838, 10) for part, s in sets.items()})
    done = import_log([folder], tmp_path / "out")
    assert {"val_data.df: 1,171 sessions, 8,160 rows", "test_data.df: 1,172 sessions, 7,911 rows"} < {*done.notes}
    assert "exactly zhihu-dreamrec (sessions of DreamRec's files)" in done.notes
    assert list(session_lists(done.log).values()) == list(chain(*sets.values()))
    valid = splits.make_split(done.log, "next-item-given", 0).valid
    assert (len(valid), len(splits.next_item.with_empty(valid))) == (8160 - 1171, 8160)
