"""How a run is served: addresses, limits and keys, with the defaults of `diffacet serve`."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from diffacet.errors import BadSetting

KEY_LENGTH = 16
"""Characters that a key has at least."""

_AT_LEAST = {
    "port": 0,
    "workers": 1,
    "gather": 0,
    "max_batch": 1,
    "max_in_flight": 1,
    "max_history": 1,
    "max_k": 1,
    "max_histories": 1,
    "max_body": 1024,
    "drain": 0,
    "threads": 1,
}
_ABOVE_ZERO = ("timeout", "read_timeout")


@dataclass(frozen=True)
class ServeOptions:
    """What the service allows and how it answers.

    Attributes:
        host: the address that is listened on.
        port: likewise; 0: one that is free.
        workers: processes that answer.
        index: "exact", "hnsw", "ivf", or "auto": exact up to 200,000 items, beyond them hnsw.
        refine_steps: S, for a model that refines in steps; None: as the run was trained.
        keys: what clients may show, see `read_keys`; none: no key is asked for. Never printed.
        gather: milliseconds that a query waits at most for others to be computed with; 0: every request is
            computed alone.
        max_batch: histories computed in one call.
        max_in_flight: requests at once in a worker; more are answered 429.
        timeout: seconds from the arrival of a request's body to its answer.
        max_history: ids of a history that are used, the newest.
        max_k: items asked for.
        max_histories: histories in a request.
        max_body: bytes of a request.
        read_timeout: seconds for a body to arrive.
        drain: seconds for requests to end when the service stops.
        watch: reload when the run changes.
        log_histories: write the histories of requests into the log.
        cors: origins whose pages may call the service, such as "https://shop.example"; "*" is every one.
        threads: of the CPU, for a worker's computing.

    Raises:
        BadSetting: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    index: str = "auto"
    refine_steps: int | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    gather: float = 2.0
    max_batch: int = 64
    max_in_flight: int = 256
    timeout: float = 10.0
    max_history: int = 1000
    max_k: int = 1000
    max_histories: int = 256
    max_body: int = 1_048_576
    read_timeout: float = 10.0
    drain: float = 30.0
    watch: bool = False
    log_histories: bool = False
    cors: tuple[str, ...] = ()
    threads: int = 1

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), _AT_LEAST.get(one.name)
            if least is not None and not value >= least:
                raise BadSetting(f"{one.name} is at least {least}; got {value}", field=one.name)
            if one.name in _ABOVE_ZERO and not value > 0:
                raise BadSetting(f"{one.name} is a number of seconds above 0; got {value}", field=one.name)
        if self.port > 65535:
            raise BadSetting(f"port lies in 0..65535; got {self.port}", field="port")

    @property
    def auth(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.keys)


def read_keys(path: Path | str) -> tuple[str, ...]:
    """The keys in a file: one a line; blank lines and lines that begin with '#' are passed over.

    Raises:
        BadSetting: no such file, no key in it, or a key that is short or holds a space. No key is shown.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadSetting(f"{path} cannot be read ({error.strerror}); give a file with one key a line") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"{path} is no text in UTF-8; give a file with one key a line") from error
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise BadSetting(
                f"{path}, line {number}: a key has at least {KEY_LENGTH} characters, plain ones without spaces;"
                " make one with: openssl rand -hex 32"
            )
        keys[key] = None
    if not keys:
        raise BadSetting(f"{path} holds no key; write one a line, such as that of: openssl rand -hex 32")
    return tuple(keys)
