"""Runs of click models: a trained model with all that is needed to ask it about new showings.

Beside what every run directory holds (`rundir`) there are

    vocabularies.parquet  field, value, type; the values of each field in the order of their numbers, from 3 on
    items.parquet         what the data tell of items, where they tell something
    item_vectors.npy      what histories are clustered by, for models that read clusters (`grouping`)

and run.json holds the schema of the data, the statistics of numeric columns and the borders of the split, so that a
run predicts and re-ranks without the data it was trained on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import nn

from diffacet.app import rundir
from diffacet.app.clicks import grouping
from diffacet.app.rundir import Changes
from diffacet.core.contract import Card, ClickFields, Facts, Preset
from diffacet.data import clicks
from diffacet.data.clicks import SAMPLES, ClickLog, Packed, Schema, Statistics, Vocabulary
from diffacet.data.clicks.log import FloatArray
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.learn import checkpoint
from diffacet.learn.checkpoint import Record

VOCABULARIES, ITEMS, AUTO = "vocabularies.parquet", "items.parquet", "auto"


@dataclass(frozen=True)
class Reading:
    """How click data are read.

    Attributes:
        min_count: values of a field that training has fewer times than this are unknown.
        gap: milliseconds before a showing whose behaviours it does not see, as behaviours come late at serving.
        history_until: "sample": all before the showing; "split": histories end where the part begins.
    """

    min_count: int = 1
    gap: int = 0
    history_until: str = "sample"

    def __post_init__(self) -> None:
        if self.min_count < 1 or self.gap < 0 or self.history_until not in ("sample", "split"):
            raise BadSetting(
                "--min-count is 1 or more, --gap 0 or more milliseconds, --history-until sample or split; "
                f"got {self.min_count}, {self.gap} and '{self.history_until}'"
            )


@dataclass(frozen=True)
class ClickRun:
    """A trained click model with all that is needed to ask it.

    Attributes:
        path: the run directory.
        about: run.json.
        card: the model's card.
        settings: the settings it was trained with, with those changed by `load`.
        model: in evaluation mode, with the best weights.
        schema: of the data it was trained on.
        vocabularies: by field.
        statistics: of the numeric columns, in the schema's order.
        items: what the data told of items, or None.
        vectors: by which histories are clustered, or None.
    """

    path: Path
    about: dict[str, Any]
    card: Card
    settings: Preset
    model: nn.Module
    schema: Schema
    vocabularies: Mapping[str, Vocabulary]
    statistics: tuple[Statistics, ...]
    items: pl.DataFrame | None
    vectors: FloatArray | None = None

    @property
    def reading(self) -> Reading:
        """How the data of the run were read."""
        return Reading(**self.about["reading"])

    def trail(self) -> list[Record]:
        """The validations of the run, oldest first."""
        return checkpoint.read_trail(self.path).records

    def packed(self, data: Path | None = None) -> Packed:
        """The run's own data, read and split as for its training.

        Raises:
            BadRun: the data are gone, or are not those of the run.
        """
        told = self.about["data"]
        place = rundir.data_of(self.path, told, data)
        packed = open_data(place, self.about["split"]["name"], self.reading)
        rundir.check_fingerprint(self.path, told, place, packed.fingerprint)
        return packed

    def as_read(self, data: ClickLog | Packed) -> ClickLog:
        """A log of other showings, or packed data, as the model reads it: with clusters, if that is what it reads."""
        if isinstance(data, ClickLog):
            return grouping.as_read(self.settings, self.vectors, data)
        return grouping.packed_as_read(self.settings, self.vectors, data)

    def evaluate(
        self,
        on: str = "test",
        *,
        base: "ClickRun | None" = None,
        negative_rate: float = 1.0,
        data: Path | None = None,
        batch_size: int | None = None,
        picture: Path | str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """What `diffacet evaluate --json` prints of a click model; see `evaluation.evaluated`."""
        from diffacet.app.clicks import evaluation

        asked = evaluation.Asked(on, negative_rate, batch_size, data, None if picture is None else Path(picture))
        return evaluation.evaluated(self, asked, base, progress)

    def predict(
        self,
        samples: Path | str,
        behaviours: Path | str | None,
        out: Path | str,
        *,
        items: Path | str | None = None,
        users: Path | str | None = None,
        columns: Mapping[str, str] | None = None,
        negative_rate: float = 1.0,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Write the probability of each sample of a file beside its columns; see `prediction.predicted`."""
        from diffacet.app.clicks import prediction

        more = [None if path is None else Path(path) for path in (behaviours, items, users)]
        files = prediction.Files(Path(samples), *more)
        asked = prediction.Asked(files, Path(out), columns or {}, negative_rate, batch_size)
        return prediction.predicted(self, asked, progress)

    def rerank(
        self,
        history: Sequence[Any],
        candidates: Sequence[Any],
        scores: Sequence[float] | None = None,
        *,
        user: Any = None,
        at: int | str | None = None,
        context: Mapping[str, Any] | None = None,
        behaviour: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:
        """Candidates by falling click probability; see `reranking.reranked`."""
        from diffacet.app.clicks import reranking

        request = reranking.Request(history, candidates, scores, user, at, context or {}, behaviour or {})
        return reranking.reranked(self, request)


def open_data(place: Path, split: str, reading: Reading) -> Packed:
    """Click data split by `split`, or as they say themselves where it is "auto"; raises BadLog, BadSetting."""
    return clicks.open(place, split=None if split == AUTO else split, **asdict(reading))


def check_clicks(data: Path, model: str) -> None:
    """Refuse a directory without click data for a click model; raises BadLog."""
    if data.is_dir() and any(data.iterdir()) and not (data / SAMPLES).exists():
        raise BadLog(
            f"{data} holds no {SAMPLES}, so it is no click data, which {model} learns from; make some of a log of "
            "showings by 'diffacet import-clicks', or of ratings by 'diffacet import-clicks --from-ratings 4'"
        )


def check_items(data: Path, model: str) -> None:
    """Refuse click data for a model that is none of clicks; raises BadLog."""
    if (data / SAMPLES).exists():
        raise BadLog(
            f"{data} holds click data ({SAMPLES}), and {model} learns from interactions; train a model of the task "
            "click ('diffacet models'), or 'diffacet import' the log of behaviours"
        )


def load(path: Path, told: dict[str, Any], card: Card, changes: Changes, device: str) -> ClickRun:
    """The run of a click model in `path`, whose run.json is `told`; see `runs.load` for what is raised."""
    chosen = rundir.stored(path, card, told, changes)
    table = rundir.read_table(path / VOCABULARIES)
    items = rundir.read_table(path / ITEMS) if (path / ITEMS).exists() else None
    try:
        schema = Schema.from_json(told["schema"], f"{path}/{rundir.ABOUT}")
        statistics = tuple(Statistics(**one) for one in told["statistics"])
        facts = facts_of(told["fields"], chosen.training.length)
        vocabularies = read_vocabularies(table)
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise BadRun(f"{path} is damaged or of another version ({error}); train again") from error
    vectors = grouping.read_vectors(path, chosen)
    model = rundir.restored(path, card, chosen, facts, device)
    return ClickRun(path, told, card, chosen, model, schema, vocabularies, statistics, items, vectors)


def facts_of(fields: Mapping[str, Any], length: int) -> Facts:
    """What a model's constructor is told of the data, from what run.json keeps."""
    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    click = ClickFields(**made)
    return Facts(click.sizes[0] - 3, length, click=click)


def vocabulary_table(vocabularies: Mapping[str, Vocabulary]) -> pl.DataFrame:
    """Columns field, value (text; null where a field has none) and type, in the order of the values' numbers."""
    parts = []
    for name, vocabulary in vocabularies.items():
        values = vocabulary.values.cast(pl.String) if len(vocabulary.values) else pl.Series([None], dtype=pl.String)
        columns = {"field": pl.lit(name), "type": pl.lit(str(vocabulary.values.dtype))}
        parts.append(values.alias("value").to_frame().with_columns(**columns).select("field", "value", "type"))
    return pl.concat(parts)


def read_vocabularies(table: pl.DataFrame) -> dict[str, Vocabulary]:
    """What `vocabulary_table` was made of."""
    kinds = {"Int64": pl.Int64, "String": pl.String}
    parts = table.partition_by("field", maintain_order=True)
    return {
        str(rows["field"][0]): Vocabulary(rows["value"].drop_nulls().cast(kinds[rows["type"][0]])) for rows in parts
    }
