"""Recommendation by diffusion: several interests per user, each refined, from raw log to candidates.

The public names below load on first use, so that `import diffacet` and `diffacet --help` need no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffacet.app.batch_candidates import write_candidates
    from diffacet.app.cards import card
    from diffacet.app.clicks.run import ClickRun
    from diffacet.app.demo import example_log
    from diffacet.app.importing import import_log, import_split
    from diffacet.app.report import build as build_report
    from diffacet.app.runs import Run, load, train
    from diffacet.app.search import tune
    from diffacet.app.serving.recommender import Recommender
    from diffacet.app.splitting import split_data
    from diffacet.app.studies.beside import compare_runs
    from diffacet.core.contract import Card, Preset, Training
    from diffacet.data.clicks import open as open_clicks
    from diffacet.data.interactions import Interactions
    from diffacet.data.readers import read_log
    from diffacet.data.splits import Holdout, Split, make_split
    from diffacet.data.store import Dataset
    from diffacet.data.store import open as open_data
    from diffacet.data.store import write as write_data
    from diffacet.errors import BadLog, BadRun, BadSetting, DiffacetError, MissingExtra, UnknownItem
    from diffacet.rank.candidates import Candidates, Query
    from diffacet.rank.evaluate import evaluate
    from diffacet.rank.retriever import Retriever

_HOME = {
    "BadLog": "errors",
    "BadRun": "errors",
    "BadSetting": "errors",
    "Candidates": "rank.candidates",
    "Card": "core.contract",
    "ClickRun": "app.clicks.run",
    "Dataset": "data.store",
    "DiffacetError": "errors",
    "Holdout": "data.splits",
    "Interactions": "data.interactions",
    "MissingExtra": "errors",
    "Preset": "core.contract",
    "Query": "rank.candidates",
    "Recommender": "app.serving.recommender",
    "Retriever": "rank.retriever",
    "Run": "app.runs",
    "Split": "data.splits",
    "Training": "core.contract",
    "UnknownItem": "errors",
    "build_report": "app.report:build",
    "card": "app.cards",
    "compare_runs": "app.studies.beside",
    "evaluate": "rank.evaluate",
    "example_log": "app.demo",
    "import_log": "app.importing",
    "import_split": "app.importing",
    "load": "app.runs",
    "make_split": "data.splits",
    "open_clicks": "data.clicks:open",
    "open_data": "data.store:open",
    "read_log": "data.readers",
    "split_data": "app.splitting",
    "train": "app.runs",
    "tune": "app.search",
    "write_candidates": "app.batch_candidates",
    "write_data": "data.store:write",
}

__all__ = [
    "BadLog",
    "BadRun",
    "BadSetting",
    "Candidates",
    "Card",
    "ClickRun",
    "Dataset",
    "DiffacetError",
    "Holdout",
    "Interactions",
    "MissingExtra",
    "Preset",
    "Query",
    "Recommender",
    "Retriever",
    "Run",
    "Split",
    "Training",
    "UnknownItem",
    "__version__",
    "build_report",
    "card",
    "compare_runs",
    "evaluate",
    "example_log",
    "import_log",
    "import_split",
    "load",
    "make_split",
    "open_clicks",
    "open_data",
    "read_log",
    "split_data",
    "train",
    "tune",
    "write_candidates",
    "write_data",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("diffacet")
    if name not in _HOME:
        raise AttributeError(f"module 'diffacet' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"diffacet.{module}"), attribute or name)


def __dir__() -> list[str]:
    return __all__
