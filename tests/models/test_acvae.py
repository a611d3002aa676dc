import copy
import math

import numpy as np
import pytest
import torch

from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import Facts
from diffacet.data.sequences import Sequences
from diffacet.learn import batches
from diffacet.learn.fit import initial_weights
from diffacet.learn.optim import Optimizer
from diffacet.models import acvae
from diffacet.models.acvae import ACVAE, ACVAEConfig, Walk

N, CARD = 11, acvae.CARDS[0]
ROWS = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [], [7], [8, 9, 7, 9, 3, 2, 3, 8, 4], [10, 11, 2], [1, 2, 3, 4, 5]]
SMALL = {"dim": 6, "width": 5, "latent": 4}
DRAWN = 0.3  # what every normal draw is where a reference has to know it


def histories(rows, width=None, case=None):
    items = torch.zeros(len(rows), width or max(1, *map(len, rows)), dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    users = torch.arange(len(rows))
    return Histories(items, users, users if case is None else torch.tensor(case))


def build(seed=0, **changes):
    with initial_weights(seed):
        return ACVAE(ACVAEConfig(**{**SMALL, **changes}), Facts(N, 200))


@pytest.fixture
def known_noise(monkeypatch):
    """Every draw is DRAWN, in any order and shape."""
    monkeypatch.setattr(torch, "randn", lambda *shape, dtype, device: torch.full(shape, DRAWN, dtype=dtype))
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, DRAWN))


# --- the model, written out for one position at a time ----------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def weights(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def gru(w, name, inputs):
    h, states = 0 * w[f"{name}.bias_hh_l0"][: len(w[f"{name}.bias_hh_l0"]) // 3], []
    for x in inputs:
        into = np.split(w[f"{name}.weight_ih_l0"] @ x + w[f"{name}.bias_ih_l0"], 3)
        back = np.split(w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"], 3)
        reset, update = sigmoid(into[0] + back[0]), sigmoid(into[1] + back[1])
        h = (1 - update) * np.tanh(into[2] + reset * back[2]) + update * h
        states.append(h)
    return states


def codes(w, row, noise):
    """z after every item of `row`; both draws of the encoder's noise are `noise` in every direction."""
    states, found = gru(w, "gru", [w["items.weight"][item] for item in row]), []
    width = len(w["encoder.noise.bias"])
    shift = np.tanh(linear(w, "encoder.noise", np.full(width, noise)))
    read = [softplus(linear(w, "encoder.before", state + shift)) + shift for state in states]
    for t, state in enumerate(states):
        wide = w["encoder.convolution.bias"].copy()
        for k in range(5):
            if t - 4 + k >= 0:
                wide += w["encoder.convolution.weight"][:, k * width : (k + 1) * width] @ read[t - 4 + k]
        hidden = softplus(linear(w, "encoder.after", softplus(wide)))
        found.append(linear(w, "encoder.code", state + hidden))
    return found


def logits(w, code):
    return linear(w, "out", np.tanh(linear(w, "hidden", code)))


def first_adversary(w, embedded, code):
    hidden = linear(w, "adversary.into", np.concatenate([embedded, code]))
    for i in range(2):
        hidden = hidden + linear(w, f"adversary.outer.{i}", linear(w, f"adversary.inner.{i}", hidden))
        hidden = np.where(hidden > 0, hidden, np.exp(hidden) - 1)
    return linear(w, "adversary.out", hidden) + code**2 / 2


def second_adversary(w, embedded, code):
    states = gru(w, "contrast.gru", [np.concatenate(pair) for pair in zip(embedded, code, strict=True)])
    gelu = [np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in state]) for state in states]
    return [linear(w, "contrast.out", state).item() for state in gelu]


def written_out(model, rows):
    """The four terms; rows are padded with item 0 to the longest, as the authors' code does."""
    w, c, longest = weights(model), model.config, max(map(len, rows))
    inputs = [row[:-1] + [0] * (longest - len(row[:-1])) for row in rows]
    code = [codes(w, row, DRAWN) for row in inputs]
    terms = dict.fromkeys(("reconstruction", "kl", "adversary", "contrast"), 0.0)
    for b, row in enumerate(rows):
        own, false = code[b], code[(b + 1) % len(rows)]
        embedded = [w["items.weight"][item] for item in inputs[b]]
        true_odds, false_odds = second_adversary(w, embedded, own), second_adversary(w, embedded, false)
        for t in range(len(row) - 1):
            scores = logits(w, own[t])
            terms["reconstruction"] -= scores[row[t + 1]] - np.log(np.exp(scores).sum())
            odds = first_adversary(w, embedded[t], own[t])
            terms["kl"] += c.kl_weight * odds.mean()
            drawn = first_adversary(w, embedded[t], np.full_like(own[t], DRAWN))
            terms["adversary"] -= (np.log(sigmoid(odds) + 1e-9) + np.log(1 - sigmoid(drawn) + 1e-9)).mean()
            terms["contrast"] += c.contrast_weight * (softplus(false_odds[t]) + softplus(-true_odds[t]))
    return {name: value / len(rows) for name, value in terms.items()}


@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1], [[1, 2], [3, 4, 5]], [[1, 2], []]])
def test_loss_is_that_of_the_written_out_model(rows, known_noise):
    model = build(kl_weight=0.2, contrast_weight=0.7).double().eval()  # without dropout; draws are as in training
    found = model.loss(ProfileBatch(histories(rows)))
    expected = written_out(model, rows)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-10), name


def test_scores_are_the_logits_after_the_latest_item_without_noise():
    model = build().double().eval()
    history = histories(ROWS)
    found = (model.interests(history) @ model.catalogue().T).squeeze(1)
    assert found.shape == (7, N + 1)
    for b, row in enumerate(ROWS):
        if row:
            expected = logits(weights(model), codes(weights(model), row, 0.0)[-1])
            assert np.allclose(found[b].detach().numpy(), expected, atol=1e-12)
    assert found.isfinite().all()
    assert torch.equal((model.interests(history) @ model.catalogue().T).squeeze(1), found)


@pytest.mark.parametrize("stride", [1, 3, 16])
def test_a_walk_steps_through_every_sequence_by_itself(stride, monkeypatch):
    monkeypatch.setattr(acvae, "STRIDE", stride)
    torch.manual_seed(0)
    lengths = torch.tensor([4, 0, 7, 1, 7, 2])
    values, one = torch.randn(6, 7, 3, dtype=torch.float64), torch.nn.GRU(3, 5).double()
    walk = Walk.of(lengths)
    assert len(walk.row) == lengths.sum()
    once = walk.states(one, values[walk.row, walk.time])
    twice = walk.states(one, torch.stack([values, -values], 2)[walk.row, walk.time].flatten(0, 1), 2).unflatten(
        0, (-1, 2)
    )
    for row, length in enumerate(lengths.tolist()):
        time = torch.arange(length)
        place = walk.at(torch.tensor(row), time)
        assert torch.equal(walk.row[place], torch.full((length,), row))
        assert torch.equal(walk.time[place], time)
        assert (walk.at(torch.tensor(row), -1 - time) == len(walk.row)).all()
        if length:
            assert torch.allclose(once[place], one(values[row, :length])[0])
            assert torch.allclose(twice[place, 0], once[place])
            assert torch.allclose(twice[place, 1], one(-values[row, :length])[0])


def test_a_code_depends_on_no_later_item():
    model, walk = build().double().eval(), Walk.of(torch.tensor([8, 8]))
    items = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [2, 4, 6, 8, 10, 1, 3, 5]])

    def after(numbers):
        torch.manual_seed(1)
        code = model.encode(numbers[walk.row, walk.time], walk)[1]
        return torch.stack([code[walk.at(torch.tensor(row), torch.arange(8))] for row in range(2)])

    plain = after(items)
    for k in range(8):
        changed = items.clone()
        changed[0, k] = 11
        other = after(changed)
        assert torch.equal(other[0, :k], plain[0, :k])
        assert not torch.isclose(other[0, k:], plain[0, k:]).all(-1).any()  # the GRU remembers
        assert torch.equal(other[1], plain[1])


def test_padding_changes_no_loss(known_noise):
    model = build().double().eval()
    narrow, wide = (model.loss(ProfileBatch(histories(ROWS, width))) for width in (9, 30))
    for name, value in narrow.items():
        assert torch.equal(wide[name], value)


def test_contrast_of_an_adversary_that_knows_nothing():
    model = build(contrast_weight=0.1).double()
    torch.nn.init.zeros_(model.contrast.out.weight)
    torch.nn.init.zeros_(model.contrast.out.bias)
    positions = sum(max(len(row) - 1, 0) for row in ROWS)
    found = model.loss(ProfileBatch(histories(ROWS)))["contrast"].item()
    assert found == pytest.approx(0.1 * 2 * math.log(2) * positions / len(ROWS), rel=1e-12)


def test_each_adversary_learns_from_its_own_term_only():
    model = build().train()
    terms = model.loss(ProfileBatch(histories(ROWS)))
    learns = {}
    for name, term in terms.items():
        model.zero_grad()
        term.backward(retain_graph=True)
        learns[name] = {p.split(".")[0] for p, value in model.named_parameters() if value.grad is not None}
    encoding = {"items", "gru", "encoder"}
    assert learns["reconstruction"] == encoding | {"hidden", "out"}
    assert learns["kl"] == encoding  # T1 itself is held fixed
    assert learns["contrast"] == encoding | {"contrast"}
    assert learns["adversary"] == {"adversary"}  # and what it looks at is held fixed


def test_one_step_is_the_two_of_the_code():
    """Three optimisers by turns, T1's gradient being zeroed in between, move every parameter as ours does."""
    training = CARD.presets["paper"].training
    batch, model = ProfileBatch(histories(ROWS)), build()
    other = copy.deepcopy(model)
    optimizer = Optimizer(model, training)
    main = [p for name, p in other.named_parameters() if not name.startswith(("adversary", "contrast"))]
    primal = torch.optim.AdamW(main, 1e-3, weight_decay=1e-2)
    dual = torch.optim.SGD([*other.encoder.parameters(), *other.contrast.parameters()], 3e-4, weight_decay=0.1)
    prior = torch.optim.SGD(other.adversary.parameters(), 5e-4, weight_decay=0.1)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.step(torch.stack(list(model.train().loss(batch).values())).sum(), training.lr)
        torch.manual_seed(step)
        terms = other.train().loss(batch)
        before = copy.deepcopy(other.adversary.state_dict())
        for each in (primal, dual):
            each.zero_grad()
        (terms["reconstruction"] + terms["kl"] + terms["contrast"]).backward()
        primal.step()
        dual.step()
        assert all(torch.equal(value, before[name]) for name, value in other.adversary.state_dict().items())
        prior.zero_grad()
        terms["adversary"].backward()
        prior.step()
        for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[4]], [[4], [5]], [[], []]])
def test_without_a_neighbour_or_a_next_item_there_is_no_contrast(rows):
    model = build()
    terms = model.loss(ProfileBatch(histories(rows)))
    assert terms.keys() == {"reconstruction", "kl", "adversary"}
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if max(map(len, rows)) < 2:
        assert not any(term.item() for term in terms.values())


def test_noise_when_inferring_follows_the_case():
    model, plain = build(inference_noise=True).double().eval(), build().double().eval()
    case = [5, 0, 1023, 2, 5, 7, 1]
    noisy = model.interests(histories(ROWS, case=case))
    assert torch.equal(model.interests(histories(ROWS, case=case)), noisy)
    there = [bool(row) for row in ROWS]  # nothing is read of an empty history, so there is nothing to add noise to
    assert not torch.isclose(plain.interests(histories(ROWS)), noisy)[there].all(-1).any()
    for row, one, expected in zip(ROWS, case, noisy, strict=True):
        assert torch.allclose(model.interests(histories([row], 30, [one]))[0], expected, atol=1e-12)
    assert not torch.isclose(model.interests(histories(ROWS, case=[6] * 7))[0], noisy[0]).all()
    other = build(inference_noise=True, noise_seed=1).double().eval()
    assert not torch.isclose(other.interests(histories(ROWS, case=case)), noisy)[there].all(-1).any()


def test_parameters_are_as_many_as_the_layers_say():
    d, h, c, a, items = 128, 100, 64, 128, 2810
    recurrent = 3 * (h * (d + h) + 2 * h)
    encoder = 2 * (h * h + h) + (5 * h * 2 * h + 2 * h) + (2 * h * h + h) + (h * c + c)
    decoder = (c * d + d) + (d + 1) * (items + 1)
    first = ((d + c) * a + a) + 4 * (a * a + a) + (a * c + c)
    second = 3 * (a * (d + c + a) + 2 * a) + (a + 1)
    model = ACVAE(ACVAEConfig(), Facts(items, 200))
    assert (
        sum(p.numel() for p in model.parameters()) == (items + 1) * d + recurrent + encoder + decoder + first + second
    )


def test_two_blocks_of_users_are_told_apart():
    """Every row holds 7 of its block's 10 items; the other 3 come before the other block's."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.arange(1, 11) + 10 * (user % 2))[:7] for user in range(40)]
    train = Sequences(np.concatenate(rows), np.arange(0, 281, 7), np.arange(40), None)
    training = CARD.presets["paper"].training

    def scores(seed):
        with initial_weights(seed):
            model = ACVAE(ACVAEConfig(dim=16, width=8, latent=6), batches.facts(train, 20, training))
        optimizer, batch_at = Optimizer(model, training), batches.batch_at(train, 20, training, ProfileBatch)
        torch.manual_seed(seed)
        for step in range(60):
            optimizer.step(torch.stack(list(model.train().loss(batch_at(step)).values())).sum(), 0.01)
        asked = histories([row.tolist() for row in rows])
        return (model.eval().interests(asked) @ model.catalogue().T).squeeze(1).detach()

    found = scores(0)
    assert torch.equal(scores(0), found)
    assert not torch.equal(scores(1), found)
    for user, row in enumerate(rows):
        own = set(range(1, 11)) if user % 2 == 0 else set(range(11, 21))
        missing, foreign = sorted(own - set(row.tolist())), sorted(set(range(1, 21)) - own)
        assert found[user, missing].min() > found[user, foreign].max()
