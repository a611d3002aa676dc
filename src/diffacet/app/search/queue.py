"""The trials of a search as Optuna keeps them: which is next, which is hopeless, which are over."""

import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffacet import seeds
from diffacet.app import settings
from diffacet.app.search import space, workers
from diffacet.app.search.space import Dimension
from diffacet.app.search.trials import Standing, Task, Tried
from diffacet.app.search.workers import Job
from diffacet.core.contract import Preset
from diffacet.errors import BadRun

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ATTEMPTS = 3
"""Times that a trial is begun whose process dies; a setting that needs too much memory would be tried for ever."""

FINISHED_FIRST = 5
"""Trials that are finished before any is pruned."""

PATIENCE = 0.25
"""Share of a training in which nothing is pruned: a low learning rate begins slowly."""

FEW = 10
"""Fewer finished trials say nothing about what mattered."""


@contextmanager
def opened(path: Path) -> Iterator["Study"]:
    """The study in Optuna's journal `path`, which is made if need be; raises BadRun when it cannot be used."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = _study(path)
            try:
                yield study
            except OSError as error:
                raise BadRun(f"{path} cannot be written ({error}); make room and go on with --resume") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def _study(path: Path) -> "Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Nobody else is here, so what a killed process left is in the way: its lock, and half a line.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    try:
        if path.exists():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="tune", direction="maximize", load_if_exists=True)
        over(study)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise BadRun(f"{path} is damaged ({error}); restore it from a copy, or search anew") from error
    return study


def _sampler(seed: int, number: int, *, several: bool = False) -> Any:
    """What draws trial `number`: the same whenever it is drawn after the same trials."""
    import optuna

    return optuna.samplers.TPESampler(
        seed=seeds.number(seed, "tune", number) % 2**32, multivariate=True, constant_liar=several
    )


class Queue:
    """Hands out trials and takes their results; the only writer of the study."""

    def __init__(self, study: "Study", dimensions: Mapping[str, Dimension], base: Preset, task: Task) -> None:
        import optuna

        self.study, self.dimensions, self.task = study, dimensions, task
        self.states = optuna.trial.TrialState
        self.distributions = {name: d.distribution(optuna) for name, d in dimensions.items()}
        self.several = False
        self.total = 0
        self.watch: Callable[[Standing], None] = lambda _: None
        for trial in study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self._again(trial)  # it ran when the search was killed
        if not study.get_trials(deepcopy=False):
            values = space.of_preset(dimensions, base)
            params = {name: d.nearest(values[name]) for name, d in dimensions.items()}
            study.enqueue_trial(params, {"begun": {"number": 0, "attempt": 1, "values": values}})

    def run(self, total: int, count: int, watch: Callable[[Standing], None]) -> None:
        """Run trials until there are `total`, `count` at once; `watch` is told after each validation and trial."""
        self.total, self.several, self.watch = total, count > 1, watch
        self.clock, self.begun = time.perf_counter(), len(over(self.study))
        self._tell()
        if count > 1:
            workers.together(self.task, self, count)
        else:
            workers.alone(self.task, self)

    def begin(self) -> Job | None:
        """The next trial: one whose process died, or a new one."""
        while True:
            there = self.study.get_trials(deepcopy=False)
            used = {t.user_attrs["begun"]["number"] for t in there if "begun" in t.user_attrs and not _replaced(t)}
            number = next(n for n in itertools.count() if n not in used)
            waiting = any(t.state == self.states.WAITING for t in there)
            if not waiting and number >= self.total:
                return None
            self.study.sampler = _sampler(self.task.seed, number, several=self.several)
            trial = self.study.ask(self.distributions)
            if "begun" not in trial.user_attrs:
                values = space.values(self.dimensions, trial.params)
                trial.set_user_attr("begun", {"number": number, "attempt": 1, "values": values})
            told = trial.user_attrs["begun"]
            job = Job(told["number"], _settings(told["values"], self.dimensions), trial)
            if told["attempt"] <= ATTEMPTS:
                return job
            died = f"the process died each of {ATTEMPTS} times; the setting may need too much memory"
            self.finish(job, Tried(job.number, "failed", job.values, error=died))

    def report(self, job: Job, place: int, step: int, value: float) -> bool:
        """Whether a trial is below the median of the finished ones at the same point of the same split."""
        point = place * (self.task.max_steps + 1) + step
        job.handle.report(value, point)
        self._tell(running=f"trial {job.number}, split {place + 1}, step {step}: {value:.4f}")
        if place == 0 and step < PATIENCE * self.task.max_steps:
            return False
        finished = self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE,))
        others = [t.intermediate_values[point] for t in finished if point in t.intermediate_values]
        return len(others) >= FINISHED_FIRST and value < statistics.median(others)

    def finish(self, job: Job, tried: Tried) -> None:
        """Store the result of a trial."""
        ended = {"splits": list(tried.splits), "seconds": tried.seconds, "error": tried.error}
        job.handle.set_user_attr("ended", ended)
        state = {"complete": self.states.COMPLETE, "pruned": self.states.PRUNED, "failed": self.states.FAIL}
        self.study.tell(job.handle, tried.value, state=state[tried.state])
        self._tell(latest=tried)

    def lost(self, job: Job, why: str) -> None:
        """A worker died on the trial: it is begun again, from its checkpoint, while attempts are left."""
        self._tell(running=f"trial {job.number}: {why}")
        running = self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,))
        self._again(next(trial for trial in running if trial.number == job.handle.number))

    def _again(self, trial: "FrozenTrial") -> None:
        # One that fails without an end of its own has been replaced; `over` and `begin` do not count it.
        self.study.tell(trial.number, state=self.states.FAIL)
        if "begun" in trial.user_attrs:
            begun = trial.user_attrs["begun"]
            self.study.enqueue_trial(trial.params, {"begun": begun | {"attempt": begun["attempt"] + 1}})

    def _tell(self, latest: Tried | None = None, running: str = "") -> None:
        done = over(self.study)
        passed = time.perf_counter() - self.clock
        self.watch(Standing(len(done), max(self.total, len(done)), best(done), latest, passed, self.begun, running))


def over(study: "Study") -> list[Tried]:
    """The trials that are over, by number."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and not _replaced(trial):
            begun, ended = trial.user_attrs["begun"], trial.user_attrs["ended"]
            state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
            tried = Tried(
                begun["number"],
                state,
                begun["values"],
                trial.value if state == "complete" else None,
                tuple(ended["splits"]),
                ended["seconds"],
                ended["error"],
            )
            found.append(tried)
    return sorted(found, key=lambda tried: tried.number)


def best(trials: Sequence[Tried]) -> Tried | None:
    """The first of the trials with the highest value; None when none was finished."""
    finished = [(tried.value, -tried.number, tried) for tried in trials if tried.value is not None]
    return max(finished)[2] if finished else None


def importance(study: "Study") -> dict[str, float]:
    """Share of each setting in what separates the good finished trials from all (PED-ANOVA); {} for few trials."""
    import optuna

    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < FEW:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


def _replaced(trial: "FrozenTrial") -> bool:
    return trial.state.name == "FAIL" and "ended" not in trial.user_attrs


def _settings(stored: Mapping[str, Any], dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Settings as the storage's JSON holds them, with the tuples that it made lists."""
    return {
        name: next(c for c in d.choices if settings.text(c) == settings.text(stored[name]))
        if d.choices
        else stored[name]
        for name, d in dimensions.items()
    }
