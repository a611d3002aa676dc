"""How well a run's interests match those that were planted in a generated log (docs/synth.md).

A planted interest is a topic and a place on its ring. Its home is the set of items within two widths of that place,
where about 95 % of its clicks would fall if all of them were by its user's taste. Of a user's K found interests the one
that finds the home best counts. Shapes: P planted interests, K found ones of a user, N items, d dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files, seeds
from diffacet.app.runs import Run
from diffacet.app.synthesis import ABOUT, TRUTH
from diffacet.data import store
from diffacet.errors import BadLog, BadSetting

WIDTHS = 2.0
MEASURES = ("auc", "precision", "cosine")
_BLOCK = 256
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Planted:
    """What is planted in a generated log.

    Attributes:
        settings: truth/synth.json.
        items: truth/items.*.parquet as one table.
        interests: truth/users.*.parquet as one table, one row an interest.
    """

    settings: dict[str, Any]
    items: pl.DataFrame
    interests: pl.DataFrame


def read_truth(path: Path | str) -> Planted:
    """What `diffacet synth --out path` planted; raises BadLog when `path` is no such directory."""
    folder = Path(path) / TRUTH
    if not (folder / ABOUT).is_file():
        raise BadLog(f"{path} holds no {TRUTH}/{ABOUT}: pass a directory that 'diffacet synth' made")
    try:
        settings = files.read_json(folder / ABOUT)
        tables = [pl.read_parquet(sorted(folder.glob(f"{name}.*.parquet"))) for name in ("items", "users")]
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise BadLog(f"{folder} cannot be read ({str(error).splitlines()[0]}); generate the log again") from error
    return Planted(settings, *tables)


def recovery(
    run: Run, truth: Path | str, *, refine_steps: int | None = None, users: int = 1000, data: Path | None = None
) -> dict[str, Any]:
    """How well a run finds the planted interests of the test's users: means of `match` over all interests.

    Args:
        run: a run of a model with interests, trained on the imported log.
        truth: the directory that `diffacet synth` made.
        refine_steps: S of a model that refines; None: as the run is set.
        users: of the test at most so many, drawn by the run's split seed.
        data: the data directory, where it has moved.

    Returns:
        users, interests (how many), auc, precision, cosine (means over the interests), and `by_clicks`: the same
        measures by how many clicks of the history lie in the home, 1, 2 to 4, 5 and more.

    Raises:
        BadLog: `truth` is no directory of `diffacet synth`, or of another log than the run's.
        BadSetting: the model has no interests, or no refinement steps.
    """
    found = match(run, truth, refine_steps=refine_steps, users=users, data=data)
    means = [pl.col(name).mean() for name in MEASURES]
    groups = pl.when(pl.col("clicks") == 1).then(pl.lit("1")).when(pl.col("clicks") < 5).then(pl.lit("2-4"))
    by = found.group_by(groups.otherwise(pl.lit("5+")).alias("home_clicks")).agg(pl.len().alias("interests"), *means)
    return {
        "model": run.card.name,
        "refine_steps": refine_steps,
        "users": found["user_id"].n_unique(),
        "interests": found.height,
        **found.select(means).row(0, named=True),
        "by_clicks": by.sort("home_clicks").to_dicts(),
    }


def match(
    run: Run,
    truth: Path | str,
    *,
    refine_steps: int | None = None,
    users: int = 1000,
    data: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """What the run has found of each planted interest that a test history shows, one row each.

    An interest is shown if an item of the history lies in its home. Columns: user_id, topic, place, weight; clicks, the
    items of the history in the home; home, its size; and, each the best over the user's found interests v,

        auc        share of pairs of an item of the home and another one in which v scores the former higher
        precision  share of the home among as many items that v scores highest
        cosine     of v and the mean vector of the home less that of the catalogue

    Raises:
        BadLog, BadSetting: as `recovery`.
    """
    planted = read_truth(truth)
    if users < 1:
        raise BadSetting(f"users is 1 or more; got {users}")
    history = run.holdout("test", data).history
    log = store.open(data or run.about["data"]["path"]).log
    ids = log.users.ids(history.users)
    rows = seeds.stream(run.about["split"]["seed"] or 0, "recovery").permutation(len(history))[:users]
    chosen = pl.DataFrame({"user_id": ids.gather(rows), "row": rows})
    interests = chosen.join(planted.interests, on="user_id", how="inner", maintain_order="left")
    homes = Homes.of(run, planted)
    retriever = run.retriever()
    vectors = retriever.vectors.float().cpu().numpy()[1:].astype(np.float64)
    told: list[tuple[float, ...]] = []
    for number, begin in enumerate(range(0, len(rows), _BLOCK)):
        part = rows[begin : begin + _BLOCK]
        asked = [run.catalogue["item_id"].gather(history.row(int(row)) - 1).to_list() for row in part]
        encoded = dict(zip(part.tolist(), retriever.encode(asked, refine_steps=refine_steps), strict=True))
        block = interests.filter(pl.col("row").is_in(part.tolist()))
        for row, topic, place in block.select("row", "topic", "place").iter_rows():
            home = homes.about(topic, place)
            told.append(_measured(encoded[row].astype(np.float64), vectors, home, history.row(row) - 1))
        if progress is not None:
            progress(min((number + 1) * _BLOCK, len(rows)), len(rows))
    columns = pl.DataFrame(told, schema=["clicks", "home", *MEASURES], orient="row")
    found = interests.select("user_id", "topic", "place", "weight").hstack(columns)
    found = found.filter(pl.col("clicks") > 0, pl.col("home") < len(vectors))
    if found.is_empty():
        raise BadLog(f"{truth}: no history of the {len(rows)} users shows an interest; take a larger log")
    return found


@dataclass(frozen=True, eq=False)
class Homes:
    """Where the items of a run lie: topics (N, 2) int64, -1 where there is no second, and places (N, 2) float64."""

    topics: NDArray[np.int64]
    places: FloatArray
    width: float

    @classmethod
    def of(cls, run: Run, planted: Planted) -> "Homes":
        """The items of the run's catalogue; raises BadLog when the truth does not know them."""
        items = run.catalogue.select("item_id").with_columns(pl.col("item_id").cast(pl.String))
        known = planted.items.with_columns(pl.col("item_id").cast(pl.String))
        frame = items.join(known, on="item_id", how="left", maintain_order="left")
        if frame["topic"].null_count():
            raise BadLog(
                f"{frame['topic'].null_count()} of the {frame.height} items of {run.path} are not of the generated log;"
                " pass the directory of 'diffacet synth' that the run's data were imported from"
            )
        topics = frame.select(pl.col("topic", "second_topic").fill_null(-1)).to_numpy()
        places = frame.select(pl.col("place", "second_place").fill_null(0.0)).to_numpy()
        return cls(topics, places, float(planted.settings["width"]))

    def about(self, topic: int, place: float) -> BoolArray:
        """(N,) whether an item lies within two widths of `place` on the ring of `topic`."""
        far = np.abs(self.places - place)
        return ((self.topics == topic) & (np.minimum(far, 1 - far) <= WIDTHS * self.width)).any(1)


def _measured(found: FloatArray, vectors: FloatArray, home: BoolArray, history: NDArray[np.int64]) -> tuple[float, ...]:
    """Clicks in the home, its size, AUC, precision and cosine for interests (K, d) and item vectors (N, d)."""
    clicks, size, others = int(home[history].sum()), int(home.sum()), int((~home).sum())
    if not clicks or not others:
        return clicks, size, 0.0, 0.0, 0.0
    scores = found @ vectors.T  # (K, N)
    order = np.argsort(scores, axis=1, kind="stable")
    inside = home[order]  # (K, N), lowest score first
    ranks = (inside * np.arange(len(home))).sum(1)
    auc = (ranks - size * (size - 1) / 2) / (size * others)
    precision = inside[:, -size:].mean(1)
    direction = vectors[home].mean(0) - vectors.mean(0)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(direction)
    cosine = (found @ direction) / np.maximum(lengths, 1e-12)
    return clicks, size, float(auc.max()), float(precision.max()), float(cosine.max())
