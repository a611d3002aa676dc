"""The folder of a study: which study it holds, which runs are finished, and who may write.

    study.json           name, rows and runs with all their settings
    runs/DATA/RUN/       one folder a run, see `work`
    results.parquet/csv  every number, tidy
    table.md, report.html, pictures/

The last two lines are made anew by every call.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffacet import files
from diffacet.app import rundir, settings
from diffacet.app.cards import card
from diffacet.app.studies.plan import Cut, Job, Place, Plan, assemble
from diffacet.app.studies.spec import Study, parse
from diffacet.app.studies.work import RESULT, kept, wanted_of
from diffacet.errors import BadRun

FORMAT = 1
ABOUT, RUNS, LOCK = "study.json", "runs", ".lock"


def check(plan: Plan, out: Path, *, resume: bool) -> None:
    """Refuse a folder that holds something else than this study; nothing is written.

    Raises:
        BadRun: the folder holds something and `resume` is not said; another study; a run of other settings; or a
            data set that was changed since.
    """
    if not out.exists() or (out.is_dir() and all(entry.name == LOCK for entry in out.iterdir())):
        return
    if not resume:
        raise BadRun(f"{out} exists; choose another --out, or go on with the study in it by --resume")
    before = read_about(out)
    if before["name"] != plan.study.name:
        raise BadRun(f"{out} holds the study '{before['name']}', not '{plan.study.name}'; choose another --out")
    jobs = _runs(plan)
    for name, job in jobs.items():
        if name in before["runs"]:
            _check_same(before["runs"][name], job, out)


def prepare(plan: Plan, out: Path) -> None:
    """Make the folder, and note the runs of `plan` beside those that it has; raises BadRun when that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = read_about(out)["runs"] if (out / ABOUT).exists() else {}
        jobs = before | _runs(plan)
        about = {"format": FORMAT, "name": plan.study.name, "title": plan.study.title}
        fingerprint = files.fingerprint(json.dumps(jobs, sort_keys=True))
        files.write_json(out / ABOUT, about | {"fingerprint": fingerprint, "study": contents(plan), "runs": jobs})
    except OSError as error:
        raise BadRun(f"{out} cannot be written ({error}); choose another --out") from error


def contents(plan: Plan) -> dict[str, Any]:
    """The study file, its cut and its data sets as JSON holds them: what `reopened` reads."""
    places = {n: dataclasses.asdict(one) | {"path": str(one.path.resolve())} for n, one in plan.places.items()}
    return {"file": dataclasses.asdict(plan.study), "cut": dataclasses.asdict(plan.cut), "places": places}


def reopened(out: Path, study: Study | None = None) -> Plan:
    """The plan whose runs are in the folder `out`, without its data; with `study` instead of the file kept there.

    Raises:
        BadRun: no folder of a study, or that of another one.
        BadSetting: the study file is not one that this version takes.
    """
    about = read_about(out)
    if study is not None and study.name != about["name"]:
        raise BadRun(f"{out} holds the study '{about['name']}', not '{study.name}'")
    kept = about["study"]
    places = {name: Place(**(one | {"path": Path(one["path"])})) for name, one in kept["places"].items()}
    told = kept["cut"]
    cut = Cut(tuple(told["seeds"]), tuple(told["only"]), tuple(told["data"]), told["set"])
    return assemble(study or parse(kept["file"], str(out / ABOUT)), places, cut)


def _runs(plan: Plan) -> dict[str, Any]:
    jobs = {job.name: {"label": job.variant.label} | job.identity() for job in plan.jobs}
    return json.loads(json.dumps(jobs))


def read_about(out: Path) -> dict[str, Any]:
    """study.json of a study's folder; raises BadRun when it is none."""
    none = f"{out} is not the folder of a study: it holds no {ABOUT}"
    return rundir.read_told(out, ABOUT, FORMAT, none, "restore it from a copy, or choose another --out")


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], out: Path) -> None:
    if old["data"] != new["data"]:
        raise BadRun(f"{out}: the data of row '{new['label']}' were changed (fingerprint {new['data']}, "
                     f"was {old['data']}); a study keeps its data: choose another --out")  # fmt: skip
    usual = json.loads(json.dumps(settings.defaults(card(new["model"]))))  # settings that came since
    flat_old, flat_new = (
        {k: v for k, v in one.items() if k != "settings"} | usual | one["settings"] for one in (old, new)
    )
    changed = [
        f"{key} is {flat_new.get(key)}, was {flat_old.get(key)}"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key)
    ]
    if changed:
        raise BadRun(f"{out}: row '{new['label']}' was changed since ({'; '.join(changed)}); give it another label, "
                     "or choose another --out")  # fmt: skip


def place(out: Path, job: Job) -> Path:
    """The folder of a run."""
    return out / RUNS / job.name


def finished(out: Path, plan: Plan, job: Job) -> bool:
    """Whether the run is trained and all that the study now asks of it is measured."""
    folder = place(out, job)
    try:
        result = files.read_json(folder / RESULT)
    except (OSError, ValueError):
        return False
    asked, done = json.loads(json.dumps(wanted_of(plan.study, job.variant.asks))), result.get("measured")
    return (
        isinstance(done, dict)
        and kept(folder).exists()
        and done["asks"] == asked["asks"]
        and all({*asked[key]} <= {*done[key]} for key in ("ks", "by_user"))
        and asked["categories"] <= done["categories"]
    )


def unfinished(out: Path, plan: Plan) -> Sequence[Job]:
    """The runs still to be done, in the order of the plan."""
    return [job for job in plan.jobs if not finished(out, plan, job)]
