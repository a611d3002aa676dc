"""TWIN against its equations in loops: one relevance in both stages, heads apart, cross fields, sizes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.core.behaviours import HeadwiseSearch
from diffacet.errors import BadSetting
from diffacet.models.twin import CARDS, TWINConfig

CARD = CARDS[0]


def split(search, x):
    """(d,) -> numbers of the inherent fields joined, and a list of the cross fields."""
    parts = x.view(len(search.shared), -1)
    inherent = [part for part, both in zip(parts, search.shared, strict=True) if both]
    return torch.cat(inherent), [part for part, both in zip(parts, search.shared, strict=True) if not both]


def alphas(model, batch, b, head):
    """Relevance of every behaviour of sample b for one head, entry by entry."""
    s = model.long
    part = slice(head * s.size, (head + 1) * s.size)
    query = s.query.weight[part] @ split(s, clicks.embedding(model.fields, batch.target[b]))[0]
    told = []
    for i in clicks.seen(batch, b):
        own, cross = split(s, clicks.embedding(model.fields, batch.behaviours[i]))
        alpha = (s.key.weight[part] @ own) @ query / math.sqrt(s.size)
        for j, x in enumerate(cross):
            alpha = alpha + s.cross.beta[head, j] * (x @ s.cross.weight[head, j])
        if s.age is not None:
            x = s.age[clicks.age(batch, b, i)]
            alpha = alpha + s.age_cross.beta[head, 0] * (x @ s.age_cross.weight[head, 0])
        if s.sized:
            alpha = alpha + math.log(float(batch.sizes[i]))
        told.append(alpha)
    return told


def value(model, batch, b, i, head):
    s = model.long
    x = clicks.embedding(model.fields, batch.behaviours[i])
    if s.age is not None:
        x = torch.cat([x, s.age[clicks.age(batch, b, i)]])
    return s.value.weight[head * s.size : (head + 1) * s.size] @ x


def by_hand(model, batch):
    """(B, d), head by head over the best K of each head's own."""
    told = []
    for b in range(len(batch)):
        joined = torch.zeros(model.long.heads * model.long.size, dtype=torch.float64)
        for h in range(model.long.heads):
            scored = dict(zip(clicks.seen(batch, b), alphas(model, batch, b, h), strict=True))
            rows = clicks.best(list(scored.values()), list(scored), model.long.kept)
            whole = sum(scored[i].exp() for i in rows)
            for i in rows:
                part = slice(h * model.long.size, (h + 1) * model.long.size)
                joined[part] += scored[i].exp() / whole * value(model, batch, b, i, h)
        told.append(model.long.out.weight @ joined)
    return torch.stack(told)


@pytest.mark.parametrize("changes", [{}, {"heads": 2, "inner": 6, "kept": 1}, {"ages": "none"}, {"kept": 50}])
@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, seed):
    model = clicks.model(CARD, seed=seed, **{"inner": 8} | changes).eval()
    batch = clicks.batch(seed)
    with torch.no_grad():
        assert torch.allclose(model.logits(batch), clicks.together(model, batch, by_hand(model, batch)), atol=1e-6)


def sized(model, kept):
    """The same search with the logarithm of sizes in its relevance."""
    model.long.sized, model.long.kept = True, kept
    return model


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_sizes_count_as_their_logarithm(seed):
    model = sized(clicks.model(CARD, seed=seed, inner=8), 3)
    batch = clicks.batch(seed, sized=True)
    with torch.no_grad():
        target = model.fields.target(batch)
        assert torch.allclose(model.long(model.fields, batch, target), by_hand(model, batch), atol=1e-6)


def test_a_row_of_size_n_weighs_like_n_rows():
    model = sized(clicks.model(CARD, inner=8), 100)
    batch = clicks.batch(3, B=1, users=1, sized=True)
    n = len(batch.behaviours)
    batch = clicks.changed(batch, start=torch.zeros(1, dtype=torch.int64), end=torch.tensor([n]))
    times = batch.sizes.long()
    spread = clicks.changed(
        batch,
        behaviours=batch.behaviours.repeat_interleave(times, 0),
        times=batch.times.repeat_interleave(times),
        sizes=torch.ones(int(times.sum())),
        end=times.sum().view(1),
    )
    forms = (batch, spread, clicks.changed(batch, sizes=None))
    told, same, without = (model.long(model.fields, one, model.fields.target(one)) for one in forms)
    assert torch.allclose(told, same, atol=1e-9)
    assert not torch.allclose(told, without)


def test_what_is_kept_has_the_highest_weights_of_the_full_attention():
    """Both stages rank alike: the kept set of a head is the top of its attention over everything."""
    model = clicks.model(CARD, inner=8, kept=3)
    batch = clicks.batch(4)
    place, mask = model.long.found(model.fields, batch, model.long.asked(model.fields.target(batch)))
    assert place.shape == (8, 4, 3)
    for b in range(8):
        for h in range(4):
            rows = clicks.seen(batch, b)
            scores = torch.stack(alphas(model, batch, b, h)) if rows else torch.zeros(0)
            assert place[b, h][mask[b, h]].tolist() == clicks.best(scores.softmax(0).double().tolist(), rows, 3)


def test_with_everything_kept_it_is_full_attention():
    model = clicks.model(CARD, inner=8, kept=100, ages="none").eval()
    with torch.no_grad():
        model.long.cross.beta.zero_()
        batch, s = clicks.batch(5), model.long
        told = s(model.fields, batch, model.fields.target(batch))
        for b in range(8):
            E = [clicks.embedding(model.fields, batch.behaviours[i]) for i in clicks.seen(batch, b)]
            if not E:
                assert not told[b].any()
                continue
            keys = torch.stack([s.key(split(s, x)[0]) for x in E]).view(len(E), 4, 2).transpose(0, 1)
            values = torch.stack([s.value(x) for x in E]).view(len(E), 4, 2).transpose(0, 1)
            query = s.query(split(s, clicks.embedding(model.fields, batch.target[b]))[0]).view(4, 1, 2)
            heads = torch.nn.functional.scaled_dot_product_attention(query, keys, values)
            assert torch.allclose(told[b], s.out(heads.flatten()), atol=1e-9)


def test_projections_of_items_may_be_made_once():
    """A behaviour's inherent fields meet the target through W^h, whatever user it is of: a table serves all."""
    model = clicks.model(CARD, inner=8, ages="none")
    batch, s = clicks.batch(6), model.long
    with torch.no_grad():
        s.cross.beta.zero_()
        asked = s.asked(model.fields.target(batch))
        direct = torch.einsum("nd,bhd->bhn", model.fields(batch.behaviours), asked)
        pairs, owner = batch.behaviours[:, :2].unique(dim=0, return_inverse=True)
        known = torch.cat([pairs, torch.full((len(pairs), 1), 3)], 1)
        table = torch.stack([s.key(split(s, model.fields(row))[0]) for row in known]).view(-1, 4, 2)
        own = torch.stack([split(s, x)[0] for x in model.fields.target(batch)])
        query = s.query(own).view(-1, 4, 2) / math.sqrt(2)
        assert torch.allclose(torch.einsum("nhs,bhs->bhn", table[owner], query), direct, atol=1e-9)


def test_without_beta_cross_fields_count_in_values_only():
    model = clicks.model(CARD, inner=8, short="none")
    batch = clicks.batch(7)
    with torch.no_grad():
        model.long.cross.beta.zero_()
        model.long.age_cross.beta.zero_()
    other = clicks.changed(batch, behaviours=batch.behaviours.clone(), times=batch.times - 40 * clicks.HOUR)
    other.behaviours[:, 2] = 3
    for found in ("place", "long"):
        told = []
        for one in (batch, other):
            target = model.fields.target(one)
            asked = model.long.asked(target)
            told.append(
                model.long.found(model.fields, one, asked)[0]
                if found == "place"
                else model.long(model.fields, one, target)
            )
        assert torch.equal(*told) == (found == "place")


def test_gradients():
    """Of everything but what was not kept."""
    model = clicks.model(CARD, inner=8, kept=1, short="none").train()
    batch = clicks.batch(7, B=30)
    place, mask = model.long.found(model.fields, batch, model.long.asked(model.fields.target(batch)))
    expected = set(batch.behaviours[place[mask], 0].tolist()) | set(batch.target[:, 0].tolist())
    model.loss(batch)["click"].backward()
    assert set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist()) == expected
    model = clicks.model(CARD, inner=8).train()
    model.loss(batch)["click"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name


def test_padding_company_and_empty_histories_are_harmless():
    model = clicks.model(CARD, inner=8).eval()
    batch = clicks.batch(8)
    whole = model.logits(batch)
    assert whole.isfinite().all()
    assert torch.allclose(model.logits(clicks.padded(batch)), whole, atol=1e-9)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), whole[b], atol=1e-9)
    model.train().loss(clicks.changed(batch, end=batch.start))["click"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_times_or_cross_fields():
    about = clicks.facts(timed=False, sizes=(20, 7))
    model = clicks.model(CARD, about=about, inner=8).eval()
    batch = clicks.batch(9, click=about.click)
    assert (model.long.age, model.long.cross) == (None, None)
    assert torch.allclose(model.logits(batch), clicks.together(model, batch, by_hand(model, batch)), atol=1e-6)


def test_heads():
    assert (TWINConfig().parts, TWINConfig(inner=6).parts, TWINConfig(heads=8).parts) == (4, 2, 8)
    with pytest.raises(BadSetting, match="divides inner=64"):
        TWINConfig(heads=3)
    assert isinstance(clicks.model(CARD).long, HeadwiseSearch)


def test_row_sparse_gradients_are_the_dense_ones():
    clicks.sparse_as_dense(clicks.model(CARD), clicks.batch(11))
