import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from diffacet.core import diffusion
from diffacet.core.batch import Histories, PositionBatch
from diffacet.core.contract import Facts, Matcher, Scorer, Training
from diffacet.core.interests import thin
from diffacet.data.sequences import Sequences
from diffacet.errors import BadSetting
from diffacet.learn.batches import batch_at
from diffacet.models.facet import Facet, FacetConfig, repeat_rate
from diffacet.rank.ranking import top_k_scores

N, L, D, K, T = 15, 6, 5, 3, 4
SEQUENCES = [[1, 2, 3, 4, 5, 6, 7, 8], [8, 2], [3, 3, 9, 1], [10, 11, 12, 2, 10], [14, 15, 4], [7], [5, 1, 13]]
PASTS = [[1, 2, 3, 4, 5, 6], [7], [3, 3, 9], [], [15, 1], [10]]
PRIOR = {"window": 3, "decay": 0.5, "history_power": 0.7, "candidate_power": 0.3, "shrinkage": 1.5}
SIZES = {"dim": D, "interests": K, "steps": T, "recency": 0.8, "prior_weight": 0.7, "prior_floor": 1e-3, "eta": 0.6}


def flat(rows):
    items = np.array(list(itertools.chain.from_iterable(rows)), dtype=np.int64)
    return items, np.cumsum([0, *map(len, rows)], dtype=np.int64)


def sequences():
    return Sequences(*flat(SEQUENCES), np.arange(len(SEQUENCES), dtype=np.int64))


def config(**changes):
    return FacetConfig(**{**SIZES, **PRIOR, "item_dropout": 0.0, "repeats": "free", **changes})


def build(**changes):
    """In float64, as after some training: no parameter is zero but padding."""
    torch.manual_seed(0)
    log = sequences()
    model = Facet(config(**changes), Facts(N, L, log.items, log.offsets)).double()
    if model.extract.recency is not None:
        with torch.no_grad():
            model.extract.recency.copy_(reference.normal(L, K))
    return model.eval()


def histories(rows=PASTS):
    items = torch.zeros(len(rows), L, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.arange(len(rows)))


def batch(**changes):
    options = {"batch_size": 5, "length": L, "negatives": 7, "first_target": 1, **changes}
    return batch_at(sequences(), N, Training(**options), PositionBatch)(2)


@torch.no_grad()
def interests_of(model, row):
    """Unrefined interests (K, d) of one history, item by item."""
    extract, table = model.extract, model.items.weight
    logits = []
    for place, item in enumerate(row):
        logits.append(extract.outer @ torch.tanh(extract.inner @ (table[item] + extract.position[0, place])))
        if extract.recency is not None:
            logits[-1] = logits[-1] + extract.recency[len(row) - 1 - place]
    found = torch.zeros(K, D, dtype=torch.float64)
    for k in range(K):
        total = sum(math.exp(float(logit[k])) for logit in logits)
        for logit, item in zip(logits, row, strict=True):
            found[k] += math.exp(float(logit[k])) / total * table[item]
    return found


def log_prior(row, weight=0.7, floor=1e-3):
    """Weight * ln(share + floor) of each item (N + 1,); -inf at padding."""
    p = PRIOR
    counts = reference.item_knn(
        SEQUENCES,
        N,
        row,
        window=p["window"],
        decay=p["decay"],
        a=p["history_power"],
        b=p["candidate_power"],
        shrinkage=p["shrinkage"],
        recency=0.8,
    )
    total = counts.sum()
    return [-math.inf] + [weight * math.log((c / total if total else 0.0) + floor) for c in counts[1:]]


def products(model, vectors):
    """The largest inner product of each item with the K vectors, (N + 1,)."""
    return torch.tensor([max(float(vector @ item) for vector in vectors) for item in model.items.weight.detach()])


def close(found, expected, atol=1e-6):
    """Of real items; the prior's counts are kept in float32."""
    return torch.allclose(found[1:], torch.as_tensor(expected, dtype=torch.float64)[1:], atol=atol)


# --- answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recency_logits", [True, False])
def test_unrefined_it_is_the_largest_product(recency_logits):
    model = build(refine_steps=0, recency_logits=recency_logits)
    with torch.no_grad():
        scores, unrefined = model.scores(histories()), model.interests_of(histories())
    assert scores.shape == (len(PASTS), N + 1)
    for b, row in enumerate(PASTS):
        expected = interests_of(model, row)
        assert torch.allclose(unrefined[b], expected, atol=1e-12)
        assert close(scores[b], products(model, expected), 1e-12)


def test_one_step_adds_the_prior():
    """The ranking by the posterior: the denoiser's own scores, best interest first."""
    model = build(refine_steps=1)
    with torch.no_grad():
        scores = model.scores(histories())
    for b, row in enumerate(PASTS):
        expected = products(model, interests_of(model, row)) + torch.tensor(log_prior(row), dtype=torch.float64)
        assert close(scores[b], expected)


@pytest.mark.parametrize("steps", [2, 3, T, T + 1])
def test_more_steps_are_ddim_written_out(steps):
    model = build(refine_steps=steps)
    c, table = model.config, model.items.weight.detach()
    levels = [0.0, *reference.scaled_linear_levels(T, 1.0, c.noise_min, c.noise_max)]
    visited = diffusion.ddim_steps(T, steps - 1)
    with torch.no_grad():
        scores = model.scores(histories())
    for b, row in enumerate(PASTS):
        prior, mixed = log_prior(row), []
        for interest in interests_of(model, row):
            x = math.sqrt(1 - levels[T]) * interest  # the mean of the noised interest
            for place in range(len(visited) - 1, -1, -1):
                t, earlier = visited[place], visited[place - 1] if place else 0
                sharp = math.sqrt(1 - levels[t]) / levels[t]
                weights = [0.0] + [math.exp(prior[j] + sharp * float(x @ table[j])) for j in range(1, N + 1)]
                estimate = sum(weight / sum(weights) * vector for weight, vector in zip(weights, table, strict=True))
                x = reference.ddim_step(x, estimate, 1 - levels[t], 1 - levels[earlier])
            mixed.append(c.eta * x + (1 - c.eta) * interest)
        expected = products(model, mixed) + torch.tensor(prior, dtype=torch.float64)
        assert close(scores[b], expected, 1e-5)


def test_without_a_prior_one_step_ranks_as_none():
    asked, plain = build(prior_weight=0.0, refine_steps=1), build(refine_steps=0)
    with torch.no_grad():
        assert torch.equal(asked.scores(histories())[:, 1:], plain.scores(histories())[:, 1:])
        lists = [top_k_scores(model.scores(histories()), N).items for model in (asked, plain)]
    assert torch.equal(*lists)


def test_an_empty_history_has_the_same_prior_for_every_item():
    model = build()
    prior = model.log_prior(histories([[]]))[0]
    assert torch.allclose(prior[1:], torch.full((N,), 0.7 * math.log(1e-3), dtype=torch.float64))


def test_refinement_changes_the_answer():
    with torch.no_grad():
        answers = [build(refine_steps=steps).scores(histories())[:, 1:] for steps in (0, 1, 2, 3)]
        answers += [build(refine_steps=2, eta=0.1).scores(histories())[:, 1:]]
    for one, other in ((0, 1), (1, 2), (2, 3), (2, 4)):
        assert not torch.allclose(answers[one], answers[other], atol=1e-4)
    with torch.no_grad():
        still = build(refine_steps=3, eta=0.0).scores(histories())[:, 1:]
    assert torch.allclose(still, answers[1], atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_padding_is_never_a_candidate(steps):
    """Whatever its row holds, no list has it and no real item's score knows it."""
    model = build(refine_steps=steps)
    with torch.no_grad():
        before = model.scores(histories())
        model.items.weight[0] = 100.0
        after = model.scores(histories())
    assert torch.allclose(before[:, 1:], after[:, 1:], atol=1e-12)
    assert (before[:, 0] == -math.inf).all() == (steps > 0)
    listed = top_k_scores(after, N).items
    assert all(sorted(row) == list(range(1, N + 1)) for row in listed.tolist())


# --- repeats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2])
def test_calibrated_repeats_get_their_share_of_the_posterior(steps):
    """The history's own items sum to the rate of training; neither they nor the others change their order."""
    free, model = build(refine_steps=steps), build(refine_steps=steps, repeats="calibrated")
    rate = repeat_rate(*flat(SEQUENCES), L)
    with torch.no_grad():
        before, after = free.scores(histories()), model.scores(histories())
    for b, row in enumerate(PASTS):
        own, others = sorted(set(row)), [item for item in range(1, N + 1) if item not in row]
        assert torch.equal(after[b, others], before[b, others])
        assert after[b, 0] == -math.inf
        if not row:
            continue
        weights = [math.exp(float(score)) for score in after[b]]
        assert sum(weights[item] for item in own) / sum(weights) == pytest.approx(rate, rel=1e-6)
        shift = after[b, own] - before[b, own]
        assert torch.allclose(shift, shift[:1].expand(len(own)), atol=1e-12)


def test_a_history_of_the_whole_catalogue_is_ranked_as_without_calibration():
    log = flat([[1, 2, 3], [3, 1]])
    for kind in ("free", "calibrated"):
        torch.manual_seed(0)
        scores = Facet(config(repeats=kind), Facts(3, L, *log)).eval().scores(histories([[2, 3, 1]]))
        assert scores[0, 1:].isfinite().all()
        assert top_k_scores(scores.detach(), 3).items[0].tolist() == scores[0].argsort(descending=True)[:3].tolist()


def test_unrefined_answers_are_not_calibrated():
    with torch.no_grad():
        answers = [build(refine_steps=0, repeats=kind).scores(histories()) for kind in ("free", "calibrated")]
    assert torch.equal(*answers)


@given(
    rows=st.lists(st.lists(st.integers(1, 5), max_size=9), max_size=6),
    length=st.integers(1, 10),
)
def test_the_rate_of_repeats_is_counted_target_by_target(rows, length):
    targets = repeats = 0
    for row in rows:
        for k in range(1, len(row)):
            targets += 1
            repeats += row[k] in row[max(0, k - length) : k]
    assert repeat_rate(*flat(rows), length) == pytest.approx((repeats + 0.5) / (targets + 1))


def test_it_is_a_scorer():
    assert isinstance(build(), Scorer)
    assert not isinstance(build(), Matcher)


# --- training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"mask_hits": True}, {"correction": True, "sampler": "log-uniform"}])
@pytest.mark.parametrize("recency_logits", [True, False])
def test_the_loss_is_a_loop_over_prefixes_and_targets(options, recency_logits):
    model, drawn = build(recency_logits=recency_logits), batch(**options)
    table = model.items.weight.detach()
    softmax = gathered = 0.0
    users = len(drawn.history.case)
    for p, (b, place) in enumerate(zip(drawn.row.tolist(), drawn.position.tolist(), strict=True)):
        row = drawn.history.items[b, : place + 1].tolist()
        interests, target = interests_of(model, row), int(drawn.target[p])
        scores = [float(interest @ table[target]) for interest in interests]
        user = interests[scores.index(max(scores))].unsqueeze(0)
        share = 1 / (users * int((drawn.row == b).sum()))
        softmax += share * reference.softmax_loss(
            user,
            table[target].unsqueeze(0),
            table[drawn.negatives],
            hits=None if drawn.hits is None else drawn.hits[p : p + 1],
            log_q=None if drawn.log_q is None else (drawn.log_q[0][p : p + 1], drawn.log_q[1]),
        )
        _, attention = model.extract(table[row].unsqueeze(0), torch.ones(1, len(row), dtype=torch.bool))
        gathered += share * attention.detach().square().sum().item()
    terms = model.train().loss(drawn)
    assert set(terms) == {"softmax", "concentration"}
    assert terms["softmax"].item() == pytest.approx(softmax, rel=1e-6)
    assert terms["concentration"].item() == pytest.approx(model.config.concentration * gathered, rel=1e-6)


def gradients(model, value):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def moved(found):
    return {name for name, gradient in found.items() if gradient is not None and gradient.any()}


EXTRACTOR = {"extract.inner", "extract.outer", "extract.position", "extract.recency"}


def test_gradient_reaches_the_extractor_and_the_rows_that_were_met():
    model, drawn = build(), batch(negatives=2)
    terms = model.train().loss(drawn)
    for name in terms:
        assert moved(gradients(model, terms[name])) == EXTRACTOR | {"items.weight"}
    touched = {*drawn.history.items.flatten().tolist(), *drawn.target.tolist(), *drawn.negatives.tolist()} - {0}
    rows = gradients(model, sum(terms.values()))["items.weight"].any(-1).nonzero()[:, 0].tolist()
    assert set(rows) <= touched
    assert {*drawn.target.tolist(), *drawn.negatives.tolist()} <= set(rows)
    assert set(dict(model.named_parameters())) == EXTRACTOR | {"items.weight"}  # neither prior nor denoiser learn


def test_a_target_is_not_seen_by_its_own_prefix():
    """Changing the items from a target on changes nothing of what that target's loss reads."""
    model, drawn = build(), batch()
    later = dataclasses.replace(drawn.history, items=drawn.history.items.clone())
    first = int((drawn.history.items[drawn.row, 1:].gather(1, drawn.position.unsqueeze(1)) > 0).long().argmax())
    row, cut = int(drawn.row[first]), int(drawn.position[first])
    assert later.items[row, cut + 1]  # its target stands in the window, for the positions after it
    later.items[row, cut + 1 :] = torch.where(later.items[row, cut + 1 :] > 0, 13, 0)
    only = torch.zeros_like(drawn.weight)
    only[first] = 1.0
    losses = [
        model.loss(dataclasses.replace(drawn, history=history, weight=only))["softmax"]
        for history in (drawn.history, later)
    ]
    assert torch.allclose(*losses, rtol=1e-12)


def test_item_dropout_thins_the_history_in_training_only():
    model, drawn = build(item_dropout=0.5).train(), batch()
    torch.manual_seed(4)
    terms = model.loss(drawn)
    torch.manual_seed(4)
    mask = thin(drawn.history.mask, 0.5, training=True)
    assert not torch.equal(mask, drawn.history.mask)
    holed = dataclasses.replace(drawn, history=dataclasses.replace(drawn.history, items=drawn.history.items * mask))
    plain = build(item_dropout=0.0).train().loss(holed)
    for name, term in terms.items():
        assert term.item() == pytest.approx(plain[name].item(), rel=1e-12)
    quiet = model.eval().loss(drawn)
    assert quiet["softmax"] == build().loss(drawn)["softmax"]


# --- settings and storage --------------------------------------------------------------------------------------


def test_it_is_loaded_without_training_items():
    model, other = build(), Facet(config(), Facts(N, L)).double().eval()
    assert not other.prior.similarity.numel()
    for name in ("starts", "neighbours", "similarity"):
        setattr(other.prior, name, getattr(model.prior, name))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.scores(histories()), model.scores(histories()))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"refine_steps": T + 2}, r"refine_steps lies in 0\.\.steps \+ 1; got 6 with steps=4"),
        ({"noise_min": 0.6}, "keep the lower bound below the upper"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes, told):
    with pytest.raises(BadSetting, match=told):
        config(**changes)
