"""One trace from source to sink, where the user has OpenTelemetry on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from edgeserve import BatchCompute, Compute, DataSource, Materialize, Model, replay
from edgeserve._tracing import _with_context
from tests.operators.conftest import Wire


class Spans:
    """What was traced."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.of(name)
        return span


def provide(monkeypatch: pytest.MonkeyPatch, sampled: float) -> Spans:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sampled)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # The one of the process can be set only once, and would be that of all tests after this one.
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    return Spans(exporter)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Everything is traced."""
    return provide(monkeypatch, 1.0)


def of(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def send(broker: str, topic: str, name: str, *items: bytes, **options: Any) -> None:
    with DataSource(items, broker, name, topic=topic, **options) as source:
        for _ in source:
            pass


def test_a_trace_is_found_in_replay_logs_by_its_ids(broker: str, wire: Wire, spans: Spans, tmp_path: Path) -> None:
    with Compute(lambda cam: cam, broker, topic_in=wire.src, topic_out=wire.dst, log_path=tmp_path) as compute:
        send(broker, wire.src, "cam", b"frame")
        assert next(compute) == b"frame"
    attributes = dict(spans.one("edgeserve.compute").attributes or {})
    (made,) = replay.load(tmp_path).predictions.to_dict("records")
    assert attributes["edgeserve.output_ids"] == (made["output_id"],)
    assert attributes["edgeserve.input_ids"] == tuple(made["input_ids"])


def test_one_trace_goes_from_the_source_over_two_hops_to_the_sink(broker: str, wire: Wire, spans: Spans) -> None:
    with (
        Compute(lambda cam: cam * 2, broker, "double", topic_in=wire.src, topic_out=wire.dst) as compute,
        Materialize(len, broker, topic=wire.dst, sink_id="display") as sink,
    ):
        send(broker, wire.src, "cam", b"frame")
        assert next(compute) == b"frameframe"
        assert next(sink) == 10
    chain = [spans.one(f"edgeserve.{what}") for what in ("data_source", "compute", "materialize")]
    assert len({of(span).trace_id for span in chain}) == 1
    assert chain[0].parent is None
    for above, below in itertools.pairwise(chain):
        assert parent_of(below) == of(above).span_id
        assert below.attributes is not None
        assert above.attributes is not None
        assert below.attributes["edgeserve.input_ids"] == above.attributes["edgeserve.output_ids"]
    assert [dict(span.attributes or {})["edgeserve.operator"] for span in chain] == ["cam", "double", "display"]
    assert dict(chain[1].attributes or {})["edgeserve.topics"] == (wire.src,)


def test_a_join_is_below_its_newest_input_and_linked_to_all_of_them(broker: str, wire: Wire, spans: Spans) -> None:
    with Compute(lambda left, right: left + right, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        for name, capture_ms in (("left", 2000), ("right", 1000)):
            send(broker, wire.src, name, name.encode(), event_time=lambda _, ms=capture_ms: ms)
            result = next(compute)
        assert result == b"leftright"
    left, right = spans.of("edgeserve.data_source")
    joined = spans.one("edgeserve.compute")
    assert parent_of(joined) == of(left).span_id
    assert {link.context.span_id for link in joined.links} == {of(left).span_id, of(right).span_id}


def test_a_batch_is_linked_to_all_of_its_examples(broker: str, wire: Wire, spans: Spans) -> None:
    with BatchCompute(
        b"".join, broker, topic_in=wire.src, topic_out=wire.dst, batch_max_num_msg=3, batch_timeout_ms=60_000
    ) as batches:
        send(broker, wire.src, "cam", b"a", b"b", b"c")
        assert next(batches) == b"abc"
    sources = {of(span).span_id for span in spans.of("edgeserve.data_source")}
    assert len(sources) == 3
    assert {link.context.span_id for link in spans.one("edgeserve.batch_compute").links} == sources


def test_flows_are_traced_through_a_model(broker: str, wire: Wire, spans: Spans) -> None:
    with (
        Model(lambda data: (True, data), broker, wire.src, wire.dst) as model,
        Materialize(bytes, broker, topic=wire.dst) as sink,
    ):
        send(broker, wire.src, "cam", b"frame", flow_id=lambda _: "flow-1")
        assert next(model) == b"frame"
        assert next(sink) == b"frame"
    assert parent_of(spans.one("edgeserve.model")) == of(spans.one("edgeserve.data_source")).span_id
    assert parent_of(spans.one("edgeserve.materialize")) == of(spans.one("edgeserve.model")).span_id


def test_spans_of_the_user_lie_above_the_source_and_below_the_task(broker: str, wire: Wire, spans: Spans) -> None:
    tracer = trace.get_tracer("mine")

    def task(cam: bytes) -> bytes:
        with tracer.start_as_current_span("inference"):
            return cam

    with Compute(task, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        with tracer.start_as_current_span("run"):
            send(broker, wire.src, "cam", b"frame")
        next(compute)
        assert trace.get_current_span() is trace.INVALID_SPAN, "the step has put things back"
    assert parent_of(spans.one("edgeserve.data_source")) == of(spans.one("run")).span_id
    assert parent_of(spans.one("inference")) == of(spans.one("edgeserve.compute")).span_id


def test_spans_of_the_user_lie_above_a_source_that_is_awaited(broker: str, wire: Wire, spans: Spans) -> None:
    tracer = trace.get_tracer("mine")

    async def two_steps(source: DataSource) -> None:
        for name in ("first", "second"):
            with tracer.start_as_current_span(name):
                await source.__anext__()

    with DataSource([b"one", b"two"], broker, "cam", topic=wire.src) as source:
        asyncio.run(two_steps(source))
    above = [parent_of(span) for span in spans.of("edgeserve.data_source")]
    assert above == [of(spans.one(name)).span_id for name in ("first", "second")]


def test_baggage_travels_with_the_trace(broker: str, wire: Wire, spans: Spans) -> None:
    with Compute(
        lambda cam: str(baggage.get_baggage("site")), broker, topic_in=wire.src, topic_out=wire.dst
    ) as compute:
        token = context.attach(baggage.set_baggage("site", "roof"))
        send(broker, wire.src, "cam", b"frame")
        context.detach(token)
        assert next(compute) == b"roof"


def test_every_try_has_a_span_and_one_that_raised_says_so(broker: str, wire: Wire, spans: Spans) -> None:
    errors: Iterator[Exception | None] = iter([ValueError("dark"), None])

    def task(cam: bytes) -> bytes:
        if (error := next(errors)) is not None:
            raise error
        return cam

    with Compute(task, broker, topic_in=wire.src, topic_out=wire.dst, on_error="retry", retry_interval_ms=0) as compute:
        send(broker, wire.src, "cam", b"frame")
        assert next(compute) == b"frame"
    failed, served = spans.of("edgeserve.compute")
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert failed.status.description == "ValueError: dark"
    assert [event.name for event in failed.events] == ["exception"]
    assert served.status.status_code is trace.StatusCode.UNSET


def test_what_is_not_sampled_carries_nothing_and_gets_no_spans(
    broker: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = provide(monkeypatch, 0.0)
    properties: list[object] = []
    real = _with_context

    def seen(made: Any, carrier: Any, outputs: Any) -> Any:
        left = real(made, carrier, outputs)
        properties.append(left is made)
        return left

    monkeypatch.setattr("edgeserve._tracing._with_context", seen)
    with Compute(lambda cam: cam, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        send(broker, wire.src, "cam", *[b"frame"] * 10)
        assert [next(compute) for _ in range(10)] == [b"frame"] * 10
    assert properties == [True] * 20, "examples go as they would without traces, in packs"
    assert spans.of("edgeserve.compute") + spans.of("edgeserve.data_source") == []


@pytest.mark.parametrize("packing", [True, False])
def test_of_examples_that_are_sent_together_each_has_its_own_context(
    broker: str, wire: Wire, spans: Spans, packing: bool
) -> None:
    with Compute(lambda cam: cam, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        send(broker, wire.src, "cam", *[b"%d" % number for number in range(50)], packing=packing)
        assert [next(compute) for _ in range(50)] == [b"%d" % number for number in range(50)]
    parents = [parent_of(span) for span in spans.of("edgeserve.compute")]
    assert parents == [of(span).span_id for span in spans.of("edgeserve.data_source")]


def test_without_a_tracer_provider_nothing_is_told(broker: str, wire: Wire) -> None:
    with (
        DataSource([b"x"], broker, "cam", topic=wire.src) as source,
        Compute(lambda cam: cam, broker, topic_in=wire.src, topic_out=wire.dst) as compute,
    ):
        assert source._observer is None
        assert compute._observer is None
