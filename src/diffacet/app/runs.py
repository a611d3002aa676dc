"""Runs: from a data directory to a trained model in a directory of its own, and back.

Beside what every run directory holds (`rundir`) there is

    catalogue.parquet  item_id, maybe title, categories and cluster; row n is item n + 1
    golden.json        a request with its answer, for those who serve the run (`golden`)
    examples.json      held-out histories, likewise

A run answers `recommend` from anywhere, without the data it was trained on. Runs of click models are `clicks.run`'s.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from torch import nn

from diffacet.app import cards, clusters, fitting, golden, rundir, settings, splitting
from diffacet.app.clicks import training as click_training
from diffacet.app.clicks.run import ClickRun, Reading
from diffacet.app.clicks.run import load as load_clicks
from diffacet.app.rundir import Changes
from diffacet.arrays import distinct
from diffacet.core.contract import Card, Facts, Preset
from diffacet.data import store
from diffacet.data.ids import Ids
from diffacet.data.splits import Holdout, Split
from diffacet.data.store import Dataset
from diffacet.data.streamed_split import StreamedSplit
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import checkpoint
from diffacet.learn.checkpoint import Record
from diffacet.rank.categories import ItemCategories, check_primary
from diffacet.rank.evaluate import check_average
from diffacet.rank.evaluate import evaluate as measure
from diffacet.rank.index import Index
from diffacet.rank.metrics import usual_ks
from diffacet.rank.ranking import BUDGET
from diffacet.rank.retriever import Retriever

if TYPE_CHECKING:
    from diffacet.app.serving.recommender import Recommender

CATALOGUE = golden.CATALOGUE
Watch = fitting.Watch


@dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to ask it.

    Attributes:
        path: the run directory.
        about: run.json.
        card: the model's card.
        settings: the settings it was trained with, with those changed by `load`.
        model: in evaluation mode, with the best weights.
        catalogue: item_id, maybe title and categories; row n is item n + 1.
    """

    path: Path
    about: dict[str, Any]
    card: Card
    settings: Preset
    model: nn.Module
    catalogue: pl.DataFrame

    def trail(self) -> list[Record]:
        """The validations of the run, oldest first."""
        return checkpoint.read_trail(self.path).records

    def recommender(self, index: str = "exact") -> "Recommender":
        """What turns a history of the log's own item ids into candidates; see `Recommender.load`."""
        from diffacet.app.serving.recommender import Recommender

        return Recommender.of(self, index)

    def retriever(self, index: str | Index = "exact", block: int | None = None) -> Retriever:
        """The model with its catalogue, without files; `index` and `block` are those of `Retriever`."""
        columns = self.catalogue.columns
        return Retriever(
            _askable(self.model),
            Ids(self.catalogue["item_id"], 1),
            length=self.settings.training.length,
            titles=self.catalogue["title"] if "title" in columns else None,
            categories=_categories(self.catalogue),
            index=index,
            block=block,
            at_steps=self.at_steps if "refine_steps" in settings.inference_settings(self.card.config) else None,
        )

    def at_steps(self, steps: int) -> Any:
        """The model with `refine_steps` set to S, its weights shared; raises BadSetting for an S that it has not."""
        other = copy.copy(self.model)
        other.config = settings.apply(self.card, self.settings, {"refine_steps": steps}).model
        return other

    def holdout(self, on: str = "test", data: Path | None = None, input: str = "train") -> Holdout:  # noqa: A002
        """The cases of the run's own split, cut again from its data.

        Args:
            on: "valid" or "test".
            data: the data directory, where it has moved.
            input: "train", or "train+valid": the test's histories with the validation part.

        Raises:
            BadSetting: `on` or `input` is neither, or the protocol has no such input.
            BadRun: the data are gone, or are not those of the run.
        """
        splitting.check_asked(on, input)
        return splitting.holdout(self._cut(data), on, input)

    def split(self, data: Path | None = None) -> Split:
        """The split that the run was trained on, all of it in memory; see `holdout` for what is raised."""
        return splitting.cut(self._data(data), self.about["split"]["name"], self.about["split"]["seed"])

    def _cut(self, data: Path | None) -> Split | StreamedSplit:
        """The same, read as it was in training."""
        told = self.about["split"]
        return splitting.cut_for(self._data(data), told["name"], told["seed"], self.settings.training)

    def _data(self, moved: Path | None) -> Dataset:
        told = self.about["data"]
        dataset = store.open(rundir.data_of(self.path, told, moved))
        rundir.check_fingerprint(self.path, told, dataset.path, dataset.fingerprint)
        return dataset

    def evaluate(
        self,
        on: str = "test",
        ks: Sequence[int] | None = None,
        *,
        exclude_seen: bool | None = None,
        input: str = "train",  # noqa: A002
        include_empty: bool = False,
        average: str = "evaluated",
        category: str = "last",
        data: Path | None = None,
        budget: int = BUDGET,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """What `diffacet evaluate --json` prints: model, dataset, split, on, seed, users, cases, seconds, metrics.

        Lists are as long, and seen items are left out, as the protocol does, unless `ks` and `exclude_seen` say
        otherwise. `input` and `include_empty` choose the cases, see `splitting.holdout`; `average` is that of
        `Measured.means`, `category` that of `ItemCategories.from_lists`. `budget` bounds the bytes that ranking takes
        beside the model; numbers do not depend on it.
        """
        splitting.check_asked(on, input)
        split, told = self._cut(data), self.about
        holdout = splitting.holdout(split, on, input, include_empty)
        start = time.perf_counter()
        metrics = measure(
            _askable(self.model),
            holdout,
            length=self.settings.training.length,
            ks=usual_ks(told["split"]["name"]) if ks is None else ks,
            exclude_seen=exclude_seen,
            categories=_categories(self.catalogue, category),
            budget=budget,
            progress=progress,
            average=check_average(average),
        )
        asked = {"on": on, "input": input, "include_empty": include_empty, "average": average, "category": category}
        return {
            "model": self.card.name,
            "preset": told["preset"],
            "dataset": told["data"]["name"],
            "split": told["split"]["name"],
            "split_seed": told["split"]["seed"],
            **asked,
            "seed": self.settings.training.seed,
            "noise_seed": getattr(self.settings.model, "noise_seed", None),
            "users": len(distinct(holdout.history.users)),
            "cases": len(holdout),
            "untrained_items": 1 - len(split.train_items()) / len(self.catalogue),
            "exclude_seen": holdout.exclude_seen if exclude_seen is None else exclude_seen,
            "seconds": time.perf_counter() - start,
            "metrics": metrics,
        }


def train(
    name: str,
    data: Path | str,
    out: Path | str,
    *,
    preset: str = "best",
    set: Changes = (),  # noqa: A002 - the command line's own word
    split: str = splitting.AUTO,
    seed: int = 0,
    split_seed: int = 1230,
    max_steps: int | None = None,
    device: str = "auto",
    threads: int = 1,
    resume: bool = False,
    watch: Watch | None = None,
    item_vectors: Path | str | None = None,
    reading: Reading | None = None,
    tell: Callable[[str], None] | None = None,
) -> Run | ClickRun:
    """Train a model and return the run with its best weights.

    Args:
        name: a model of `diffacet models`.
        data: a data directory.
        out: the run directory; new, or with `resume` an unfinished run of the same settings and data.
        preset: the settings to start from.
        set: changes to them, `["key=value"]` or a mapping.
        split: a protocol of `SPLITS`, or "auto": the data's own split, else that of the model's task; for a model of
            clicks "day[:T[:V]]", "quantile[:A:B]" or "instant:T1:T2", or "auto".
        seed: of initial weights, batches, negatives and noise.
        split_seed: of the shuffle of users; 1230 is the published protocol's; click data are not shuffled.
        max_steps: training steps at most.
        device: "auto", "cpu" or "cuda".
        threads: of the CPU. More than one slows the small products of a training step, often by far.
        resume: go on from the last checkpoint in `out`, to the same result as an unbroken run.
        watch: called after every step.
        item_vectors: a .npy file, for models with clusters of items; None: LightGCN's, see `clusters`.
        reading: how click data are read; None: as they say themselves.
        tell: called with a line on each stage before the training, and with advice.

    Raises:
        BadSetting, BadLog, BadRun: before anything is written, but for a checkpoint that cannot be.
    """
    data, out, card = Path(data), Path(out), cards.card(name)
    chosen = rundir.chosen(card, preset, set, seed, max_steps)
    if threads < 1:
        raise BadSetting(f"threads is at least 1; got {threads}")
    if card.task == "click":
        _check_click(item_vectors)
        asked = click_training.Asked(preset, split, reading or Reading(), device, threads, resume)
        return click_training.train(card, data, out, chosen, asked, watch=watch, tell=tell)
    if reading is not None:
        raise BadSetting(f"--min-count, --gap and --history-until are for models of clicks; {name} is none")
    again = partial(train, data=data, split=split, split_seed=split_seed, device=device, threads=threads)
    wanted = fitting.Asked(preset, split, split_seed, device, threads, resume, item_vectors, again)
    valid = fitting.fitted(card, data, out, chosen, wanted, watch=watch, tell=tell)
    return finished(out, valid, device)


def finished(out: Path, valid: Holdout, device: str = "auto") -> Run:
    """The run in `out`, whose training has come to its end, with what it carries for those who serve it."""
    done = of_items(load(out, device=device), "recommendation")
    golden.write(out, done.retriever(block=1), valid)  # no test case is ever looked at in training
    return done


def load(
    path: Path | str,
    *,
    set: Changes = (),  # noqa: A002
    device: str = "auto",
) -> Run | ClickRun:
    """The run in `path` with its best weights; `set` may change settings that shape no weight.

    Raises:
        BadRun: no run, a damaged one, or one of another version.
        BadSetting: a setting that is unknown, out of range, or shapes weights.
    """
    path = Path(path)
    told = rundir.read_about(path)
    card = cards.card_of(path, told)
    if card.task == "click":
        return load_clicks(path, told, card, set, device)
    chosen = rundir.stored(path, card, told, set)
    catalogue = rundir.read_table(path / CATALOGUE)
    n_users, groups = told.get("facts", {}).get("n_users", 0), clusters.of_catalogue(catalogue)
    facts = Facts(len(catalogue), chosen.training.length, n_users=n_users, clusters=groups)
    return Run(path, told, card, chosen, rundir.restored(path, card, chosen, facts, device), catalogue)


def of_items(run: Run | ClickRun, what: str) -> Run:
    """`run`, which `what` can be done with only if it ranks items; raises BadRun for a run of a click model."""
    if isinstance(run, ClickRun):
        raise BadRun(f"{run.path} is a run of {run.card.name}, a model of clicks, of which there is no {what}")
    return run


def _check_click(item_vectors: Path | str | None) -> None:
    if item_vectors is not None:
        raise BadSetting("--item-vectors is for L-DiffRec's clusters of items; a model of clicks takes none")


def _categories(catalogue: pl.DataFrame, primary: str = "last") -> ItemCategories | None:
    lists = catalogue["categories"].to_list() if "categories" in catalogue.columns else None
    return None if lists is None else ItemCategories.from_lists(lists, check_primary(primary))


def _askable(model: nn.Module) -> Any:
    """The model as a Matcher or Scorer, which its card promises that it is."""
    return model
