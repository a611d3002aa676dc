from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from diffacet.errors import BadRun, BadSetting
from diffacet.rank.index import KINDS, Index
from diffacet.rank.ranking import top_k


def clustered(n, d=16, clusters=40, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, d))
    return (centres[rng.integers(0, clusters, n)] + 0.4 * rng.standard_normal((n, d))).astype(np.float32)


VECTORS, QUERIES = clustered(3000), clustered(40, seed=1)


def test_blas_is_used_for_small_batches():
    # Otherwise exact search of fewer than 128,000 / d queries is several times slower (faiss issues 4925, 5022).
    assert faiss.cvar.distance_compute_blas_threshold == 20


@pytest.mark.parametrize("users", [1, 19, 40])
def test_exact_is_top_k(users):
    scores, items = Index.build(VECTORS).search(QUERIES[:users], 50)
    catalogue = torch.from_numpy(np.concatenate([np.zeros((1, 16), np.float32), VECTORS]))
    ranked = top_k(torch.from_numpy(QUERIES[:users]).unsqueeze(1), catalogue, 50)
    np.testing.assert_array_equal(items, ranked.items)
    np.testing.assert_allclose(scores, ranked.scores, rtol=1e-5)
    assert (scores.dtype, items.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(("kind", "least"), [("exact", 1.0), ("hnsw", 0.98), ("ivf", 0.95)])
def test_recall_against_exact(kind, least):
    exact = Index.build(VECTORS).search(QUERIES, 20)[1]
    found = Index.build(VECTORS, kind).search(QUERIES, 20)[1]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) >= least


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 38, 200])
def test_any_size_and_any_k(kind, n, capfd):
    index = Index.build(VECTORS[:n], kind)
    assert (len(index), index.dim) == (n, 16)
    scores, items = index.search(QUERIES[:3], n + 4)
    assert items.shape == (3, n + 4)
    assert not items[:, n:].any()
    assert (scores[items == 0] == -np.inf).all()
    assert np.isfinite(scores[items > 0]).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    if kind == "exact":
        assert all(sorted(row) == list(range(1, n + 1)) for row in items[:, :n].tolist())
    assert capfd.readouterr().err == ""


def test_settings_reach_faiss():
    ivf = Index.build(VECTORS, "ivf", lists=50, probes=50).native
    assert (ivf.nlist, ivf.nprobe) == (50, 50)
    assert Index.build(VECTORS, "ivf", lists=1000).native.nlist == 3000 // 39
    hnsw = Index.build(VECTORS[:100], "hnsw", links=8, ef_build=30, ef_search=25).native.hnsw
    assert (hnsw.efConstruction, hnsw.efSearch) == (30, 25)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    index, path = Index.build(VECTORS[:500], kind), tmp_path / "items.faiss"
    index.save(path)
    again = Index.load(path)
    assert again.kind == kind
    for one, other in zip(index.search(QUERIES, 30), again.search(QUERIES, 30), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [entry.name for entry in tmp_path.iterdir()] == ["items.faiss"]


def test_a_failed_save_keeps_the_old_index(tmp_path, monkeypatch):
    path = tmp_path / "items.faiss"
    Index.build(VECTORS[:10]).save(path)

    def full(index, name):
        Path(name).write_bytes(b"half")
        raise RuntimeError("write error: no space left")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OSError, match=r"items\.faiss: the index could not be written .*no space left"):
        Index.build(VECTORS[:20]).save(path)
    assert len(Index.load(path)) == 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["items.faiss"]
    monkeypatch.undo()
    with pytest.raises(OSError, match="could not be written"):
        Index.build(VECTORS[:20]).save(tmp_path / "missing" / "items.faiss")


def test_refused_files(tmp_path):
    with pytest.raises(BadRun, match="no index here"):
        Index.load(tmp_path / "none")
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(BadRun, match="not a FAISS index"):
        Index.load(path)
    faiss.write_index(faiss.IndexLSH(16, 8), str(path))
    with pytest.raises(BadRun, match="IndexLSH, not one of"):
        Index.load(path)


def test_refused_settings():
    with pytest.raises(
        BadSetting, match=r"unknown index kind 'hsnw' \(did you mean 'hnsw'\?\); kinds are exact, hnsw, ivf"
    ):
        Index.build(VECTORS, "hsnw")
    with pytest.raises(BadSetting, match=r"got shape \(0, 16\)"):
        Index.build(VECTORS[:0])
    with pytest.raises(BadSetting, match="not finite"):
        Index.build(np.full((3, 2), np.nan, np.float32))
    for setting in ("links", "ef_build", "ef_search", "lists", "probes"):
        with pytest.raises(BadSetting, match="at least 1"):
            Index.build(VECTORS, "ivf", **{setting: 0})
    index = Index.build(VECTORS)
    with pytest.raises(BadSetting, match="at least 1; got 0"):
        index.search(QUERIES, 0)
    with pytest.raises(BadSetting, match=r"\(B, 16\)"):
        index.search(QUERIES[:, :5], 3)
