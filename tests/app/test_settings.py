import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.app import settings
from diffacet.core.contract import Training
from diffacet.errors import BadSetting
from diffacet.models import MODELS, card

DMI = card("dmi")
BASE = settings.preset(DMI, "paper")
CARDS = [card(name) for name in MODELS]


def apply(**changes):
    return settings.apply(DMI, BASE, changes)


# --- pairs -----------------------------------------------------------------------------------------------------


def test_pairs():
    found = settings.split_pairs(["a=1", " b = x y ", "c=k=v", "d="])
    assert found == {"a": "1", "b": "x y", "c": "k=v", "d": ""}
    assert settings.split_pairs([]) == {}


@pytest.mark.parametrize("pair", ["gamma", "", "=3", "  =3"])
def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(BadSetting, match=f"--set takes key=value; got '{pair}'"):
        settings.split_pairs([pair])


def test_a_key_given_twice_is_refused():
    with pytest.raises(BadSetting, match="--set gamma is given twice"):
        settings.split_pairs(["gamma=1", "eta=1", "gamma = 2"])


# --- values ----------------------------------------------------------------------------------------------------


def test_changes_go_to_the_dataclass_that_owns_the_name():
    found = apply(gamma="0.25", steps="7", lr="1e-3", mask_hits="true", variant="gd", metric="ndcg@20", seed="3")
    assert found.model == dataclasses.replace(BASE.model, gamma=0.25, steps=7, variant="gd")
    assert found.training == dataclasses.replace(BASE.training, lr=1e-3, mask_hits=True, metric="ndcg@20", seed=3)
    assert found.source == BASE.source
    assert BASE.model.gamma == DMI.presets["paper"].model.gamma  # the preset itself is as it was
    assert apply() == BASE


def test_values_may_be_typed_already():
    assert apply(gamma=0.25, refine_steps=None, mask_hits=True) == apply(
        gamma="0.25", refine_steps="none", mask_hits="true"
    )


@pytest.mark.parametrize("text", ["none", "None", "null", ""])
def test_none_where_none_is_allowed(text):
    assert settings.apply(DMI, apply(refine_steps="3"), {"refine_steps": text}).model.refine_steps is None
    knn = card("item-knn")
    assert settings.apply(knn, settings.preset(knn, "long"), {"window": text}).model.window is None
    with pytest.raises(BadSetting, match=r"^gamma: "):
        apply(gamma=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("none", ()), ("()", ()), ("", ()), ("8", (8,)), ("8,3", (8, 3)), ("(8, 3)", (8, 3)), ("[9]", (9,))],
)
def test_lists_of_widths(text, expected):
    ydnn = card("y-dnn")
    assert settings.apply(ydnn, settings.preset(ydnn, "paper"), {"hidden": text}).model.hidden == expected


@pytest.mark.parametrize("text", ["0", "8,-3", "8,x", "1.5"])
def test_impossible_widths_are_refused(text):
    ydnn = card("y-dnn")
    with pytest.raises(BadSetting, match=r"^hidden: it should be .*\(from --set hidden="):
        settings.apply(ydnn, settings.preset(ydnn, "paper"), {"hidden": text})


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "suggestion"), [("gama", "gamma"), ("refine-steps", "refine_steps"), ("batchsize", "batch_size")]
)
def test_an_unknown_key_suggests_the_nearest(key, suggestion):
    with pytest.raises(BadSetting) as refusal:
        apply(**{key: "1"})
    expected = f"dmi has no setting '{key}' (did you mean '{suggestion}'?). See 'diffacet models dmi'"
    assert str(refusal.value) == expected


def test_names_that_are_near_nothing_make_whole_sentences():
    with pytest.raises(BadSetting, match=r"^dmi has no setting 'qqqqq'\. See 'diffacet models dmi'$"):
        apply(qqqqq="1")
    with pytest.raises(BadSetting, match=r"^dmi has no preset 'qqqqq'\. It has: paper, "):
        settings.preset(DMI, "qqqqq")
    with pytest.raises(BadSetting, match=r"^unknown model 'qqqqq'\. See 'diffacet models'$"):
        card("qqqqq")


def test_near_models_and_presets_are_suggested():
    with pytest.raises(BadSetting, match=r"^unknown model 'dim' \(did you mean 'dmi'\?\)\. See 'diffacet models'$"):
        card("dim")
    with pytest.raises(BadSetting, match=r"no preset 'papr' \(did you mean 'paper'\?\)\. It has: "):
        settings.preset(DMI, "papr")


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("gamma", ["1", "0.001", "0.5"], ["0", "-0.1", "1.5", "nan", "inf", "x", ""]),
        ("eta", ["0", "1", "0.4"], ["-0.01", "1.01", "nan"]),
        ("steps", ["1", "80"], ["0", "-3", "2.5", "ten"]),
        ("interests", ["1", "8"], ["0", "-1", "1.5"]),
        ("dim", ["1", "64"], ["0", "-64"]),
        ("dm_weight", ["0", "7"], ["-1", "inf"]),
        ("hardness", ["0", "10"], ["-0.1", "nan"]),
        ("routing", ["0", "100"], ["-1"]),
        ("noise_scale", ["0.1"], ["0", "-1", "inf"]),
        ("noise_min", ["1e-5"], ["0", "1", "-1"]),
        ("noise_max", ["0.02"], ["0", "1"]),
        ("denoiser_dropout", ["0", "0.9"], ["1", "-0.1"]),
        ("refine_steps", ["0", "1", "10", "none"], ["-1", "1.5"]),
        ("noise_seed", ["0", "5"], ["-1"]),
        ("variant", ["full", "diff", "gd", "t", "ip"], ["none", "DMI-GD", ""]),
        ("context_grad", ["all", "rec", "none"], ["some"]),
        ("norm", ["pre", "post"], ["layer"]),
        ("base", ["remi", "comirec-sa", "mind"], ["y-dnn"]),
        ("lr", ["1e-4"], ["0", "-1", "nan"]),
        ("anneal", ["0", "1"], ["-0.1", "1.1"]),
        ("batch_size", ["1"], ["0"]),
        ("max_steps", ["0", "10"], ["-1"]),
        ("length", ["0", "1"], ["-1"]),
        ("negatives", ["0", "1"], ["-1"]),
        ("validate_every", ["1"], ["0"]),
        ("patience", ["0"], ["-1"]),
        ("seed", ["0"], ["-1", "1.5"]),
        ("sampler", ["uniform", "log-uniform"], ["zipf"]),
        ("item_updates", ["auto", "dense", "row-sparse"], ["sparse"]),
        ("precision", ["float32", "bfloat16"], ["float16"]),
        ("metric", ["recall@50", "ndcg_set@20"], ["recall", "recall@0", "@20", "Recall@20", "recall@x"]),
        ("mask_hits", ["true", "false", "1", "0"], ["maybe", "2"]),
    ],
)
def test_ranges(key, inside, outside):
    """A refusal says key and value and what is allowed, in one line."""
    changes = {"dim": "8", "heads": "1"} if key == "dim" else {}
    for value in inside:
        found = apply(**(changes | {key: value}))
        owner = found.model if key in {f.name for f in dataclasses.fields(found.model)} else found.training
        got = getattr(owner, key)
        assert float(got) == float(value) if _number(value) else str(got).lower() == value
    for value in outside:
        with pytest.raises(BadSetting) as refusal:
            apply(**{key: value})
        message = str(refusal.value)
        assert message.startswith(f"{key}: it should ")
        assert message.endswith(f"; got {value!r} (from --set {key}={value})")
        assert "\n" not in message


def _number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": "3"}, r"heads divides dim; got heads=3 and dim=64"),
        ({"refine_steps": "11"}, r"refine_steps lies in 0\.\.steps; got 11 with steps=10"),
        ({"steps": "4", "refine_steps": "5"}, r"refine_steps lies in 0\.\.steps; got 5 with steps=4"),
        ({"noise_max": "0.9"}, r"noise levels lie in \(0, 1\)"),
        ({"noise_min": "0.1"}, r"keep the lower bound below the upper|noise levels lie"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(BadSetting, match=message):
        apply(**changes)


def test_settings_that_agree_only_together_are_taken_together():
    found = apply(dim="60", heads="3", steps="30", refine_steps="20")
    assert (found.model.dim, found.model.heads, found.model.refine_steps) == (60, 3, 20)


# --- stored settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", CARDS, ids=lambda c: c.name)
def test_stored_settings_round_trip(one):
    for preset in one.presets.values():
        for value in (preset.model, preset.training):
            stored = json.loads(json.dumps(dataclasses.asdict(value)))
            assert settings.from_dict(type(value), stored, "run.json") == value


def test_stored_settings_of_another_version_are_refused():
    for stored in ({"gamma": 2.0}, {"not_a_setting": 1}, {"heads": [1]}):
        with pytest.raises(BadSetting, match=r"^here/run\.json holds settings that this version does not take: "):
            settings.from_dict(DMI.config, stored, "here/run.json")


def test_unknown_keys_are_never_dropped():
    """What STRICT is for: pydantic's default would ignore them."""
    for one in CARDS:
        for kind in (one.config, Training):
            with pytest.raises(Exception, match="not_a_setting"):
                kind(not_a_setting=1)
            with pytest.raises(dataclasses.FrozenInstanceError):
                kind().seed = 1


# --- the table of settings -------------------------------------------------------------------------------------


def test_inference_settings():
    assert settings.inference_settings(DMI.config) == {"refine_steps", "chain", "start", "reverse_noise", "noise_seed"}
    assert settings.inference_settings(card("item-knn").config) == {"recency", "oldest_weight"}
    for name in ("pop", "y-dnn", "comirec-sa", "remi"):
        assert settings.inference_settings(card(name).config) == set()
    assert settings.inference_settings(Training) == set()


@pytest.mark.parametrize("one", CARDS, ids=lambda c: c.name)
def test_the_table_tells_every_setting(one):
    rows = settings.describe(one)
    names = [row["name"] for row in rows]
    assert names == [f.name for f in dataclasses.fields(one.config)] + [f.name for f in dataclasses.fields(Training)]
    assert len(set(names)) == len(names)  # the two halves never share a name
    for row in rows:
        assert row["description"]
        assert row["type"]
        assert "Annotated" not in row["type"]
        owner = one.config() if row["group"] == "model" else Training()
        assert row["default"] == getattr(owner, row["name"])
        for name, value in row["presets"].items():
            preset = one.presets[name]
            assert value == getattr(preset.model if row["group"] == "model" else preset.training, row["name"])
        assert set(row["presets"]) == set(one.presets)
        assert row["inference"] == (row["name"] in settings.inference_settings(one.config))


def test_rows_of_the_table():
    rows = {row["name"]: row for row in settings.describe(DMI)}
    assert (rows["gamma"]["symbol"], rows["gamma"]["range"], rows["gamma"]["type"]) == ("γ", "> 0, ≤ 1", "float")
    assert (rows["refine_steps"]["type"], rows["refine_steps"]["range"]) == ("none | int", "≥ 0")
    assert rows["variant"]["type"] == "full | diff | gd | t | ip"
    assert rows["anneal"]["range"] == "≥ 0, ≤ 1"


@given(st.text(max_size=12), st.text(max_size=12))
def test_whatever_is_typed_is_taken_or_refused_in_one_line(key, value):
    for name in (key, "gamma", "refine_steps", "variant", "metric", "steps"):
        try:
            apply(**{name: value})
        except BadSetting as refusal:
            assert len(str(refusal)) < 500  # noqa: PT017 - taken is as good as refused
