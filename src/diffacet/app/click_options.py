"""Arguments and options of the commands that make click data: how each is written, and what its help says."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Sources = Annotated[
    list[Path] | None,
    Argument(metavar="PATH", help="A rating log or data directory; or what --format is about.", show_default=False),
]
NewFolder = Annotated[Path, Option("--out", metavar="DIR", help="The click data folder to make; new or empty.")]
Samples = Annotated[
    list[Path] | None,
    Option(
        metavar="FILE", help="Showings: user, item, time, label 0 or 1; may be repeated. CSV, TSV, JSON lines, Parquet."
    ),
]
Behaviours = Annotated[
    list[Path] | None, Option(metavar="FILE", help="What users did: user, time, and item or other fields; likewise.")
]
Impressions = Annotated[
    list[Path] | None, Option(metavar="FILE", help="Showings that are clicked or not: samples and behaviours in one.")
]
Items = Annotated[Path | None, Option(metavar="FILE", help="Item ids and what is known of them; a category is found.")]
Users = Annotated[Path | None, Option(metavar="FILE", help="User ids and what is known of them.")]

User = Annotated[
    str | None, Option(metavar="COL", help="Column of the users, in every file; found by its name if not given.")
]
Item = Annotated[str | None, Option(metavar="COL", help="Column of the items, in every file; likewise.")]
Time = Annotated[str | None, Option(metavar="COL", help="Column of the times, in samples and behaviours; likewise.")]
Label = Annotated[str | None, Option(metavar="COL", help="Column of the answers, 0 or 1, in the samples; likewise.")]
Fields = Annotated[
    list[str] | None,
    Option(
        "--field",
        metavar="COL[:categorical|numeric]",
        help="A further column of any of the files; may be repeated. Of items, or of behaviours and samples: describes"
        " both. Of behaviours alone: them. Of samples: the showing. Of users: the user. Numbers describe samples only.",
    ),
]
Group = Annotated[
    str | None,
    Option(metavar="COL", help="Column of the samples that GAUC groups by; a request id if found, else user."),
]
BehaviourType = Annotated[str | None, Option(metavar="COL", help="Column with the kind of a behaviour.")]
Outcomes = Annotated[
    list[str] | None,
    Option("--outcome", metavar="COL", help="Known only after the showing; may describe past behaviours at most."),
]
Rating = Annotated[str | None, Option(metavar="COL", help="Column of the ratings; else found by name.")]
TimeUnit = Annotated[
    str, Option(metavar="auto|s|ms", help="Unit of times that are numbers; auto tells it by their size.")
]
OrderOnly = Annotated[
    bool,
    Option("--order-only", help="Times of behaviours only order them, as where past clicks come as a list: no ages."),
]
TimeZone = Annotated[
    str | None, Option("--timezone", metavar="TZ", help="Whose days and hours count, such as Asia/Shanghai; else UTC.")
]
SplitRule = Annotated[
    str | None,
    Option(
        "--split",
        metavar="RULE",
        help="day[:TEST:VALID], quantile[:TRAIN:VALID], instant:VALID:TEST (milliseconds) or dsin. Not given: the last"
        " day tests and the one before validates if there are 5 days and these two are no remnants; else"
        " quantile:0.8:0.1.",
    ),
]
Source = Annotated[str, Option(metavar="TEXT", help="Where the data come from; kept with them.")]
Licence = Annotated[str, Option(metavar="TEXT", help="Under which they may be used; likewise.")]

FromRatings = Annotated[float | None, Option(metavar="X", help="PATH has ratings: X or more is a click, less is none.")]
SampledNegatives = Annotated[
    int | None,
    Option(
        metavar="N", min=1, help="PATH has no ratings: draw N unmet items beside each row, from a user's second on."
    ),
]
BehavioursKept = Annotated[
    str, Option(metavar="all|positive", help="With --from-ratings: which ratings are behaviours.")
]
Seed = Annotated[int, Option(metavar="N", min=0, help="Seed of drawn negatives, and of --user-fraction.")]

Clicked = Annotated[str | None, Option(metavar="COL", help="With --impressions: column of the answers, 0 or 1.")]
ClickedAt = Annotated[str | None, Option(metavar="COL", help="When the click came; else the time of the showing.")]
Request = Annotated[str | None, Option(metavar="COL", help="The request that showings belong to; GAUC groups by it.")]
Position = Annotated[str | None, Option(metavar="COL", help="The place in the list, a field of the sample.")]
Exposures = Annotated[
    bool, Option("--exposures", help="Showings without a click are behaviours, too, of type 'exposed'.")
]

Format = Annotated[
    str | None, Option("--format", metavar="alibaba|eleme", help="A published set: Tianchi 56 (DIR), 131047 (FILE...).")
]
Tags = Annotated[
    str | None, Option(metavar="TAG[,TAG...]", help="Alibaba: kinds of behaviour, of pv, cart, fav, buy; else all.")
]
UserFraction = Annotated[float | None, Option(metavar="P", help="Alibaba: share of the users that are kept.")]
InlineOrder = Annotated[
    str | None, Option(metavar="recent_first|oldest_first", help="Ele.me: what lists start with; else recent_first.")
]
