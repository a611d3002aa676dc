"""All models on all data at hand: the studies that compare them, and the page that puts their figures side by side.

    python benchmarks/everything.py run --data DATA     # make benchmarks DATA=...: hours to days; goes on where it was
    python benchmarks/everything.py run --data DATA --seeds 0 --set max_steps=200 --out build/quick        # cut
    python benchmarks/everything.py page                # docs/benchmarks.md, out of benchmarks/results

DATA is the folder that holds the data directories by the names below; what is not there is left out and told. `run`
does each study on each of its data sets by `diffacet study`, takes the tables into benchmarks/results by publish.py,
unless `--out` keeps them apart, and writes the page. Nothing on the page is typed: its rows are those of results.csv.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from diffacet.app.studies import clicks  # noqa: E402
from making import results  # noqa: E402 - it lies in the folder of the documentation
from making.text import cell, table  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Field:
    """Studies whose rows may be compared, for they have one protocol.

    Attributes:
        title: a heading.
        protocol: a sentence on what is asked, and where the rest of it stands.
        studies: name -> data sets, in the order of the page.
    """

    title: str
    protocol: str
    studies: dict[str, tuple[str, ...]]


FIELDS = (
    Field(
        "What a user may want next",
        "Users nobody trained on, the last fifth of each asked for, the whole catalogue ranked ([more](protocols.md)).",
        {
            "beyond": ("beauty", "gowalla", "gowalla-checkins", "yelp-s3rec", "zhihu"),
            "dmi-table2": ("beauty",),
        },
    ),
    Field(
        "The next item",
        "One item a case, of sessions or users nobody trained on, or each user's last ([next item](next-item.md)).",
        {"dimerec-table1": ("kuairec-part", "amazon-beauty"), "sequential-ml-1m": ("ml-1m",)},
    ),
    Field(
        "The rest of a row",
        "DiffRec's released parts, seen items left out ([DiffRec](diffrec.md)).",
        {"diffrec-table2": ("ml-1m-clean", "ml-1m-noisy")},
    ),
    Field(
        "Clicks",
        "Showings after a moment, behaviours before each ([clicks](clicks.md)).",
        {"diffumin-table2": ("kuairand-explicit", "ml-1m-clicks")},
    ),
)
PEERS = {"peers-recbole-diffrec": "DiffRec beside RecBole's", "peers-rectools-sasrec": "SASRec beside RecTools'"}
_COSTS = (
    ("seconds", "training s", 1.0, "{:,.0f}"),
    ("ms_per_step", "ms/step", 1.0, "{:.1f}"),
    ("peak_mb", "peak GiB", 1 / 1024, "{:.1f}"),
    ("parameters", "parameters", 1.0, "{:,.0f}"),
)


def run(data: Path, out: Path, more: Sequence[str], *, publish: bool) -> list[str]:
    """Do every study on the data that are there; what was left out, a line each."""
    left = list[str]()
    for name, wanted in ((name, sets) for field in FIELDS for name, sets in field.studies.items()):
        there = [one for one in wanted if (data / one).is_dir()]
        left += [f"{name}: there is no {data / one}" for one in wanted if one not in there]
        if not there:
            continue
        chosen = [word for one in there for word in ("--on-data", one)]
        command = ["study", name, "--data", str(data), "--out", str(out / name), "--resume", *chosen, *more]
        done = subprocess.run([sys.executable, "-m", "diffacet", *command], check=False)
        if done.returncode:
            left.append(f"{name}: diffacet {' '.join(command)} ended with {done.returncode}")
        elif publish and len(there) < len(wanted):
            left.append(f"{name}: its tables stay in {out / name}, for not all of its data were there")
        elif publish:
            subprocess.run([sys.executable, str(ROOT / "benchmarks/publish.py"), name, str(out / name)], check=True)
    return left


def page() -> str:
    """The page, out of benchmarks/results."""
    there = {one.name: one for one in results.tables()}
    parts = [HEAD]
    for field in FIELDS:
        parts.append(f"## {field.title}\n\n{field.protocol}")
        for name, sets in field.studies.items():
            if name in there:
                parts += [section(there[name], data) for data in sets if data in there[name].rows["data"]]
    peers = [
        (f"[{told}](../benchmarks/results/{name}.md)", cell(_first(RESULTS / f"{name}.md")))
        for name, told in PEERS.items()
        if (RESULTS / f"{name}.md").exists()
    ]
    parts.append("## Beside other libraries\n\n" + table(("", "in short"), peers))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


HEAD = """# All models, all data

Every row that a comparing study has measured, costless baselines first, then by the first metric. ± is the half of a
95 % interval of the mean over runs (t; runs differ in split and initialisation; none with one run); it says how well
the mean is known, not whether two rows differ: for that the studies' pages have paired tests. Costs are those of one
thread on two x86_64 cores, of which other work often took a part; none is of a GPU. Made by
`python benchmarks/everything.py page`; `make benchmarks DATA=...` makes all of it anew.

In short: on no field is a diffusion model at the head of the table but for Facet, whose lead is not its diffusion's."""


def section(one: results.Table, data: str) -> str:
    """The rows of a study on one data set, as trained: quality, costs, and where they come from."""
    rows = one.rows.filter(pl.col("data") == data)
    trained = rows.filter(pl.col("ask") == "")
    rows = trained if len(trained) else rows  # some studies ask each run in two ways of equal right
    metrics = results.metrics_of(one, rows)
    lower = metrics[0] in clicks.LOWER
    model_of = dict(rows.select("label", "model").unique().iter_rows())
    labels = rows["label"].unique(maintain_order=True)
    means = {label: results.mean_of(rows, label, metrics[0], "test") for label in labels}
    known = {label: mean for label, mean in means.items() if mean is not None}
    sign = 1 if lower else -1
    order = sorted(known, key=lambda label: (model_of[label] not in results.COSTLESS, sign * known[label]))
    best = (min if lower else max)(known.values())
    speed = "samples_per_second" if "samples_per_second" in rows["metric"] else "users_per_second"
    lines = []
    for label in order:
        cells = [f"**{cell(label)}**" if known[label] == best else cell(label), f"`{model_of[label]}`"]
        cells.append(str(len(results.values_of(rows, label, metrics[0], "test"))))
        cells += [interval(results.values_of(rows, label, metric, "test")) for metric in metrics]
        rate = results.mean_of(rows, label, speed, "test")
        cells.append("–" if rate is None else f"{rate:,.0f}")
        for cost, _, scale, form in _COSTS:
            mean = results.mean_of(rows, label, cost, None)
            cells.append("–" if not mean else form.format(mean * scale))
        lines.append(cells)
    heads = ("row", "model", "runs", *metrics, speed.replace("_per_second", "/s"), *(head for _, head, *_ in _COSTS))
    text = (RESULTS / one.name / "table.md").read_text(encoding="utf-8")
    source = next(line for line in text.split(f"\n## {data}\n")[1].splitlines() if line.startswith("Command: "))
    warned = " ".join(line.replace("**", "") for line in one.warnings)
    return (
        f"### {data}\n\n{table(heads, lines, range(2, len(heads)))}\n"
        f"[{one.name}](../benchmarks/results/{one.name}/table.md). {warned} {source}"
    ).replace("  ", " ")


def interval(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % interval of the mean."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ± {half:.4f}"


def _first(path: Path) -> str:
    """The first sentence below a page's heading that is more than a warning about the machine."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if line]
    return lines[0].replace("**", "")


def main() -> None:
    """Run, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--data", type=Path, help="the folder of the data directories; of run")
    parser.add_argument("--out", type=Path, help="where studies are kept; build/benchmarks, whose tables are published")
    given, more = parser.parse_known_args()
    left = list[str]()
    if given.what == "run":
        if given.data is None or not given.data.is_dir():
            parser.error(f"--data is the folder that holds the data directories; got {given.data}")
        left = run(given.data, given.out or ROOT / "build" / "benchmarks", more, publish=given.out is None)
    if given.what == "page" or given.out is None:
        PAGE.write_text(page(), encoding="utf-8")
    for line in left:
        sys.stderr.write(f"left out: {line}\n")


if __name__ == "__main__":
    main()
