"""Every card and every preset of the table against what a model promises (`contract.py`).

Answers, learning and resuming are in files of their own, since each takes a while; what models of clicks promise beside
is in test_click_contract.py.
"""

import dataclasses
from typing import get_args

import pytest

import contract
from diffacet.app import settings
from diffacet.core.contract import Task, Training
from presets import ALL, CARDS, EVERY, TRAINED, over


def test_the_battery_has_something_to_test():
    of_items = {one.name for one in CARDS if one.task != "click"}
    assert len(ALL) > 90
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


@over([(one, preset) for one, preset in ALL if hasattr(one.build, "explain")])
def test_explains_its_answer(one, preset):
    contract.explains_its_answer(one, preset)


@over(ALL)
def test_an_empty_history_is_finite(one, preset):
    contract.an_empty_history_is_finite(one, preset)


@over(ALL)
def test_inference_leaves_everything_alone(one, preset):
    contract.inference_leaves_everything_alone(one, preset)


@over(EVERY)
def test_settings_round_trip(one, preset):
    contract.settings_round_trip(one, preset)


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
