"""The command doctor."""

import json
from typing import Any

import typer

from diffacet.app import options as o
from diffacet.app.cli.shell import app


@app.command(
    short_help="Say what is installed, what is missing, and whether it works.",
    help=o.described(
        "Examine this installation: versions, extras and what gets those that are missing, devices, threads, room on"
        " disk and in memory. Every package is imported in a process of its own, and a tiny model is trained and asked"
        " in a temporary directory; takes seconds. Exit code 0: all that is installed works; 1: something does not,"
        " and it is said what to do.",
        "diffacet doctor",
        "diffacet doctor --json                                 # for a script, or to go with a report of a bug",
    ),
)
def doctor(as_json: o.Json = False) -> int:
    """Installation to verdict."""
    from diffacet.app import doctor as examination

    # Plain printing, here and below: what makes tables elsewhere may be what is broken.
    if as_json:
        told = examination.examine()
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        typer.echo("diffacet: importing every package and training a tiny model takes some seconds", err=True)
        told = examination.examine()
        show(told)
    return 0 if told["healthy"] else 1


def show(told: dict[str, Any]) -> None:
    """The examination as lines to read."""
    say = typer.echo
    say(f"diffacet {told['diffacet']} in {told['source']}")
    say(f"Python {told['python']}, {told['platform']}")
    say("core       " + _packages(told["core"]))
    for name, extra in told["extras"].items():
        say(f"  {name:<11} {_extra(extra)}")
    say(f"devices    {_devices(told['devices'])}")
    threads = told["threads"]
    setting = "" if threads["OMP_NUM_THREADS"] is None else f", OMP_NUM_THREADS={threads['OMP_NUM_THREADS']}"
    say(f"threads    {threads['torch'] or '?'} of PyTorch on {threads['usable']} of {threads['cores']} cores{setting}")
    say(f"room       {_room(told['room'])}")
    say(f"self-check {_check(told['check'])}")
    for hint in told["hints"]:
        say(f"note: {hint}")
    for trouble in told["troubles"]:
        say(f"trouble: {trouble}")
    say("all that is installed works" if told["healthy"] else f"{len(told['troubles'])} to mend")


def _packages(one: dict[str, Any]) -> str:
    marks = {"ok": "", "missing": "missing"}
    parts = []
    for name, package in one["packages"].items():
        state = marks.get(package["state"], package["state"].upper())
        parts.append(" ".join(word for word in (name, package["version"], state) if word))
    return ", ".join(parts)


def _extra(one: dict[str, Any]) -> str:
    remedy = "" if one["remedy"] is None else f"; {one['remedy']}"
    return f"{one['state']:<8} {_packages(one)}{remedy}"


def _devices(seen: dict[str, Any]) -> str:
    if "error" in seen:
        return f"unknown: {seen['error']}"
    cuda = [f"cuda:{n} {one['name']} ({one['memory'] / 2**30:.0f} GiB)" for n, one in enumerate(seen["cuda"])]
    none = "no CUDA" if seen["cuda_build"] else "no CUDA in this build of PyTorch"
    return ", ".join([f"cpu ({seen['cpu']})", *(cuda or [none]), *(["mps"] if seen["mps"] else [])])


def _room(room: dict[str, Any]) -> str:
    def gib(size: int) -> str:
        return f"{size / 2**30:,.1f} GiB"

    memory = "" if room["memory"] is None else f"memory {gib(room['memory_free'])} free of {gib(room['memory'])}; "
    here, temporary = room["here"], room["temporary"]
    return (
        f"{memory}disk {gib(here['free'])} free in {here['path']}, "
        f"{gib(temporary['free'])} in {temporary['path']} (temporary files)"
    )


def _check(check: dict[str, Any]) -> str:
    if "error" in check:
        return f"failed: {check['error']}"
    laps = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in check["seconds"].items())
    return f"a tiny {check['model']} on {check['device']}: {laps}; {check['items']} candidates"
