"""Tables about click runs for people; what `--json` prints holds the same facts."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape

from diffacet.app.show import new_table, number

METRICS = {
    "auc": "AUC",
    "gauc": "GAUC (groups weighted by samples)",
    "log_loss": "log loss",
    "ne": "normalised entropy (log loss over that of the click rate)",
    "pcoc": "PCOC (mean prediction over click rate)",
    "ece": "expected calibration error (20 bins)",
    "click_rate": "click rate",
    "gauc_coverage": "share of the samples that GAUC counts",
}
MEANS = {"history": "behaviours before it", "item": "item in training", "user": "user in training", "day": "day"}


def evaluation(console: Console, told: Mapping[str, Any]) -> None:
    """What `evaluation.evaluated` says: metrics, how the base stands to them, and slices."""
    title = f"{told['model']} on {told['dataset']} ({told['split']}, {told['on']})"
    pace = told["samples"] / max(told["seconds"], 1e-9)
    console.print(
        f"[bold]{escape(title)}[/]  {told['samples']:,} samples, {told['clicks']:,} clicks, {told['users']:,} users, "
        f"{told['seconds']:.2f} s, {pace:,.0f} samples/s",
        highlight=False,
        soft_wrap=True,
    )
    table = new_table("metric", right=("value", "95 % interval"))
    low, high = told["auc_interval"]
    for name, value in told["metrics"].items():
        interval = f"{number(low)} to {number(high)}" if name == "auc" else ""
        table.add_row(METRICS.get(name, name), number(value), interval)
    console.print(table)
    if "base" in told:
        _base(console, told)
    table = new_table("slice", "", right=("samples", "clicks", "AUC"))
    for one in told["slices"]:
        if one["samples"]:
            table.add_row(
                MEANS.get(one["by"], one["by"]),
                one["name"],
                f"{one['samples']:,}",
                f"{one['clicks']:,}",
                number(one["auc"]),
            )
    console.print(table)


def _base(console: Console, told: Mapping[str, Any]) -> None:
    base = told["base"]
    improvement = base["relative_improvement"]
    undefined = "no relative improvement: the base is no better than chance"
    console.print(
        f"against {base['model']} in {base['run']}, AUC {base['auc']:.4f}: {base['difference']:+.4f}, "
        + (undefined if improvement is None else f"relative improvement {improvement:+.2f} %"),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = new_table("difference of the AUCs", right=("95 % interval", "p"))
    for key, what in (("delong", "samples as drawn (DeLong)"), ("users", "users as drawn (bootstrap)")):
        one = base[key]
        table.add_row(what, f"{one['low']:+.4f} to {one['high']:+.4f}", f"{one['p']:.3g}")
    console.print(table)


def predictions(console: Console, told: Mapping[str, Any]) -> None:
    """What `prediction.predicted` says."""
    lines = [f"{told['samples']:,} probabilities, {told['mean']:.4f} on average, are in {told['out']}"]
    if told["without_history"]:
        lines.append(f"{told['without_history']:,} samples have no behaviour before them")
    for name, count in told["unknown"].items():
        lines.append(f"{name}: {count:,} samples have a value that training does not know, or none")
    if told["ignored"]:
        lines.append(f"kept, but of no use to the model: {', '.join(told['ignored'])}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def reranked(console: Console, rows: pl.DataFrame, titles: Mapping[str, str | None]) -> None:
    """Candidates in the order of their click probability."""
    table = new_table("rank", "item", *(["title"] if titles else []), right=("probability", "score", "rank before"))
    for rank, row in enumerate(rows.iter_rows(named=True), 1):
        title = [escape(titles.get(row["item_id"]) or "")] if titles else []
        item = escape(row["item_id"]) + ("" if row["known"] else " [dim](not in training)[/]")
        table.add_row(str(rank), item, *title, f"{row['probability']:.4f}", f"{row['score']:.4f}", str(row["place"]))
    console.print(table)
