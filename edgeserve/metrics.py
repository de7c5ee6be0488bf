"""The counts and durations of this process's operators as Prometheus metrics.

Needs `pip install 'edgeserve[metrics]'`. Every metric has the labels `operator` (its name), `class`, `topic_in` and
`topic_out` (several are joined by commas); replicas in one process are counted together. Counts are those of `stats`.
A counter goes on where it was when an operator is closed and another one of the same labels is opened.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgeserve import _watch
from edgeserve._core.checks import check_count
from edgeserve._core.histogram import COARSE_BOUNDS_S, Histogram
from edgeserve._core.ledger import Stats
from edgeserve._core.step import Fate
from edgeserve._extras import require
from edgeserve._watch import Key, Reading
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

__all__ = ["MetricsServer", "register", "serve"]

_LABELS = ("operator", "class", "topic_in", "topic_out")
_BATCH_UNITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

# Counters, without the `_total` that their names end with.
_COUNTERS: Mapping[str, tuple[str, Callable[[Stats], float]]] = {
    "edgeserve_received": ("Inputs taken in; of a source, items taken from its stream.", lambda s: s.received),
    "edgeserve_sent": ("Examples handed over to be sent.", lambda s: s.sent),
    "edgeserve_escalated": ("Those of them that ask the next model of a cascade.", lambda s: s.escalated),
    "edgeserve_dead_letters": ("Inputs that were given up and became dead letters.", lambda s: s.dead_letters),
    "edgeserve_received_bytes": ("Bytes that came through the broker.", lambda s: s.received_bytes),
    "edgeserve_sent_bytes": ("Bytes of the examples handed over to be sent.", lambda s: s.sent_bytes),
    "edgeserve_fetched": ("Payloads that came over a network.", lambda s: s.fetches.fetched),
    "edgeserve_fetched_bytes": ("Their bytes.", lambda s: s.fetches.fetched_bytes),
    "edgeserve_fetched_locally": ("Payloads that were on this machine already.", lambda s: s.fetches.local),
    "edgeserve_fetch_cache_hits": ("Uses of payloads fetched before.", lambda s: s.fetches.cache_hits),
    "edgeserve_fetches_failed": ("Payloads that could not be had.", lambda s: s.fetches.failed),
    "edgeserve_deletes_refused": ("Payloads that a store did not delete.", lambda s: s.fetches.deletes_refused),
}
_GAUGES: Mapping[str, tuple[str, Callable[[Reading], float]]] = {
    "edgeserve_held": ("Inputs without a fate yet.", lambda r: r.stats.held),
    "edgeserve_unconfirmed": ("Examples sent that the broker has not confirmed yet.", lambda r: r.stats.unconfirmed),
    "edgeserve_queued": (
        "What has arrived and no step has taken: examples, and unopened messages.",
        lambda r: r.queued,
    ),
    "edgeserve_unmoved_bytes": (
        "Bytes of payloads whose URLs arrived and which no task has used.",
        lambda r: r.stats.fetches.unmoved_bytes,
    ),
    "edgeserve_open_operators": ("How many operators are open.", lambda r: r.open),
}
_HISTOGRAMS: Mapping[str, tuple[str, Callable[[Reading], Histogram]]] = {
    "edgeserve_step_seconds": ("From a task's start to the return of its gates.", lambda r: r.step),
    "edgeserve_fetch_seconds": ("What a task waited for its payloads.", lambda r: r.fetch),
    "edgeserve_end_to_end_seconds": (
        "From the capture of an example to the end of the first task that used it.",
        lambda r: r.end_to_end,
    ),
}


class _Collector:
    """Makes metrics of what operators count, when it is asked."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._highest: dict[tuple[str, ...], float] = {}
        self._watcher = f"metrics-{id(self)}"
        _collectors.add(self)

    def forget_parents(self) -> None:
        """In a child of fork: the counts are the parent's, whose scrape may have been under way."""
        self._lock = threading.Lock()
        self._highest = {}

    def turn_on(self) -> None:
        """Have steps measured, and counted on when their operators are closed."""
        _watch.turn_on(self._watcher, keeps_totals=True)

    def turn_off(self) -> None:
        """Have neither any longer."""
        _watch.turn_off(self._watcher)

    def describe(self) -> Sequence[Metric]:
        """The metrics that there are, without values."""
        return list(self._metrics({}))

    def collect(self) -> Sequence[Metric]:
        """The metrics of this moment."""
        self.turn_on()  # again, in a child of fork
        with self._lock:
            totals = _watch.totals()
            metrics = list(self._metrics(totals))
            self._forget_others(totals)
            return metrics

    def _forget_others(self, totals: Mapping[Key, Reading]) -> None:
        """Forget series that there are no more."""
        rows = {_label_values(key) for key in totals}
        self._highest = {series: count for series, count in self._highest.items() if series[1:5] in rows}

    def _metrics(self, totals: Mapping[Key, Reading]) -> Iterator[Metric]:
        rows = {_label_values(key): reading for key, reading in totals.items()}
        for name, (described, count_of) in _COUNTERS.items():
            counter = self._core.CounterMetricFamily(name, described, labels=_LABELS)
            for labels, reading in rows.items():
                counter.add_metric(labels, self._never_less(count_of(reading.stats), name, *labels))
            yield counter
        yield self._fates(rows)
        for name, (described, value_of) in _GAUGES.items():
            gauge = self._core.GaugeMetricFamily(name, described, labels=_LABELS)
            for labels, reading in rows.items():
                gauge.add_metric(labels, value_of(reading))
            yield gauge
        for name, (described, histogram_of) in _HISTOGRAMS.items():
            family = self._core.HistogramMetricFamily(name, described, labels=_LABELS)
            for labels, reading in rows.items():
                histogram = histogram_of(reading)
                counts = histogram.cumulative(COARSE_BOUNDS_S)
                family.add_metric(labels, _buckets(COARSE_BOUNDS_S, counts, histogram.count), histogram.total_s)
            yield family
        yield self._batches(rows)

    def _fates(self, rows: Mapping[tuple[str, ...], Reading]) -> Metric:
        name = "edgeserve_fates"
        counter = self._core.CounterMetricFamily(name, "What became of inputs.", labels=(*_LABELS, "fate"))
        for labels, reading in rows.items():
            for fate in Fate:  # those that none met as well: what is not there yet has no rate
                count = reading.stats.fates.get(fate, 0)
                counter.add_metric((*labels, fate.value), self._never_less(count, name, *labels, fate.value))
        return counter  # type: ignore[no-any-return]

    def _batches(self, rows: Mapping[tuple[str, ...], Reading]) -> Metric:
        family = self._core.HistogramMetricFamily(
            "edgeserve_batch_units", "How many units batches had.", labels=_LABELS
        )
        for labels, reading in rows.items():
            batches = reading.stats.batches
            if batches:
                counts = [sum(times for units, times in batches.items() if units <= most) for most in _BATCH_UNITS]
                total = sum(units * times for units, times in batches.items())
                family.add_metric(labels, _buckets(_BATCH_UNITS, counts, sum(batches.values())), total)
        return family  # type: ignore[no-any-return]

    def _never_less(self, count: float, *series: str) -> float:
        """The count, unless it was more before.

        `stats` takes back what it has counted when an example is dropped or given back. To Prometheus a counter that
        falls is one that began anew, and all it has counted is counted twice.
        """
        self._highest[series] = highest = max(count, self._highest.get(series, 0))
        return highest


_collectors: weakref.WeakSet[_Collector] = weakref.WeakSet()


def _in_child_of_fork() -> None:
    for each in list(_collectors):
        each.forget_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_of_fork)


def _label_values(key: Key) -> tuple[str, ...]:
    return (key.operator, key.kind, ",".join(key.topics_in), ",".join(key.topics_out))


def _buckets(bounds: Sequence[float], counts: Sequence[int], all_of_them: int) -> list[tuple[str, float]]:
    ends = [(str(float(bound)), float(count)) for bound, count in zip(bounds, counts, strict=True)]
    return [*ends, ("+Inf", float(all_of_them))]


def _registered(registry: CollectorRegistry | None) -> tuple[CollectorRegistry, _Collector]:
    client = require("prometheus_client", "metrics", "edgeserve.metrics")
    core = require("prometheus_client.core", "metrics", "edgeserve.metrics")
    registry = client.REGISTRY if registry is None else registry
    collector = _Collector(core)
    try:
        registry.register(collector)
    except ValueError as error:
        raise UsageError("the metrics of edgeserve are in this registry already") from error
    collector.turn_on()
    return registry, collector


def register(registry: CollectorRegistry | None = None) -> None:
    """Add the metrics to a registry, for a process that serves its metrics itself.

    Do this before the operators are made: those that are closed already are not counted. From now on steps are
    measured, which costs each about 1 µs.

    Args:
        registry: Prometheus's; None for its default one.

    Raises:
        MissingExtra: `prometheus-client` is not installed.
        UsageError: They are there already.
    """
    _registered(registry)


class MetricsServer:
    """Serves metrics over HTTP until it is closed; made by `serve`.

    Attributes:
        port: The port.
        url: Where the metrics are, for Prometheus on this machine.
    """

    def __init__(self, port: int, host: str, registry: CollectorRegistry | None) -> None:
        self._registry, self._collector = _registered(registry)
        client = require("prometheus_client", "metrics", "edgeserve.metrics")
        try:
            self._server, self._thread = client.start_http_server(port, host, self._registry)
        except (OSError, OverflowError) as error:
            self._registry.unregister(self._collector)
            self._collector.turn_off()
            raise UsageError(f"metrics can't be served at {host}:{port}: {error}") from error
        self.port: int = self._server.server_port
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"
        self._is_closed = False

    def close(self) -> None:
        """Serve no longer, and measure no longer. Does nothing when repeated."""
        if not self._is_closed:
            self._is_closed = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._registry.unregister(self._collector)
            self._collector.turn_off()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(port: int = 9464, host: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> MetricsServer:
    """Serve the metrics of this process over HTTP, from a thread of its own.

    Do this before the operators are made: those that are closed already are not counted. From now on steps are
    measured, which costs each about 1 µs. Each process needs a port of its own.

    Args:
        port: Where; 0 for any that is free, which the server knows.
        host: The address to listen on. Prometheus on another machine needs that of an interface, or `'0.0.0.0'`;
            whoever reaches it can read the names of operators and topics, and how much they do.
        registry: Prometheus's, whose other metrics are served as well; None for its default one.

    Returns:
        The server, which ends with the process, or when it is closed.

    Raises:
        MissingExtra: `prometheus-client` is not installed.
        UsageError: The port can't be had, or the metrics are in this registry already.
    """
    check_count("port", port, least=0)
    return MetricsServer(port, host, registry)
