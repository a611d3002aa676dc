"""A Ray cluster: an existing one, found or refused within seconds, or one on this machine that ends with the block."""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffacet
from diffacet.errors import BadRun, BadSetting, require

CLIENT = "ray://"
PATIENCE = 9.0
"""Seconds within which an address answers, or is refused."""
_TCP = 5.0  # of these, to open a connection
_NODE = 120.0  # seconds for every node to start a process and tell what it runs
_STORE = 512 * 2**20  # bytes of a local cluster's object store: users and parts travel as files, not through it
# A gRPC server greets whoever opens HTTP/2: this is the opening, a frame of settings with nothing in it.
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_TOKEN = (
    "a token lets in: give that of the cluster's own, which `ray get-auth-token` prints on its head, in the environment"
    " variable RAY_AUTH_TOKEN, or in a file that RAY_AUTH_TOKEN_PATH names, with RAY_AUTH_MODE=token"
)


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        address: as it was given; None: on this machine, and only for this process.
        cpus: of all nodes.
        gpus: of all nodes.
    """

    address: str | None
    cpus: int
    gpus: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process is on no node of it, and asks through Ray's client."""
        return self.address is not None and self.address.startswith(CLIENT)

    def check_code(self) -> None:
        """Refuse nodes whose code is not that of this process; on a cluster of its own there can be none.

        Raises:
            BadRun: a node has another diffacet, Python, torch, polars or numpy, has none, or does not tell; it says
                which node and what differs.
        """
        if self.address is None:
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def ask() -> dict[str, str]:  # goes there as it is: a node may have no diffacet to look it up in
            try:
                from diffacet.app.cluster import connecting
            except ImportError as error:
                return {"diffacet": f"missing ({error})"}
            return connecting.code()

        asking = ray.remote(num_cpus=0, max_retries=0)(ask)
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        asked = {
            asking.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): (
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            )
            for node in nodes
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_NODE)
        here = code()
        for one, name in asked.items():
            if one not in done:
                raise BadRun(f"node {name} of {self.address} does not start a process within {_NODE:.0f} s; look there")
            _compare(here, _told(ray, one, name), name)


def code() -> dict[str, str]:
    """What must be the same wherever parts of one job are done: name -> version, and "source", a digest of ours."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(diffacet.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {name: metadata.version(name) for name in ("torch", "polars", "numpy")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"diffacet": diffacet.__version__, "source": digest.hexdigest(), "python": python, **versions}


@contextlib.contextmanager
def connected(address: str | None = None, *, cpus: int | None = None) -> Iterator[Cluster]:
    """A cluster for the time of the block; one on this machine ends with it, whatever ends the block.

    Inside another `connected` it is the outer one.

    Args:
        address: HOST:PORT of a cluster of which this machine is a node, ray://HOST:PORT of one elsewhere; None: a
            cluster on this machine.
        cpus: that a cluster on this machine says it has, at least 1; None: as many as there are.

    Raises:
        MissingExtra: Ray is not installed.
        BadSetting: the address is none, nothing answers there within 10 s, it wants another token, or this machine
            cannot start a cluster.
    """
    _prepare(address)
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield _cluster(ray, address)
        return
    with contextlib.ExitStack() as stack:
        before = _signal(None)
        if address is None:
            _start(ray, cpus, stack)
        else:
            _join(ray, address)
        stack.callback(_signal, before)
        stack.callback(_leave, ray)
        # A process that ends without a word would leave the cluster's files behind.
        _signal(_end if before == signal.SIG_DFL else before)
        yield _cluster(ray, address)


def check_address(address: str) -> None:
    """Refuse an address where no Ray cluster lets this process in; found, Ray will ask it with a token if it wants one.

    Raises:
        BadSetting: it says why, within 10 s.
    """
    end = time.monotonic() + PATIENCE
    host, port = _parsed(address)
    _greet(address, host, port)
    if address.startswith(CLIENT):  # its health cannot be asked for; its own limits are set in `_join`
        _ask_by(_modes()[-1])
        return
    told = "nothing"
    for mode in _modes():
        try:
            found = _health(f"{host}:{port}", mode, max(end - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired as error:
            why = f"something does, but it is no Ray cluster, or says nothing for {PATIENCE:.0f} s"
            raise _silent(address, why) from error
        if found is None:
            _ask_by(mode)
            return
        told = found
    if "oken" in told:
        raise BadSetting(f"the Ray cluster at {address} does not let us in; {_TOKEN}", field="address")
    raise _silent(address, (told.strip().splitlines() or ["ray health-check says nothing"])[-1])


def _modes() -> list[str]:
    """How to ask, in turn: a cluster without tokens loses the processes of who shows one, though it lets him in."""
    if "RAY_AUTH_MODE" in os.environ:
        return [os.environ["RAY_AUTH_MODE"]]
    named = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return ["disabled", "token"] if named or (Path.home() / ".ray" / "auth_token").exists() else ["disabled"]


def _ask_by(mode: str) -> None:
    if "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = mode


def _health(place: str, mode: str, seconds: float) -> str | None:
    """What Ray says of a cluster that does not let us in; None: it does. Raises TimeoutExpired."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", place]
    environment = os.environ | {"RAY_AUTH_MODE": mode}
    done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, env=environment)
    return (done.stdout + done.stderr).decode(errors="replace") if done.returncode else None


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise BadSetting(
            f"--address is HOST:PORT, such as 10.0.0.5:6379, or ray://HOST:PORT, such as ray://10.0.0.5:10001;"
            f" got {address!r}",
            field="address",
        )
    return host.strip("[]"), int(port)


def _greet(address: str, host: str, port: int) -> None:
    """Open a connection and see that what answers is of Ray's kind."""
    try:
        with socket.create_connection((host, port), timeout=_TCP) as wire:
            wire.settimeout(_TCP / 2)
            wire.sendall(_OPENING)
            head = b""
            while len(head) < 9 and (more := wire.recv(9 - len(head))):
                head += more
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise _silent(address, f"nothing within {_TCP:.0f} s") from error
        raise _silent(address, error.strerror or str(error)) from error
    if len(head) < 9 or head[3] != _SETTINGS:
        raise _silent(address, "something does, but it is no Ray cluster")


def _silent(address: str, why: str) -> BadSetting:
    return BadSetting(
        f"no Ray cluster answers at {address} ({' '.join(why.split())}); `ray status` on its head tells whether it runs"
        " and where, and without --address a cluster is started on this machine",
        field="address",
    )


def _prepare(address: str | None) -> None:
    """Find the cluster, and say what Ray reads when it is imported: where its own log goes, and how it asks.

    Where it has been imported it has read that already; a word that it reads later would only confuse it.
    """
    imported = sys.modules.get("ray")
    if imported is None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    elif imported.is_initialized():
        return
    if address is not None and find_spec("ray") is not None:
        check_address(address)


def _start(ray: Any, cpus: int | None, stack: contextlib.ExitStack) -> None:
    """Start a cluster on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By itself Ray makes its workers nice by 15, and whatever else runs on this machine would take what they need:
    # beside three busy processes of the usual kind a service does not come up in the minute that Ray Serve waits.
    os.environ.setdefault("RAY_worker_niceness", "0")
    how: dict[str, Any] = {"num_cpus": cpus or os.cpu_count() or 1, "object_store_memory": _STORE}
    if "RAY_TMPDIR" not in os.environ:
        # Sockets lie in it, so it is no deep path; and no other cluster's processes find themselves in it.
        how["_temp_dir"] = tempfile.mkdtemp(prefix="diffacet-ray-")
        stack.callback(shutil.rmtree, how["_temp_dir"], ignore_errors=True)
    try:
        with _quietly():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **how)
    except (Exception, SystemExit) as error:
        ray.shutdown()
        raise BadSetting(
            f"no Ray cluster can be started on this machine ({said(error)}); give that of another one by --address,"
            " or leave out --engine ray"
        ) from error


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster that answers."""
    # Three attempts to connect, of two seconds, three and three; read when Ray's client is imported.
    os.environ.setdefault("RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S", "2")
    os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "3")
    try:
        with _quietly():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (Exception, SystemExit) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        advice = (
            f"is this the port of its clients? And {_TOKEN}"
            if address.startswith(CLIENT)
            else "this machine must be a node of it, or ask ray://HEAD:10001"
        )
        raise BadSetting(
            f"the Ray cluster at {address} cannot be used ({said(error)}); {advice}", field="address"
        ) from error


def _leave(ray: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()


def _cluster(ray: Any, address: str | None) -> Cluster:
    there = ray.cluster_resources()
    return Cluster(address, int(there.get("CPU", 0)), int(there.get("GPU", 0)))


def _told(ray: Any, one: Any, name: str) -> dict[str, str]:
    try:
        return ray.get(one)
    except ray.exceptions.RayError as error:
        raise BadRun(f"node {name} cannot tell what it runs ({said(error)}); install diffacet there as here") from (
            error
        )


def _compare(here: dict[str, str], there: dict[str, str], name: str) -> None:
    other = [f"{what} is {there.get(what, 'missing')}, here {value}" for what, value in here.items()]
    other = [line for line, (what, value) in zip(other, here.items(), strict=True) if there.get(what) != value]
    if other:
        raise BadRun(
            f"node {name} has other code: {'; '.join(other)}; install the same diffacet there and restart its workers"
        )


def said(error: BaseException) -> str:
    """The last line of an error: Ray puts the reason behind its traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let Ray connect without lines of its own: what matters is said in one line.

    Some come from no Python, so it is the descriptor of standard error that leads elsewhere meanwhile.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings(), Path(os.devnull).open("wb") as nowhere:
        warnings.simplefilter("ignore")
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _end(number: int, _: Any) -> None:
    """The end of a process by a signal, after what is to be tidied up."""
    sys.exit(128 + number)


def _signal(handler: Any) -> Any:
    """Set the handler of SIGTERM, unless None, and tell which there was; nothing in threads, which have none."""
    if threading.current_thread() is not threading.main_thread():
        return None
    before = signal.getsignal(signal.SIGTERM)
    if handler is not None:
        signal.signal(signal.SIGTERM, handler)
    return before
