"""Linear probing of a study's runs: what item vectors tell of categories, beside the number of kinds that are shown.

    diffacet study dimerec-table2 --data DIR --out DIR
    python benchmarks/probing.py DIR                      # -> results/dimerec-table2-probing.json and .md

Every finished run is probed twice, with its vectors standardised and raw, each time on the same five splits of the
items: `diffacet probe RUN` and `diffacet probe RUN --raw`. Models without item vectors have a row all the same, for
the kinds that they show. Published numbers stand beside the rows whose settings are the paper's.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sklearn
import torch

from diffacet import files
from diffacet.app import runs
from diffacet.app.cli.probe import probed
from diffacet.app.studies import folder
from diffacet.app.studies.results import Line, Trial, lines_of
from diffacet.app.studies.work import RUN
from diffacet.core.contract import Matcher
from diffacet.errors import BadRun, DiffacetError

HERE = Path(__file__).parent
KINDS, RANDOM = "kinds@100", "kinds_random@100"
FORMS = ("standardised", "raw")
PRINTED = {
    "sasrec": (0.4947, 11.40),
    "gru4rec": (0.4743, 11.23),
    "mind": (0.4699, 11.67),
    "comirec-sa": (0.4917, 11.74),
    "multi-vae": (0.4762, 11.41),
    "dreamrec": (0.2697, 14.01),
    "diffurec": (0.4675, 11.79),
    "dimerec": (0.5683, 11.89),
}
"""DimeRec's Table 2, MovieLens-10M: accuracy, and kinds among the top 100. Which ComiRec it has is not said."""
PAPERS = ("dimerec-table", "dimerec-table-long", "paper-ml-10m")
"""Presets with the settings of that table."""


def of_run(place: Path, category: str) -> dict[str, Any] | None:
    """Both probes of a run; None where the model has no item vectors."""
    run = runs.load(place, device="cpu")
    if not isinstance(run.model, Matcher):
        return None
    return {form: probed(run, category=category, raw=form == "raw") for form in FORMS}


def of_line(out: Path, line: Line, category: str) -> dict[str, Any]:
    """A row of the study: how it was trained, kinds shown, and the probes of each of its runs."""
    first = line.trials[0].told
    found = {"data": line.data, "label": line.label, "model": first["model"], "preset": first["preset"]}
    shown = {
        key: values
        for key in (KINDS, RANDOM)
        if (values := [v for t in line.trials if (v := t.value(key, "test")) == v])
    }
    return found | {"shown": shown, "runs": [of_trial(out, trial, category) for trial in line.trials]}


def of_trial(out: Path, trial: Trial, category: str) -> dict[str, Any]:
    """One run: where it comes from, and its probes."""
    told = trial.told
    print(f"probing {told['job']}", flush=True)
    probes = of_run(out / folder.RUNS / told["job"] / RUN, category)
    made = {"commit": told["environment"]["commit"], "fingerprint": told["data"]["fingerprint"]}
    return {"job": told["job"], "seed": told["seed"], "split_seed": told["split_seed"], **made, "probes": probes}


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± sample deviation; the mean alone of one value, a dash of none."""
    if not values:
        return "–"
    about = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{about}"


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the Markdown table."""
    found = [run["probes"] for run in row["runs"] if run["probes"] is not None]
    accuracy, kinds = PRINTED.get(row["model"], (None, None)) if row["preset"] in PAPERS else (None, None)
    told = [row["label"], str(len(row["runs"]))]
    for form in FORMS:
        of = [probes[form] for probes in found]
        told.append(spread([one["accuracy"] for one in of]))
        told.append(f"{statistics.fmean(one['deviation'] for one in of):.4f}" if of else "–")
        told.append(spread([one["train_accuracy"] for one in of]))
    told.append(f"{accuracy:.4f}" if accuracy else "–")
    told += [spread(row["shown"].get(key, ()), 2) for key in (KINDS, RANDOM)]
    return [*told, f"{kinds:.2f}" if kinds else "–"]


def notes(rows: Sequence[dict[str, Any]], category: str) -> list[str]:
    """What the numbers of one data set are of: classes, the majority line, and what is probed in each model."""
    probes = [(row, run["probes"]["standardised"]) for row in rows for run in row["runs"] if run["probes"] is not None]
    if not probes:
        return ["No row has item vectors."]
    _, one = probes[0]
    lines = [
        f"{one['items']:,} items with a category and a training interaction, {one['classes']} classes of the "
        f"{category} category, of which one holds the {one['merged']} with fewer than 10 items. **The largest class "
        f"alone is {one['majority']:.4f} of them**: an accuracy there has read nothing."
    ]
    vectors = dict.fromkeys(f"{row['label']}: {told['vectors']}" for row, told in probes)
    lines.append("Probed: " + "; ".join(vectors) + ".")
    ended = [row["label"] for row, run in ((r, u) for r in rows for u in r["runs"]) if not _converged(run)]
    lines += [f"Not every fit converged in {', '.join(dict.fromkeys(ended))}."] if ended else []
    return lines


def _converged(run: dict[str, Any]) -> bool:
    return run["probes"] is None or all(run["probes"][form]["converged"] for form in FORMS)


def page(record: dict[str, Any]) -> str:
    """The Markdown tables, one a data set."""
    head = ["row", "runs"]
    for form in FORMS:
        head += [f"accuracy, {form}", "± over splits", "on fitted items"]
    head += ["published accuracy, ML-10M", KINDS, RANDOM, "published kinds, ML-10M"]
    lines = [f"# Linear probing: {record['study']}", "", *([record["reading"], ""] if record["reading"] else [])]
    lines += [f"**Not the whole study: cut by {' '.join(record['cut'])}.**", ""] if record["cut"] else []
    lines += [f"**{record['missing']} runs are missing.**", ""] if record["missing"] else []
    for data, group in itertools.groupby(record["rows"], key=lambda row: row["data"]):
        rows = list(group)
        every = [run for row in rows for run in row["runs"]]
        seeds = sorted({(run["seed"], run["split_seed"]) for run in every})
        lines += [f"## {data}", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        lines += [f"| {' | '.join(cells(row))} |" for row in rows]
        lines += ["", *itertools.chain(*((note, "") for note in notes(rows, record["category"])))]
        lines += [
            f"Data {data}, fingerprint {', '.join(sorted({run['fingerprint'] for run in every}))}; seeds "
            f"{', '.join(f'{a} (split {b})' for a, b in seeds)}; runs of commit "
            f"{', '.join(sorted({run['commit'] or 'unknown' for run in every}))}.",
            "",
        ]
    lines += [
        "Accuracy is that of held-out items, a fifth, mean over five splits; ± beside it is the sample deviation over "
        "training seeds, the column after it the deviation over the splits, mean over the seeds. Kinds are of test "
        f"users, by the {record['shown_category']} category of an item. Published: DimeRec, Table 2, on MovieLens-10M, "
        "beside rows whose settings are its.",
        "",
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}, CPU; torch "
        f"{record['torch']}, scikit-learn {record['scikit-learn']}; {record['seconds']:,.0f} s.",
    ]
    return "\n".join(lines) + "\n\nMade by `benchmarks/probing.py`.\n"


def probe_study(out: Path, category: str | None) -> dict[str, Any]:
    """All finished runs of the folder of a study, data set by data set."""
    begun, plan = time.perf_counter(), folder.reopened(out)
    lines = [line for line in lines_of(plan, out) if not line.suffix]  # other ways of asking have the same vectors
    if not lines:
        raise BadRun(f"{out} holds no finished run of '{plan.study.name}'; 'diffacet study' makes them")
    wanted = category or plan.study.category
    rows = [of_line(out, line, wanted) for line in lines]
    describe = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    return {
        "command": "python benchmarks/probing.py DIR" + (f" --category {category}" if category else ""),
        "commit": subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": str(torch.__version__),
        "scikit-learn": sklearn.__version__,
        "study": plan.study.name,
        "category": wanted,
        "shown_category": plan.study.category,
        "cut": plan.cut.told(),
        "missing": len(plan.jobs) - sum(len(line.trials) for line in lines),
        "seconds": time.perf_counter() - begun,
        "rows": rows,
    }


def main() -> None:
    """Probe, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder that a study filled")
    parser.add_argument("--category", help="first, last or rarest of an item's categories; the study's own if not said")
    parser.add_argument("--reading", help="what the table says first, in words")
    parser.add_argument("--out", type=Path, help="the record; results/STUDY-probing.json if not said")
    arguments = parser.parse_args()
    try:
        record = probe_study(arguments.study, arguments.category)
    except DiffacetError as error:
        raise SystemExit(str(error)) from error
    path = arguments.out or HERE / "results" / f"{record['study']}-probing.json"
    before = files.read_json(path) if path.exists() else {}
    record["reading"] = arguments.reading or before.get("reading", "")
    files.write_json(path, record)
    files.write_text(path.with_suffix(".md"), page(record))
    print(page(record))


if __name__ == "__main__":
    main()
