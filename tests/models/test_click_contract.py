"""Every card of a model of clicks and every preset against what such a model promises (`contract_clicks.py`)."""

import pytest

import contract_clicks as promised
from diffacet.models import MODELS, card

CARDS = [one for one in map(card, MODELS) if one.task == "click"]
ALL = [(one, preset) for one in CARDS for preset in one.presets]
over_all = pytest.mark.parametrize(("one", "preset"), ALL, ids=[f"{one.name}-{preset}" for one, preset in ALL])


@over_all
def test_finite_loss(one, preset):
    promised.finite_loss_of_named_terms(one, preset)


@over_all
def test_gradient_where_it_should_be(one, preset):
    promised.gradient_where_it_should_be(one, preset)


@over_all
def test_same_answer_alone_or_in_a_batch(one, preset):
    promised.same_answer_alone_or_in_a_batch(one, preset)


@over_all
def test_labels_do_not_matter(one, preset):
    promised.labels_do_not_matter(one, preset)


@over_all
def test_older_behaviours_do_not_matter(one, preset):
    promised.older_behaviours_do_not_matter(one, preset)


@over_all
def test_the_future_does_not_matter(one, preset):
    promised.the_future_does_not_matter(one, preset)


@over_all
def test_empty_histories_are_finite(one, preset):
    promised.empty_histories_are_finite(one, preset)


@over_all
def test_inference_leaves_everything_alone(one, preset):
    promised.inference_leaves_everything_alone(one, preset)


@over_all
def test_checkpoint_round_trip(one, preset, tmp_path):
    promised.checkpoint_round_trip(one, preset, tmp_path)


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@over_all
def test_resuming_equals_an_unbroken_run(one, preset, updates, tmp_path):
    promised.resuming_equals_an_unbroken_run(one, preset, tmp_path, updates)


@over_all
def test_settings_round_trip(one, preset):
    promised.settings_round_trip(one, preset)


@over_all
def test_learns_what_is_liked(one, preset):
    promised.learns_what_is_liked(one, preset)
