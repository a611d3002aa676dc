"""examples/: each run as its reader would run it, on the small log of the shop, in this process to save starts."""

import ast
import csv
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

import diffacet
import servingshop

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".ipynb"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Data and a run of DMI, where the examples look for them when they are told nothing."""
    folder = tmp_path_factory.mktemp("shop")
    data = servingshop.shop_data(folder)
    servingshop.served_run(data, folder / "runs" / "examples" / "dmi")
    shutil.copytree(data, folder / "runs" / "examples" / "ml-100k")
    return folder


@pytest.fixture
def example(shop, monkeypatch, capsys):
    """Runs an example with these words, from the folder of the shop: what it prints."""
    monkeypatch.chdir(shop)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def numbers(line):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)]


def test_own_csv(shop, example, monkeypatch):
    """Without a log of one's own: its example is made messy, refused, cleaned and used."""
    with (shop / "log.csv").open() as log, (shop / "shop.inter").open("w") as inter:
        inter.write("user_id:token\titem_id:token\ttimestamp:float\n")
        inter.writelines("\t".join(row[:3]) + "\n" for row in list(csv.reader(log))[1:])
    monkeypatch.setattr(diffacet, "example_log", lambda: shop / "shop.inter")
    told = example("own_csv.py", "--steps", 10, "--out", "own")
    assert "refused: own/messy.csv, row 502: column 'When': 'n/a' is no time" in told
    assert "left out for want of user, item or time: 1 of 920 rows" in told
    assert "repeated rows dropped: 719 rows, 60 users" in told
    rows = re.findall(r"^(pop|item-knn|dmi) +([\d.]+) +([\d.]+)$", told, re.MULTILINE)
    assert {name for name, *_ in rows} == {"pop", "item-knn", "dmi"}
    recalls = [float(recall) for _, recall, _ in rows]
    assert recalls == sorted(recalls, reverse=True)
    history, found = told.splitlines()[-1].removeprefix("after ").split(":")
    assert len(history.split(",")) == 5
    assert len(set(found.split())) == 10


def test_own_csv_takes_a_clean_log_and_no_folder_twice(shop, example, capsys):
    words = ["log.csv", "--user", "customer", "--item", "sku", "--time", "ts", "--steps", 2, "--out", "clean"]
    told = example("own_csv.py", *words)
    assert "refused" not in told
    assert "read: 720 rows, 60 users" in told
    assert not (shop / "clean" / "clean.csv").exists()
    with pytest.raises(SystemExit):
        example("own_csv.py", *words)
    assert "clean is there; name a new folder by --out" in capsys.readouterr().err


def test_ablation(shop, example):
    told = example("ablation.py", "--data", "data", "--out", "ablation", "--seeds", 2, "--steps", 10)
    tables = told.split("\n\n")[1:3]
    for metric, table in zip(("recall@20", "ndcg@20"), tables, strict=True):
        head, base, *others = table.splitlines()
        assert head.startswith(metric)
        assert base.startswith("DMI  ")
        assert [line.split("  ")[0] for line in others] == ["no pruning", "no diffusion", "DMI, unrefined"]
        for line in others:
            mean, _, minus, low, high, p_users, p_seeds = numbers(line)
            assert minus == pytest.approx(mean - numbers(base)[0], abs=2e-4)
            assert low <= minus <= high
            assert 0 < p_users <= 1
            assert 0 <= p_seeds <= 1
    assert "corrected by Holm" in told
    run = diffacet.load(shop / "ablation" / "no-pruning-1")
    assert (run.settings.model.variant, run.about["split"]["seed"]) == ("ip", 1)


def test_diverse_candidates(shop, example):
    told = example("diverse_candidates.py", "--k", 5, "--keep", 2)
    rows = [numbers(line) for line in told.split("\n\n")[0].splitlines()[1:]]
    assert [row[0] for row in rows] == [0, 0.1, 0.25, 0.5, 1, 2]
    assert rows[-1][1] >= rows[0][1]  # categories
    assert rows[-1][2] < rows[0][2]  # the share of the largest
    assert "runs/examples/diverse.parquet: 300 candidates of 60 users" in told
    table = pl.read_parquet(shop / "runs" / "examples" / "diverse.parquet")
    log = pl.read_csv(shop / "log.csv").filter(customer=table["user_id"][0])
    run = diffacet.load(shop / "runs" / "examples" / "dmi")
    asked = run.recommender().recommend(log["sku"].to_list(), 5, diversity=2)
    assert table["item_id"].head(5).to_list() == asked.item_id.to_list()


def test_notebook(shop, monkeypatch, capsys):
    """Its cells from first to last, as a kernel would run them; what stands last in a cell is what it shows."""
    notebook = json.loads((EXAMPLES / "interests.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    (shop / "notebooks").mkdir()
    monkeypatch.chdir(shop / "notebooks")
    names, shown = {}, []
    for number, cell in enumerate(cells):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        shown.append(last and eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names))
    figures = [one for one in shown if hasattr(one, "to_plotly_json")]
    assert [len(figure.data) for figure in figures] == [1, 1, 5]  # two maps, and items with four interests
    texts = [one for one in shown if isinstance(one, str)]
    assert "new items among the first 10" in texts[0]
    assert "reads 8 of" in texts[1]
    assert "a random direction: a tenth of the dimensions has" in capsys.readouterr().out
    (table,) = (one for one in shown if isinstance(one, pl.DataFrame))
    recommender, example = names["recommender"], names["example"]
    after = recommender.recommend(example.history, 10)
    before = recommender.recommend(example.history, 10, refine_steps=0).item_id.to_list()
    assert table["item"].to_list() == after.titles.to_list()
    places = [before.index(item) + 1 if item in before else None for item in after.item_id]
    assert table["was"].to_list() == places
    assert table["met"].to_list() == [item in example.next for item in after.item_id]


@pytest.mark.parametrize("path", [*SCRIPTS, EXAMPLES / "serving" / "client.py"], ids=lambda path: path.name)
def test_every_example_is_short_told_of_and_tested(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        assert max(len(cell["source"]) for cell in cells) < 30
    else:
        assert text.count("\n") < 60
    assert f"]({path.relative_to(EXAMPLES)})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests").rglob("test_*.py")
    assert any(re.search(rf"[\"/]{re.escape(path.name)}\"", test.read_text(encoding="utf-8")) for test in tests)


def test_examples_need_the_public_names_only():
    for path in [*SCRIPTS, EXAMPLES / "serving" / "client.py"]:
        if path.suffix != ".py" or path.name == "new_model.py":  # a model is built of the parts in core
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not any(name.startswith("diffacet.") for name in names), path.name
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "diffacet":
                assert node.attr in diffacet.__all__, path.name
