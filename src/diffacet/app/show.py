"""Tables for people, in a terminal; what `--json` prints holds the same facts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffacet.data.splits import MASKING

if TYPE_CHECKING:
    from diffacet.app.importing import Imported
    from diffacet.app.studies.plan import Plan
    from diffacet.app.studies.spec import Study
    from diffacet.app.studies.tables import Page
    from diffacet.core.contract import Card, Training
    from diffacet.data.atlas import Comparison
    from diffacet.data.store import Dataset
    from diffacet.rank.candidates import Candidates

PUBLISHED = ("recall", "hit_rate", "ndcg", "ndcg_set")
"""Metrics as the field's tables print them; the others are named apart."""

COLLABORATIVE = ("recall", "ndcg", "precision", "mrr")
"""The same for tables of DiffRec's protocol."""


NEXT_ITEM = ("hit_rate", "ndcg", "mrr")
"""The same where each case has one target, and the others are equal to these or of no use."""


def plain(value: Any) -> Any:
    """`value` as JSON may hold it: tuples as lists, NumPy numbers as Python's, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(value: Any) -> str:
    """A count with thousands separators, a share or mean with four digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) or (value == int(value) and abs(value) >= 1) else f"{value:.4g}"


def imported(console: Console, done: "Imported") -> None:
    """What was read, and what each filter left."""
    from diffacet.app.importing import DROPPED

    console.print(f"read as {done.format}: {', '.join(done.files)}", highlight=False, markup=False, soft_wrap=True)
    for note in done.notes:
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
    if done.repeats is not None:
        verb = "dropped" if any(step.what == DROPPED for step in done.steps) else "kept"
        console.print(f"  repeats of user, item and time: {done.repeats:,} ({verb})", highlight=False)
    table = new_table("step", right=("users", "items", "interactions"))
    for step in done.steps:
        table.add_row(step.what, f"{step.users:,}", f"{step.items:,}", f"{step.interactions:,}")
    console.print(table)
    if done.partitions is not None and done.seconds is not None:
        pace = f"{done.rows:,} rows in {done.seconds:.1f} s, {done.rows / max(done.seconds, 1e-9):,.0f} rows/s"
        console.print(f"{pace}; {done.partitions:,} partitions", highlight=False)
    console.print(f"fingerprint {done.fingerprint}", highlight=False)


def statistics(console: Console, dataset: "Dataset", near: Sequence["Comparison"]) -> None:
    """A data directory's figures, and how it stands to known data sets."""
    facts = dataset.statistics()
    table = new_table("", title=f"{dataset.name}  ({dataset.fingerprint})", right=("value",))
    for name, value in facts.items():
        if isinstance(value, Mapping):
            told = ", ".join(f"{key} {number(entry)}" for key, entry in value.items())
        else:
            told = f"{100 * value:.4f} %" if name == "density" else _time(name, value, facts["times"])
        table.add_row(name.replace("_", " "), told)
    console.print(table)
    for comparison in near:
        known = comparison.known
        told = f"{known.name}: {known.how}; {known.home}"
        if known.papers:
            told += f"; in the tables of {', '.join(known.papers)}"
        verdict = "is exactly" if comparison.exact else "is not"
        console.print(f"{verdict} {told}", highlight=False, markup=False, soft_wrap=True)
        for figure, here, expected in comparison.differences:
            console.print(f"    {figure}: {here:,} here, {expected:,} there ({here - expected:+,})", highlight=False)
    if not near:
        console.print("no known data set has figures like these", highlight=False)


def _time(name: str, value: Any, times: str) -> str:
    if times == "real" and name in ("first_time", "last_time") and abs(value) < 10**11:
        from datetime import UTC, datetime

        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} ({value})"
    return number(value)


def known(near: Iterable["Comparison"]) -> list[dict[str, Any]]:
    """What `stats --json` says of known data sets like this one."""
    return [
        {
            "name": one.known.name,
            "home": one.known.home,
            "papers": one.known.papers,
            "exact": one.exact,
            "differences": {figure: {"here": here, "there": there} for figure, here, there in one.differences},
        }
        for one in near
    ]


def about(card: "Card") -> dict[str, Any]:
    """What `models --json` says of each model."""
    presets = {name: preset.source for name, preset in card.presets.items()}
    told = {"name": card.name, "task": card.task, "summary": card.summary}
    return told | {"paper": str(card.paper), "presets": presets}


def models(console: Console, cards: Iterable["Card"]) -> None:
    """The table of models."""
    table = new_table("name", "what it is", "task", "presets", "paper")
    for card in cards:
        paper = f"{card.paper.venue} {card.paper.year}"
        table.add_row(f"[bold]{card.name}[/]", card.summary, card.task, ", ".join(card.presets), paper)
    console.print(table)
    console.print("settings and citation of one: diffacet models NAME", highlight=False)


def model(console: Console, card: "Card", rows: Iterable[Mapping[str, Any]]) -> None:
    """One model: presets, settings, citation."""
    from diffacet.app.settings import text

    console.print(f"[bold]{card.name}[/]  {escape(card.summary)}  (task: {card.task})", highlight=False)
    console.print(str(card.paper), highlight=False, markup=False, soft_wrap=True)
    for name, preset in card.presets.items():
        console.print(f"  preset {name}: {preset.source}", highlight=False, markup=False, soft_wrap=True)
    usual = "best" if "best" in card.presets else next(iter(card.presets))
    rows = list(rows)
    for group, title in (("model", "settings of the model"), ("training", "settings of the training")):
        table = new_table("name", "", "type", "range", usual, "meaning (and other presets)", title=title)
        for fixed in (0, 1, 3):
            table.columns[fixed].no_wrap = True
        for row in (row for row in rows if row["group"] == group):
            value = row["presets"][usual]
            others = [f"{name}: {text(other)}" for name, other in row["presets"].items() if other != value]
            meaning = escape(row["description"]) + ("; also for a trained model" if row["inference"] else "")
            others += [f"tune: {row['search']}"] if row["search"] else []
            meaning += f" [dim]({escape(', '.join(others))})[/]" if others else ""
            told = (row["name"], row["symbol"] or "", escape(row["type"]), row["range"], escape(text(value)))
            table.add_row(*told, meaning)
        if table.row_count:
            console.print(table)
    console.print(card.paper.bibtex(), highlight=False, markup=False, soft_wrap=True)


def evaluation(console: Console, result: Mapping[str, Any]) -> None:
    """The metrics by k: accuracy as in the field's tables, then by other definitions, then what the lists hold."""
    from diffacet.rank.metrics import METRICS

    seconds, users, cases = result["seconds"], result["users"], result["cases"]
    asked = [result["split"], result["on"]]
    asked += ["with empty histories"] if result["include_empty"] else []
    asked += [] if result["average"] == "evaluated" else [f"average over {result['average']}"]
    title = f"{result['model']} on {result['dataset']} ({', '.join(asked)})"
    told = f"{users:,} users, " + ("" if cases == users else f"{cases:,} cases, ")
    pace = f"{cases / max(seconds, 1e-9):,.0f} {'users' if cases == users else 'cases'}/s"
    console.print(f"[bold]{escape(title)}[/]  {told}{seconds:.2f} s, {pace}", highlight=False, soft_wrap=True)
    if result["untrained_items"] > 0:
        share = 100 * result["untrained_items"]
        console.print(f"{share:.2f} % of the items, candidates like all others, are not in training", highlight=False)
    names = list(dict.fromkeys(key.partition("@")[0] for key in result["metrics"]))
    ks = sorted({int(key.partition("@")[2]) for key in result["metrics"]})
    single = result["split"] == "leave-last" or result["split"].startswith("next-item")
    usual = NEXT_ITEM if single else COLLABORATIVE if result["split"] in MASKING else PUBLISHED
    apart = {
        "by other definitions": [name for name in names if name in METRICS and name not in usual],
        "what the lists hold": [name for name in names if name not in METRICS],
    }
    table = new_table("as in the field's tables", right=[f"@{k}" for k in ks])
    for heading, chosen in {"": usual, **apart}.items():
        if heading and chosen:
            table.add_row(f"[dim]{heading}[/]")
        for name in chosen:
            table.add_row(name, *(number(result["metrics"].get(f"{name}@{k}")) for k in ks))
    console.print(table)


def probe(console: Console, told: Mapping[str, Any]) -> None:
    """What a linear classifier reads from item vectors, beside what it could know without them."""
    console.print(
        f"[bold]{escape(told['model'])} on {escape(told['dataset'])}[/]  {told['vectors']}"
        f"{', standardised' if told['standardised'] else ''}; {told['items']:,} items with a category, "
        f"{told['classes']} classes ({told['category']} category; {told['merged']} small ones are one class)",
        highlight=False,
    )
    table = new_table("", right=("accuracy",))
    spread = "" if math.isnan(told["deviation"]) else f" ± {told['deviation']:.4f}"
    table.add_row(f"held-out items, {told['seeds']} splits", f"{told['accuracy']:.4f}{spread}")
    table.add_row("fitted items", f"{told['train_accuracy']:.4f}")
    table.add_row("largest class alone", f"{told['majority']:.4f}")
    console.print(table)
    if not told["converged"]:
        console.print("not every fit converged: the numbers may be a little low", highlight=False)


def answer(found: "Candidates") -> dict[str, Any]:
    """What `recommend --json` prints: interests, items, unknown; ids keep their own type."""
    columns = zip(found.item_id.to_list(), found.score.tolist(), found.interest.tolist(), strict=True)
    rows: list[dict[str, Any]] = [{"item_id": own, "score": score, "interest": k} for own, score, k in columns]
    for row, title in zip(rows, () if found.titles is None else found.titles, strict=False):
        if title is not None:
            row["title"] = title
    return {"interests": [] if found.interests is None else found.interests, "items": rows, "unknown": found.unknown}


def candidates(console: Console, found: "Candidates", history: Sequence[str]) -> None:
    """Recommended items, best first."""
    console.print(f"for a history of {len(history)} items ({len(found.unknown)} unknown)", highlight=False)
    table = new_table("rank", "item", *(["title"] if found.titles is not None else []), right=("score", "interest"))
    for rank, item in enumerate(found.item_id.to_list()):
        title = [] if found.titles is None else [escape(found.titles[rank] or "")]
        score, interest = float(found.score[rank]), int(found.interest[rank])
        table.add_row(str(rank + 1), escape(str(item)), *title, f"{score:.4f}", str(interest))
    console.print(table)


def studies(console: Console, some: Iterable["Study"]) -> None:
    """The studies that are shipped."""
    table = new_table("name", "what it compares", "data", right=("rows",))
    for study in some:
        rows = sum(len(each.asks) * math.prod(map(len, each.grid.values())) for each in study.row)
        table.add_row(f"[bold]{study.name}[/]", escape(study.title), ", ".join(study.data), str(rows))
    console.print(table)


def planned(console: Console, plan: "Plan") -> None:
    """The runs that a study would do."""
    from diffacet.app.settings import text

    table = new_table("run", "model", "preset", "set", right=("seed", "split seed", "steps at most", "asked in"))
    for job in plan.jobs:
        row = job.variant
        changes = " ".join(f"{key}={text(value)}" for key, value in row.set.items())
        told = (job.name, row.row.model, row.preset, escape(changes), str(job.seed), str(job.split_seed))
        table.add_row(*told, _length(job.settings.training), f"{len(row.asks)} ways")
    console.print(table)
    counted = [job.settings.training for job in plan.jobs if job.settings.training.max_epochs is None]
    steps, rest = sum(training.max_steps for training in counted), len(plan.jobs) - len(counted)
    told_rest = f", and {rest} runs counted in epochs" if rest else ""
    console.print(f"{len(plan.jobs)} runs, {steps:,} training steps at most{told_rest}", highlight=False)


def _length(training: "Training") -> str:
    """How long a run is at most."""
    return f"{training.max_steps:,}" if training.max_epochs is None else f"{training.max_epochs:,} epochs"


def page(console: Console, page: "Page") -> None:
    """The tables of a study or of some runs."""
    for sentence in page.lead:
        console.print(sentence.replace("**", ""), style="yellow", highlight=False, markup=False, soft_wrap=True)
    for sheet in page.sheets:
        for grid in sheet.grids:
            table = new_table(grid.head[0], title=f"{sheet.data}: {grid.title}", right=grid.head[1:])
            for place, row in enumerate(grid.rows):
                cells = [f"[bold green]{c}[/]" if (place, n) in grid.best else escape(c) for n, c in enumerate(row)]
                table.add_row(*cells)
            console.print(table)
        for note in (*sheet.notes, sheet.provenance):
            console.print(note, style="dim", highlight=False, markup=False)
    for note in page.notes:
        console.print(note, highlight=False, markup=False)


def about_page(page: "Page") -> dict[str, Any]:
    """What `compare --json` prints."""
    from dataclasses import asdict

    from diffacet.app.studies.tables import costs_of

    sheets = []
    for sheet in page.sheets:
        layout, rows = sheet.layout, []
        for line in sheet.lines:
            metrics = {
                on: {
                    name: {"mean": line.mean(name, on), "deviation": line.deviation(name, on)}
                    | {"runs": line.values(name, on)}
                    for name in dict.fromkeys((*layout.metrics, *layout.tests))
                }
                for on in ("valid", "test")
            }
            keys = [dict(zip(("split", "split_seed", "seed"), trial.key, strict=True)) for trial in line.trials]
            costs = {name: line.cost(name) for name, _, _ in costs_of(line)}
            rows.append({"label": line.label, "runs": keys, "published": line.published, **metrics, "costs": costs})
        pairs = [asdict(pair) for pair in sheet.pairs]
        told = {"data": sheet.data, "on": layout.on, "base": layout.base, "rows": rows, "pairs": pairs}
        sheets.append(told | {"notes": sheet.notes, "provenance": sheet.provenance})
    return {"title": page.title, "lead": page.lead, "data_sets": sheets, "notes": page.notes}


def new_table(*left: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """An empty table as all of them look, with columns of text, then of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, style=None, header_style="dim")
    for name in right:
        table.add_column(name, justify="right", header_style="dim", overflow="fold")  # recall@20 is not recall@50
    return table
