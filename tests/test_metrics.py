"""What Prometheus gets, and the dashboard that asks for it."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from edgeserve import BatchCompute, Compute, DataSource, Fate, Materialize, Stats, UsageError, _watch
from edgeserve.metrics import MetricsServer, _Collector, register, serve
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.folder import FolderStore
from edgeserve.testing import memory_broker

DASHBOARD = Path(__file__).parents[1] / "docs" / "grafana" / "edgeserve.json"
IDLE_MS = 200
SOURCE = {"operator": "cam", "class": "DataSource", "topic_in": "", "topic_out": "src"}
SERIES = {"operator": "double", "class": "Compute", "topic_in": "src", "topic_out": "dst"}


@pytest.fixture(autouse=True)
def nobody_watches_afterwards() -> Iterator[None]:
    """What is registered for the life of a process is registered for that of a test."""
    yield
    for watcher in list(_watch._state.watchers):
        _watch.turn_off(watcher)


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with serve(port=0, registry=CollectorRegistry()) as made:
        yield made


def registered(registry: CollectorRegistry) -> list[_Collector]:
    """What was registered."""
    register(registry)
    return [each for each in registry._collector_to_names if isinstance(each, _Collector)]


def scraped(server: MetricsServer) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples that Prometheus would get, by name."""
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    (found,) = [number for given, number in samples[name] if labels.items() <= given.items()]
    return found


def send(broker: str, items: list[bytes], **options: Any) -> DataSource:
    source = DataSource(items, broker, "cam", **options)
    for _ in source:
        pass
    return source


def double(cam: bytes) -> bytes | None:
    return cam * 2 if cam != b"nothing" else None


def serve_all(broker: str, **options: Any) -> Compute:
    compute = Compute(double, broker, "double", gate_in=lambda data: data or None, idle_timeout_ms=IDLE_MS, **options)
    for _ in compute:
        pass
    return compute


def exported(samples: dict[str, list[tuple[dict[str, str], float]]], **labels: str) -> dict[str, Any]:
    """What was scraped of one operator, under the names that `Stats` has."""
    counters = ("received", "sent", "escalated", "dead_letters", "received_bytes", "sent_bytes")
    found: dict[str, Any] = {name: value(samples, f"edgeserve_{name}_total", **labels) for name in counters}
    found |= {name: value(samples, f"edgeserve_{name}", **labels) for name in ("held", "unconfirmed")}
    found["fates"] = {
        fate: count for fate in Fate if (count := value(samples, "edgeserve_fates_total", fate=fate.value, **labels))
    }
    return found


def counted(stats: Stats) -> dict[str, Any]:
    names = ("received", "sent", "escalated", "dead_letters", "received_bytes", "sent_bytes", "held", "unconfirmed")
    return {name: getattr(stats, name) for name in names} | {"fates": stats.fates}


def test_the_metrics_are_what_stats_says_while_operators_are_open_and_afterwards(server: MetricsServer) -> None:
    broker = memory_broker()
    with send(broker, [b"a", b"bc", b"", b"nothing"]) as source, serve_all(broker) as compute:
        found = scraped(server)
        assert exported(found, operator="cam") == counted(source.stats) != counted(Stats())
        assert exported(found, **SERIES) == counted(compute.stats)
        assert value(found, "edgeserve_open_operators", **SERIES) == 1
    assert compute.stats.fates == {Fate.USED: 3, Fate.GATED: 1}
    found = scraped(server)
    assert exported(found, operator="cam") == counted(source.stats)
    assert exported(found, **SERIES) == counted(compute.stats)
    assert value(found, "edgeserve_open_operators", **SERIES) == 0


def test_histograms_count_every_run_of_the_task_and_every_example_used(server: MetricsServer) -> None:
    broker = memory_broker()
    with send(broker, [b"a", b"bc", b"", b"nothing"]), serve_all(broker):
        found = scraped(server)
    for name in ("edgeserve_step_seconds", "edgeserve_end_to_end_seconds"):
        assert value(found, f"{name}_count", **SERIES) == 3
        assert value(found, f"{name}_bucket", le="+Inf", **SERIES) == 3
        assert value(found, f"{name}_sum", **SERIES) > 0
        buckets = [number for labels, number in found[f"{name}_bucket"] if labels.items() >= SERIES.items()]
        assert buckets == sorted(buckets)
    assert value(found, "edgeserve_fetch_seconds_count", **SERIES) == 0


def test_what_was_fetched_is_measured(server: MetricsServer, tmp_path: Path) -> None:
    broker = memory_broker()
    with (
        send(broker, [b"a" * 100_000, b"b" * 100_000], store=FolderStore(tmp_path)),
        serve_all(broker, fetching=Fetching(folders=[tmp_path])) as compute,
    ):
        found = scraped(server)
    fetches = compute.stats.fetches
    assert fetches.local + fetches.fetched + fetches.cache_hits == 2
    assert value(found, "edgeserve_fetched_locally_total", **SERIES) == fetches.local
    assert value(found, "edgeserve_fetch_cache_hits_total", **SERIES) == fetches.cache_hits
    assert value(found, "edgeserve_fetch_seconds_count", **SERIES) == 2
    assert value(found, "edgeserve_step_seconds_count", **SERIES) == 2


def test_a_counter_goes_on_when_an_operator_is_made_anew(server: MetricsServer) -> None:
    broker = memory_broker()
    for times in (1, 2, 3):
        send(broker, [b"a", b"b"]).close()
        with serve_all(broker):
            assert value(scraped(server), "edgeserve_received_total", **SERIES) == 2 * times
        assert value(scraped(server), "edgeserve_received_total", **SERIES) == 2 * times


def test_a_counter_does_not_fall_when_stats_takes_back_what_it_counted(server: MetricsServer) -> None:
    with DataSource([b"x"] * 3, memory_broker(), "cam") as source:
        for _ in source:
            pass
        assert value(scraped(server), "edgeserve_sent_total", operator="cam") == 3
        source._outbox._sent -= 1  # as when the oldest makes room for a larger one
        assert source.stats.sent == 2
        assert value(scraped(server), "edgeserve_sent_total", operator="cam") == 3


def test_series_that_there_are_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_MOST_PAST", 1)
    (collector,) = registered(registry := CollectorRegistry())
    for name in ("one", "two"):
        DataSource([], memory_broker(), name).close()
        list(registry.collect())
        assert {series[1] for series in collector._highest} == {name}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_counts_anew_also_one_that_is_made_during_a_scrape() -> None:
    (collector,) = registered(registry := CollectorRegistry())
    with send(memory_broker(), [b"a"] * 5):
        assert registry.get_sample_value("edgeserve_received_total", SOURCE) == 5
        with collector._lock:
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                list(registry.collect())
                send(memory_broker(), [b"a"] * 2)
                os._exit(int(registry.get_sample_value("edgeserve_received_total", SOURCE) or 0))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 2
        assert registry.get_sample_value("edgeserve_received_total", SOURCE) == 5


def test_batches_are_a_histogram_of_their_units(server: MetricsServer) -> None:
    broker = memory_broker()
    send(broker, [b"a"] * 7).close()
    with BatchCompute(b"".join, broker, "batches", batch_max_num_msg=3, idle_timeout_ms=IDLE_MS) as batches:
        for _ in batches:
            pass
        found = scraped(server)
    assert batches.stats.batches == {3: 2, 1: 1}
    of_it = {"operator": "batches", "class": "BatchCompute"}
    assert value(found, "edgeserve_batch_units_count", **of_it) == 3
    assert value(found, "edgeserve_batch_units_sum", **of_it) == 7
    assert [value(found, "edgeserve_batch_units_bucket", le=le, **of_it) for le in ("1.0", "2.0", "5.0")] == [1, 1, 3]


def test_a_registry_has_the_metrics_once_and_a_port_one_server(server: MetricsServer) -> None:
    with pytest.raises(UsageError, match=rf"metrics can't be served at 127.0.0.1:{server.port}"):
        serve(server.port, registry=CollectorRegistry())
    registry = CollectorRegistry()
    register(registry)
    with pytest.raises(UsageError, match="in this registry already"):
        register(registry)


def test_a_closed_server_leaves_its_registry_as_it_was() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        with serve(0, registry=registry) as server:
            assert "edgeserve_open_operators" in {family.name for family in registry.collect()}
        server.close()
        assert list(registry.collect()) == []


# The dashboard


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def exported_names(server: MetricsServer) -> dict[str, set[str]]:
    """The labels of every series that there is when operators of all kinds have run."""
    broker = memory_broker()
    with (
        BatchCompute(b"".join, broker, "batches", topic_out="other", idle_timeout_ms=IDLE_MS) as batches,
        send(broker, [b"a"] * 3),
        serve_all(broker),
        Materialize(len, broker, topic="dst", idle_timeout_ms=IDLE_MS),
    ):
        for _ in batches:
            pass
        return {name: set().union(*(labels for labels, _ in rows)) for name, rows in scraped(server).items()}


def test_every_metric_that_the_dashboard_asks_for_exists_with_its_labels(server: MetricsServer) -> None:
    names = exported_names(server)
    asked = 0
    for expression in [*expressions(), dashboard()["templating"]["list"][1]["definition"]]:
        for name, selector in re.findall(r"(edgeserve_\w+)(?:\{([^}]*)\})?", expression):
            assert name in names, f"{name} of {expression}"
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= names[name], expression
            asked += 1
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            (name, *_) = re.findall(r"edgeserve_\w+", expression)
            assert {label.strip() for label in labels.split(",")} <= names[name], expression
    assert asked >= len(expressions()) > 10


def test_the_panels_have_ids_and_places_of_their_own_and_show_what_matters() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    everything = " ".join(expressions())
    for what in ("received", "sent", "fates", "queued", "held", "unconfirmed"):
        assert re.search(rf"edgeserve_{what}(_total)?\b", everything), what
    for what in ("step", "fetch", "end_to_end"):
        for share in ("0.5", "0.99"):
            assert re.search(rf"histogram_quantile\({share}, .*edgeserve_{what}_seconds_bucket", everything)
