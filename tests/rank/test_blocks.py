"""An answer depends on its query alone, to the bit."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from diffacet.core.contract import Facts
from diffacet.data.ids import Ids
from diffacet.models import card
from diffacet.rank import blocks
from diffacet.rank.candidates import Candidates, Query
from diffacet.rank.categories import ItemCategories
from diffacet.rank.retriever import Retriever

N = 3000
KINDS = ItemCategories.from_lists([[f"kind {n % 7}"] for n in range(N)])


def retriever(name, index="exact"):
    preset = card(name).presets["best"]
    torch.manual_seed(0)
    model = card(name).build(preset.model, Facts(N, preset.training.length))
    return Retriever(
        model, Ids(pl.Series(range(1, N + 1)), 1), length=preset.training.length, categories=KINDS, index=index
    )


def queries(many):
    draw = np.random.default_rng(5)
    for n in range(many):
        history = draw.integers(1, N + 1, draw.integers(1, 60)).tolist()
        yield Query(
            history,
            k=int(draw.choice([1, 10, 50])),
            exclude_seen=bool(draw.integers(2)),
            exclude=draw.integers(1, N + 1, draw.integers(0, 5)).tolist(),
            categories=["kind 1", "kind 4"] if n % 5 == 0 else None,
            diversity=0.5 if n % 7 == 0 else 0.0,
        )


def same(one, other):
    assert isinstance(one, Candidates)
    assert isinstance(other, Candidates)
    assert one.item_id.to_list() == other.item_id.to_list()
    assert one.score.tobytes() == other.score.tobytes()
    assert one.interest.tolist() == other.interest.tolist()
    assert (one.interests is None) == (other.interests is None)
    if one.interests is not None:
        assert one.interests.tobytes() == other.interests.tobytes()


@pytest.mark.parametrize("index", ["exact", "hnsw", "ivf"])
@pytest.mark.parametrize("name", ["dmi", "sasrec", "comirec-dr"])
def test_an_answer_is_bit_equal_alone_and_in_any_company(name, index):
    service, asked = retriever(name, index), list(queries(70))
    assert service.steady, "this machine's products depend on place: answers are computed one by one"
    alone = [service.answer([query])[0] for query in asked]
    for one, other in zip(alone, service.answer(asked), strict=True):
        same(one, other)
    order = np.random.default_rng(1).permutation(len(asked))
    for size in (3, 17, 40):
        for begin in range(0, len(order), size):
            rows = order[begin : begin + size]
            for row, other in zip(rows, service.answer([asked[row] for row in rows]), strict=True):
                same(alone[row], other)


@pytest.mark.parametrize("name", ["facet", "gru4rec", "multi-vae", "lightgcn", "mf", "acvae", "pimirec"])
def test_so_it_is_for_models_of_every_kind(name):
    service, asked = retriever(name), list(queries(20))
    alone = [service.answer([query])[0] for query in asked]
    for one, other in zip(alone, service.answer(asked), strict=True):
        same(one, other)


def test_another_process_would_answer_the_same():
    """Two services over equal weights, each warmed up on its own, with other requests before."""
    first, second = retriever("dmi"), retriever("dmi")
    asked = list(queries(5))
    first.answer(list(queries(33)))
    for one, other in zip(first.answer(asked), second.answer(asked), strict=True):
        same(one, other)


class Placed(nn.Module):
    """Adds to each interest what depends on its place in the batch, from the `size`-th row on or always."""

    def __init__(self, unsteady_below):
        super().__init__()
        self.table, self.unsteady_below = nn.Embedding(N + 1, 4), unsteady_below

    def interests(self, history):
        out = self.table(history.items[:, :1])
        if len(out) < self.unsteady_below:
            out = out + 1e-7 * torch.arange(len(out)).view(-1, 1, 1)
        return out

    def catalogue(self):
        return self.table.weight


@pytest.mark.parametrize(("below", "block"), [(0, 16), (17, 32), (33, 48), (1000, 1)])
def test_the_first_steady_size_is_found_and_without_one_rows_are_asked_alone(below, block):
    service = Retriever(Placed(below), Ids(pl.Series(range(1, N + 1)), 1), length=4)
    assert service.block == block
    assert service.steady == (block > 1)
    answers = service.answer([Query([n]) for n in range(1, 40)])
    for n, answer in enumerate(answers, 1):
        same(answer, service.answer([Query([n])])[0])


def test_a_block_is_filled_with_its_first_row_and_cut_without_rest():
    rows = np.array([[1, 2], [3, 0]])
    assert blocks.filled(rows, 4).tolist() == [[1, 2], [3, 0], [1, 2], [1, 2]]
    assert [len(range(*part.indices(7))) for part in blocks.cut(7, 3)] == [3, 3, 1]
    assert blocks.cut(0, 3) == []


def test_a_bad_query_does_not_disturb_its_neighbours():
    service = retriever("dmi")
    bad = [Query([]), Query(["nobody"]), Query([1], k=0), Query([1], categories=["kind 9"]), Query([1], refine_steps=2)]
    good = list(queries(3))
    answers = service.answer([good[0], bad[0], bad[1], good[1], bad[2], bad[3], bad[4], good[2]])
    for place, query in zip((0, 3, 7), good, strict=True):
        same(answers[place], service.answer([query])[0])
    told = [answers[place] for place in (1, 2, 4, 5, 6)]
    assert [error.field for error in told] == ["history", "history", "k", "categories", "refine_steps"]
    assert "did you mean 'kind" in str(told[3])


def test_exclusions_and_categories_hold():
    service = retriever("dmi")
    plain = service.recommend([1, 2, 3], 10)
    out = service.recommend([1, 2, 3], 10, exclude=[*plain.item_id.head(2).to_list(), "nobody"])
    assert out.item_id.to_list()[:8] == plain.item_id.to_list()[2:]
    some = service.recommend([1, 2, 3], 400, categories=["kind 1"], exclude_seen=False)
    rest = service.recommend([1, 2, 3], N, exclude_seen=False)
    mine = [(item, score) for item, score in zip(rest.item_id, rest.score, strict=True) if (item - 1) % 7 == 1]
    assert some.category.unique().to_list() == ["kind 1"]
    assert some.item_id.to_list() == [item for item, _ in mine[:400]]
    np.testing.assert_allclose(some.score, [score for _, score in mine[:400]], rtol=1e-5)


def test_rows_of_numbers_are_answered_like_queries_of_ids():
    from diffacet.data.sequences import Sequences

    service, asked = retriever("dmi"), [query.history for query in queries(37)]
    rows = np.repeat(np.arange(len(asked)), [len(history) for history in asked])
    known = Sequences.from_rows(rows, np.concatenate(asked), None, len(asked))
    for diversity in (0.0, 0.7):
        scores, numbers, interests = service.retrieve(known, 20, diversity=diversity)
        for row, one in enumerate(service.recommend_many(asked, 20, diversity=diversity)):
            assert numbers[row].tolist() == one.item_id.to_list()
            assert scores[row].tobytes() == one.score.tobytes()
            assert interests[row].tolist() == one.interest.tolist()


def test_similar_is_the_cosine():
    service = retriever("dmi")
    vectors = service.vectors[1:].numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[41]
    found = service.similar(42, 10)
    expected = [n + 1 for n in np.argsort(-cosine, kind="stable") if n != 41][:10]
    assert found.item_id.to_list() == expected
    np.testing.assert_allclose(found.score, cosine[np.array(expected) - 1], atol=1e-6)
