"""Every card and every preset of the table against what a model promises (`contract.py`).

What models of clicks promise beside is in tests/models/test_click_contract.py.
"""

import dataclasses
from typing import get_args

import numpy as np
import pytest

import contract
from diffacet.app import settings
from diffacet.core.contract import Facts, Task, Trained, Training
from diffacet.models import MODELS, card

CARDS = [card(name) for name in MODELS]
ALL = [(one, preset) for one in CARDS if one.task != "click" for preset in one.presets]


def is_trained(one):
    return isinstance(one.build(one.config(), Facts(2, 2, n_users=1, clusters=np.array([-1, 0, 1]))), Trained)


TRAINED = [(one, preset) for one, preset in ALL if is_trained(one)]
# pop and random: what a history does not move; dreamrec: whose items start at length sqrt(d), and learns the
# checkerboard at sizes of its own (tests/models/test_dreamrec.py).
PERSONAL = [(one, preset) for one, preset in ALL if one.name not in {"pop", "random", "dreamrec"}]


def over(pairs):
    return pytest.mark.parametrize(("one", "preset"), pairs, ids=[f"{one.name}-{preset}" for one, preset in pairs])


def test_the_battery_has_something_to_test():
    of_items = {one.name for one in CARDS if one.task != "click"}
    assert {one.name for one, _ in ALL} == of_items
    assert {one.name for one, _ in TRAINED} == of_items - {"pop", "random", "item-knn", "ease", "als"}


@over(TRAINED)
def test_finite_loss(one, preset):
    contract.finite_loss_of_named_terms(one, preset)


@over(TRAINED)
def test_gradient_where_it_should_be(one, preset):
    contract.gradient_where_it_should_be(one, preset)


@over(ALL)
def test_shapes(one, preset):
    contract.shapes(one, preset)


@over(ALL)
def test_same_answer_alone_or_in_a_batch(one, preset):
    contract.same_answer_alone_or_in_a_batch(one, preset)


@over(ALL)
def test_bit_equal_in_any_company(one, preset):
    contract.bit_equal_in_any_company(one, preset)


@over([(one, preset) for one, preset in ALL if hasattr(one.build, "explain")])
def test_explains_its_answer(one, preset):
    contract.explains_its_answer(one, preset)


@over(ALL)
def test_padding_is_irrelevant(one, preset):
    contract.padding_is_irrelevant(one, preset)
    contract.padding_row_is_irrelevant(one, preset)


@over(ALL)
def test_an_empty_history_is_finite(one, preset):
    contract.an_empty_history_is_finite(one, preset)


@over(ALL)
def test_inference_leaves_everything_alone(one, preset):
    contract.inference_leaves_everything_alone(one, preset)


@over(ALL)
def test_checkpoint_round_trip(one, preset, tmp_path):
    contract.checkpoint_round_trip(one, preset, tmp_path)


@over(ALL)
def test_settings_round_trip(one, preset):
    contract.settings_round_trip(one, preset)


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@over(TRAINED)
def test_resuming_equals_an_unbroken_run(one, preset, updates, tmp_path):
    contract.resuming_equals_an_unbroken_run(one, preset, tmp_path, updates)


@over(PERSONAL)
def test_learns_a_checkerboard(one, preset):
    contract.learns_a_checkerboard(one, preset)


@pytest.mark.parametrize("one", CARDS, ids=lambda one: one.name)
def test_every_setting_is_described(one):
    for row in settings.describe(one):
        assert row["description"], row["name"]


@pytest.mark.parametrize("one", CARDS, ids=lambda one: one.name)
def test_names_of_model_and_training_settings_do_not_collide(one):
    mine = {field.name for field in dataclasses.fields(one.config)}
    assert mine.isdisjoint(field.name for field in dataclasses.fields(Training))


@pytest.mark.parametrize("one", CARDS, ids=lambda one: one.name)
def test_cards_tell_what_they_are(one):
    assert one.task in get_args(Task)
    assert one.summary
    assert one.paper.bibtex().startswith("@")
    assert one.paper.title in str(one.paper)
