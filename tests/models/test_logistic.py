"""Logistic regression of clicks against the sum written out."""

import torch

import clicks
from diffacet.models import card


def test_log_odds_are_the_sum_of_the_weights_of_all_values():
    for numeric in (0, 2):
        about = clicks.facts(numeric=numeric)
        model = clicks.model(card("logistic"), about=about)
        batch = clicks.batch(3, click=about.click)
        table, sizes = model.fields.table.weight, [*about.click.sizes, *about.click.other_sizes]
        for b, found in enumerate(model.logits(batch)):
            expected, begin = model.constant[0], 0
            for value, size in zip([*batch.target[b], *batch.other[b]], sizes, strict=True):
                expected = expected + table[begin + int(value), 0]
                begin += size
            for n in range(numeric):
                expected = expected + batch.numeric[b, n].double() * model.slopes[n]
            assert torch.allclose(found, expected, atol=1e-12)


def test_histories_do_not_matter():
    model = clicks.model(card("logistic"))
    batch = clicks.batch(4)
    assert torch.equal(model.logits(batch), model.logits(clicks.changed(batch, end=batch.start)))
