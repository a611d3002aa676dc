"""A study from its file to its output: plan, run, tabulate, draw."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffacet import files
from diffacet.app import report
from diffacet.app.studies import farm, folder, pictures, results, tables
from diffacet.app.studies.overview import Overview
from diffacet.app.studies.plan import Cut, Plan
from diffacet.app.studies.tables import Page, Sheet
from diffacet.errors import BadRun, BadSetting, MissingExtra

TEMPLATE = "study.html.j2"


@dataclass(frozen=True)
class Outcome:
    """What came of a study.

    Attributes:
        page: its tables; None when no run has finished.
        failures: runs without a result.
        troubles: what could not be written, and why.
    """

    page: Page | None
    failures: tuple[farm.Failure, ...]
    troubles: tuple[str, ...]


def conduct(
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    collect: bool = False,
    workers: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Outcome:
    """Do the runs of `plan` that are not finished, and write the output of all that are into `out`.

    Args:
        plan: of `plan.make`.
        out: the study's folder; new, or with `resume` one of the same study.
        resume: go on with the study in `out`.
        collect: with `resume`, run nothing and write the output of what is finished.
        workers: runs at a time; None: as many as there are CUDA devices, else cores.
        device: "auto", "cpu" or "cuda".
        console: where progress goes; None: nowhere.

    Raises:
        BadRun: see `folder.prepare`; or another process runs the study.
        BadSetting: fewer than one worker.
    """
    say = Console(quiet=True) if console is None else console
    if workers is not None and workers < 1:
        raise BadSetting(f"--workers is 1 or more; got {workers}")
    if collect and not out.exists():
        raise BadRun(f"{out} is not there, so there is nothing to collect; without --collect the study is run")
    folder.check(plan, out, resume=resume)
    with files.held(out / folder.LOCK, str(out)):
        folder.prepare(plan, out)
        jobs = [] if collect else folder.unfinished(out, plan)
        count = workers or farm.default_workers(device)
        failures: list[farm.Failure] = []
        if jobs:
            with Overview(jobs, len(plan.jobs) - len(jobs), count, say) as overview:
                failures = farm.run(plan, jobs, out, workers=count, device=device, watch=overview)
        return publish(plan, out, failures)


def publish(plan: Plan, out: Path, failures: Sequence[farm.Failure] = ()) -> Outcome:
    """Write results, tables, page and pictures of the finished runs of `plan` in `out`."""
    lines = results.lines_of(plan, out)
    if not lines:
        return Outcome(None, tuple(failures), ())
    results.write_tidy(lines, plan.study.name, out)
    page = page_of(plan, lines, failures)
    study = plan.study
    drawn = {
        (one.data, caption): figure
        for one in page.sheets
        for caption, figure in pictures.draw(study.picture, one, study.tests, study.on, out).items()
    }
    if study.picture == "data" and len(page.sheets) > 1:
        every = pictures.across(page.sheets, study.tests, study.on)
        drawn = {(page.sheets[-1].data, caption): figure for caption, figure in every.items()}
    names = {f"{data}-{_file_name(caption)}": caption for data, caption in drawn}
    troubles = []
    static = pictures.write_static(dict(zip(names, drawn.values(), strict=True)), out / "pictures")
    if static is not None:
        troubles.append(f"no static pictures (they need Chrome or Chromium, and Kaleido): {static}")
    shown = [] if static is not None else [(f"pictures/{name}.png", caption) for name, caption in names.items()]
    files.write_text(out / "table.md", tables.markdown(page, shown))
    try:
        render = report.renderer(TEMPLATE)
        placed = [(data, caption, report.embedded(figure)) for (data, caption), figure in drawn.items()]
        report.write(out / "report.html", render(page=page, figures=placed))
    except MissingExtra as error:
        troubles.append(f"no report.html: {error}")
    return Outcome(page, tuple(failures), tuple(troubles))


def page_of(plan: Plan, lines: Sequence[results.Line], failures: Sequence[farm.Failure] = ()) -> Page:
    """The tables of a study's rows, with what must be said of them."""
    study = plan.study
    command = command_of(plan.cut, study.name)
    layout = tables.Layout(study.metrics, study.tests, study.on, study.base, study.pairs, command)
    sheets: list[Sheet] = []
    for data in plan.places:
        some = [line for line in lines if line.data == data]
        if some:
            sheets.append(tables.sheet(some, layout))
    lead = [" ".join(study.lead.split())] if study.lead else []
    if plan.cut.told():
        lead.append(f"**This is not the whole study.** It was cut by {' '.join(plan.cut.told())}.")
    if max(len(line.trials) for line in lines) < 2:
        lead.append(tables.few_seeds(lines))
    names = {job.name for job in plan.jobs}
    missing = len(names) - len({t.told["job"] for line in lines for t in line.trials})
    if missing:
        lead.append(f"**{missing} of {len(names)} runs are missing.**")
    notes = [study.note] if study.note else []
    notes += [f"Failed: {failure.job.name}: {failure.error}" for failure in failures]
    return Page(study.title, tuple(sheets), tuple(lead), tuple(notes))


def command_of(cut: Cut, name: str) -> str:
    """The command line of a study, without places of this machine."""
    return " ".join([f"diffacet study {name} --data DIR --out DIR", *cut.told()])


def _file_name(caption: str) -> str:
    return re.sub(r"[^\w.@]+", "-", caption.rpartition(" on ")[0].lower()).strip("-")


def reread(plan: Plan, out: Path) -> Page:
    """The tables of a study's folder, by the study file as it is now. Raises BadRun when no run is finished."""
    lines = results.lines_of(plan, out)
    if not lines:
        raise BadRun(f"{out} holds no finished run of '{plan.study.name}'; 'diffacet study' makes them")
    return page_of(plan, lines)
