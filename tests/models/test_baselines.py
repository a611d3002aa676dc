import functools
import itertools

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.core.cooccurrence import co_occurrence
from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.models.comirec import ComiRecSA, ComiRecSAConfig
from diffacet.models.ease import EASE, EASEConfig
from diffacet.models.itemknn import ItemKNN, ItemKNNConfig
from diffacet.models.pop import Pop, PopConfig
from diffacet.models.remi import REMI, REMIConfig
from diffacet.models.ydnn import YDNN, YDNNConfig
from diffacet.rank.evaluate import evaluate
from released import CLEAN, NOISY, needs_released

N, L, D, K = 12, 6, 4, 3


def flat(sequences):
    items = np.array(list(itertools.chain.from_iterable(sequences)), dtype=np.int64)
    return items, np.cumsum([0, *map(len, sequences)], dtype=np.int64)


def facts(sequences=(), n_items=N, length=L):
    return Facts(n_items, length, *flat(sequences))


def histories(rows, length=L):
    items = torch.zeros(len(rows), length, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.zeros(len(rows), dtype=torch.int64))


def batch(length=L):
    rows = [[1, 2, 3, 4, 5, 6], [7], [8, 8, 9], [10, 2], [3, 4, 5, 1]]
    return SequenceBatch(histories(rows, length), torch.tensor([7, 1, 12, 2, 2]), torch.tensor([3, 11, 11, 7, 5, 1]))


# --- ComiRec-SA and REMI ---------------------------------------------------------------------------------------


def pair(dtype=torch.float32, **changes):
    """REMI and ComiRec-SA with the same weights."""
    torch.manual_seed(0)
    remi = REMI(REMIConfig(D, K, **changes), facts()).to(dtype)
    plain = ComiRecSA(ComiRecSAConfig(D, K), facts()).to(dtype)
    plain.load_state_dict(remi.state_dict())
    return remi, plain


def test_remi_without_its_two_losses_is_comirec_bit_for_bit():
    remi, plain = pair(hardness=0.0, routing=0.0)
    mine, its = remi.loss(batch()), plain.loss(batch())
    assert torch.equal(mine["softmax"], its["softmax"])
    assert mine["routing"] == 0
    mine["softmax"].backward()
    its["softmax"].backward()
    for one, other in zip(remi.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(remi.interests(batch().history), plain.interests(batch().history))
    assert torch.equal(remi.catalogue(), plain.catalogue())


def test_remi_without_its_two_losses_trains_as_comirec_bit_for_bit():
    remi, plain = pair(hardness=0.0, routing=0.0)
    for model in (remi, plain):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(5):
            optimizer.zero_grad()
            sum(model.loss(batch()).values()).backward()
            optimizer.step()
    for one, other in zip(remi.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_remi_uses_the_same_seed_as_comirec():
    """Initial weights do not depend on which of the two is built."""
    built = []
    for kind, config in ((REMI, REMIConfig(D, K)), (ComiRecSA, ComiRecSAConfig(D, K))):
        torch.manual_seed(7)
        built.append(kind(config, facts()).state_dict())
    for name, value in built[0].items():
        assert torch.equal(value, built[1][name])


@pytest.mark.parametrize("hardness", [0.1, 1.0, 10.0])
def test_remis_losses_are_their_loops(hardness):
    remi, plain = pair(torch.float64, hardness=hardness, routing=100.0)
    b, table = batch(), remi.items.weight.detach()
    embedded = table[b.history.items]
    interests, attention = reference.self_attentive(
        embedded, b.history.mask, remi.extract.inner, remi.extract.outer, remi.extract.position[0]
    )
    user = []
    for row in range(5):
        scores = [float(interests[row, k] @ table[b.target[row]]) for k in range(K)]
        user.append(interests[row, scores.index(max(scores))])
    user = torch.stack(user)
    terms = remi.loss(b)
    expected = reference.softmax_loss(user, table[b.target], table[b.negatives], hardness=hardness)
    assert terms["softmax"].item() == pytest.approx(expected, rel=1e-10)
    assert terms["routing"].item() == pytest.approx(100 * reference.routing(attention, D), rel=1e-10)
    expected = reference.softmax_loss(user, table[b.target], table[b.negatives])
    assert plain.loss(b)["softmax"].item() == pytest.approx(expected, rel=1e-10)
    assert torch.allclose(plain.interests(b.history), interests, atol=1e-12)


def test_only_the_selected_interest_is_trained_on_the_target():
    """The last layer has a row for each interest: rows that no case selected receive nothing."""
    _, plain = pair(torch.float64)
    b = batch()
    table = plain.items.weight.detach()
    best = torch.einsum("bkd,bd->bk", plain.interests(b.history), table[b.target]).argmax(-1)
    for row in range(5):
        one = SequenceBatch(
            Histories(b.history.items[row : row + 1], b.history.users[:1], b.history.case[:1]),
            b.target[row : row + 1],
            b.negatives,
        )
        plain.zero_grad()
        plain.loss(one)["softmax"].backward()
        others = [k for k in range(K) if k != best[row]]
        assert not plain.extract.outer.grad[others].any()
        # One item alone has all the attention whatever its logit, so its row is not trained either.
        assert plain.extract.outer.grad[best[row]].any() == (int(one.history.mask.sum()) > 1)


def test_dropout_acts_on_the_history_when_training_only():
    for kind, config in (
        (ComiRecSA, ComiRecSAConfig(D, K, 0.5)),
        (REMI, REMIConfig(D, K, dropout=0.5)),
        (YDNN, YDNNConfig(D, dropout=0.5)),
    ):
        torch.manual_seed(0)
        model = kind(config, facts())
        assert model.loss(batch())["softmax"] != model.loss(batch())["softmax"]
        model.eval()
        assert model.loss(batch())["softmax"] == model.loss(batch())["softmax"]


# --- Y-DNN -----------------------------------------------------------------------------------------------------


def ydnn(hidden=(), length=L):
    torch.manual_seed(0)
    return YDNN(YDNNConfig(D, hidden), facts(length=length)).double()


@pytest.mark.parametrize("hidden", [(), (5,), (7, 3)])
def test_ydnn_is_the_mean_through_its_layers(hidden):
    model, rows = ydnn(hidden), [[1, 2, 3], [5], [4, 4, 7, 1, 2, 2]]
    found = model.interests(histories(rows))
    assert found.shape == (3, 1, D)
    for b, row in enumerate(rows):
        user = sum(model.items.weight[item] for item in row) / len(row)
        for weight in model.weights[:-1]:
            user = (weight @ user).clamp(min=0)
        assert torch.allclose(found[b, 0], model.weights[-1] @ user, atol=1e-12)
    assert [tuple(w.shape) for w in model.weights] == list(zip([*hidden, D], [D, *hidden], strict=True))


@pytest.mark.parametrize("hidden", [(), (7, 3)])
def test_ydnn_does_not_see_padding(hidden):
    """Neither the loss nor a gradient: REMI's code adds a random row for each missing item."""
    narrow, wide = ydnn(hidden), ydnn(hidden, 4 * L)
    narrow_loss, wide_loss = narrow.loss(batch())["softmax"], wide.loss(batch(4 * L))["softmax"]
    assert torch.allclose(narrow_loss, wide_loss, rtol=1e-12)
    narrow_loss.backward()
    wide_loss.backward()
    for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-14)
    assert not narrow.items.weight.grad[0].any()


def test_ydnn_of_nobody_is_zero():
    assert not ydnn().interests(histories([[]])).any()


# --- PopRec ----------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, N), max_size=6), max_size=6))
def test_poprec_is_a_count_and_the_same_for_all(sequences):
    scores = Pop(PopConfig(), facts(sequences)).scores(histories([[1, 2], [], [N]]))
    expected = [0] + [sum(sequence.count(item) for sequence in sequences) for item in range(1, N + 1)]
    assert scores.tolist() == [expected] * 3


# --- ItemKNN ---------------------------------------------------------------------------------------------------

SEQUENCES = [[1, 2, 3, 2, 1], [4, 4, 5], [2, 5, 1, 7, 7, 3, 2], [6], [3, 1], [], [8, 9, 8, 9, 10]]
PASTS = [[1], [2, 5], [5, 2], [3, 3, 1], [6], [11], [], [8, 4, 7, 1, 2, 9]]


@pytest.mark.parametrize("window", [None, 1, 2, 100])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("recency", [1.0, 0.8])
def test_item_knn_equals_its_loop(window, decay, recency):
    config = ItemKNNConfig(window, decay, history_power=0.8, candidate_power=0.2, shrinkage=1.5, recency=recency)
    scores = ItemKNN(config, facts(SEQUENCES)).scores(histories(PASTS))
    for row, history in enumerate(PASTS):
        expected = reference.item_knn(
            SEQUENCES, N, history, window=window, decay=decay, a=0.8, b=0.2, shrinkage=1.5, recency=recency
        )
        assert np.allclose(scores[row].numpy(), expected, rtol=1e-5)


@settings(max_examples=60)
@given(
    sequences=st.lists(st.lists(st.integers(1, 7), max_size=9), max_size=6),
    history=st.lists(st.integers(1, 7), max_size=L),
    window=st.one_of(st.none(), st.integers(1, 10)),
    decay=st.floats(0, 3),
    a=st.floats(0, 1),
    b=st.floats(0, 1),
    shrinkage=st.floats(0, 30),
    recency=st.floats(0.1, 1),
)
def test_item_knn_equals_its_loop_on_any_log(sequences, history, window, decay, a, b, shrinkage, recency):
    model = ItemKNN(ItemKNNConfig(window, decay, a, b, shrinkage, recency), facts(sequences, 7))
    expected = reference.item_knn(
        sequences, 7, history, window=window, decay=decay, a=a, b=b, shrinkage=shrinkage, recency=recency
    )
    assert np.allclose(model.scores(histories([history]))[0].numpy(), expected, rtol=1e-5)


def test_co_occurrence_is_symmetric_sorted_and_without_self():
    left, right, weight = co_occurrence(*flat(SEQUENCES), None, 1.0, N)
    assert (left != right).all()
    assert (np.diff(left * (N + 1) + right) > 0).all()
    table = dict(zip(zip(left.tolist(), right.tolist(), strict=True), weight.tolist(), strict=True))
    assert table
    for (i, j), value in table.items():
        assert value == pytest.approx(table[j, i])
    # 1 2 3 2 1: the pairs (1, 3) lie two apart, twice; in 2 5 1 7 7 3 2 three apart; in 3 1 one.
    assert table[1, 3] == pytest.approx(2 / 2 + 1 / 3 + 1)


def test_cosine_is_the_preset_of_the_paper():
    model = ItemKNN(ItemKNNConfig(), facts([[1, 2], [1, 2], [2, 3]]))
    scores = model.scores(histories([[1]]))[0]
    assert scores[2].item() == pytest.approx(2 / np.sqrt(2 * 3))
    assert scores[[0, 1, 3]].tolist() == [0, 0, 0]


def test_item_knn_takes_any_precision():
    model = ItemKNN(ItemKNNConfig(recency=0.9), facts(SEQUENCES))
    narrow = model.scores(histories(PASTS))
    wide = model.double().scores(histories(PASTS))
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(narrow.double(), wide, rtol=1e-5)


def test_item_knn_of_no_training_data_scores_zero():
    for sequences in ([], [[1], [2]], [[3, 3, 3]]):
        assert not ItemKNN(ItemKNNConfig(), facts(sequences)).scores(histories(PASTS)).any()


def similarities(sequences, n_items=N, **changes):
    """W (N, N), row i column j: what one history item i gives to each target j."""
    model = ItemKNN(ItemKNNConfig(**changes), facts(sequences, n_items, 0))
    return model.scores(histories([[item] for item in range(1, n_items + 1)])).numpy()[:, 1:]


def random_rows(seed=0, count=30):
    """Rows without repeats; the last item is nobody's."""
    rng = np.random.default_rng(seed)
    return [(1 + rng.permutation(N - 1)[: rng.integers(0, 8)]).tolist() for _ in range(count)]


def cosine(sequences, shrink):
    c = np.zeros((N, N))
    for i, j in itertools.permutations(range(N), 2):
        both = sum(i + 1 in row and j + 1 in row for row in sequences)
        if both:
            one, other = (sum(item + 1 in row for row in sequences) for item in (i, j))
            c[i, j] = both / (np.sqrt(one * other) + shrink)
    return c


@pytest.mark.parametrize("shrink", [0.0, 10.0])
@pytest.mark.parametrize("k", [1, 3, N, None])
def test_neighbours_are_the_nearest_of_the_target(k, shrink):
    """Columns of W hold the k most similar items of their target, ties by smaller i; sums are not normalised."""
    rows = random_rows()
    c = cosine(rows, shrink).astype(np.float32)
    assert np.array_equal(c, c.T)
    assert ((c >= 0) & (c <= 1)).all()
    expected = np.zeros_like(c)
    for j in range(N):
        chosen = sorted(range(N), key=lambda i: (-c[i, j], i))[:k]
        expected[chosen, j] = c[chosen, j]
    found = similarities(rows, neighbours=k, shrinkage=shrink)
    assert np.allclose(found, expected, rtol=1e-6)
    assert not found.diagonal().any()
    assert ((found != 0).sum(0) <= (k or N)).all()
    if k == 3:
        assert not np.array_equal(found != 0, (found != 0).T)  # a history item's neighbours would be its rows
    model = ItemKNN(ItemKNNConfig(neighbours=k, shrinkage=shrink), facts(rows))
    shown = [[2, 5, 1], [], [N]]
    for row, scores in zip(shown, model.scores(histories(shown)).numpy(), strict=True):
        assert np.allclose(scores[1:], sum((expected[item - 1] for item in row), np.zeros(N)), rtol=1e-5)


def test_the_same_users_twice_leave_the_cosine():
    rows = random_rows()
    assert np.allclose(similarities(rows), similarities(rows + rows), rtol=1e-6)
    assert not np.allclose(similarities(rows, shrinkage=10.0), similarities(rows + rows, shrinkage=10.0), rtol=1e-2)


def test_what_shares_no_user_scores_zero():
    scores = ItemKNN(ItemKNNConfig(neighbours=2), facts([[1, 2, 3], [4, 5], [5, 6]])).scores(histories([[1, 2]]))[0]
    assert scores[3] > 0
    assert not scores[[0, 4, 5, 6, 7]].any()


@pytest.mark.parametrize("kind", ["item-knn", "ease"])
def test_two_blocks_of_items_are_told_apart(kind):
    """Users like seven of the ten items of a block: those missing come before the other block's."""
    rng = np.random.default_rng(0)
    rows = [(1 + 10 * (user % 2) + rng.permutation(10)[:7]).tolist() for user in range(60)]
    made = facts(rows, 20, 0)
    model = ItemKNN(ItemKNNConfig(neighbours=100), made) if kind == "item-knn" else EASE(EASEConfig(l2=10.0), made)
    for user, scores in enumerate(model.scores(histories(rows, 7))):
        scores[torch.tensor([0, *rows[user]])] = -torch.inf
        assert {(item - 1) // 10 for item in scores.topk(3).indices.tolist()} == {user % 2}


# --- on the released parts of ML-1M ----------------------------------------------------------------------------


@functools.cache
def released(folder):
    """What a constructor is told of the training part, and the cases of validation and test; numbers of the files."""
    parts = {part: pl.read_parquet(folder / f"{part}.parquet").to_numpy() for part in ("train", "valid", "test")}
    n_users = 1 + max(int(part[:, 0].max()) for part in parts.values())

    def sequences(*names):
        pairs = np.concatenate([parts[name] for name in names]).astype(np.int64)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        return Sequences.from_rows(pairs[:, 0], pairs[:, 1] + 1, None, n_users)

    train = sequences("train")
    made = Facts(int(train.items.max()), 0, train.items, train.offsets, train.users, n_users)
    cases = {}
    for name, seen in (("valid", train), ("test", sequences("train", "valid"))):
        target = sequences(name)
        there = np.flatnonzero(target.lengths())
        cases[name] = Holdout(train.take(there), target.take(there), seen.take(there), exclude_seen=True)
    return made, cases


def figures(model, holdout):
    """R@10, R@20, N@10, N@20."""
    found = evaluate(model, holdout, length=0, ks=(10, 20))
    return [found[name] for name in ("recall@10", "recall@20", "ndcg_textbook@10", "ndcg_textbook@20")]


CLEAN_ANCHORS = {
    "pop": [(0.040289, 0.079347, 0.070190, 0.079379), (0.053458, 0.099321, 0.058680, 0.072136)],
    "ease": [(0.066047, 0.118027, 0.086379, 0.100619), (0.106637, 0.181617, 0.090983, 0.116531)],
}
NOISY_ANCHORS = {
    "pop": [(0.028726, 0.056075, 0.039744, 0.049081), (0.046672, 0.089604, 0.045460, 0.060426)],
    "ease": [(0.039081, 0.076282, 0.037558, 0.051462), (0.070776, 0.134403, 0.050626, 0.074226)],
}


@pytest.mark.parametrize(
    ("folder", "anchors"), [(CLEAN, CLEAN_ANCHORS), (NOISY, NOISY_ANCHORS)], ids=["clean", "noisy"]
)
@needs_released
def test_closed_forms_on_the_released_parts(folder, anchors):
    made, cases = released(folder)
    models = {"pop": (Pop(PopConfig(), made), 1e-6), "ease": (EASE(EASEConfig(l2=1000.0), made), 2e-5)}
    for name, (model, tolerance) in models.items():
        for part, expected in zip(("valid", "test"), anchors[name], strict=True):
            assert figures(model, cases[part]) == pytest.approx(expected, abs=tolerance), (name, part)


@needs_released
def test_neighbours_and_time_weights_on_the_released_parts():
    """Anchors of four digits; popularity < ItemKNN < EASE by recall in validation, as the numbers stand."""
    made, cases = released(CLEAN)
    knn = ItemKNN(ItemKNNConfig(neighbours=100), made)
    assert figures(knn, cases["valid"])[1] == pytest.approx(0.1100, abs=6e-5)
    assert figures(knn, cases["test"]) == pytest.approx((0.1018, 0.1702, 0.0905, 0.1136), abs=6e-5)
    timed = EASE(EASEConfig(oldest_weight=0.1), made)
    assert figures(timed, cases["test"]) == pytest.approx((0.1335, 0.2173, 0.1156, 0.1446), abs=6e-5)
