"""The command predict, and what train, evaluate and recommend do where the model is one of clicks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json
from diffacet.errors import BadRun, BadSetting

if TYPE_CHECKING:
    from diffacet.app.clicks.run import ClickRun, Reading
    from diffacet.rank.candidates import Candidates


@app.command(
    short_help="Click probabilities for a file of showings.",
    help=o.described(
        "Write the probability of a click beside each showing of a file, by a run of a click model. The file has the"
        " columns of the run's samples, but needs no labels; further columns are kept. Values that training has not"
        " seen are unknown, and users without behaviours are answered, too. Rows are read and written in blocks.",
        "diffacet predict runs/din --samples today.csv --behaviours log.parquet --out scored.csv",
        "diffacet predict runs/din --samples s.parquet --behaviours b.parquet --items new-items.csv --out p.parquet",
        "diffacet predict runs/diffumin --samples s.csv --behaviours b.csv --out p.csv --set noise_seed=1",
    ),
)
def predict(
    run: o.ClickRunDir,
    samples: o.ShownFile,
    out: o.PredictionsOut,
    behaviours: o.DoneFile = None,
    items: o.ItemsFile = None,
    users: o.UsersFile = None,
    user: o.UserColumn = None,
    item: o.ItemColumn = None,
    time: o.TimeColumn = None,
    set_: o.Asked = None,
    negative_rate: o.NegativeRate = None,
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Showings to probabilities."""
    from diffacet.app import progress, runs
    from diffacet.app.clicks import show

    loaded = of_clicks(runs.load(run, set=set_ or (), device=device), "predict")
    columns = {"user_id": user, "item_id": item, "timestamp": time}
    with progress.counting(console_of(stderr=True), "samples") as bar:
        told = loaded.predict(
            samples,
            behaviours,
            out,
            items=items,
            users=users,
            columns={name: given for name, given in columns.items() if given is not None},
            negative_rate=1.0 if negative_rate is None else negative_rate,
            batch_size=batch_size,
            progress=bar,
        )
    if as_json:
        print_json(told)
    else:
        show.predictions(console_of(), told)


def of_clicks(run: Any, what: str) -> "ClickRun":
    """`run`, which `what` is for only if it is one of a click model; raises BadRun for another."""
    from diffacet.app.clicks.run import ClickRun

    if not isinstance(run, ClickRun):
        raise BadRun(f"{run.path} is a run of {run.card.name}, which is no model of clicks; {what} needs one")
    return run


def reading(
    model: str, split_seed: bool, min_count: int | None, gap: int | None, history_until: str | None
) -> "Reading | None":
    """How click data are read, as options of train say; None where they say nothing.

    Raises:
        BadSetting: one is out of range, or `split_seed` was given for a model of clicks.
    """
    from diffacet.app.cards import card
    from diffacet.app.clicks.run import Reading

    if split_seed and card(model).task == "click":
        raise BadSetting(f"--split-seed shuffles users, and {model} is a model of clicks, whose data are split by time")
    given = {"min_count": min_count, "gap": gap, "history_until": history_until}
    told: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Reading(**told) if told else None


def refuse(model: str, kind: str, names: Sequence[str]) -> None:
    """Raise BadSetting about the first of `names`, options that mean nothing for a model of this kind."""
    if names:
        raise BadSetting(f"{names[0]} means nothing here: {model} is {kind}; see 'diffacet evaluate --help'")


@dataclass(frozen=True)
class Asked:
    """What evaluate is asked for a click run; see its options."""

    on: str
    base: Path | None
    picture: Path | None
    negative_rate: float | None
    batch_size: int | None
    data: Path | None
    device: str


def evaluated(run: "ClickRun", asked: Asked, *, as_json: bool) -> None:
    """Measure a click run and print what was found."""
    from diffacet.app import progress, runs
    from diffacet.app.clicks import show

    base = None
    if asked.base is not None:
        base = of_clicks(runs.load(asked.base, device=asked.device), "--base")
    with progress.counting(console_of(stderr=True), "samples") as bar:
        told = run.evaluate(
            asked.on,
            base=base,
            negative_rate=1.0 if asked.negative_rate is None else asked.negative_rate,
            data=asked.data,
            batch_size=asked.batch_size,
            picture=asked.picture,
            progress=bar,
        )
    if as_json:
        print_json(told)
    else:
        show.evaluation(console_of(), told)


@dataclass(frozen=True)
class Wish:
    """What recommend is asked about re-ranking; see its options."""

    rerank: Path | None
    candidates: int | None
    user: str | None
    at: str | None
    context: list[str] | None
    behaviour: list[str] | None

    def candidates_for(self, k: int) -> int:
        """Candidates that the matching run is asked for, where k are wanted in the end.

        Raises:
            BadSetting: an option of re-ranking without --rerank, or fewer candidates than k.
        """
        if self.rerank is None:
            names = ("candidates", "user", "at", "context", "behaviour")
            given = [name for name in names if getattr(self, name) is not None]
            if given:
                raise BadSetting(f"--{given[0]} is for re-ranking; add --rerank RUN, a run of a click model")
            return k
        if self.candidates is not None and self.candidates < k:
            raise BadSetting(f"--candidates is at least --k, {k}; got {self.candidates}")
        return max(100, 5 * k) if self.candidates is None else self.candidates


def reranked(found: "Candidates", history: Sequence[str], k: int, wish: Wish, *, device: str, as_json: bool) -> None:
    """Print the k candidates that are most likely to be clicked."""
    from diffacet.app import runs, show
    from diffacet.app.clicks import show as show_clicks
    from diffacet.app.settings import split_pairs

    assert wish.rerank is not None, "asked for"
    clicks = of_clicks(runs.load(wish.rerank, device=device), "--rerank")
    rows = clicks.rerank(
        history,
        found.item_id.to_list(),
        found.score.tolist(),
        user=wish.user,
        at=wish.at,
        context=split_pairs(wish.context or (), "--context"),
        behaviour=split_pairs(wish.behaviour or (), "--behaviour"),
    ).head(k)
    unknown = rows.height - int(rows["known"].sum())
    if unknown:
        typer.echo(f"diffacet: {unknown} of these items have no training sample in {wish.rerank}", err=True)
    if as_json:
        told = {item["item_id"]: item for item in show.answer(found)["items"]}
        by_text = {str(own): item for own, item in told.items()}
        items = [by_text[row.pop("item_id")] | row for row in rows.to_dicts()]
        print_json({"items": items, "unknown": found.unknown, "rerank": str(wish.rerank)})
    else:
        titles = {} if found.titles is None else dict(zip(map(str, found.item_id), found.titles, strict=True))
        show_clicks.reranked(console_of(), rows, titles)
