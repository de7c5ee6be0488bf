"""Traces from source to sink, where the user has OpenTelemetry on.

That is: `opentelemetry` is imported, and a tracer provider is set, when an operator is made. Else nothing here costs
anything. An example of a trace that is sampled leaves as a message of its own, with the context among its properties,
in the form of the user's propagators; all others share messages as they always do, and carry none. So what comes
without a context is of no trace, and gets no span.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeserve._broker.base import Message
from edgeserve._broker.shipping import message_of
from edgeserve._core.observing import Observer
from edgeserve._core.packs import Entry
from edgeserve._core.reasons import reason_of
from edgeserve._core.step import Example, Fate, Job, Outcome
from edgeserve._ports import Outputs
from edgeserve._watch import kind_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_NOTHING: Mapping[str, str] = {}
_MOST_IDS = 100
_SPANS = {
    "BatchCompute": "edgeserve.batch_compute",
    "BatchModel": "edgeserve.batch_model",
    "Compute": "edgeserve.compute",
    "Materialize": "edgeserve.materialize",
    "Model": "edgeserve.model",
    "Worker": "edgeserve.worker",
}
_SOURCE_SPAN = "edgeserve.data_source"

Makes = Callable[..., Entry | Message]
"""What makes an example as the outbox takes it: `Outputs.made`."""


def _is_on() -> bool:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


class _Tracing(Observer):
    """What the two kinds of operators have in common.

    Args:
        name: The operator's.
    """

    def __init__(self, name: str) -> None:
        from opentelemetry import context, propagate, trace

        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer("edgeserve")
        self._name = name
        self._span: Span | None = None

    def _carrier_of(self, span: Span, context: Any) -> Mapping[str, str]:
        """What travels with an example of this span's trace; nothing if it is not sampled."""
        if not span.get_span_context().trace_flags.sampled:
            return _NOTHING
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, context)
        return carrier


class StepTracing(_Tracing):
    """A span for each run of a task, below that of its newest input, linked to those of all its inputs.

    The task runs in it: what it traces itself is below it.

    Args:
        name: The operator's.
        span_name: What its spans are called.
    """

    def __init__(self, name: str, span_name: str) -> None:
        super().__init__(name)
        self._span_name = span_name
        self._token: Any = None
        self._carrier = _NOTHING

    def made_by(self, outputs: Outputs) -> Makes:
        """What makes an output of the last run, with its context."""

        def made(*args: Any, **kwargs: Any) -> Entry | Message:
            return _with_context(outputs.made(*args, **kwargs), self._carrier, outputs)

        return made

    def starts(self, job: Job) -> None:
        """See `Observer`."""
        self._end()  # a batch that is run in parts has a span for each
        self._carrier = _NOTHING
        found = [(example, context) for example in job.examples if (context := self._context_of(example)) is not None]
        if not found:
            return
        parent = max(found, key=lambda each: each[0].capture_ms)[1]
        contexts = [self._trace.get_current_span(context).get_span_context() for _, context in found]
        links = [self._trace.Link(each) for each in contexts] if len(contexts) > 1 else None
        kind = self._trace.SpanKind.CONSUMER
        span = self._tracer.start_span(self._span_name, parent, kind, self._attributes(job), links)
        context = self._trace.set_span_in_context(span, parent)
        self._span, self._carrier = span, self._carrier_of(span, context)
        self._token = self._context.attach(context)

    def ran(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """See `Observer`."""
        if self._span is not None:
            output_ids = [_text(each.output_id) for each in outcomes[:_MOST_IDS] if each.payload is not None]
            self._span.set_attribute("edgeserve.output_ids", output_ids)
        self._end()

    def raised(self, job: Job, error: BaseException) -> None:
        """See `Observer`."""
        if self._span is not None:
            self._span.record_exception(error)
            self._span.set_status(self._trace.StatusCode.ERROR, reason_of(error))
        self._end()

    def _context_of(self, example: Example) -> Any:
        """The context that came with an example; None if none did."""
        parcel = example.parcel
        if parcel is None or parcel.is_pack or not parcel.delivery.properties:
            return None
        context = self._propagate.extract(parcel.delivery.properties)
        return context if self._trace.get_current_span(context).get_span_context().is_valid else None

    def _attributes(self, job: Job) -> dict[str, Any]:
        topics = {each.parcel.delivery.topic for each in job.examples if each.parcel is not None}
        return {
            "edgeserve.operator": self._name,
            "edgeserve.topics": sorted(topics),
            "edgeserve.sources": sorted({each.source for each in job.examples}),
            "edgeserve.input_ids": [_text(each.id) for each in job.examples[:_MOST_IDS]],
        }

    def _end(self) -> None:
        span, self._span = self._span, None
        if span is not None:
            self._context.detach(self._token)
            span.end()


class SourceTracing(_Tracing):
    """A span for each example sent, below whatever span the source is stepped in."""

    def made_by(self, outputs: Outputs) -> Makes:
        """What makes an example, and begins its span."""

        def made(example_id: bytes, *args: Any, **kwargs: Any) -> Entry | Message:
            example = outputs.made(example_id, *args, **kwargs)
            attributes = {
                "edgeserve.operator": self._name,
                "edgeserve.topics": [outputs.topic],
                "edgeserve.output_ids": [_text(example_id)],
            }
            span = self._tracer.start_span(_SOURCE_SPAN, kind=self._trace.SpanKind.PRODUCER, attributes=attributes)
            self._span = span
            return _with_context(example, self._carrier_of(span, self._trace.set_span_in_context(span)), outputs)

        return made

    def sent(
        self, example_id: bytes, capture_ms: int, taken_ms: float, payload: bytes, flow_id: bytes, *, is_url: bool
    ) -> None:
        """See `Observer`."""
        self._end()

    def unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        """See `Observer`."""
        if self._span is not None:
            self._span.set_status(self._trace.StatusCode.ERROR, "it could not be sent")
        self._end()

    def _end(self) -> None:
        span, self._span = self._span, None
        if span is not None:
            span.end()


def step_tracing(operator: Any) -> StepTracing | None:
    """What traces the steps of an operator that receives, if tracing is on."""
    return StepTracing(operator.name, _SPANS.get(kind_of(operator), "edgeserve.step")) if _is_on() else None


def source_tracing(name: str) -> SourceTracing | None:
    """What traces what a source sends, if tracing is on."""
    return SourceTracing(name) if _is_on() else None


def _with_context(made: Entry | Message, carrier: Mapping[str, str], outputs: Outputs) -> Entry | Message:
    if not carrier:
        return made
    message = made if isinstance(made, Message) else message_of(made, outputs.marks)
    return message._replace(properties={**message.properties, **carrier})


def _text(example_id: bytes) -> str:
    return example_id.hex()  # as in the tables of replay logs
