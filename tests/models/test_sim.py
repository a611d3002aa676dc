"""SIM against its equations in loops: what either search keeps, what the soft one learns from, ages of what is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from clicks import seen
from diffacet.core.contract import ClickFields, Facts
from diffacet.errors import BadSetting
from diffacet.models.sim import CARDS, SIMConfig

CARD = CARDS[0]


def products(model, batch, b):
    """(W_b E_i) . (W_a e_s) of every behaviour of sample b."""
    asked = model.gsu.target.weight @ clicks.embedding(model.fields, batch.target[b])
    told = [model.gsu.behaviour.weight @ clicks.embedding(model.fields, batch.behaviours[i]) for i in seen(batch, b)]
    return [float(vector @ asked) for vector in told]


def kept(model, batch, b):
    """Rows that the search keeps for sample b."""
    rows, k = seen(batch, b), model.config.kept
    if model.config.search == "soft":
        return clicks.best(products(model, batch, b), rows, k)
    wanted = int(batch.target[b, 1])
    same = [i for i in rows if int(batch.behaviours[i, 1]) == wanted and wanted > 2]
    return same[::-1][:k]


def by_hand(model, batch):
    """(B, d): attention over what is kept, each with the vector of its age."""
    told = []
    for b in range(len(batch)):
        z = [clicks.embedding(model.fields, batch.behaviours[i]) for i in kept(model, batch, b)]
        if model.age is not None:
            ages = [model.age[clicks.age(batch, b, i)] for i in kept(model, batch, b)]
            z = [torch.cat(pair) for pair in zip(z, ages, strict=True)]
        told.append(clicks.attention(model.long, clicks.embedding(model.fields, batch.target[b]), z))
    return torch.stack(told)


@pytest.mark.parametrize("changes", [{}, {"search": "hard"}, {"ages": "none"}, {"kept": 20, "short": "none"}])
@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, seed):
    model = clicks.model(CARD, seed=seed, **changes).eval()
    batch = clicks.batch(seed)
    with torch.no_grad():
        assert torch.allclose(model.logits(batch), clicks.together(model, batch, by_hand(model, batch)), atol=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_the_search_loss_is_of_the_sum_over_all_behaviours(seed):
    model = clicks.model(CARD, seed=seed, search_weight=0.5).eval()
    batch = clicks.batch(seed)
    U = torch.zeros(len(batch), model.fields.width, dtype=torch.float64)
    with torch.no_grad():
        for b in range(len(batch)):
            for s, i in zip(products(model, batch, b), seen(batch, b), strict=True):
                U[b] += s * clicks.embedding(model.fields, batch.behaviours[i])
        logits = model.gsu.head(U, model.fields.target(batch), model.fields.other(batch))
        label = batch.label.double()
        expected = -(label * logits.sigmoid().log() + (1 - label) * (1 - logits.sigmoid()).log()).mean()
        terms = model.loss(batch)
    assert torch.allclose(terms["search"], 0.5 * expected, atol=1e-6)
    assert set(terms) == {"click", "search"}
    assert set(clicks.model(CARD, "hard").loss(batch)) == {"click"}


def test_windows_change_nothing(monkeypatch):
    """The whole loss and its gradients are the same when every window is small and computed again."""
    batch, found = clicks.batch(2, B=12), []
    for small in (False, True):
        model = clicks.model(CARD).eval()
        if small:
            clicks.in_small_windows(monkeypatch)
        terms = model.loss(batch)
        sum(terms.values()).backward()
        found.append([terms["click"], terms["search"], *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_hard_search_keeps_the_most_recent_of_the_category():
    model = clicks.model(CARD, "hard", kept=2)
    for seed in range(30):
        batch = clicks.batch(seed, longest=30)
        place, mask = model.found(batch, model.fields.target(batch))
        for b in range(len(batch)):
            rows = place[b][mask[b]].tolist()
            wanted = int(batch.target[b, 1])
            matches = [i for i in seen(batch, b) if int(batch.behaviours[i, 1]) == wanted and wanted > 2]
            assert all(int(batch.behaviours[i, 1]) == wanted for i in rows)
            assert rows == matches[::-1][: min(2, len(matches))]


def test_other_categories_change_nothing_and_unknown_ones_match_nothing():
    model = clicks.model(CARD, "hard", short="none").eval()
    batch = clicks.batch(3)
    before = model.logits(batch)
    apart = batch.behaviours.clone()
    wanted = set(batch.target[:, 1].tolist()) - {1}
    stranger = next(v for v in range(3, 7) if v not in wanted) if len(wanted) < 4 else None
    other = ~torch.isin(batch.behaviours[:, 1], torch.tensor(sorted(wanted)))
    assert other.any()
    apart[other] = torch.tensor([1, stranger or 1, 3])
    assert torch.equal(model.logits(clicks.changed(batch, behaviours=apart)), before)
    unknown = clicks.changed(batch, target=batch.target.clone())
    unknown.target[:, 1] = 1
    assert not model.found(unknown, model.fields.target(unknown))[1].any()


def test_soft_search_with_identities_keeps_the_highest_products():
    model = clicks.model(CARD)
    with torch.no_grad():
        for matrix in (model.gsu.behaviour, model.gsu.target):
            matrix.weight.copy_(torch.eye(model.fields.width))
    batch = clicks.batch(4)
    place, mask = model.found(batch, model.fields.target(batch))
    for b in range(len(batch)):
        target = clicks.embedding(model.fields, batch.target[b])
        scores = [clicks.embedding(model.fields, batch.behaviours[i]) @ target for i in seen(batch, b)]
        assert place[b][mask[b]].tolist() == clicks.best(scores, seen(batch, b), 4)


def test_negative_products_are_before_no_behaviour_at_all():
    """Padding never wins over a behaviour, however low its score."""
    model = clicks.model(CARD, kept=20)
    batch = clicks.batch(5)
    with torch.no_grad():
        model.gsu.target.weight.zero_()
    _, mask = model.found(batch, model.fields.target(batch))
    assert mask.sum(1).tolist() == batch.lengths.tolist()


def test_gradients_of_the_search():
    """Its products learn from its own loss only; with weight 0 they do not learn at all."""
    batch = clicks.batch(6)
    model = clicks.model(CARD)
    model.loss(batch)["click"].backward()
    assert all(parameter.grad is None for parameter in model.gsu.parameters())
    model.loss(batch)["search"].backward()
    assert model.gsu.target.weight.grad.any()
    assert model.gsu.behaviour.weight.grad.any()
    model = clicks.model(CARD, search_weight=0.0)
    sum(model.loss(batch).values()).backward()
    assert not any(parameter.grad.any() for parameter in model.gsu.parameters())


def test_dropped_behaviours_learn_from_the_search_only():
    """A behaviour that is neither kept nor recent moves by the loss over all behaviours, and by no other."""
    model = clicks.model(CARD, kept=1, short="none").train()
    batch = clicks.batch(7, B=30)
    place, mask = model.found(batch, model.fields.target(batch))
    kept_items = set(batch.behaviours[place[mask], 0].tolist()) | set(batch.target[:, 0].tolist())
    met = {int(batch.behaviours[i, 0]) for b in range(30) for i in seen(batch, b)}
    model.loss(batch)["click"].backward()
    moved = set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist())
    assert moved <= kept_items
    model.loss(batch)["search"].backward()
    moved = set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist())
    assert moved == kept_items | met


@pytest.mark.parametrize("preset", ["soft", "hard"])
def test_padding_and_company_are_irrelevant(preset):
    model = clicks.model(CARD, preset).eval()
    batch = clicks.batch(8)
    whole = model.logits(batch)
    assert whole.isfinite().all()
    assert torch.allclose(model.logits(clicks.padded(batch)), whole, atol=1e-9)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), whole[b], atol=1e-9)


@pytest.mark.parametrize("preset", ["soft", "hard"])
def test_only_empty_histories_train(preset):
    batch = clicks.batch(9)
    none = clicks.changed(batch, end=batch.start)
    model = clicks.model(CARD, preset).train()
    sum(model.loss(none).values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_without_times_there_are_no_ages():
    about = clicks.facts(timed=False)
    model = clicks.model(CARD, about=about).eval()
    assert model.age is None
    batch = clicks.batch(10, click=about.click)
    assert batch.times is None
    assert model.logits(batch).isfinite().all()
    assert clicks.model(CARD).age is not None


def test_the_category_is_named_or_found():
    assert clicks.model(CARD, "hard").category == 1
    assert clicks.model(CARD, "hard", category="item").category == 0
    for name, words in (("kind", "item, category"), ("categori", "did you mean 'category'")):
        with pytest.raises(BadSetting, match=words):
            CARD.build(SIMConfig(search="hard", category=name), clicks.facts())
    single = Facts(5, 0, click=ClickFields(("item", "kind"), (8, 5), (True, False)))
    with pytest.raises(BadSetting, match="search=soft"):
        CARD.build(SIMConfig(search="hard"), single)
    assert CARD.build(SIMConfig(), single)


def test_row_sparse_gradients_are_the_dense_ones(monkeypatch):
    clicks.in_small_windows(monkeypatch)
    clicks.sparse_as_dense(clicks.model(CARD), clicks.batch(11))
