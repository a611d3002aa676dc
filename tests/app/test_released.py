"""The released ML-1M files against figures that other code computed from them; skipped where the files are not."""

import numpy as np
import pytest
import torch

from diffacet.app.importing import import_split
from diffacet.data import splits, store
from diffacet.rank.evaluate import evaluate
from released import CLEAN, NOISY, needs_released

pytestmark = needs_released
POPULARITY = {
    ("clean", "valid"): {"recall@10": 0.040289, "recall@20": 0.079347, "ndcg_textbook@10": 0.070190,
                         "ndcg_textbook@20": 0.079379, "precision@10": 0.061540, "mrr@10": 0.145419},
    ("clean", "test"): {"recall@10": 0.053458, "recall@20": 0.099321, "ndcg_textbook@10": 0.058680,
                        "ndcg_textbook@20": 0.072136, "precision@10": 0.044108, "mrr@10": 0.111649,
                        "recall_min@10": 0.066688},
    ("noisy", "valid"): {"recall@10": 0.028726, "recall@20": 0.056075, "ndcg_textbook@10": 0.039744,
                         "ndcg_textbook@20": 0.049081, "precision@10": 0.033552, "mrr@10": 0.084899},
    ("noisy", "test"): {"recall@10": 0.046672, "recall@20": 0.089604, "ndcg_textbook@10": 0.045460,
                        "ndcg_textbook@20": 0.060426, "precision@10": 0.034073, "mrr@10": 0.085323},
}  # fmt: skip
WRONG_MASK = {"recall@10": 0.049822, "recall@20": 0.094359, "ndcg_textbook@10": 0.052840, "ndcg_textbook@20": 0.066513}
SHOWN_MORE = {"recall@10": 0.147279, "recall@20": 0.237142, "ndcg_textbook@10": 0.132807, "ndcg_textbook@20": 0.162135}
EASE = {"recall@10": 0.106637, "recall@20": 0.181617, "ndcg_textbook@10": 0.090983, "ndcg_textbook@20": 0.116531,
        "precision@10": 0.059422, "mrr@10": 0.149571, "recall_min@10": 0.118691}  # fmt: skip


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    found = {}
    for name, path in (("clean", CLEAN), ("noisy", NOISY)):
        import_split(*(path / f"{part}.parquet" for part in ("train", "valid", "test")), folder / name)
        found[name] = splits.given(store.open(folder / name).log)
    return found


class Popular:
    def __init__(self, split):
        self.counts = torch.from_numpy(np.bincount(split.train.items)).float()

    def scores(self, history):
        return self.counts.repeat(len(history.items), 1)


class Table:
    """Scores (U, N + 1) by case, from the rows of histories and item weights."""

    def __init__(self, histories, weights):
        self.table = rows(histories, len(weights)).to_sparse_csr() @ weights

    def scores(self, history):
        return self.table[history.case]


def rows(sequences, width):
    """(U, N + 1) 0 and 1."""
    x = torch.zeros(len(sequences), width, dtype=torch.float64)
    x[np.repeat(np.arange(len(sequences)), sequences.lengths()), sequences.items] = 1
    return x


def ease(split, penalty):
    """Steck's closed form in float64, written out again: (N + 1, N + 1)."""
    x = rows(split.train, int(split.train.items.max()) + 1)
    gram = x.T.to_sparse_csr() @ x
    inverse = torch.linalg.inv(gram + penalty * torch.eye(len(gram), dtype=torch.float64))
    weights = -inverse / inverse.diagonal()
    return weights.fill_diagonal_(0)


def close(got, expected, tolerance):
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize(("name", "on"), list(POPULARITY))
def test_popularity(released, name, on):
    split = released[name]
    got = evaluate(Popular(split), getattr(split, on), length=1, ks=(10, 20))
    close(got, POPULARITY[name, on], 1e-6)


def test_popularity_with_the_wrong_mask(released):
    test = released["clean"].test
    only_train = splits.Holdout(test.history, test.target, exclude_seen=True)
    close(evaluate(Popular(released["clean"]), only_train, length=1, ks=(10, 20)), WRONG_MASK, 1e-6)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_ease(released):
    split = released["clean"]
    weights = ease(split, 1000)
    for test, expected in ((split.test, EASE), (splits.with_valid(split).test, SHOWN_MORE)):
        close(evaluate(Table(test.history, weights), test, length=1, ks=(10, 20)), expected, 2e-5)
