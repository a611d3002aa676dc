"""What the service counts and measures, in the form that Prometheus reads."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: the directory that workers share. It must be set before prometheus_client is imported."""

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


disable_created_metrics()  # type: ignore[no-untyped-call]  # when a count began tells nobody anything


class Metrics:
    """The metrics of one application, in a registry of its own; names begin with `diffacet_`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "diffacet_requests",
            "Requests answered; status 499: the client left.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "diffacet_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.sizes = Histogram(
            "diffacet_batch_size", "Queries computed in one call.", buckets=_SIZES, registry=registry
        )
        self.depth = _gauge("diffacet_queue_depth", "Queries that wait to be computed.", "livesum", registry)
        self.in_flight = _gauge("diffacet_in_flight", "Requests that are being answered.", "livesum", registry)
        self.items = _gauge("diffacet_index_items", "Items that can be recommended.", "livemax", registry)
        self.reloads = Counter("diffacet_reloads", "Reloads: ok, same or refused.", ["result"], registry=registry)
        self.reload_ok = _gauge(
            "diffacet_last_reload_ok", "1 unless the newest reload was refused (of any worker).", "livemin", registry
        )
        self.errors = Counter("diffacet_errors", "Errors answered.", ["code"], registry=registry)
        self.gone = Counter(
            "diffacet_abandoned", "Queries dropped uncomputed: the client left, or time was up.", registry=registry
        )
        self.model = Gauge(
            "diffacet_model_info",
            "1 for the version that answers.",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._version = ""
        for result in ("ok", "same", "refused"):
            self.reloads.labels(result)
        self.reload_ok.set(1)

    def batched(self, size: int) -> None:
        """A call with `size` queries begins."""
        self.sizes.observe(size)

    def queued(self, depth: int) -> None:
        """So many queries wait."""
        self.depth.set(depth)

    def abandoned(self, count: int) -> None:
        """So many queries were dropped uncomputed."""
        self.gone.inc(count)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request ended; `route` is a template, never a path as it was asked."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def failed(self, code: str) -> None:
        """An error was answered."""
        self.errors.labels(code).inc()

    def serves(self, version: str, items: int) -> None:
        """From now on this version answers, with so many items."""
        self.items.set(items)
        if self._version and self._version != version:
            self.model.labels(self._version).set(0)
            if MULTIPROCESS not in os.environ:  # in files that workers share nothing can be taken back
                self.model.remove(self._version)
        self.model.labels(version).set(1)
        self._version = version

    def reloaded(self, result: str) -> None:
        """A reload ended as "ok", "same" or "refused"."""
        self.reloads.labels(result).inc()
        self.reload_ok.set(result != "refused")

    def text(self) -> bytes:
        """All of it, of all workers where there are several."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        whole = CollectorRegistry()
        MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
        return generate_latest(whole)


def _gauge(name: str, told: str, mode: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, told, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]
