"""The study file: what is compared, on which data, over which seeds. TOML, read strictly.

    Study     the file
    Row       a `[[row]]` of it: a model at a setting, or a grid of settings
    Ask       one way in which a trained run is asked: inference settings, seen items excluded
    Variant   a row on one data set at one point of its grid: runs that differ in their seeds only

The shipped ones are the files of `diffacet/studies`.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from diffacet.core.contract import STRICT
from diffacet.errors import BadSetting, nearest
from diffacet.rank.categories import Primary

Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Published = dict[str, float | tuple[float, ...]]
METRICS, TESTS = ("recall@20", "recall@50", "ndcg@50"), ("recall@50", "ndcg@50")
"""What `usual` gives for the usual lengths of lists."""


@dataclass(frozen=True, config=STRICT)
class Override:
    """What a row does otherwise on one data set.

    Attributes:
        preset: instead of the row's.
        set: added to the row's, and stronger.
        seeds: instead of the row's.
    """

    preset: Text | None = None
    set: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Annotated[int, Field(ge=1)] | Seeds | None = None


@dataclass(frozen=True, config=STRICT)
class Row:
    """A model at a setting.

    Attributes:
        label: what the table calls it; `{key}` stands for a value of the grid.
        model: a model of `diffacet models`.
        preset: the settings to start from.
        set: changes to them.
        grid: setting -> values; a row of the table for each combination.
        asks: ways in which each run is asked, see `Ask`; the first is the row itself.
        seeds: the first so many of the study's seeds, or a list; all when not given.
        split: the protocol, instead of the study's.
        data: the data sets that it is run on; all when not given.
        on: data set -> what is otherwise there.
        published: data set -> metric -> the paper's number; a list goes along the grid.
    """

    label: Text
    model: Text
    preset: Text = "best"
    set: dict[str, Any] = dataclasses.field(default_factory=dict)
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = dataclasses.field(default_factory=dict)
    asks: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] = ({},)
    seeds: Annotated[int, Field(ge=1)] | Seeds | None = None
    split: Text | None = None
    data: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    on: dict[str, Override] = dataclasses.field(default_factory=dict)
    published: dict[str, Published] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Study:
    """A study file.

    Attributes:
        title: heading of its page.
        data: names of the data sets.
        row: its rows.
        name: the file's name without .toml, if the file says no other.
        lead: a sentence above the tables, on what must be said first.
        note: sentences under the table.
        seeds: of the runs, for all data sets or for each.
        split_seeds: "seed", the same number as the run's seed; or a list, crossed with the seeds.
        split: the protocol, of all data sets or of each; "auto" is the data's own split, else that of the models' task.
        on: which held-out users, or samples, the tables show.
        ks: list lengths; of no meaning for models of clicks.
        category: which of an item's categories is its one, where a metric wants one: "last", "first" or "rarest".
        metrics: columns of the table; see `usual` for a file that says none.
        tests: metrics of the paired tests; see there, too.
        base: the label that every other one is compared with.
        pairs: more pairs of labels, the first minus the second.
        picture: "bars", "line" (a grid's setting against the metrics), "steps" (asks against quality and time),
            "asks" (the number that asks differ in against the metrics), "terms" (training steps against each term of
            the loss) or "data" (data sets against the metrics).
    """

    title: Text
    data: Annotated[tuple[Text, ...], Field(min_length=1)]
    row: Annotated[tuple[Row, ...], Field(min_length=1)]
    name: str = ""
    lead: str = ""
    note: str = ""
    seeds: Seeds | dict[str, Seeds] = (0, 1)
    split_seeds: Literal["seed"] | Seeds = "seed"
    split: Text | dict[str, Text] = "auto"
    on: Literal["valid", "test"] = "test"
    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (20, 50)
    category: Primary = "last"
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] = METRICS
    tests: Annotated[tuple[Text, ...], Field(min_length=1)] = TESTS
    base: Text | None = None
    pairs: tuple[tuple[Text, Text], ...] = ()
    picture: Literal["bars", "line", "steps", "asks", "terms", "data"] = "bars"


@dataclasses.dataclass(frozen=True)
class Ask:
    """One way in which a trained run is asked.

    Attributes:
        suffix: of the row's label; empty for the run as it was trained.
        settings: inference settings to change.
        exclude_seen: whether seen items are left out; None: as the protocol does.
    """

    suffix: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exclude_seen: bool | None = None

    def named(self, label: str) -> str:
        """What the table calls a row that is asked this way."""
        return f"{label}, {self.suffix}" if self.suffix else label


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row on one data set at one point of its grid.

    Attributes:
        label: the row's, with the point of the grid.
        row: where it comes from.
        data: the data set's name.
        preset: its preset there.
        set: its changes there, those of the grid included.
        point: setting of the grid -> value.
        seeds: of its runs.
        split: the protocol.
        asks: ways in which its runs are asked.
        published: metric -> the paper's number.
    """

    label: str
    row: Row
    data: str
    preset: str
    set: Mapping[str, Any]
    point: Mapping[str, Any]
    seeds: tuple[int, ...]
    split: str
    asks: tuple[Ask, ...]
    published: Mapping[str, float]

    def labels(self) -> list[str]:
        """Labels of its rows in the table, one for each ask."""
        return [ask.named(self.label) for ask in self.asks]


def shipped() -> dict[str, Path]:
    """Name -> file of the studies that come with the library."""
    folder = Path(str(resources.files("diffacet") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read(where: str | Path) -> Study:
    """The study in a file, or the shipped one of that name.

    Raises:
        BadSetting: no such file or name, no TOML, an unknown key, a value of the wrong type, two equal labels,
            a list of published numbers that is not as long as its grid, a base that is no row.
    """
    path = Path(where)
    if not path.is_file():
        ours = shipped()
        if str(where) not in ours:
            raise BadSetting(
                f"there is no study file '{where}'{nearest(str(where), ours)}, nor a shipped study of that name. "
                "See 'diffacet study --list'"
            )
        path = ours[str(where)]
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadSetting(f"{path} is no study file: {error}") from error
    return parse({"name": path.stem} | told, str(path))


def parse(told: Mapping[str, Any], where: str) -> Study:
    """The study that `told`, the content of a file, describes; `where` names it in errors. Raises as `read`."""
    try:
        study = TypeAdapter(Study).validate_python(dict(told))
    except ValidationError as error:
        raise BadSetting(f"{where}: {_explain(error, told)}") from error
    _check_labels(study, where)
    metrics, tests = usual(study.ks)
    metrics, tests = (study.metrics if "metrics" in told else metrics), (study.tests if "tests" in told else tests)
    return dataclasses.replace(study, metrics=metrics, tests=tests)


def usual(ks: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics and tests where a file says none: recall at each of `ks`, and ndcg at the largest; tested at the largest.

    Studies of click models have others, see `clicks.prepared`.
    """
    *shorter, longest = sorted(set(ks))
    tests = (f"recall@{longest}", f"ndcg@{longest}")
    return (*(f"recall@{k}" for k in shorter), *tests), tests


def variants(study: Study, data: str) -> Iterator[Variant]:
    """The rows of the study on the data set `data`, grids spread out, in the order of the file."""
    for row in study.row:
        if row.data is not None and data not in row.data:
            continue
        there = row.on.get(data, Override())
        seeds = _seeds(study, data, there.seeds if there.seeds is not None else row.seeds)
        published = row.published.get(data, {})
        for place, values in enumerate(itertools.product(*row.grid.values())):
            point = dict(zip(row.grid, values, strict=True))
            yield Variant(
                label=_label(row, point),
                row=row,
                data=data,
                preset=there.preset or row.preset,
                set={**row.set, **there.set, **point},
                point=point,
                seeds=seeds,
                split=row.split or _of_data(study.split, data),
                asks=tuple(_ask(told) for told in row.asks),
                published={key: v[place] if isinstance(v, tuple) else v for key, v in published.items()},
            )


def _seeds(study: Study, data: str, own: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The seeds of a row."""
    every: tuple[int, ...] = _of_data(study.seeds, data)
    if isinstance(own, int):
        return every[:own]
    return every if own is None else own


def _of_data(given: Any, data: str) -> Any:
    """What a study gives for all data sets, or for each; data sets that it does not name take the first one's."""
    return given if not isinstance(given, dict) else given.get(data) or next(iter(given.values()))


def _label(row: Row, point: Mapping[str, Any]) -> str:
    label = row.label
    for key, value in point.items():
        place = f"{{{key}}}"
        label = label.replace(place, str(value)) if place in label else f"{label}, {key} {value}"
    return label


def _ask(told: Mapping[str, Any]) -> Ask:
    changes = {key: value for key, value in told.items() if key not in ("label", "exclude_seen")}
    words = [f"{key} {value}" for key, value in changes.items()]
    seen = told.get("exclude_seen")
    words += [] if seen is None else ["seen excluded" if seen else "seen included"]
    return Ask(str(told.get("label", ", ".join(words))), changes, None if seen is None else bool(seen))


def _check_labels(study: Study, where: str) -> None:
    """Labels are unique on each data set, and base and pairs are among them."""
    every: list[str] = []
    for data in study.data:
        labels = [label for variant in variants_checked(study, data, where) for label in variant.labels()]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise BadSetting(f"{where}: two rows are called '{twice}' on {data}; give each a label of its own")
        every += labels
    for name in (study.base, *itertools.chain(*study.pairs)):
        if name is not None and name not in every:
            raise BadSetting(f"{where}: base and pairs name rows, and no row is called '{name}'{nearest(name, every)}")
    for row in study.row:
        for data in (*(row.data or ()), *row.on, *row.published):
            if data not in study.data:
                raise BadSetting(
                    f"{where}: row '{row.label}' speaks of data set '{data}'{nearest(data, study.data)}, "
                    f"which the study has not. It has: {', '.join(study.data)}"
                )


def variants_checked(study: Study, data: str, where: str) -> Sequence[Variant]:
    """`variants`, after published lists are found to be as long as their grids. Raises BadSetting."""
    for row in study.row:
        size = len(list(itertools.product(*row.grid.values())))
        for key, value in row.published.get(data, {}).items():
            if isinstance(value, tuple) and len(value) != size:
                raise BadSetting(
                    f"{where}: row '{row.label}' has {size} points in its grid, and {len(value)} published {key}"
                )
    return list(variants(study, data))


def _explain(error: ValidationError, told: Mapping[str, Any]) -> str:
    """The first refusal of pydantic in words of the file: which row, which key, which key was meant."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier() or part in told]
    row = ""
    if place[:1] == ["row"] and len(place) > 1 and isinstance(place[1], int):
        rows = told.get("row")
        entry = rows[place[1]] if isinstance(rows, Sequence) else {}
        row = f"row '{entry.get('label', place[1] + 1)}': " if isinstance(entry, Mapping) else ""
        place = place[2:]
    key = ".".join(map(str, place)) or "the file"
    if first["type"] == "unexpected_keyword_argument":
        owner = (Override if place[:1] == ["on"] else Row) if row else Study
        known = [field.name for field in dataclasses.fields(owner)]
        return f"{row}unknown key '{place[-1]}'{nearest(str(place[-1]), known)}. There are: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{row}'{key}' is missing"
    if first["type"] == "dataclass_type":
        return f"{row}'{key}' is a table, written [[row]]; got {first.get('input')!r}"
    return f"{row}{key}: {first['msg'].replace('Input should', 'it should')}; got {first.get('input')!r}"
