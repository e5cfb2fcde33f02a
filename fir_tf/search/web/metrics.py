"""What the server counts, for Prometheus; nothing is counted without its package."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Protocol

from fir_tf.errors import FirError
from fir_tf.search.generation import Generation
from fir_tf.search.index import Index
from fir_tf.search.web.told import Told

try:
    import prometheus_client
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
except ImportError:
    prometheus_client = None  # type: ignore[assignment]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64)


def generation_name(generation: Generation) -> str:
    """Returns what a generation is called here: the first one has no name in its index."""
    return generation.name or "first"


def model_name(asked: Index | Generation) -> str:
    """Returns the fingerprint of the model, "" where an index is asked with vectors alone."""
    try:
        return asked.encoder.fingerprint()["name"]
    except FirError:
        return ""


class Metrics(Protocol):
    """What the server tells of itself."""

    def request(self, route: str, status: int, seconds: float, told: Told) -> None:
        """Counts a request that was answered."""

    def batch(self, photos: int) -> None:
        """Counts a batch of so many photos."""

    def cache(self, name: str, hit: bool) -> None:
        """Counts that something was looked for in a cache."""

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows a number that is asked for whenever the metrics are."""

    def watch(self, index: Index) -> None:
        """Shows what is asked, from now on."""

    def page(self) -> tuple[bytes, str] | None:
        """Returns (text, media type), None where nothing is counted."""


class NoMetrics:
    """Counts nothing; see `Metrics`."""

    def request(self, route: str, status: int, seconds: float, told: Told) -> None:
        """See `Metrics`."""

    def batch(self, photos: int) -> None:
        """See `Metrics`."""

    def cache(self, name: str, hit: bool) -> None:
        """See `Metrics`."""

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """See `Metrics`."""

    def watch(self, index: Index) -> None:
        """See `Metrics`."""

    def page(self) -> None:
        """See `Metrics`."""
        return None


class PrometheusMetrics:
    """Counts for Prometheus, in a registry of its own; see `Metrics`."""

    def __init__(self) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        counter, histogram = prometheus_client.Counter, prometheus_client.Histogram
        self._requests = counter(
            "fir_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._seconds = histogram(
            "fir_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = histogram(
            "fir_stage_seconds",
            "What a request's time goes to.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = histogram(
            "fir_batch_photos",
            "Photos that were embedded together.",
            buckets=_PHOTOS,
            registry=registry,
        )
        self._hits = counter(
            "fir_cache_hits", "What was found in a cache.", ["cache"], registry=registry
        )
        self._misses = counter(
            "fir_cache_misses", "What was not found there.", ["cache"], registry=registry
        )
        self._watched = _Watched()
        registry.register(self._watched)

    def request(self, route: str, status: int, seconds: float, told: Told) -> None:
        """See `Metrics`."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        for name, value in told.seconds.items():
            self._stages.labels(name).observe(value)

    def batch(self, photos: int) -> None:
        """See `Metrics`."""
        self._batches.observe(photos)

    def cache(self, name: str, hit: bool) -> None:
        """See `Metrics`."""
        (self._hits if hit else self._misses).labels(name).inc()

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """See `Metrics`."""
        prometheus_client.Gauge(name, text, registry=self._registry).set_function(value)

    def watch(self, index: Index) -> None:
        """See `Metrics`."""
        self._watched.index = index

    def page(self) -> tuple[bytes, str]:
        """See `Metrics`."""
        text = prometheus_client.generate_latest(self._registry)
        return text, prometheus_client.CONTENT_TYPE_LATEST


class _Watched:
    """What is asked, looked at whenever the metrics are: a collector of Prometheus."""

    index: Index | None = None

    def collect(self) -> "Iterator[Metric]":
        """Yields the index's and its model's families, none before the index is there."""
        if self.index is None:
            return
        records, told, name = math.nan, "", model_name(self.index)
        # A database that is away for a while must not take the other numbers with it.
        with contextlib.suppress(Exception), self.index.held() as generation:
            told, name = generation_name(generation), model_name(generation)
            records = float(len(generation.engine))
        yield InfoMetricFamily("fir_model", "Fingerprint of the model.", {"fingerprint": name})
        yield GaugeMetricFamily("fir_index_records", "Photos in the index.", records)
        yield InfoMetricFamily("fir_index", "Which generation answers.", {"generation": told})


def open_metrics() -> Metrics:
    """Returns Metrics that count where prometheus-client is installed."""
    return PrometheusMetrics() if prometheus_client else NoMetrics()
