import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import contract
import reference
from diffacet.core.batch import PositionBatch, SequenceBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.errors import BadSetting
from diffacet.learn import batches
from diffacet.models.sasrec import CARDS, SASRec, SASRecConfig
from diffacet.rank.evaluate import evaluate, histories

N, L, D = 12, 6, 8
CARD = CARDS[0]
ROWS = [[1, 2, 3, 4, 5, 6, 7], [7, 9], [8, 8, 9, 12], [10, 2, 11], [3, 4, 5, 1, 2]]


def build(**settings):
    torch.manual_seed(0)
    config = SASRecConfig(**{"dim": D, "heads": 2, "dropout": 0.0, **settings})
    return contract.shaken(SASRec(config, Facts(N, L)).double())


def windows(negatives, everything=False):
    """Every item of ROWS but the first is a target; nothing is cut."""
    row = torch.tensor([b for b, items in enumerate(ROWS) for _ in items[1:]])
    position = torch.tensor([p for items in ROWS for p in range(len(items) - 1)])
    target = torch.tensor([item for items in ROWS for item in items[1:]])
    weight = torch.full((len(row),), 1 / len(row))
    history = contract.histories([items[:-1] for items in ROWS], L)
    return PositionBatch(history, row, position, target, weight, negatives, everything=everything)


def prefixes(negatives, everything=False):
    """The same targets, each with a history of its own."""
    history = contract.histories([items[:p] for items in ROWS for p in range(1, len(items))], L)
    return SequenceBatch(history, windows(negatives).target, negatives, everything=everything)


TARGETS = sum(len(items) - 1 for items in ROWS)
NEGATIVES = {
    "shared": (torch.tensor([3, 11, 11, 7, 5]), False),
    "own": (torch.randint(1, N + 1, (TARGETS, 3), generator=torch.Generator().manual_seed(0)), False),
    "all": (torch.arange(1, N + 1), True),
}


@pytest.mark.parametrize("norm", ["original", "pre", "post"])
@pytest.mark.parametrize("objective", ["softmax", "binary"])
@pytest.mark.parametrize("kind", NEGATIVES)
def test_the_loss_at_every_position_is_that_of_the_prefixes(kind, objective, norm):
    """One pass over a sequence, or a pass for each of its prefixes; gradients, too."""
    model = build(objective=objective, norm=norm)
    gradients = []
    for form in (windows, prefixes):
        model.zero_grad()
        loss = model.loss(form(*NEGATIVES[kind]))[objective]
        loss.backward()
        gradients.append((loss.detach(), *(p.grad.clone() for p in model.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-7)  # the weights of a window are float32


@pytest.mark.parametrize("kind", NEGATIVES)
def test_losses_are_their_loops(kind):
    negatives, everything = NEGATIVES[kind]
    batch = prefixes(negatives, everything)
    model = build()
    user = model.interests(batch.history)[:, 0].detach()
    table = model.items.weight.detach()
    binary = expected = 0.0
    for b in range(TARGETS):
        own = table[negatives[b] if negatives.ndim == 2 else negatives]
        binary -= functional.logsigmoid(user[b] @ table[batch.target[b]]) / TARGETS
        binary -= functional.logsigmoid(-(own @ user[b])).sum() / TARGETS
        expected += reference.softmax_loss(user[b : b + 1], table[batch.target[b : b + 1]], own) / TARGETS
    if everything:
        expected = reference.full_softmax(user, table, batch.target)
    assert model.loss(batch)["softmax"].item() == pytest.approx(float(expected), rel=1e-9)
    assert build(objective="binary").loss(batch)["binary"].item() == pytest.approx(float(binary), rel=1e-9)


def test_the_user_is_the_state_at_the_last_item():
    model = build().eval()
    history = contract.histories([*ROWS[1:], []], L)
    states = model.encoder(model.items(history.items), history.mask)
    users = model.interests(history)
    for user, state, row in zip(users, states, [*ROWS[1:], []], strict=True):
        assert torch.allclose(user[0], state[len(row) - 1] if row else torch.zeros(D, dtype=torch.float64), atol=1e-12)


def test_of_a_long_history_the_latest_items_count():
    model = build().eval()
    long = [5, 9, 1, 2, 3, 4, 5, 6, 7, 7, 8]

    def answer(items):
        one = Sequences.from_rows(np.zeros(len(items), np.int64), np.array(items), None, 1)
        return contract.answer(model, histories(Holdout(one, one), np.array([0]), L))

    assert torch.equal(answer(long), answer(long[-L:]))
    assert torch.equal(answer(long), answer([11, *long[1:]]))
    assert not torch.equal(answer(long), answer(long[:-1]))


def learned(settings, training, steps):
    """HR@1 after `steps` steps on 50 sequences that begin each with an item of its own and go on at random."""
    rng = np.random.default_rng(0)
    rows = [[first, *rng.choice(50, 6, replace=False) + 1] for first in range(1, 51)]
    train = Sequences.from_rows(np.repeat(np.arange(50), 7), np.concatenate(rows), None, 50)
    told = Training(**{"batch_size": 50, **training}, first_target=1, length=6, sampling="epochs", weighting="target")
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(dim=32, dropout=0.0, **settings), batches.facts(train, 50, told)).train()
    batch_at = batches.batch_at(train, 50, told, batches.form(CARD, told))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        optimizer.zero_grad()
        sum(model.loss(batch_at(step)).values()).backward()
        optimizer.step()
    past = Sequences.from_rows(np.repeat(np.arange(50), 6), np.concatenate([row[:-1] for row in rows]), None, 50)
    last = Sequences.from_rows(np.arange(50), np.array([row[-1] for row in rows]), None, 50)
    return evaluate(model, Holdout(past, last), length=6, ks=(1,))["hit_rate@1"]


@pytest.mark.parametrize(
    ("settings", "training", "steps"),
    [
        ({}, {"negatives": 0}, 60),
        ({"norm": "pre", "heads": 2}, {"negatives": 0}, 60),
        ({"norm": "post", "heads": 2, "activation": "gelu"}, {"negatives": 0}, 60),
        ({"objective": "binary"}, {"negatives": 4, "own_negatives": True}, 150),
        ({}, {"negatives": 0, "targets": "one", "batch_size": 300}, 60),
    ],
    ids=["full", "pre", "post", "binary", "pairs"],
)
def test_it_learns_fifty_sequences_by_heart(settings, training, steps):
    assert learned(settings, training, steps) >= 0.95


def test_presets_are_trained_in_their_form():
    forms = {name: batches.form(CARD, preset.training) for name, preset in CARD.presets.items()}
    pairs = {"dimerec-table", "dimerec-table-long", "recbole"}
    assert forms == {name: SequenceBatch if name in pairs else PositionBatch for name in forms}
    assert [CARD.presets[name].training.length for name in ("paper", "dimerec-table", "dimerec-table-long")] == [
        200,
        10,
        70,
    ]


def test_initial_deviations():
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(), Facts(3_000, 50))
    assert model.items.weight[1:].std().item() == pytest.approx(1 / 8, rel=0.02)
    model = SASRec(CARD.presets["recbole"].model, Facts(3_000, 50))
    assert model.encoder.blocks[0].inner.weight.shape == (256, 64)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter[1:].std().item() == pytest.approx(0.02, rel=0.03), name
    assert not model.items.weight[0].any()


def test_settings_are_checked():
    with pytest.raises(BadSetting, match=r"heads divides dim=10; got heads=4"):
        SASRecConfig(dim=10, heads=4)
    for key, value in {"dropout": "1", "layers": "-1", "norm": "both", "objective": "bpr", "deviation": "0"}.items():
        with pytest.raises(BadSetting, match=key):
            contract.settings.apply(CARD, CARD.presets["best"], {key: value})


def test_without_blocks_the_last_item_alone_counts():
    model = build(layers=0).eval()
    with torch.no_grad():
        model.encoder.position.zero_()
    one, other = model.interests(contract.histories([[1, 2, 3], [9, 3]], L))
    assert torch.allclose(one, other)
    item = model.items.weight[3] * math.sqrt(D)
    expected = functional.layer_norm(item, (D,), model.encoder.norm.weight, model.encoder.norm.bias)
    assert torch.allclose(one[0], expected)
