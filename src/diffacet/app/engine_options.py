"""Options of the commands that an engine may do: this process, or the processes of a Ray cluster."""

from enum import StrEnum
from typing import Annotated

from typer import Option

from diffacet.errors import BadSetting


class Engine(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


EngineName = Annotated[
    Engine, Option("--engine", help="Who does the work: this process, or the workers of a Ray cluster (extra 'ray').")
]
Address = Annotated[
    str | None,
    Option(
        metavar="HOST:PORT",
        help="With --engine ray: an existing cluster, ray://HOST:PORT if this machine is none of its nodes;"
        " else one is started on this machine for the time of the command.",
    ),
]
Workers = Annotated[
    int | None,
    Option(
        metavar="N", help="With --engine ray: processes that do the work; if not given, as many as there is room for."
    ),
]


def check(engine: Engine, address: str | None, workers: int | None = None) -> None:
    """Refuse what only a cluster has where none is asked for.

    Raises:
        BadSetting: --address or --workers without --engine ray, or less than one worker.
    """
    if workers is not None and workers < 1:
        raise BadSetting(f"--workers is at least 1; got {workers}", field="workers")
    for name, value in (("--address", address), ("--workers", workers)):
        if value is not None and engine is Engine.LOCAL:
            raise BadSetting(f"{name} is for --engine ray; say that, too, or leave {name} out")
