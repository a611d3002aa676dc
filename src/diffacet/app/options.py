"""Arguments and options of the command line: how each is written, and what its help says."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def described(text: str, *examples: str) -> str:
    """Help of a command: what it does, then lines to copy."""
    return f"{text}\n\n\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


Version = Annotated[bool, Option("--version", help="Print the version.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else on standard output.")]
Device = Annotated[str, Option(metavar="auto|cpu|cuda", help="Where to compute; auto: on CUDA if it is there.")]
RunDir = Annotated[Path, Argument(metavar="RUN", help="A run directory, made by 'diffacet train'.")]
DataDir = Annotated[Path, Argument(metavar="DIR", help="A data directory, made by 'diffacet import'.")]

Logs = Annotated[list[Path], Argument(metavar="LOG", help="Files, or directories of files; .gz is unpacked.")]
NewData = Annotated[Path, Option("--out", metavar="DIR", help="The data directory to make; new or empty.")]
User = Annotated[str | None, Option(metavar="COL", help="Column of the users; found by its name if not given.")]
Item = Annotated[str | None, Option(metavar="COL", help="Column of the items; likewise.")]
Time = Annotated[
    str | None, Option(metavar="COL", help="Column of the times; likewise; 'none': there is none, rows are in order.")
]
TimeFormat = Annotated[
    str | None,
    Option(
        "--time-format",
        metavar="FORM",
        help="How the times are written, in the codes of strftime, such as '%d.%m.%Y %H:%M' (UTC, if no %z says"
        " otherwise); not given: seconds or finer since 1970, or ISO 8601.",
    ),
]
Rating = Annotated[str | None, Option(metavar="COL", help="Column of the ratings; likewise; 'none': not read.")]
MinRating = Annotated[float | None, Option(metavar="X", help="Keep only interactions that are rated X or more.")]
Items = Annotated[Path | None, Option(metavar="FILE", help="A table of item ids with titles, categories or both.")]
MinCount = Annotated[
    int | None,
    Option(metavar="N", help="Keep items, then users, that have N interactions or more; in one pass, as papers do."),
]
KCore = Annotated[
    int | None,
    Option(metavar="N", help="Keep users and items that have N interactions or more; repeated until all have."),
]
Duplicates = Annotated[
    str,
    Option(
        metavar="keep|drop", help="What becomes of exact repeats of user, item and time; they are counted either way."
    ),
]
Format = Annotated[
    str,
    Option(
        metavar="FORMAT",
        help="How files are read: auto, by name and content; csv (any separator), jsonl, parquet, amazon, gowalla,"
        " movielens, yelp, yoochoose, kuairec or dreamrec.",
    ),
]
Partitions = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Read the log piece by piece, whatever its size, into N partitions of users, 1 to 9999; not given: raw"
        " files of 1 GiB and more, into one partition for some four million rows.",
    ),
]

TrainPart = Annotated[Path, Option("--train", metavar="FILE", help="The training part: Parquet, CSV, TSV or .npy.")]
ValidPart = Annotated[Path, Option("--valid", metavar="FILE", help="The validation part.")]
TestPart = Annotated[Path, Option("--test", metavar="FILE", help="The test part.")]
PartTime = Annotated[str | None, Option("--time", metavar="COL", help="Column of the times, if any; 'none': not read.")]

Positive = Annotated[
    str | None,
    Option(
        "--min-rating",
        metavar="X|none",
        help="Only what is rated X or more counts; to be said where there are ratings.",
    ),
]
Core = Annotated[
    int | None,
    Option(
        "--k-core", metavar="N", help="Keep users and items that have N interactions or more; 10 if not given, 0: all."
    ),
]
RatioOf = Annotated[
    str | None,
    Option(
        "--ratio", metavar="A:B:C", help="Shares of train, valid and test, of each user's rows; 7:2:1 if not given."
    ),
]
Noise = Annotated[
    str,
    Option(
        metavar="none|natural|random",
        help="In train and valid: low ratings (natural), or items that the user never met (random).",
    ),
]
NoiseShare = Annotated[
    float | None,
    Option("--share", metavar="P", help="With --noise random: its share of the rows, 0.1 to 0.5 in the paper."),
]
NoiseMode = Annotated[
    str, Option(metavar="add|replace", help="With --noise random: rows beside a user's own, or instead of some.")
]
NoiseSeed = Annotated[int, Option(metavar="N", min=0, help="Seed of the noise.")]

ModelName = Annotated[str, Argument(metavar="MODEL", help="A model of 'diffacet models'.")]
MaybeModel = Annotated[str | None, Argument(metavar="NAME", help="A model of the list.")]
Data = Annotated[Path, Option(metavar="DIR", help="A data directory, made by 'diffacet import' or 'import-clicks'.")]
NewRun = Annotated[
    Path, Option("--out", metavar="RUN", help="The run directory to make; with --resume, the one to go on with.")
]
PresetName = Annotated[
    str,
    Option(metavar="NAME|FILE", help="paper: as published; best: the strongest known; or a file of 'diffacet tune'."),
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="key=value", help="Change a setting of 'diffacet models MODEL'; may be repeated."),
]
Asked = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="key=value",
        help="Change a setting that may change after training ('diffacet models MODEL' says which); may be repeated.",
    ),
]
SplitName = Annotated[
    str,
    Option(
        metavar="auto|by-user|leave-last|by-time|collaborative|given|next-item[-last|-chronological|-given]",
        help="The protocol; auto: the data's own split, else that of the model's task. Clicks: auto, day[:TEST:VALID],"
        " quantile[:TRAIN:VALID] or instant:VALID:TEST.",
    ),
]
Seed = Annotated[int, Option(metavar="N", help="Seed of initial weights, batches, negatives and noise.")]
SplitSeed = Annotated[
    int, Option(metavar="N", help="Seed of the shuffle of users before the split; 1230 is the published one.")
]
MaxSteps = Annotated[int | None, Option(metavar="N", help="Training steps at most; the preset's if not given.")]
Threads = Annotated[
    int, Option(metavar="N", help="CPU threads; results are equal bit for bit where these are as many.")
]
PartVectors = Annotated[
    Path | None,
    Option("--item-vectors", metavar="FILE", help=".npy, a row an item by first appearance; for l-diffrec's clusters."),
]
ItemVectors = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="L-DiffRec: a .npy file of vectors (items, any) to make clusters of; else LightGCN is trained for them.",
    ),
]
Resume = Annotated[bool, Option("--resume", help="Go on with the run in --out where it was killed.")]

Memory = Annotated[
    int, Option(metavar="MIB", min=1, help="MiB that ranking may take; the metrics do not depend on it.")
]
On = Annotated[str, Option("--on", metavar="valid|test", help="Which held-out users are asked.")]
Ks = Annotated[
    list[int] | None,
    Option(
        "--k", metavar="N", help="List length, may be repeated; 20 and 50 if not given, for next items 5 and 10, too."
    ),
]
RefineSteps = Annotated[
    int | None,
    Option(metavar="S", help="DMI: 0 leaves interests unrefined, S uses DDIM with S steps; without it all T steps."),
]
ExcludeSeen = Annotated[
    bool | None,
    Option("--exclude-seen/--include-seen", help="Leave out what the user has met, or not; else as the protocol does."),
]
Input = Annotated[
    str, Option(metavar="train|train+valid", help="What the model is shown at test (splits collaborative and given).")
]
IncludeEmpty = Annotated[
    bool, Option("--include-empty", help="Next-item splits: ask for first items, too, which have no history.")
]
Average = Annotated[
    str,
    Option(
        metavar="evaluated|all|users",
        help="Means over the cases; all users, without a target counting 0; or users, of each the mean of its cases.",
    ),
]
Category = Annotated[
    str, Option(metavar="first|last|rarest", help="Which of an item's categories counts where one is wanted.")
]
Raw = Annotated[bool, Option("--raw", help="Take the vectors as they are, not standardised.")]
MovedData = Annotated[Path | None, Option("--data", metavar="DIR", help="The data directory, if it has moved.")]

History = Annotated[str, Option(metavar="ID[,ID...]", help="Item ids, oldest first.")]
K = Annotated[int, Option("--k", metavar="N", help="How many items are wanted.")]
Diversity = Annotated[
    float, Option(metavar="X", help="Penalty, in units of the score, for each listed item of the same category.")
]
IncludeSeen = Annotated[bool, Option("--include-seen", help="Items of the history may come back.")]
IndexKind = Annotated[
    str, Option(metavar="exact|hnsw|ivf", help="How the catalogue is searched: exactly, or nearly and faster.")
]

DemoOut = Annotated[Path, Option(metavar="DIR", help="Where data, runs and report.html go.")]
OtherData = Annotated[
    Path | None, Option("--data", metavar="DIR", help="A data directory to do it on, instead of MovieLens 100K.")
]
Seeds = Annotated[int, Option(metavar="N", help="Splits and initialisations to average over.")]
Quick = Annotated[bool, Option("--quick", help="A few steps only, to see that all parts work.")]

StudyFile = Annotated[str | None, Argument(metavar="FILE|NAME", help="A study file, or a study of --list.")]
StudyData = Annotated[
    Path | None,
    Option("--data", metavar="DIR", help="The folder that holds the study's data directories by name; or one of them."),
]
StudyOut = Annotated[
    Path | None,
    Option(
        "--out",
        metavar="DIR",
        help="The folder to make for runs, tables and report; with --resume, the one to go on with.",
    ),
]
Workers = Annotated[
    int | None, Option(metavar="N", help="Runs at a time; if not given, as many as there are CUDA devices or cores.")
]
ResumeStudy = Annotated[bool, Option("--resume", help="Go on with the study in --out; rows may have been added.")]
OnlySeeds = Annotated[str | None, Option("--seeds", metavar="N[,N...]", help="Run these seeds only.")]
OnlyRows = Annotated[list[str] | None, Option("--only", metavar="LABEL", help="Run this row only; may be repeated.")]
OnlyData = Annotated[list[str] | None, Option(metavar="NAME", help="Run on this data set only; may be repeated.")]
ListStudies = Annotated[bool, Option("--list", help="List the studies that are shipped.")]
Collect = Annotated[bool, Option("--collect", help="Run nothing: write the tables of the runs that are finished.")]
DryRun = Annotated[bool, Option("--dry-run", help="Check everything and list the runs, but run nothing.")]

RunsOrStudy = Annotated[
    list[Path], Argument(metavar="RUN...|STUDY", help="Run directories; or a study's folder, maybe its file before it.")
]
CompareOn = Annotated[
    str | None, Option("--on", metavar="valid|test", help="Which held-out users are asked; test if not given.")
]
Metrics = Annotated[
    list[str] | None,
    Option(
        metavar="NAME@K",
        help="A column, such as recall@20, for clicks auc; may be repeated. The first two are tested, of clicks auc.",
    ),
]
Base = Annotated[
    str | None,
    Option(metavar="LABEL", help="The row that the others are compared with; the first, or the study's, if not given."),
]
PageOut = Annotated[Path | None, Option("--out", metavar="FILE", help="Also write the tables: .md or .html.")]

FieldMinCount = Annotated[
    int | None, Option("--min-count", metavar="N", help="Clicks: values that training has fewer times are unknown.")
]
Gap = Annotated[
    int | None,
    Option(metavar="MS", help="Clicks: a showing does not see behaviours of its last MS milliseconds."),
]
HistoryUntil = Annotated[
    str | None,
    Option(metavar="sample|split", help="Clicks: histories end at the showing, or where its part of the data begins."),
]
BaseRun = Annotated[Path | None, Option("--base", metavar="RUN", help="Clicks: another run, to compare with.")]
Picture = Annotated[
    Path | None, Option(metavar="FILE", help="Clicks: draw the calibration into FILE, .html or .png (extra report).")
]
NegativeRate = Annotated[
    float | None, Option(metavar="W", help="Clicks: the share of showings without a click that the data kept.")
]
BatchSize = Annotated[int | None, Option(metavar="N", help="Clicks: showings at a time; a matter of memory only.")]

ClickRunDir = Annotated[Path, Argument(metavar="RUN", help="A run of a click model.")]
ShownFile = Annotated[
    Path, Option("--samples", metavar="FILE", help="The showings, as CSV, TSV or Parquet; without labels, too.")
]
DoneFile = Annotated[
    Path | None, Option("--behaviours", metavar="FILE", help="What their users did, with times; likewise.")
]
ItemsFile = Annotated[
    Path | None, Option("--items", metavar="FILE", help="Fields of the items; those that the run knows if not given.")
]
UsersFile = Annotated[Path | None, Option("--users", metavar="FILE", help="Fields of users, if the model has some.")]
PredictionsOut = Annotated[
    Path, Option("--out", metavar="FILE", help="The showings with a column probability: .parquet or .csv.")
]
UserColumn = Annotated[
    str | None, Option("--user", metavar="COL", help="Column of the users; found by its name if not given.")
]
ItemColumn = Annotated[str | None, Option("--item", metavar="COL", help="Column of the items; likewise.")]
TimeColumn = Annotated[str | None, Option("--time", metavar="COL", help="Column of the times; likewise.")]

Rerank = Annotated[
    Path | None,
    Option(metavar="RUN", help="A run of a click model, which brings the candidates into order."),
]
CandidatesOf = Annotated[
    int | None,
    Option("--candidates", metavar="N", help="With --rerank: candidates to begin with; 5 k, at least 100."),
]
AskedUser = Annotated[str | None, Option("--user", metavar="ID", help="With --rerank: who asks; else an unknown user.")]
AskedAt = Annotated[
    str | None,
    Option(
        "--at",
        metavar="TIME",
        help="With --rerank: when they are shown, milliseconds or 2024-05-01T18:30. The history becomes behaviours one"
        " second apart before it, so where the log's times are real, ages are those of a single sitting. Not given:"
        " the time of the last training sample.",
    ),
]
Context = Annotated[
    list[str] | None,
    Option(metavar="name=value", help="With --rerank: a column of the showing or of users (users.x); may be repeated."),
]
BehaviourValue = Annotated[
    list[str] | None,
    Option("--behaviour", metavar="name=value", help="With --rerank: a column of all behaviours; may be repeated."),
]
