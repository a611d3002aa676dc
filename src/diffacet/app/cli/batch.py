"""The command candidates: a run's answers for all users of a log at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from diffacet.app import engine_options as e
from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json, tell_next

if TYPE_CHECKING:
    from diffacet.app.batch_candidates import Engine

Out = Annotated[Path, Option("--out", metavar="FILE", help="The table to make, .parquet; there must be none.")]
Users = Annotated[
    Path | None,
    Option(metavar="FILE", help="Only these users: one id a line, or a column user_id of a CSV or Parquet file."),
]
Block = Annotated[int, Option(metavar="N", help="Users that are written together; a matter of memory and of --resume.")]
Resume = Annotated[bool, Option("--resume", help="Go on with what a killed job has left, if it has.")]
Threads = Annotated[
    int | None,
    Option(
        metavar="N",
        help="CPU threads, of each worker with --engine ray; all if not given, of a worker 1. A table is bit-equal to"
        " another of as many.",
    ),
]


@app.command(
    short_help="Get candidates for every user of a log.",
    help=o.described(
        "Write candidates for every user of a data directory into one Parquet file: user_id, item_id, rank, score,"
        " interest. A user's whole history is asked. The data may be newer than those of the training: items that the"
        " run does not know are passed over. Users are answered in blocks, which a killed job keeps.",
        "diffacet candidates runs/dmi --data data/shop --out candidates.parquet",
        "diffacet candidates runs/dmi --data data/today --out candidates.parquet --k 200 --users active.txt --resume",
        "diffacet candidates runs/dmi --data data/shop --out quick.parquet --refine-steps 2 --threads 2 --json",
        "diffacet candidates runs/dmi --data data/shop --out all.parquet --engine ray --workers 2",
    ),
)
def candidates(
    run: o.RunDir,
    data: o.Data,
    out: Out,
    k: o.K = 50,
    users: Users = None,
    diversity: o.Diversity = 0.0,
    include_seen: o.IncludeSeen = False,
    index: o.IndexKind = "exact",
    refine_steps: o.RefineSteps = None,
    set_: o.Asked = None,
    device: o.Device = "auto",
    threads: Threads = None,
    block: Block = 8192,
    resume: Resume = False,
    engine: e.EngineName = e.Engine.LOCAL,
    address: e.Address = None,
    workers: e.Workers = None,
    as_json: o.Json = False,
) -> None:
    """Run and log to candidates."""
    e.check(engine, address, workers)
    if engine is e.Engine.RAY and threads is None:
        threads = 1  # two workers on two cores are faster than one of two threads
    from diffacet.app import batch_candidates, batch_parts, progress

    batch_parts.check(out, resume)
    counted = progress.counting(console_of(stderr=True), "users", lines=True)
    with _engine(engine, address, workers, threads) as who, counted as bar:
        told = batch_candidates.write(
            run,
            data,
            out,
            batch_candidates.Wish(k, not include_seen, diversity, block),
            users=users,
            index=index,
            refine_steps=refine_steps,
            set=set_ or (),
            device=device,
            threads=threads,
            resume=resume,
            engine=who,
            progress=bar,
            tell=lambda line: typer.echo(f"diffacet: {line}", err=True),
        )
    if as_json:
        print_json(told)
        return
    _show(told)
    tell_next(console_of(), f"diffacet serve {run}")


@contextmanager
def _engine(engine: e.Engine, address: str | None, workers: int | None, threads: int | None) -> "Iterator[Engine]":
    """Who does the work, for as long as it takes."""
    if engine is e.Engine.LOCAL:
        from diffacet.app.batch_candidates import here

        yield here
        return
    from diffacet.app.cluster import candidates, connecting

    cpus = None if workers is None else workers * (threads or 1)
    with connecting.connected(address, cpus=cpus) as cluster:
        yield candidates.engine(cluster, workers)


def _show(told: dict[str, Any]) -> None:
    say = partial(console_of().print, highlight=False, markup=False, soft_wrap=True)
    rate = "" if told["users_per_second"] is None else f", {told['users_per_second']:,.0f} users/s"
    say(
        f"{told['out']}: {told['rows']:,} candidates of {told['users']:,} users by {told['model_version']},"
        f" {told['seconds']:.1f} s{rate}"
    )
    if told["resumed"]:
        say(f"  {told['resumed']:,} users were finished before")
    if told["without_history"]:
        say(f"  {told['without_history']:,} users have no item that the run knows, and no rows")
    if told["without_candidates"]:
        say(f"  {told['without_candidates']:,} users have met the whole catalogue, and no rows")
