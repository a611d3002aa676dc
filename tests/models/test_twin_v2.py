"""TWIN-V2: TWIN over clusters, which weigh as many behaviours as they stand for."""

import dataclasses

import numpy as np
import pytest
import torch

import clicks
import clickshop
from diffacet.core.batch import ClickBatch
from diffacet.core.contract import ClickFields, Facts
from diffacet.data.clicks import cut
from diffacet.data.clicks.clustering import clustered
from diffacet.data.clicks.kmeans import Rule
from diffacet.errors import BadSetting
from diffacet.models import twin, twin_v2

CARD, TWIN = twin_v2.CARDS[0], twin.CARDS[0]
SMALL = {"inner": 8, "kept": 100}


def both(about=None, **changes):
    """TWIN-V2 and TWIN of the same weights."""
    ours, theirs = (clicks.model(card, about=about, **SMALL | changes).eval() for card in (CARD, TWIN))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_without_clusters_it_is_twin():
    ours, theirs = both(kept=3)
    for seed in range(3):
        batch = clicks.batch(seed)
        for sizes in (None, torch.ones(len(batch.behaviours))):
            told = ours.logits(clicks.changed(batch, sizes=sizes))
            assert torch.allclose(told, theirs.logits(batch), atol=1e-12)


def test_sizes_are_heard_in_the_search_and_in_its_softmax():
    ours, theirs = both(kept=2)
    batch = clicks.batch(1, sized=True)
    target = ours.fields.target(batch)
    found = [model.long.found(model.fields, batch, model.long.asked(target))[0] for model in (ours, theirs)]
    assert not torch.equal(*found)
    ours, theirs = both(kept=100)
    assert not torch.allclose(ours.logits(batch), theirs.logits(batch))
    many = clicks.changed(batch, sizes=batch.sizes * 7)  # a factor of all is none
    assert torch.allclose(ours.logits(many), ours.logits(batch), atol=1e-6)


def test_n_equal_behaviours_weigh_the_same_in_a_cluster():
    """From the log on: what is clustered here is equal, but for the age, which is not read."""
    rng = np.random.default_rng(0)

    def equal(shown, done, items):
        """All behaviours are of one kind, of few items, some of them three to five times a user and day."""
        times = rng.integers(3, 6, done.height)
        rows = np.repeat(np.arange(done.height), times)
        return (
            shown,
            done.with_columns(behaviour_type=done["behaviour_type"].clear().extend_constant("view", done.height))[rows],
            items,
        )

    some = clickshop.log(behaviours=4, samples=80, change=equal)
    vectors = 100 * rng.standard_normal((some.vocabularies["item"].size, 4)).astype(np.float32)
    short = clustered(some, vectors, rule=Rule(most=5))
    pure = np.flatnonzero(short.sizes > 2)
    assert len(pure) > 20
    click = ClickFields(**some.fields())
    ours, theirs = both(Facts(click.sizes[0] - 3, 0, click=click), ages="none", short="none", use_user_id=False)
    rows = np.flatnonzero(_pure(some, short))
    assert len(rows) > 20
    assert (short.end - short.begin < some.end - some.begin)[rows].any()
    for one, other in ((ours, theirs), (ours, ours)):
        told = [model.logits(ClickBatch.from_arrays(cut(log, rows, 0))) for model, log in ((one, short), (other, some))]
        assert torch.allclose(*told, atol=1e-5)


def _pure(some, short):
    """Whether each sample sees as many of each item as the sizes say: no cluster has members of two items."""
    found = []
    for s in range(len(some)):
        items = some.behaviours[0, some.begin[s] : some.end[s]]
        own = slice(short.begin[s], short.end[s])
        sizes = np.bincount(short.behaviours[0, own], short.sizes[own], minlength=40)
        found.append(np.array_equal(sizes, np.bincount(items, minlength=40)))
    return np.array(found)


def test_the_short_term_branch_reads_single_behaviours():
    some = clickshop.log(behaviours=60, samples=80)
    vectors = np.random.default_rng(0).standard_normal((some.vocabularies["item"].size, 4)).astype(np.float32)
    short = clustered(some, vectors, rule=Rule(most=4), apart=5)
    click = ClickFields(**some.fields())
    ours, _ = both(Facts(click.sizes[0] - 3, 0, click=click), recent=5)
    batches = [ClickBatch.from_arrays(cut(log, np.arange(80), 0)) for log in (some, short)]
    assert batches[1].lengths.sum() < batches[0].lengths.sum()
    told = [ours.short(ours.fields, batch, ours.fields.target(batch)) for batch in batches]
    assert torch.allclose(*told, atol=1e-12)


def test_gradients():
    model = clicks.model(CARD, inner=8).train()
    model.loss(clicks.batch(7, sized=True))["click"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name


def test_settings():
    config = CARD.config()
    assert (config.parts, CARD.config(inner=6).parts, CARD.config(heads=8).parts) == (4, 2, 8)
    assert config.clusters is True
    assert (config.most, config.exponent, config.iterations) == (20, 0.3, 10)
    assert dataclasses.replace(config, clusters=False).clusters is False
    with pytest.raises(BadSetting, match="divides inner=64"):
        CARD.config(heads=3)
