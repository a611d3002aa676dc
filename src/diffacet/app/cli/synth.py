"""The commands about generated logs: synth."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json, tell_next

Users = Annotated[str, Option("--users", metavar="N", help="Users; 2e6 may be written, too.")]
Items = Annotated[str, Option("--items", metavar="M", help="Items of the catalogue.")]
Interactions = Annotated[str, Option("--interactions", metavar="X", help="Clicks in all, exactly.")]
Out = Annotated[Path, Option("--out", metavar="DIR", help="The directory to make; new or empty.")]
Topics = Annotated[int | None, Option(metavar="T", help="Latent topics; half the root of M if not given, 6..1000.")]
Interests = Annotated[float, Option(metavar="K", help="Mean interests of a user, who has 1..5.")]
Zipf = Annotated[float, Option(metavar="S", help="Popularity of the item of rank r is (r + shift)^-S.")]
Shift = Annotated[float | None, Option(metavar="Q", help="The shift of that law; 20 + M/1000 if not given.")]
Noise = Annotated[float, Option(metavar="P", help="Share of clicks off all interests, on whatever is popular.")]
Drift = Annotated[float, Option(metavar="P", help="How much interests move in time, 0..1; 0: not at all.")]
Width = Annotated[float, Option(metavar="W", help="How far clicks stray within a topic, 0.001..0.5.")]
Days = Annotated[float, Option(metavar="D", help="Time span.")]
Fewest = Annotated[int, Option("--min-history", metavar="N", help="Fewest clicks of a user.")]
Ratings = Annotated[bool, Option("--ratings", help="With a column of ratings, 1..5.")]
Kind = Annotated[str, Option("--ids", metavar="numbers|text", help="What ids are.")]
Seed = Annotated[int, Option(metavar="N", help="Seed of everything: the same options give the same log.")]
PartRows = Annotated[int, Option("--part-rows", metavar="N", help="Rows of a file, about; also what is in memory.")]
Parts = Annotated[int | None, Option(metavar="N", help="About how many files, instead of --part-rows.")]
TruthDir = Annotated[Path, Argument(metavar="DIR", help="The directory that 'diffacet synth' made.")]
MostUsers = Annotated[int, Option("--users", metavar="N", help="Test users that are looked at, at most.")]
Resume = Annotated[bool, Option("--resume", help="Go on with what a killed process has left, if it has.")]


@app.command(
    short_help="Generate a realistic log with known interests, of any size.",
    help=o.described(
        "Generate a log: popularity by a power law, several latent interests per user that drift in time, sessions,"
        " trends, noise. What is planted is written beside it, in DIR/truth, and 'diffacet synth-score' tells how well"
        " a run has found it. Memory is that of the catalogue and one file, whatever the size. docs/synth.md has the"
        " model in symbols.",
        "diffacet synth --users 2000 --items 500 --interactions 40000 --out logs/small",
        "diffacet synth --users 2e6 --items 1e6 --interactions 1e8 --out logs/large --min-history 5",
        "diffacet synth --users 10000 --items 2000 --interactions 3e5 --noise 0.3 --drift 0 --ratings --out logs/noisy",
        "diffacet import logs/small --out data/small",
    ),
)
def synth(
    users: Users,
    items: Items,
    interactions: Interactions,
    out: Out,
    topics: Topics = None,
    interests: Interests = 3.0,
    zipf: Zipf = 1.0,
    shift: Shift = None,
    noise: Noise = 0.1,
    drift: Drift = 0.5,
    width: Width = 0.08,
    days: Days = 365.0,
    min_history: Fewest = 1,
    ratings: Ratings = False,
    ids: Kind = "numbers",
    seed: Seed = 0,
    part_rows: PartRows = 2_000_000,
    parts: Parts = None,
    resume: Resume = False,
    as_json: o.Json = False,
) -> None:
    """Sizes to a log."""
    from diffacet.app import progress, synthesis
    from diffacet.data.synth.settings import Settings

    settings = Settings(
        _whole(users, "users"),
        _whole(items, "items"),
        _whole(interactions, "interactions"),
        topics=topics,
        interests=interests,
        zipf=zipf,
        shift=shift,
        noise=noise,
        drift=drift,
        width=width,
        days=days,
        min_history=min_history,
        ratings=ratings,
        ids=ids,
        seed=seed,
    )
    with progress.counting(console_of(stderr=True), "interactions", lines=True) as bar:
        done = synthesis.synthesise(settings, out, part_rows=part_rows, parts=parts, resume=resume, progress=bar)
    if as_json:
        print_json({"out": str(done.path), "parts": done.parts, "resumed": done.resumed} | done.settings.told())
        return
    console = console_of()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(
        f"{out}: {settings.interactions:,} interactions of {settings.users:,} users with {settings.items:,} items in"
        f" {done.parts} file{'s' if done.parts > 1 else ''}; what is planted: {out / synthesis.TRUTH}"
    )
    if done.resumed:
        say(f"  {done.resumed:,} interactions were finished before")
    tell_next(console, f"diffacet import {out} --out DATA", "diffacet train dmi --data DATA --out RUN")


def _whole(text: str, name: str) -> int:
    """The whole number in "2000000", "2_000_000" or "2e6"."""
    from diffacet.errors import BadSetting

    try:
        number = float(text)
        whole = int(text) if text.strip().isdigit() else int(number)
    except (ValueError, OverflowError):
        number, whole = 0.5, 0
    if whole != number and not text.strip().isdigit():
        raise BadSetting(f"--{name} takes a whole number, such as 2000000 or 2e6; got '{text}'")
    return whole


@app.command(
    "synth-score",
    short_help="See how well a run finds the interests planted by synth.",
    help=o.described(
        "How well the interests that a run finds in the histories of its test users match those that 'diffacet synth'"
        " planted: over all planted interests that a history shows, the best of the found ones by AUC, precision and"
        " cosine against the items about the planted place. docs/synth.md defines them.",
        "diffacet synth-score runs/dmi logs/small",
        "diffacet synth-score runs/dmi logs/small --refine-steps 0 --json",
    ),
)
def synth_score(
    run: o.RunDir,
    truth: TruthDir,
    refine_steps: o.RefineSteps = None,
    users: MostUsers = 1000,
    data: o.MovedData = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Run and truth to measures of match."""
    from diffacet.app import recovery, runs

    found = recovery.recovery(
        runs.of_items(runs.load(run, device=device), "synth-score"),
        truth,
        refine_steps=refine_steps,
        users=users,
        data=data,
    )
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    console = console_of()
    grid = Table(title=f"{run}: {found['interests']:,} planted interests of {found['users']:,} users")
    for head in ("clicks in its home", "interests", *recovery.MEASURES):
        grid.add_column(head, justify="right")
    for row in [*found["by_clicks"], {"home_clicks": "all", **found}]:
        cells = [f"{row[name]:.4f}" for name in recovery.MEASURES]
        grid.add_row(row["home_clicks"], f"{row['interests']:,}", *cells)
    console.print(grid)
