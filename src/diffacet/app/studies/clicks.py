"""What is particular to studies of click models: their metrics, and what their files may say.

A row is a model of clicks on a click data set. All runs share one split by time, and seeds are those of the initial
weights and of the order of the samples. Metrics are of all samples together, so they have no list length.
"""

import dataclasses
from collections.abc import Sequence

from diffacet.app.cards import card
from diffacet.app.clicks.run import AUTO
from diffacet.app.clicks.training import METRICS as VALIDATION
from diffacet.app.studies import spec
from diffacet.app.studies.spec import Ask, Study
from diffacet.data.clicks import splitting
from diffacet.errors import BadSetting, nearest

HIGHER, LOWER = ("auc", "gauc"), ("log_loss", "ne", "ece")
"""Metrics of which the highest, and of which the lowest is the best."""
UNMARKED = ("pcoc", "click_rate", "gauc_coverage")
"""Those of which neither is."""
EVERY = (*HIGHER, *LOWER, *UNMARKED)
METRICS, TESTED = ("auc", "gauc", "log_loss", "pcoc"), ("auc",)
"""Columns where the file says none, and all that can be tested."""


def of_study(study: Study) -> bool:
    """Whether the rows are models of clicks.

    Raises:
        BadSetting: an unknown model, or rows of both kinds.
    """
    kinds: dict[bool, str] = {}
    for row in study.row:
        try:
            kinds.setdefault(card(row.model).task == "click", row.label)
        except BadSetting as error:
            raise BadSetting(f"{study.name}: row '{row.label}': {error}") from error
    if len(kinds) > 1:
        raise BadSetting(
            f"{study.name}: row '{kinds[True]}' predicts clicks and row '{kinds[False]}' ranks items; they learn from "
            "other data and have no metric in common, so write a study for each"
        )
    return True in kinds


def prepared(study: Study) -> Study:
    """The study with the usual metrics of clicks where its file says none.

    Raises:
        BadSetting: it shuffles users, which click data do not.
    """
    if study.split_seeds != "seed":
        raise BadSetting(f"{study.name}: split_seeds are for splits that shuffle users; click data are split by time")
    metrics, tests = spec.usual(study.ks)  # what no file of a click study says
    metrics = METRICS if study.metrics == metrics else study.metrics
    tests = TESTED if study.tests == tests else study.tests
    return dataclasses.replace(study, metrics=metrics, tests=tests)


def check_names(keys: Sequence[str], where: str, *, tests: bool = False) -> None:
    """Refuse what is no metric of clicks, or none that can be tested. Raises BadSetting."""
    allowed = TESTED if tests else EVERY
    for key in keys:
        if key not in EVERY:
            close = nearest(key.partition("@")[0], EVERY)
            raise BadSetting(f"{where}: there is no metric '{key}'{close} of clicks. There are: {', '.join(EVERY)}")
        if key not in allowed:
            raise BadSetting(f"{where}: {key} is not tested; of click models only {', '.join(TESTED)} is")


def check_metrics(study: Study) -> None:
    """Refuse metrics that there are not. Raises BadSetting."""
    published = {key for row in study.row for numbers in row.published.values() for key in numbers}
    check_names(study.metrics, f"{study.name}: metrics")
    check_names(study.tests, f"{study.name}: tests", tests=True)
    check_names(sorted(published), f"{study.name}: published")


def check_split(name: str) -> str:
    """`name`, a rule of a split by time or "auto"; raises BadSetting for anything else."""
    if name != AUTO:
        splitting.rule_of(name)
    return name


def check_asks(asks: Sequence[Ask]) -> None:
    """Refuse what only lists of items can be asked. Raises BadSetting."""
    if any(ask.exclude_seen is not None for ask in asks):
        raise BadSetting(
            "asks: exclude_seen is for lists of items; a model of clicks answers for the samples there are"
        )


def check_validation(metric: str) -> None:
    """Refuse a metric that a model of clicks is not validated by. Raises BadSetting."""
    if metric not in VALIDATION:
        raise BadSetting(f"a model of clicks is validated by {' or '.join(VALIDATION)}; got metric={metric}")
