"""Options of the command that serves a run: how each is written, and what its help says."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Served = Annotated[
    Path,
    Argument(metavar="RUN", help="A run directory, or a link to one, such as runs/current, followed anew at a reload."),
]
Host = Annotated[
    str,
    Option(metavar="ADDRESS", help="Where to listen. Beyond this machine (0.0.0.0, ::) only with keys or --no-auth."),
]
Port = Annotated[
    int, Option(metavar="N", help="Where to listen; 0: any port that is free, which the line of readiness tells.")
]
Workers = Annotated[
    int, Option(metavar="N", help="Processes that answer; each holds the run in memory, and one that dies is replaced.")
]
IndexKind = Annotated[
    str,
    Option(
        metavar="auto|exact|hnsw|ivf", help="How the catalogue is searched; auto: exact up to 200,000 items, else hnsw."
    ),
]
Steps = Annotated[
    int | None, Option("--steps", metavar="S", help="Refinement steps where a request asks for none; 0: unrefined.")
]
KeyFile = Annotated[
    Path | None,
    Option(
        "--api-key-file",
        metavar="FILE",
        help="Keys of 16 characters or more, one a line, of which requests must show one; read again at SIGHUP.",
    ),
]
NoAuth = Annotated[bool, Option("--no-auth", help="Let anybody ask who can reach --host.")]
Gather = Annotated[
    float, Option(metavar="MS", help="Longest wait for requests to be computed together with; 0: each alone.")
]
MaxBatch = Annotated[int, Option(metavar="N", help="Histories computed in one call.")]
MaxInFlight = Annotated[int, Option(metavar="N", help="Requests at once in a worker; the rest is answered 429.")]
Timeout = Annotated[float, Option(metavar="S", help="Seconds for an answer; then 504, and the work is dropped.")]
MaxHistory = Annotated[int, Option(metavar="N", help="Ids of a history that are used at most, the newest.")]
MaxK = Annotated[int, Option("--max-k", metavar="N", help="Items that a request may ask for at most.")]
MaxBody = Annotated[int, Option(metavar="KIB", min=1, help="KiB of a request; larger ones are answered 413.")]
Drain = Annotated[
    float, Option(metavar="S", help="Seconds for requests to end when the service stops; then it stops without them.")
]
Watch = Annotated[bool, Option("--watch", help="Reload when RUN changes, or the link is turned; else at SIGHUP.")]
LogHistories = Annotated[bool, Option("--log-histories", help="Write the histories of requests into the log.")]
Cors = Annotated[
    list[str] | None,
    Option(metavar="ORIGIN", help="Pages of this origin may ask, https://shop.example or *; may be repeated."),
]
Threads = Annotated[int, Option(metavar="N", help="CPU threads for the computing of a worker.")]
