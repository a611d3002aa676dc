"""The settings of the papers' tables, as the papers and their codes print them."""

import dataclasses

from diffacet.core import protocols
from diffacet.core.contract import Training

USUAL = Training()


def set_apart(training):
    """What differs from the published protocol's defaults."""
    told = {field.name: getattr(training, field.name) for field in dataclasses.fields(training)}
    return {name: value for name, value in told.items() if value != getattr(USUAL, name)}


def test_matching_tables_differ_in_budget_and_length_only():
    """A million steps and 50 validations of patience as printed; shorter where validation is flat long before."""
    assert set_apart(protocols.BOOK) == {"item_updates": "dense"}
    short = {"item_updates": "dense", "patience": 5}
    assert set_apart(protocols.BEAUTY) == short | {"max_steps": 6_000, "validate_every": 200}
    assert set_apart(protocols.GOWALLA) == short | {"max_steps": 15_000, "length": 40}


def test_ours_learns_from_every_position_at_a_falling_rate():
    ours = {"first_target": 1, "max_steps": 8_000, "anneal": 0.5, "validate_every": 500, "patience": 8}
    assert set_apart(protocols.BEST) == ours


def test_collaborative_tables_are_those_of_diffrecs_code():
    """400 rows a batch at 0.001, at most 1000 epochs, every fifth judged by Recall@20; pairs in batches of 2048."""
    rows = {
        "length": 0, "lr": 1e-3, "batch_size": 400, "max_epochs": 1000, "validate_epochs": 5, "patience": 3,
        "metric": "recall@20",
    }  # fmt: skip
    assert set_apart(protocols.PROFILES) == rows
    assert set_apart(protocols.PAIRS) == rows | {"batch_size": 2048}
    assert set_apart(protocols.ROWS) == {"length": 0, "max_steps": 0, "metric": "recall@20"}


def test_next_item_tables_are_dimerecs():
    """Histories of 10 (of MovieLens-10M 70), ten negatives for each pair, every pair once an epoch."""
    pairs = {
        "lr": 0.005, "batch_size": 256, "length": 10, "first_target": 1, "sampling": "epochs", "negatives": 10,
        "own_negatives": True, "max_epochs": 200, "validate_epochs": 1, "patience": 10, "metric": "hit_rate@20",
        "item_updates": "dense",
    }  # fmt: skip
    assert set_apart(protocols.NEXT_ITEM) == pairs
    assert set_apart(protocols.NEXT_ITEM_LONG) == pairs | {"length": 70}


def test_click_tables_pass_once_over_the_showings():
    click = set_apart(protocols.CLICK)
    assert (click["max_epochs"], click["length"], click["negatives"], click["patience"]) == (1, 1000, 0, 0)
    assert (click["lr"], click["batch_size"], click["clip"], click["metric"]) == (0.001, 1024, 10, "auc")


def test_searches_look_around_what_the_tables_use():
    for search, training in (
        (protocols.PROFILES_SEARCH, protocols.PROFILES),
        (protocols.PAIRS_SEARCH, protocols.PAIRS),
        (protocols.NEXT_ITEM_SEARCH, protocols.NEXT_ITEM),
    ):
        assert search["negatives"] is None
        assert search["lr"].low <= training.lr <= search["lr"].high
        assert search["lr"].log
    assert protocols.CLICK.lr in protocols.CLICK_SEARCH["lr"].choices
