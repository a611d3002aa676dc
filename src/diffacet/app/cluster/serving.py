"""A run served by replicas of a Ray Serve application: the recommender and the HTTP application of `app.serving`.

The process of the command is what the supervisor is to workers on one machine: it checks the run, tells the replicas
which one to serve, and again at SIGHUP and `--watch`; Ray starts the replicas, replaces those that die, and spreads
requests. The application ends with the command.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from diffacet.app.cluster.connecting import Cluster, connected, said
from diffacet.app.serving import listening, logs, server
from diffacet.app.serving.faults import Fault
from diffacet.app.serving.options import read_keys
from diffacet.app.serving.recommender import Recommender
from diffacet.app.serving.server import INTERRUPTED, KEEP_ALIVE, LOOK, Serving
from diffacet.app.serving.watching import Watch
from diffacet.errors import BadRun, BadSetting, DiffacetError

NAME = "diffacet"
"""Of the application, in Ray's own lists."""
METRICS = "PROMETHEUS_MULTIPROC_DIR"
_RELOAD = "/v1/admin/reload"
_BEHIND = 2  # requests that reach a replica, times what it takes: it refuses them itself, as everywhere
_LOST = 1.0  # seconds between two looks of Ray at a replica


def serve(
    what: Serving,
    *,
    address: str | None = None,
    open_to_all: bool = False,
    say: Callable[[str], None] = server._say,
) -> int:
    """Serve until a signal says stop, with as many replicas as there are workers; returns the exit code, which is 0.

    Args:
        what: the run, and how it is served; run and key file lie on a file system that all nodes see.
        address: of the cluster, see `connecting.connected`; None: on this machine.
        open_to_all: requests from other machines need no key.
        say: called with the line of readiness.

    Raises:
        BadSetting: an address that cannot be listened on, a cluster that does not answer, is too small, or serves
            something already.
        BadRun: no run, a damaged one, or nodes of other code.
    """
    listener = listening.bind(what.options, open_to_all)
    server.configure_logs()
    with listener:
        watch = Watch(what.run)
        recommender = server.load(what)
        card, host = recommender.card(), what.options.host
        line = listening.line(listener, host, recommender.version, recommender.n_items, card["index"])
        port = listener.getsockname()[1]
        cpus = what.options.workers * what.options.threads
        with connected(address, cpus=cpus) as cluster:
            _check_room(cluster, cpus)
            cluster.check_code()
            listener.close()
            return _Command(what, recommender, watch, port, cluster).run(lambda: say(line))


class _Command:
    """The process of the command, while the replicas answer."""

    def __init__(self, what: Serving, recommender: Recommender, watch: Watch, port: int, cluster: Cluster) -> None:
        self.what, self.recommender, self.watch, self.port, self.cluster = what, recommender, watch, port, cluster
        self._heard, self._wake, self._order = list[int](), threading.Event(), 0
        self._metrics = str(Path(tempfile.gettempdir()) / f"diffacet-metrics-{uuid.uuid4().hex[:12]}")

    def run(self, ready: Callable[[], None]) -> int:
        """Deploy, obey signals, and take the application away at the end."""
        import ray
        from ray import serve as ray_serve

        self._check_free(ray)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        options = self.what.options
        http = {"host": options.host, "port": self.port, "keep_alive_timeout_s": KEEP_ALIVE}
        with self._signals():
            try:
                ray_serve.start(proxy_location="EveryNode", http_options=http, logging_config={"log_level": "ERROR"})
                self._deploy()
                ready()
                return self._obey()
            except (RuntimeError, ray.exceptions.RayError) as error:
                raise BadRun(f"Ray Serve cannot serve {self.what.run}: {_why(error)}") from error
            finally:
                ray_serve.shutdown()  # type: ignore[no-untyped-call]
                shutil.rmtree(self._metrics, ignore_errors=True)

    def _check_free(self, ray: Any) -> None:
        """Refuse a cluster that serves: its port and paths are another's."""
        with contextlib.suppress(ValueError):
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
            raise BadSetting(
                f"Ray Serve runs on {self.cluster.address or 'this cluster'} already, with a port and applications of"
                " its own; end it there (`serve shutdown`) or choose another cluster",
                field="address",
            )

    def _deploy(self) -> None:
        """Let all replicas serve what the recommender of this process serves, and new ones, too."""
        from ray import serve as ray_serve

        options = self.what.options
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(options.threads)}
        if options.workers > 1:
            environment[METRICS] = self._metrics
        replica = ray_serve.deployment(
            name="replica",
            num_replicas=options.workers,
            ray_actor_options={
                "num_cpus": options.threads,
                "num_gpus": int(self.recommender.retriever.device.type == "cuda"),
                "runtime_env": {"env_vars": environment},
            },
            max_ongoing_requests=_BEHIND * options.max_in_flight,
            graceful_shutdown_timeout_s=options.drain,
            graceful_shutdown_wait_loop_s=0.5,
            health_check_period_s=_LOST,
            user_config={
                "place": str(self.recommender.run.path),
                "version": self.recommender.version,
                "order": self._order,
            },
        )(ray_serve.ingress()(Replica))
        without_keys = dataclasses.replace(options, keys=())  # each replica reads them from their file
        what = dataclasses.replace(self.what, run=self.what.run.absolute(), options=without_keys)
        if what.key_file is not None:
            what = dataclasses.replace(what, key_file=what.key_file.absolute())
        ray_serve.run(replica.bind(what), name=NAME, route_prefix="/", _local_testing_mode=False)

    def _obey(self) -> int:
        while True:
            self._wake.wait(LOOK)
            self._wake.clear()
            by = "watch" if self.what.options.watch and self.watch.look() else ""
            while self._heard:
                if self._heard.pop(0) != signal.SIGHUP:
                    return 0
                by = "signal"
            if by:
                self._reload(by)

    def _reload(self, by: str) -> None:
        """Load what the run's path holds now; if it proves whole, let all replicas serve it."""
        import ray

        start = time.perf_counter()
        try:
            if by == "signal" and self.what.key_file is not None:
                read_keys(self.what.key_file)
            done = self.recommender.reload()
        except DiffacetError as error:
            logs.write("reload refused", level=logging.ERROR, by=by, message=str(error))
            return
        self._order += 1
        versions: dict[str, Any] = {"model_version": done.version, "before": done.before}
        try:
            self._deploy()
        except (RuntimeError, ray.exceptions.RayError) as error:
            # Ray has the order and goes on with it: a replica that was lost meanwhile comes back with the newer run.
            logs.write("reload is not everywhere yet", level=logging.ERROR, by=by, **versions, message=_why(error))
            return
        seconds = round(time.perf_counter() - start, 3)
        logs.write("reload", by=by, changed=done.changed, **versions, seconds=seconds)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note signals; a second Ctrl-C gives up waiting for what was asked."""
        stopped = False

        def hear(number: int, _: FrameType | None) -> None:
            nonlocal stopped
            if stopped and number == signal.SIGINT:
                os._exit(INTERRUPTED)
            stopped |= number != signal.SIGHUP
            self._heard.append(number)
            self._wake.set()

        before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


class Replica:
    """A process that answers: the run it is told to serve, and the HTTP application around it."""

    def __init__(self, what: Serving) -> None:
        """Nothing is loaded before `reconfigure` says what."""
        self.what = what
        self.recommender: Recommender | None = None
        self.served: Any = None
        if folder := os.environ.get(METRICS):
            _bury(Path(folder))

    def __serve_build_asgi_app__(self) -> "_Late":
        """The application that Ray sends requests to."""
        return _Late(self)

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Serve the run that lies in `told["place"]`; called by Ray at the start, and at each reload.

        Raises:
            BadRun: at the start, there is none or another one. Later the old one goes on.
        """
        await asyncio.to_thread(self._reconfigure, told)

    def _reconfigure(self, told: dict[str, Any]) -> None:
        place = Path(told["place"])
        if self.recommender is None:
            self._begin(place, told["version"])
            return
        service = self.served.state.service
        self.recommender.path = place
        # What it meets is in the log; Ray would end a replica that raises here, and the old run is better than none.
        with contextlib.suppress(Exception):
            if self.what.key_file is not None:
                service.use_keys(read_keys(self.what.key_file))
            # Who tells has checked it against what was served before.
            service.reload(force=True, by="signal")

    def _begin(self, place: Path, version: str) -> None:
        from diffacet.app.serving.api import create_app

        server.configure_logs()
        options = self.what.options
        if self.what.key_file is not None:
            options = dataclasses.replace(options, keys=read_keys(self.what.key_file))
        self.recommender = server.load(self.what, place)
        self.recommender.path = place
        if self.recommender.version != version:
            raise BadRun(
                f"a replica on {socket.gethostname()} sees {self.recommender.version} in {place}, and the command"
                f" {version}; all of them must see the same files"
            )
        self.served = create_app(self.recommender, options)
        self.served.router.routes.insert(0, Route(_RELOAD, _refuse_reload, methods=["POST"]))
        self.served.state.service.start()


class _Late:
    """The application of a replica, which is made after Ray has asked for it."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; of the application's life Ray tells the beginning and the end."""
        if scope["type"] != "lifespan":
            await self._replica.served(scope, receive, _without_id(send))
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._replica.served is not None:
                service = self._replica.served.state.service
                service.begin_drain()
                service.stop()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _without_id(send: Send) -> Send:
    """`send` without the id of the request, which Ray's proxy adds to each answer: the caller's, else its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
        await send(message)

    return sending


async def _refuse_reload(_: Request) -> Response:
    """One replica alone must not serve another run than the others."""
    raise Fault(
        409,
        "this service has several processes on a cluster, of which a request reaches one: send SIGHUP to the command"
        " 'diffacet serve', which lets all of them reload, or start it with --watch",
        code="not_here",
    )


def _why(error: Exception) -> str:
    """What a replica says that cannot start, as far as Ray knows; else what Ray says."""
    import ray
    from ray import serve as ray_serve

    if not ray.is_initialized():  # asking would start a cluster
        return said(error)
    with contextlib.suppress(Exception):
        for one in ray_serve.status().applications[NAME].deployments.values():
            return re.sub(r"^diffacet\.errors\.\w+: ", "", said(RuntimeError(one.message)))
    return said(error)


def _bury(folder: Path) -> None:
    """Make the folder of the metrics of a node's replicas, and take those out of it that have died."""
    from prometheus_client.multiprocess import mark_process_dead

    folder.mkdir(parents=True, exist_ok=True)
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}:
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]


def _check_room(cluster: Cluster, cpus: int) -> None:
    if cpus > cluster.cpus:
        raise BadSetting(
            f"--workers with their --threads need {cpus} CPUs, and the cluster has {cluster.cpus}; ask for fewer",
            field="workers",
        )
