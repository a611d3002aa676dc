"""Commands about many runs: study and compare."""

from typing import TYPE_CHECKING

import typer

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json, tell_next
from diffacet.errors import BadSetting

if TYPE_CHECKING:
    from diffacet.app.studies.conduct import Outcome


@app.command(
    short_help="Run a study: models, settings, data and seeds to one table.",
    help=o.described(
        "Run a study, a small TOML file or one that is shipped, into a folder: every run in a process of its own,"
        " tables with paired tests, a report and pictures. Finished runs are never repeated: the same command with"
        " --resume goes on after anything. Exit code 1: some runs failed, and the tables are without them.",
        "diffacet study --list",
        "diffacet study dmi-table5 --data data --out studies/table5",
        "diffacet study mine.toml --data data/mine --out studies/mine --workers 2 --resume",
        "diffacet study mine.toml --data data/mine --out studies/mine --collect     # the tables so far",
        "diffacet study dmi-table2 --data data --dry-run",
        "diffacet study dmi-table2 --data data --out studies/try --seeds 0,1 --on-data beauty --set max_steps=400",
    ),
)
def study(
    file: o.StudyFile = None,
    data: o.StudyData = None,
    out: o.StudyOut = None,
    workers: o.Workers = None,
    resume: o.ResumeStudy = False,
    seeds: o.OnlySeeds = None,
    only: o.OnlyRows = None,
    on_data: o.OnlyData = None,
    set_: o.Set = None,
    device: o.Device = "auto",
    list_: o.ListStudies = False,
    collect: o.Collect = False,
    dry_run: o.DryRun = False,
) -> None:
    """Study file to tables."""
    from diffacet.app import show
    from diffacet.app.settings import split_pairs
    from diffacet.app.studies import conduct, plan, spec

    console = console_of()
    if list_:
        show.studies(console, [spec.read(name) for name in spec.shipped()])
        return
    if file is None or data is None:
        missing = "a study file, or the name of a shipped study" if file is None else "--data DIR"
        raise BadSetting(f"missing {missing}; see 'diffacet study --list' and 'diffacet study --help'")
    cut = plan.Cut(_seeds(seeds), tuple(only or ()), tuple(on_data or ()), split_pairs(set_ or ()))
    planned = plan.make(spec.read(file), data, cut)
    if dry_run:
        show.planned(console, planned)
        return
    if out is None:
        raise BadSetting("missing --out DIR, the folder of the study; --dry-run needs none")
    outcome = conduct.conduct(
        planned,
        out,
        resume=resume or collect,
        collect=collect,
        workers=workers,
        device=device,
        console=console_of(stderr=True),
    )
    _told(outcome)
    if outcome.page is not None:
        tell_next(console, f"open {out}/report.html, or read {out}/table.md", f"diffacet compare {out}")
    if outcome.failures:
        raise typer.Exit(1)


def _told(outcome: "Outcome") -> None:
    from diffacet.app import show

    if outcome.page is not None:
        show.page(console_of(), outcome.page)
    for trouble in outcome.troubles:
        typer.echo(f"diffacet: {trouble}", err=True)
    for failure in outcome.failures:
        typer.echo(f"diffacet: failed: {failure.job.name}: {failure.error} (all it said: {failure.log})", err=True)


def _seeds(given: str | None) -> tuple[int, ...]:
    if given is None:
        return ()
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError as error:
        raise BadSetting(f"--seeds takes numbers with commas, 0,1,2; got '{given}'") from error


@app.command(
    short_help="Compare runs, or show the tables of a study again.",
    help=o.described(
        "Compare run directories: those of one model and setting are one row, the first row is the one that others"
        " are compared with. Or show the tables of a study's folder again; with a study file before it, by that file.",
        "diffacet compare runs/remi-0 runs/remi-1 runs/dmi-0 runs/dmi-1",
        "diffacet compare runs/* --on valid --metric recall@50 --metric mrr@20 --json",
        "diffacet compare studies/table5 --out table5.md",
        "diffacet compare mine.toml studies/mine --out mine.html",
    ),
)
def compare(
    runs: o.RunsOrStudy,
    on: o.CompareOn = None,
    metric: o.Metrics = None,
    base: o.Base = None,
    data: o.MovedData = None,
    out: o.PageOut = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Runs to a table."""
    from diffacet.app import progress, show
    from diffacet.app.studies import beside

    with progress.counting(console_of(stderr=True), "runs") as bar:
        page = beside.page(runs, on=on, metrics=tuple(metric or ()), base=base, data=data, device=device, progress=bar)
    if out is not None:
        beside.write(page, out)
    if as_json:
        print_json(show.about_page(page))
    else:
        show.page(console_of(), page)
