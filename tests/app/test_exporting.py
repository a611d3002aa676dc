"""What `diffacet export` writes: equal to the run, refused when it is not, and nothing left behind."""

import errno
import hashlib
import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
import torch

import servingshop
from diffacet.app import exporting, runs
from diffacet.app.exporting import checks, guide, parts, programs, vectors
from diffacet.app.exporting.programs import NoProgram
from diffacet.app.serving.recommender import Recommender
from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.core.diffusion import case_noise, scaled_linear
from diffacet.core.diffusion.noise import request_noise
from diffacet.errors import BadRun, BadSetting, MissingExtra
from diffacet.models import card
from diffacet.rank.index import Index

LENGTH, STEPS = 8, 1


class Made:
    """An export with the run that it was made of."""

    def __init__(self, run, out, **how):
        self.lines = []
        self.told = exporting.export(run, out, tell=self.lines.append, **how)
        self.out = out
        self.recommender = Recommender.load(run, refine_steps=how.get("refine_steps"), device="cpu")

    @property
    def model(self):
        return self.recommender.run.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def dmi(shop_runs, folder):
    return Made(shop_runs["dmi"], folder / "dmi", refine_steps=STEPS)


@pytest.fixture(scope="module")
def sasrec(shop_runs, folder):
    return Made(shop_runs["sasrec"], folder / "sasrec", wish=exporting.Wish("hnsw", onnx=True, require_encoder=True))


@pytest.fixture(scope="module")
def mf(shop_data, folder):
    run = servingshop.served_run(shop_data, folder / "mf-run", "mf")
    return Made(run, folder / "mf")


def some(rows, seed=0):
    """(rows, L) item numbers: histories of all lengths, with an empty and a full one where there is room."""
    draw = np.random.default_rng(seed)
    items = draw.integers(1, 41, (rows, LENGTH))
    ends = draw.integers(1, LENGTH + 1, rows)
    if rows > 2:
        ends[0], ends[1] = 0, LENGTH
    return np.where(np.arange(LENGTH) < ends[:, None], items, 0)


def answered(model, items):
    with torch.no_grad():
        history = Histories(torch.from_numpy(items), torch.full((len(items),), -1), torch.zeros(len(items)).long())
        return model.interests(history).numpy()


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# What is written


def test_the_manifest_knows_every_file(dmi):
    told = json.loads((dmi.out / "manifest.json").read_text())
    assert told | {"out": str(dmi.out)} == dmi.told
    assert set(told["files"]) == {path.name for path in dmi.out.iterdir()} - {"manifest.json"}
    assert set(told["files"]) == {
        *("README.md", "encoder.onnx", "encoder.pt2", "example.py"),
        *("ids.npy", "index.faiss", "items.parquet", "vectors.npy"),
    }
    for name, file in told["files"].items():
        content = (dmi.out / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert (told["model"], told["items"], told["dim"], told["interests"], told["length"]) == ("dmi", 40, 8, 4, LENGTH)
    assert (told["refine_steps"], told["settings"]["refine_steps"]) == (STEPS, STEPS)
    assert told["version"] == dmi.recommender.version
    assert told["checks"]["encoder.pt2"]["largest"] <= 1e-5
    assert told["checks"]["encoder.onnx"]["largest"] <= 1e-4
    assert told["checks"]["lists"]["same"] == told["checks"]["lists"]["lists"] > 0
    assert "held-out" in told["checks"]["histories"]


def test_items_are_those_of_the_model(dmi):
    own = dmi.model.catalogue()[1:].detach().numpy()
    array = np.load(dmi.out / "vectors.npy", allow_pickle=False)
    assert array.dtype == np.float32
    assert array.tobytes() == own.tobytes()
    table, catalogue = pl.read_parquet(dmi.out / "items.parquet"), dmi.recommender.run.catalogue
    assert table["vector"].to_numpy().tobytes() == own.tobytes()
    assert table["number"].to_list() == list(range(1, 41))
    assert table.select("item_id", "title", "categories").equals(catalogue.select("item_id", "title", "categories"))
    assert np.load(dmi.out / "ids.npy", allow_pickle=False).tolist() == catalogue["item_id"].to_list()


def test_ids_that_are_text_need_no_pickle(tmp_path):
    catalogue = pl.DataFrame({"item_id": ["a", "bö", "a longer one"]})
    own = np.arange(6, dtype=np.float32).reshape(3, 2)
    vectors.write(tmp_path, catalogue, own, "exact")
    vectors.check(tmp_path, catalogue, own, "exact")
    assert np.load(tmp_path / "ids.npy", allow_pickle=False).tolist() == ["a", "bö", "a longer one"]


def test_the_index_searches_by_inner_product(dmi):
    index = faiss.read_index(str(dmi.out / "index.faiss"))
    own = dmi.model.catalogue()[1:].detach().numpy()
    asked = answered(dmi.model, some(5))[:, 0]
    _, rows = index.search(asked, 3)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert rows[1:].tolist() == np.argsort(-(asked @ own.T), 1)[1:, :3].tolist()


def test_a_near_index_is_measured(sasrec):
    assert Index.load(sasrec.out / "index.faiss").kind == sasrec.told["index"] == "hnsw"
    assert sasrec.told["checks"]["index.faiss"]["recall@50"] > 0.9


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 33])
@pytest.mark.parametrize("name", ["dmi", "sasrec"])
def test_encoders_give_the_models_interests(name, rows, request):
    made, items = request.getfixturevalue(name), some(rows, rows)
    own = answered(made.model, items)
    length = np.linalg.norm(own, axis=-1, keepdims=True).max() + 1e-9
    for encode in (programs.load(made.out / "encoder.pt2"), programs.load_onnx(made.out / "encoder.onnx")):
        found = encode(items)
        assert found.dtype == np.float32
        assert found.shape == own.shape
        assert np.abs(found - own).max() / length < 2e-6


def test_refinement_is_in_the_program(dmi, shop_runs):
    unrefined = runs.load(shop_runs["dmi"], set=["refine_steps=0"], device="cpu").model
    items = some(4)
    assert np.abs(answered(unrefined, items) - programs.load(dmi.out / "encoder.pt2")(items)).max() > 1e-3


def test_onnx_has_names_and_an_open_batch(dmi):
    import onnx

    model = onnx.load(dmi.out / "encoder.onnx")
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("items", "interests")
    assert given.type.tensor_type.shape.dim[0].dim_param
    assert given.type.tensor_type.shape.dim[1].dim_value == LENGTH
    assert next(one.version for one in model.opset_import if not one.domain) >= 17


def test_no_path_of_this_machine_is_told(dmi):
    here = str(exporting.__file__).split("/diffacet/")[0].encode()
    assert not [path.name for path in dmi.out.iterdir() if here in path.read_bytes()]


def test_each_stage_is_told(dmi):
    words = " | ".join(dmi.lines)
    for stage in ("loading", "writing 40 items", "tracing", "ONNX", "checking against the run: "):
        assert stage in words


def test_a_model_that_torch_cannot_follow_is_exported_without_encoder(mf):
    assert mf.told["encoder"] is None
    assert mf.told["reasons"]["encoder.pt2"].startswith("mf has no encoder that could be exported: ")
    assert mf.told["reasons"]["encoder.pt2"] in " ".join(mf.lines)
    assert left_in(mf.out) == ["README.md", "ids.npy", "index.faiss", "items.parquet", "manifest.json", "vectors.npy"]
    assert mf.told["checks"]["lists"]["same"] == mf.told["checks"]["lists"]["lists"]
    read = (mf.out / "README.md").read_text()
    assert mf.told["reasons"]["encoder.pt2"] in read
    assert "example.py" not in read


def test_an_encoder_that_is_required_is_refused_where_there_is_none(mf, folder, tmp_path):
    with pytest.raises(BadRun, match=r"mf has no encoder that could be exported: .*; leave out --require-encoder"):
        exporting.export(folder / "mf-run", tmp_path / "out", exporting.Wish(require_encoder=True))
    assert left_in(tmp_path) == []


# How it is used


@pytest.mark.parametrize("name", ["dmi", "sasrec"])
def test_the_example_needs_no_diffacet_and_says_the_same(name, request):
    made = request.getfixturevalue(name)
    history = [str(item) for item in made.recommender.run.catalogue["item_id"].head(3)]
    alone = "import sys, runpy\nsys.modules['diffacet'] = sys.modules['torch'] = None\nsys.argv = sys.argv[1:]\n"
    alone += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", alone, str(made.out / "example.py"), "--k", "7", *history, "no such item"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no such item" in done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    own = made.recommender.recommend(history, 7)
    assert [row[1] for row in rows] == [str(item) for item in own.item_id]
    assert [float(row[2]) for row in rows] == pytest.approx(own.score.tolist(), rel=1e-4)
    assert [int(row[3]) for row in rows] == own.interest.tolist()


def test_the_pieces_of_the_readme_run_up_to_faiss(dmi, monkeypatch, capsys, tmp_path):
    text = (dmi.out / "README.md").read_text()
    pieces = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    upto = next(place for place, piece in enumerate(pieces) if "import faiss" in piece)
    assert upto == 4  # the common one, numbers, onnxruntime, torch
    (tmp_path / "pieces.py").write_text("\n".join(pieces[: upto + 1]))
    for piece in pieces:
        compile(piece, "README.md", "exec")
    monkeypatch.chdir(dmi.out)
    space = runpy.run_path(str(tmp_path / "pieces.py"))
    own = dmi.recommender.recommend(space["history"], 20)
    assert [str(item) for item, _ in space["merged"](space["lists"])] == [str(item) for item in own.item_id]
    assert "{{" not in text
    for store in ("Qdrant", "Milvus", "pgvector", "Elasticsearch", "OpenSearch"):
        assert store in text
    for width in ('"dims": 8', "size=8", "dimension=8", "vector(8)", '"dimension": 8'):
        assert width in text


def test_a_template_keeps_what_is_there():
    text = "a\n<!-- if x -->\nx {{n}}\n<!-- if y -->\ny\n<!-- end -->\nb\n"
    assert guide.filled(text, {"n": 3}, {"x"}) == "a\nx 3\nb\n"
    assert guide.filled(text, {"n": 3}, {"y"}) == "a\ny\nb\n"


# Parts and noise


def test_noise_of_a_request_is_that_of_case_0():
    for shape, seed in (((4, 8), 0), ((3, 2, 5), 7)):
        one = request_noise(shape, seed)
        assert torch.equal(case_noise(torch.zeros(5, dtype=torch.int64), shape, seed), one.expand(5, *shape))


def test_a_schedule_has_its_tables_as_numbers():
    schedule = scaled_linear(10, 20.0, 1e-4, 4e-3)
    assert schedule.levels == schedule.noise_level.tolist()
    assert schedule.signals == schedule.alpha_bar.tolist()


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("sasrec", {}),
        ("dreamrec", {"denoise_steps": 5}),
        ("pimirec", {}),
        ("pimirec", {"mask_centre": False}),
        ("dmi", {"base": "pimirec"}),
        ("dmi", {}),
    ],
)
def test_exchanged_parts_give_the_same_vectors(name, sets):
    chosen = card(name)
    torch.manual_seed(1)
    config = type(chosen.presets["best"].model)(dim=8, **sets)
    model = chosen.build(config, Facts(40, LENGTH)).eval()
    before = {part: type(part) for part in model.modules()}
    other = parts.followable(model)
    items = some(16)
    # The same sums in products of other shapes: rounding of float32.
    assert np.allclose(answered(other, items), answered(model, items), rtol=1e-5, atol=1e-5)
    assert {part: type(part) for part in model.modules()} == before
    shared = dict(model.named_parameters())
    assert all(tensor is shared[key] for key, tensor in other.named_parameters())


def test_strides_are_traced(shop_run):
    model = runs.load(shop_run, set=["refine_steps=3"], device="cpu").model
    items = some(5)
    found = programs.trace(model, LENGTH).module()(torch.from_numpy(items)).detach().numpy()
    assert np.allclose(found, answered(model, items), rtol=1e-5, atol=1e-6)


def test_a_program_that_would_be_too_long_is_not_traced():
    model = card("dreamrec").build(card("dreamrec").config(dim=8), Facts(40, LENGTH)).eval()
    with pytest.raises(NoProgram, match=r"13,\d+ operations, of 6,000 at most; a walk of fewer steps takes fewer"):
        programs.trace(model, LENGTH)


def test_a_refusal_names_the_line(capsys):
    model = card("acvae").build(card("acvae").config(), Facts(40, LENGTH)).eval()
    with pytest.raises(NoProgram, match=r"what it does depends on values .* diffacet/models/acvae\.py:\d+"):
        programs.trace(model, LENGTH)
    assert capsys.readouterr() == ("", "")  # torch prints its graph


def test_torchs_own_talk_is_left_out_and_nothing_else(caplog):
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    with programs._quiet():
        log.warning("torchvision is not installed. Skipping %s", "torchvision::nms")
        log.warning("something else")
    log.warning("torchvision is not installed")
    assert [record.getMessage() for record in caplog.records] == ["something else", "torchvision is not installed"]


# Checks that fail


@pytest.fixture
def quick(monkeypatch):
    """Exports without programs, which take seconds."""

    def none(model, length):
        raise NoProgram("this is a test")

    monkeypatch.setattr(programs, "trace", none)


def _array(folder):
    own = np.load(folder / "vectors.npy")
    own[3, 2] = np.nextafter(own[3, 2], np.float32(9))
    np.save(folder / "vectors.npy", own)


def _table(folder):
    table = pl.read_parquet(folder / "items.parquet")
    table.with_columns(vector=table["vector"].reverse()).write_parquet(folder / "items.parquet")


def _order(folder):
    table = pl.read_parquet(folder / "items.parquet")
    table.with_columns(item_id=table["item_id"].reverse()).write_parquet(folder / "items.parquet")


def _ids(folder):
    np.save(folder / "ids.npy", np.load(folder / "ids.npy")[::-1])


def _index(folder):
    Index.build(np.load(folder / "vectors.npy")[::-1], "exact").save(folder / "index.faiss")


def _other_kind(folder):
    Index.build(np.load(folder / "vectors.npy"), "ivf").save(folder / "index.faiss")


@pytest.mark.parametrize(
    ("tamper", "what"),
    [
        (_array, r"vectors\.npy failed: its vectors are not those of the model"),
        (_table, r"items\.parquet failed: its vectors"),
        (_order, r"items\.parquet failed: its ids"),
        (_ids, r"ids\.npy failed: its ids"),
        (_index, r"index\.faiss failed: it finds other items"),
        (_other_kind, r"index\.faiss failed: it is ivf over 40 vectors of width 8"),
    ],
)
def test_a_file_that_is_not_the_model_is_refused(tamper, what, quick, shop_run, tmp_path, monkeypatch):
    write = vectors.write

    def wrong(folder, *rest):
        write(folder, *rest)
        tamper(folder)

    monkeypatch.setattr(vectors, "write", wrong)
    with pytest.raises(BadRun, match=f"the check of {what}.*; nothing was kept"):
        exporting.export(shop_run, tmp_path / "out")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("name", "advice"), [("encoder.pt2", "report it"), ("encoder.onnx", "--no-onnx")])
def test_an_encoder_with_other_weights_is_refused(name, advice, dmi, shop_run, tmp_path, monkeypatch):
    """What is read again is the fixture's programs, one of them moved by a thousandth."""
    right = {
        "encoder.pt2": programs.load(dmi.out / "encoder.pt2"),
        "encoder.onnx": programs.load_onnx(dmi.out / "encoder.onnx"),
    }

    def loaded(path):
        moved = np.float32(1.001 if path.name == name else 1)
        return lambda items: right[path.name](items) * moved

    monkeypatch.setattr(programs, "trace", lambda model, length: None)
    for act in ("save", "save_onnx"):
        monkeypatch.setattr(programs, act, lambda program, path: path.write_bytes(b"a program"))
    for act in ("load", "load_onnx"):
        monkeypatch.setattr(programs, act, loaded)
    with pytest.raises(BadRun, match=rf"check of {name} failed: 12 of 12 histories differ .* up to 0\.001.*{advice}"):
        exporting.export(shop_run, tmp_path / "out", refine_steps=STEPS)
    assert left_in(tmp_path) == []


def test_lists_of_other_interests_are_refused(dmi):
    asked, own = checks.histories(dmi.recommender), np.load(dmi.out / "vectors.npy")
    right = programs.of_model(dmi.model)
    rows = range(len(asked.items))
    told = checks.lists(dmi.recommender, asked, rows, right, dmi.out / "index.faiss", own)
    assert told["same"] == told["lists"] == len(asked.items)
    with pytest.raises(BadRun, match="the check of the whole failed: lists of 20 items are others"):
        checks.lists(dmi.recommender, asked, rows, lambda items: -right(items), dmi.out / "index.faiss", own)


class Jumping(torch.nn.Module):
    """A model that chooses between two vectors by a product; histories of item 1 lie on the edge."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))

    def interests(self, history):
        side = self.weight[0] * history.items[:, :1] > self.weight[1]
        return torch.where(side, 1.0, -1.0).unsqueeze(-1)


def test_where_rounding_decides_nothing_is_compared():
    items = np.ones((12, 1), np.int64)
    items[2:] = 5
    own = programs.of_model(Jumping())

    def flipped(rows):
        return np.where(rows[:, :, None] == 1, 1.0, own(rows)).astype(np.float32)

    told, edge = checks.encoder("encoder.onnx", flipped, Jumping(), items)
    assert edge == {0, 1}
    assert (told["on_edge"], told["histories"], told["largest"]) == (2, 10, 0.0)
    items[:5] = 1
    with pytest.raises(BadRun, match=r"5 of 12 histories differ .* of them move as far"):
        checks.encoder("encoder.onnx", flipped, Jumping(), items)
    items[:] = 5
    with pytest.raises(
        BadRun, match=r"12 of 12 histories differ from the model by up to 2 of a vector's length, 0\.0001"
    ):
        checks.encoder("encoder.onnx", lambda rows: -own(rows), Jumping(), items)


def test_lists_may_differ_among_equal_scores_only():
    scores = np.array([[3.0, 2.0, 1.0]], np.float32)
    one = (scores, np.array([[5, 6, 7]]))
    apart, scale = checks._disagreement, np.ones(1, np.float32)
    assert apart(one, (scores, np.array([[5, 6, 8]])), scale) == 0  # the last may have an equal beyond the list
    assert apart(one, (scores, np.array([[6, 5, 7]])), scale) == 1  # two have changed places whose scores are no equals
    assert apart(one, (scores, np.array([[5, 8, 7]])), scale) == np.inf
    assert apart(one, (scores, np.array([[5, 6, 0]])), scale) == np.inf
    assert apart(one, (scores + np.float32(0.5), np.array([[5, 6, 7]])), scale) == 0.5


def test_runs_without_examples_are_checked_on_drawn_histories(shop_run, dmi, monkeypatch):
    monkeypatch.setattr(Recommender, "examples", lambda self: [])
    asked = checks.histories(dmi.recommender)
    assert asked.source.startswith("32 histories drawn from the catalogue")
    assert asked.items.shape == (32, LENGTH)
    assert asked.items[:, 0].all()


# Refusals


@pytest.fixture
def traced(dmi, monkeypatch):
    """Exports of the DMI run, which need no trace of their own."""
    program = torch.export.load(dmi.out / "encoder.pt2")
    monkeypatch.setattr(programs, "trace", lambda model, length: program)


@pytest.mark.parametrize("where", ["torch", "numpy", "polars", "faiss"])
def test_a_full_disk_leaves_nothing(where, traced, shop_run, tmp_path, monkeypatch):
    def full(owner, name, error):
        usual = getattr(owner, name)

        def refuse(*words, **more):
            if owner is Path and words[0].name != "encoder.pt2":
                return usual(*words, **more)
            raise error

        return refuse

    target = {
        "torch": (Path, "open", OSError(errno.ENOSPC, "No space left on device")),
        "numpy": (np, "save", OSError(errno.ENOSPC, "No space left on device")),
        "polars": (pl.DataFrame, "write_parquet", pl.exceptions.ComputeError("No space left on device (os error 28)")),
        "faiss": (faiss, "write_index", RuntimeError("No space left on device")),
    }
    owner, name, error = target[where]
    monkeypatch.setattr(owner, name, full(owner, name, error))
    with pytest.raises(
        BadRun, match=r"out cannot be written \(.*No space left.*nothing of it was kept; choose another"
    ):
        exporting.export(shop_run, tmp_path / "out", exporting.Wish(onnx=False))
    assert left_in(tmp_path) == []


def test_what_exists_is_not_touched(shop_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(BadRun, match=r"out exists; choose another --out"):
        exporting.export(shop_run, out)
    with pytest.raises(BadRun, match=r"mine exists"):
        exporting.export(shop_run, out / "mine")
    assert left_in(out) == ["mine"]


@pytest.mark.parametrize("name", ["facet", "ease", "pop"])
def test_models_that_score_all_items_have_nothing_to_export(name, shop_runs, tmp_path):
    with pytest.raises(BadRun, match=f"run of {name}, which scores all items at once .*'diffacet candidates'.*serve"):
        exporting.export(shop_runs[name], tmp_path / "out")
    assert left_in(tmp_path) == []


def test_models_of_clicks_have_nothing_to_export(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "model": "din"}')
    with pytest.raises(BadRun, match=r"run of din, a model of clicks, which has no vectors .*'diffacet predict'"):
        exporting.export(tmp_path, tmp_path / "out")


def test_bad_settings_are_told_before_anything_is_written(shop_runs, tmp_path):
    with pytest.raises(BadSetting, match=r"exact, hnsw, ivf; got 'hsnw' \(did you mean 'hnsw'\?\)"):
        exporting.export(shop_runs["dmi"], tmp_path / "out", exporting.Wish("hsnw"))
    with pytest.raises(BadSetting):
        exporting.export(shop_runs["sasrec"], tmp_path / "out", refine_steps=1)
    with pytest.raises(BadSetting, match="'gamma' is fixed"):
        exporting.export(shop_runs["dmi"], tmp_path / "out", set=["gamma=0.9"])
    with pytest.raises(BadRun, match="no run directory"):
        exporting.export(tmp_path, tmp_path / "out")
    assert left_in(tmp_path) == []


def test_without_the_extra_onnx_is_left_out_or_missed(shop_run, mf, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"onnxscript is not installed .*pip install 'diffacet\[onnx\]'"):
        exporting.export(shop_run, tmp_path / "out", exporting.Wish(onnx=True))
    assert exporting._with_onnx(None) is False
    assert left_in(tmp_path) == []


def test_an_encoder_without_onnx_comes_with_an_example_in_torch(traced, shop_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made = Made(shop_run, tmp_path / "out", refine_steps=STEPS)
    assert made.told["encoder"] == "encoder.pt2"
    assert any("pip install 'diffacet[onnx]'" in line for line in made.lines)
    assert "onnxruntime" not in (tmp_path / "out" / "README.md").read_text()
    history = [str(item) for item in made.recommender.run.catalogue["item_id"].head(4)]
    monkeypatch.setattr(sys, "argv", ["example.py", *history])
    capsys.readouterr()
    runpy.run_path(str(tmp_path / "out" / "example.py"), run_name="__main__")
    found = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert found == [str(item) for item in made.recommender.recommend(history, 20).item_id]


def test_an_operation_that_onnx_lacks_costs_onnx_alone(traced, shop_run, tmp_path, monkeypatch):
    def lacking(*words, **more):
        raise RuntimeError("No ONNX function found for <OpOverload>\nand much more")

    monkeypatch.setattr(torch.onnx, "export", lacking)
    with pytest.raises(BadRun, match=r"dmi has no encoder in ONNX: .*\(No ONNX function found.*\); leave out --onnx"):
        exporting.export(shop_run, tmp_path / "out", exporting.Wish(onnx=True), refine_steps=STEPS)
    assert left_in(tmp_path) == []
    told = exporting.export(shop_run, tmp_path / "out", refine_steps=STEPS)
    assert told["encoder"] == "encoder.pt2"
    assert "encoder.onnx" in told["reasons"]


def test_the_command_line(call, quick, shop_run, tmp_path):
    code, out, err = call("export", shop_run, "--out", tmp_path / "out", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["encoder"], told["out"]) == (None, str(tmp_path / "out"))
    assert "diffacet: dmi has no encoder that could be exported: this is a test; what is exported is the rest" in err
    code, out, err = call("export", shop_run, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "exists" in err
    code, out, _ = call("export", shop_run, "--out", tmp_path / "other", "--index", "ivf")
    assert code == 0
    assert "40 items, 4 vectors a user, d = 8, by dmi-" in out
    assert "recall@50 1.0000" in out
    assert "12 of 12 lists of 20 the same" in out
