"""The command that makes click data: import-clicks."""

import typer

from diffacet.app import click_options as c
from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, tell_next
from diffacet.errors import BadSetting, nearest

_COLUMNS = ("--user", "--item", "--time", "--field", "--time-unit")
_TABLES = ("--behaviours", "--items", "--users", "--behaviour-type", "--outcome", "--group")
_ALWAYS = ("--split", "--source", "--licence", "--out")
_ALLOWED = {
    "--samples": ("--samples", "--label", "--order-only", "--timezone", *_TABLES, *_COLUMNS, *_ALWAYS),
    "--impressions": (
        *("--impressions", "--clicked", "--clicked-at", "--request", "--position", "--exposures", "--timezone"),
        *(*_TABLES, *_COLUMNS, *_ALWAYS),
    ),
    "--from-ratings": (
        *("PATH", "--from-ratings", "--rating", "--behaviours-kept", "--items", "--users", "--user", "--item"),
        *("--time", "--field", "--timezone", *_ALWAYS),
    ),
    "--sampled-negatives": (
        *("PATH", "--sampled-negatives", "--seed", "--items", "--users", "--user", "--item", "--time", "--field"),
        *("--timezone", *_ALWAYS),
    ),
    "--format alibaba": ("PATH", "--format", "--tags", "--user-fraction", "--seed", *_ALWAYS),
    "--format eleme": ("PATH", "--format", "--inline-order", *_ALWAYS),
}
"""What each way of importing listens to."""


@app.command(
    "import-clicks",
    short_help="Make click data: showings with answers, and what users did before.",
    help=o.described(
        "Make a click data folder from raw files, for models of clicks. Showings and behaviours in two tables"
        " (--samples, --behaviours); or showings with their clicks in one (--impressions); or a log of ratings, a high"
        " one being a click (PATH --from-ratings X); or a log without ratings, beside which negatives are drawn (PATH"
        " --sampled-negatives N); or a published set (--format). Columns are found by their usual names, user_id,"
        " item_id, timestamp, label, or told. Bad values are refused with file, row and value; of a published set"
        " each known defect is counted. A sample sees what its user did strictly before it.",
        "diffacet import-clicks --samples shown.csv --behaviours log.csv --items items.csv --out clicks/mine",
        "diffacet import-clicks --samples s.parquet --behaviours b.parquet --field price:numeric --field device \\",
        "    --outcome watched --timezone Asia/Shanghai --split day:2:1 --out clicks/mine",
        "diffacet import-clicks --impressions day1.csv --impressions day2.csv --clicked click --out clicks/feed",
        "diffacet import-clicks data/ml-1m --from-ratings 4 --out clicks/ml-1m",
        "diffacet import-clicks checkins.csv --sampled-negatives 4 --out clicks/checkins",
        "diffacet import-clicks --format alibaba tianchi56/ --out clicks/alibaba",
        "diffacet import-clicks --format eleme D1_0.csv D3_1.csv D5_0.csv --out clicks/eleme",
    ),
)
def import_clicks(
    context: typer.Context,
    out: c.NewFolder,
    paths: c.Sources = None,
    samples: c.Samples = None,
    behaviours: c.Behaviours = None,
    items: c.Items = None,
    users: c.Users = None,
    impressions: c.Impressions = None,
    from_ratings: c.FromRatings = None,
    sampled_negatives: c.SampledNegatives = None,
    format: c.Format = None,  # noqa: A002
    user: c.User = None,
    item: c.Item = None,
    time: c.Time = None,
    label: c.Label = None,
    field: c.Fields = None,
    group: c.Group = None,
    behaviour_type: c.BehaviourType = None,
    outcome: c.Outcomes = None,
    timezone: c.TimeZone = None,
    split: c.SplitRule = None,
    time_unit: c.TimeUnit = "auto",
    order_only: c.OrderOnly = False,
    rating: c.Rating = None,
    behaviours_kept: c.BehavioursKept = "all",
    seed: c.Seed = 0,
    clicked: c.Clicked = None,
    clicked_at: c.ClickedAt = None,
    request: c.Request = None,
    position: c.Position = None,
    exposures: c.Exposures = False,
    tags: c.Tags = None,
    user_fraction: c.UserFraction = None,
    inline_order: c.InlineOrder = None,
    source: c.Source = "",
    licence: c.Licence = "",
) -> None:
    """Raw files to click data."""
    from diffacet.app import click_importing, click_show, progress
    from diffacet.data.clicks.importing import alibaba, eleme, ratings
    from diffacet.data.clicks.importing import impressions as showings

    way = _way(context, format)
    paths, tables = paths or [], {"items": items, "users": users}
    said = click_importing.wanted(
        out,
        user=user,
        item=item,
        time=time,
        label=clicked if way == "--impressions" else label,
        fields=field or (),
        group=group,
        behaviour_type=behaviour_type,
        outcomes=outcome or (),
        timezone=timezone,
        split=split,
        time_unit=time_unit,
        order_only=order_only,
        source=source,
        licence=licence,
    )
    with progress.counting(console_of(stderr=True), "reading") as bar:
        if way == "--samples":
            done = click_importing.import_tables(samples or [], behaviours or [], out, said, **tables)
        elif way == "--impressions":
            columns = showings.Columns(clicked_at, request, position)
            done = click_importing.import_impressions(
                impressions or [], out, said, columns, exposures=exposures, behaviours=behaviours or (), **tables
            )
        elif way == "--format alibaba":
            kinds = tuple(tags.split(",")) if tags else alibaba.TAGS
            share = 1.0 if user_fraction is None else user_fraction
            choice = alibaba.Choice(kinds, share, seed, said.split)
            done = click_importing.import_alibaba(paths[0], out, said, choice, progress=bar)
        elif way == "--format eleme":
            order = inline_order or "recent_first"
            done = click_importing.import_eleme(paths, out, said, eleme.Choice(order, said.split), progress=bar)
        else:
            rule = ratings.Rule(from_ratings, sampled_negatives, behaviours_kept, seed)
            done = click_importing.import_ratings(paths, out, said, rule, rating=rating, **tables)
    console = console_of()
    click_show.imported(console, done)
    tell_next(console, f"diffacet stats {out}", f"diffacet train din --data {out} --out RUN")


def _way(context: typer.Context, format: str | None) -> str:  # noqa: A002
    """Which way of importing the options ask for; raises BadSetting for none, for two, and for what is not its own."""
    given = {}
    for parameter in context.command.params:
        where = context.get_parameter_source(parameter.name or "")
        if where is not None and where.name == "COMMANDLINE":
            given[parameter.opts[0] if parameter.param_type_name == "option" else "PATH"] = parameter.name
    if format is not None and f"--format {format}" not in _ALLOWED:
        known = ("alibaba", "eleme")
        raise BadSetting(f"--format is {' or '.join(known)}; got {format!r}{nearest(format, known)}")
    ways = [way for way in _ALLOWED if way in given or way == f"--format {format}"]
    if len(ways) != 1:
        words = "nothing says what to make click data of" if not ways else f"{' and '.join(ways)} exclude each other"
        raise BadSetting(
            f"{words}; pass one of --samples FILE --behaviours FILE, --impressions FILE, PATH --from-ratings X, "
            "PATH --sampled-negatives N, or --format alibaba|eleme PATH"
        )
    way = ways[0]
    for option in given:
        if option not in _ALLOWED[way]:
            raise BadSetting(f"{option} means nothing with {way}; leave it out, or see 'diffacet import-clicks --help'")
    needed = "--behaviours" if way == "--samples" else "PATH"
    if needed in _ALLOWED[way] and needed not in given:
        raise BadSetting(f"{way} needs {needed}, too; see 'diffacet import-clicks --help'")
    if way == "--format alibaba" and len(context.params["paths"]) > 1:
        raise BadSetting("--format alibaba takes one PATH, the directory of the four files")
    return way
