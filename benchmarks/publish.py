"""Take a study's output into the repository: its tables and pictures to results/, its rows to the docs.

    python benchmarks/publish.py dmi-table2 OUT

OUT is the folder that `diffacet study` filled. Pages get one line a row between `<!-- NAME DATA -->` and
`<!-- /NAME DATA -->`, in the study's order; `diffacet compare OUT` shows everything again.
"""

import argparse
import shutil
from pathlib import Path

import polars as pl

from diffacet.app.studies import clicks, spec

HERE = Path(__file__).parent
SHOWN = ("recall@20", "hit_rate@20", "recall@50", "hit_rate@50", "ndcg@50")
PUBLISHED = ("recall@50", "hit_rate@50")
"""Of studies of matching; the others show the metrics of their file, and what is published of them."""
PAGES = {"docs/findings.md": "../", "docs/diffrec.md": "../", "docs/next-item.md": "../", "docs/clicks.md": "../"}
"""Where tables may stand, and how they get from there to the root of the repository."""


def provenance(table: str, data: str) -> str:
    """The line of a data set's section that says how its figures were made."""
    section = table.split(f"\n## {data}\n")[1]
    return next(line for line in section.splitlines() if line.startswith("Command: "))


def brief(results: pl.DataFrame, table: str, name: str, data: str, root: str) -> str:
    """Mean ± sample deviation over the runs of each row, as a Markdown table."""
    study = spec.read(name)
    matching = "recall@50" in study.metrics and {*SHOWN} <= {*results["metric"]}
    shown, published = (SHOWN, PUBLISHED) if matching else (study.metrics, study.metrics)
    some = results.filter((pl.col("data") == data) & (pl.col("on") == "test") & pl.col("metric").is_in(shown))
    printed = {row.label: row.published for row in spec.variants(study, data)}
    of_clicks = clicks.of_study(study)
    heads = [*shown, f"published {', '.join(published)}" if published != shown else "published, in this order"]
    if of_clicks and not any(printed.values()):
        heads = [*shown]
    lines = ["| | runs | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 2)]
    for label in some["label"].unique(maintain_order=True):
        row = some.filter(pl.col("label") == label)
        cells = []
        for metric in shown:
            values = row.filter(pl.col("metric") == metric)["value"]
            spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
        if len(heads) > len(shown):
            told = printed.get(label, {})
            cells.append(", ".join(f"{told[metric]:.4f}" for metric in published if metric in told))
        lines.append(f"| {label} | {len(values)} | " + " | ".join(cells) + " |")
    where = f"[{name}]({root}benchmarks/results/{name}/table.md)"
    more = f"Test {'samples' if of_clicks else 'users'}. Validation, intervals, paired tests, costs: {where}."
    return "\n".join([*lines, "", f"{more} {provenance(table, data)}"])


def into_page(page: str, name: str, data: str, text: str) -> None:
    """Put `text` between the markers of the page, if it has them."""
    path = HERE.parent / page
    whole, start, end = path.read_text(), f"<!-- {name} {data} -->", f"<!-- /{name} {data} -->"
    if start in whole and end in whole:
        path.write_text(f"{whole.split(start)[0]}{start}\n{text}\n{end}{whole.split(end)[1]}")


def main() -> None:
    """Copy, and fill in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the study is called")
    parser.add_argument("out", type=Path, help="the folder that the study filled")
    parser.add_argument("--reading", default="", help="what the tables say first, in words")
    arguments = parser.parse_args()
    target = HERE / "results" / arguments.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    heading, _, rest = (arguments.out / "table.md").read_text().partition("\n\n")
    said = f"{arguments.reading}\n\n" if arguments.reading else ""
    (target / "table.md").write_text(f"{heading}\n\n{said}{rest}")
    shutil.copy(arguments.out / "results.csv", target)
    if (arguments.out / "pictures").exists():
        shutil.copytree(arguments.out / "pictures", target / "pictures")
    table = (target / "table.md").read_text()
    results = pl.read_csv(arguments.out / "results.csv")
    for data in results["data"].unique(maintain_order=True):
        for page, root in PAGES.items():
            into_page(page, arguments.name, data, brief(results, table, arguments.name, data, root))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
