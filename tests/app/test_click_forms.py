"""Click data of other forms: fields of users, behaviours without items, histories inside the rows."""

import dataclasses

import numpy as np
import polars as pl
import pytest

import clickshop
from clickshop import SPLIT
from diffacet.app import runs
from diffacet.data.clicks import BehaviourField
from diffacet.errors import BadSetting
from diffacet.rank.click_evaluate import evaluate_clicks
from diffacet.rank.clicks import sigmoid

TINY = {"dim": 4, "hidden": "12,6", "batch_size": 64, "length": 6, "max_steps": 8}


def answered(run):
    """The probabilities of the test samples, as evaluation has them."""
    packed = run.packed()
    return sigmoid(evaluate_clicks(run.model, packed.log, packed.split.test, length=6).logits)


def later(shown):
    return shown.filter(pl.col("timestamp") >= SPLIT[1]).drop("label")


# --- users have fields; behaviours are told by their kind alone --------------------------------------------------

PROFILED = clickshop.renamed(
    behaviour_fields=(BehaviourField("kind", "kind", "items.kind"), BehaviourField("type", "behaviour_type")),
    user_fields=("user_id", "users.town"),
    target_fields=("item_id",),
    dense_fields=("price", "users.age", "items.weight"),
)


def towns():
    users = np.arange(clickshop.USERS)
    return pl.DataFrame({"user_id": users, "town": [f"town {u % 4}" for u in users], "age": 20.0 + users})


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run on data in which behaviours have a kind and no item, as in Alibaba's."""
    folder = tmp_path_factory.mktemp("profiled")
    shown, done, items = clickshop.frames()
    items = items.with_columns(weight=pl.Series(np.arange(len(items)) * 1.5))
    done = done.join(items.select("item_id", "kind"), on="item_id", how="left").drop("item_id")
    clickshop.folder(folder / "data", schema=PROFILED)
    for name, frame in (("samples", shown), ("behaviours", done), ("items", items), ("users", towns())):
        frame.write_parquet(folder / "data" / f"{name}.parquet")
    return runs.train("din", folder / "data", folder / "run", set=TINY)


def test_fields_of_users_are_read_from_a_file(profiled, tmp_path):
    data = profiled.path.parent / "data"
    later(pl.read_parquet(data / "samples.parquet")).write_csv(tmp_path / "shown.csv")
    towns().rename({"user_id": "customer"}).write_csv(tmp_path / "people.csv")
    where = [tmp_path / "shown.csv", data / "behaviours.parquet", tmp_path / "out.parquet"]
    with pytest.raises(BadSetting, match=r"a model of shop needs user_fields of users; pass --users FILE"):
        profiled.predict(*where)
    told = profiled.predict(*where, users=tmp_path / "people.csv", columns={"user_id": "customer"})
    found = pl.read_parquet(tmp_path / "out.parquet")["probability"]
    np.testing.assert_allclose(found, answered(profiled), atol=1e-6)
    assert "users.town" not in told["unknown"]
    cheap = profiled.items.with_columns(weight=pl.lit(0.0))
    cheap.write_csv(tmp_path / "items.csv")
    profiled.predict(
        *where, users=tmp_path / "people.csv", items=tmp_path / "items.csv", columns={"user_id": "customer"}
    )
    assert not pl.read_parquet(tmp_path / "out.parquet")["probability"].equals(found)


def test_what_the_history_is_told_by_comes_from_the_items(profiled):
    """Behaviours have no item, so each item of the history stands for its kind."""
    context = {"users.town": "town 1", "users.age": "33", "price": 2}
    found = profiled.rerank([7, 8, 9], [1, 2, 3], user=1, at=SPLIT[1], context=context)
    kinds = dict(zip(profiled.items["item_id"], profiled.items["kind"], strict=True))
    alike = [next(i for i in kinds if kinds[i] == kinds[one]) for one in (7, 8, 9)]
    assert found.equals(profiled.rerank(alike, [1, 2, 3], user=1, at=SPLIT[1], context=context))
    other = next(i for i in kinds if kinds[i] not in {None, *(kinds[one] for one in (7, 8, 9))})
    changed = profiled.rerank([other] * 3, [1, 2, 3], user=1, at=SPLIT[1], context=context)
    assert not changed["probability"].equals(found["probability"])
    said = profiled.rerank([other] * 3, [1, 2, 3], user=1, at=SPLIT[1], context=context, behaviour={"kind": kinds[7]})
    assert said.equals(profiled.rerank([7] * 3, [1, 2, 3], user=1, at=SPLIT[1], context=context))
    with pytest.raises(BadSetting, match=r"no context 'users.towns' \(did you mean 'users.town'\?\)"):
        profiled.rerank([7], [1], context={"users.towns": "town 1"})


# --- histories inside the rows -----------------------------------------------------------------------------------

INLINE = clickshop.renamed(
    history="inline",
    behaviour_times="order",
    behaviour_fields=(BehaviourField("item", "items_before", "item_id"), BehaviourField("type", "types_before")),
)


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """A run on data whose samples bring the five behaviours before them along, as Ele.me's do."""
    folder = tmp_path_factory.mktemp("inline")
    shown, *_ = clickshop.frames()
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 6, len(shown))
    shown = shown.with_columns(
        items_before=pl.Series([rng.integers(0, 20, n).tolist() for n in lengths], dtype=pl.List(pl.Int64)),
        types_before=pl.Series([rng.choice(["view", "cart"], n).tolist() for n in lengths], dtype=pl.List(pl.String)),
    )
    clickshop.folder(folder / "data", schema=INLINE)
    (folder / "data" / "behaviours.parquet").unlink()
    shown.write_parquet(folder / "data" / "samples.parquet")
    return runs.train("din", folder / "data", folder / "run", set=TINY)


def test_histories_inside_the_rows_are_answered(inline, tmp_path, call):
    data = inline.path.parent / "data"
    later(pl.read_parquet(data / "samples.parquet")).write_parquet(tmp_path / "shown.parquet")
    words = ["--samples", tmp_path / "shown.parquet", "--out", tmp_path / "out.parquet"]
    code, out, err = call("predict", inline.path, *words)
    assert (code, err) == (0, "")
    found = pl.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(found["probability"], answered(inline), atol=1e-6)
    assert "samples have no behaviour before them" in out
    code, _, err = call("predict", inline.path, *words, "--behaviours", tmp_path / "shown.parquet")
    assert code == 2
    assert "brings histories inside the samples, so it takes no --behaviours FILE" in err


def test_a_history_is_re_ranked_by_such_a_run_too(inline):
    one, other = inline.rerank([1, 2, 3], [4, 5]), inline.rerank([6, 2, 9], [4, 5])
    assert not one["probability"].equals(other["probability"])
    assert one.equals(inline.rerank([1, 2, 3], [4, 5]))
    said = inline.rerank([1, 2, 3], [4, 5], behaviour={"types_before": "cart"})
    assert not said["probability"].equals(one["probability"])


def test_a_gap_cannot_move_the_ends_of_such_histories(inline, tmp_path):
    with pytest.raises(BadSetting, match="bring their histories along"):
        runs.train(
            "din",
            inline.path.parent / "data",
            tmp_path / "run",
            set=TINY,
            reading=dataclasses.replace(inline.reading, gap=5),
        )
