"""The roles of a two-model cascade, with edgeserve and as an expert writes them with pulsar-client.

The cheap model is sure of all but every `UNSURE_OF`th flow; both models cost nothing. By hand, the topics that are
shared by key are sent to without batches, which would mix keys, and the answers in batches when throughput counts.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pulsar

from benchmarks.by_hand import IN_BATCHES, ONE_BY_ONE, quiet_client
from benchmarks.gauges import Cpu, Latencies, Rate
from benchmarks.spec import Report, Spec

UNSURE_OF = 5
ROLES = ("flows", "cheap", "dear", "answers")

_MADE = struct.Struct("<qq")
_FLOW_BYTES = 32
_MOST_WAITING = 20_000


def flows(spec: Spec) -> Iterator[bytes]:
    """Payloads that say when they were made, and which flow they are of."""
    filler = bytes(spec.size_bytes - _MADE.size)
    start_ns = time.monotonic_ns()
    for number in range(spec.count):
        if spec.rate is not None:
            due_ns = start_ns + int(number / spec.rate * 1e9)
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                time.sleep(left_ns / 1e9)
        yield _MADE.pack(time.monotonic_ns(), number) + filler


def number_of(payload: bytes) -> int:
    return int(_MADE.unpack_from(payload)[1])


def is_sure_of(payload: bytes) -> bool:
    return number_of(payload) % UNSURE_OF != 0


class Answers:
    """What the last role notes: the rate of all answers, or the latencies of those that the cheap model gave."""

    def __init__(self, spec: Spec) -> None:
        self._gauge = Latencies(spec.count) if spec.wants_latencies else Rate(spec.count)
        self._left = spec.count

    def take(self, payload: bytes) -> bool:
        """Take one answer. Whether it was the last."""
        self._left -= 1
        if isinstance(self._gauge, Rate) or is_sure_of(payload):
            self._gauge.take(payload)
        return self._left == 0

    def tell(self, report: Report) -> None:
        self._gauge.tell(report)


def run_edgeserve(spec: Spec, ready: Callable[[], Cpu]) -> Report:
    from edgeserve import DataSource, Materialize, Model

    report, topic = Report(), spec.topic
    packing = True if spec.packing else None
    numbers = itertools.count()
    if spec.role == "flows":
        with DataSource(
            flows(spec), spec.address, "src", topic=f"{topic}-data", flow_id=lambda _: next(numbers), packing=packing
        ) as source:
            cpu = ready()
            input()
            for _ in source:
                pass
    elif spec.role == "answers":
        answers = Answers(spec)
        with Materialize(answers.take, spec.address, topic=f"{topic}-out") as sink:
            cpu = ready()
            for is_last in sink:
                if is_last:
                    break
        answers.tell(report)
    else:
        is_cheap = spec.role == "cheap"

        def cheap(data: bytes) -> tuple[bool, bytes | None]:
            return (True, data) if is_sure_of(data) else (False, None)

        def dear(data: bytes, signal: bytes) -> tuple[bool, bytes]:
            return True, data

        with Model(
            cheap if is_cheap else dear,
            spec.address,
            f"{topic}-data",
            f"{topic}-out",
            None if is_cheap else f"{topic}-asks",
            f"{topic}-asks" if is_cheap else None,
            model_id=spec.role,
            packing=packing,
        ) as model:
            cpu = ready()
            left = spec.count if is_cheap else -(-spec.count // UNSURE_OF)
            for sent in model:
                left -= sent is not None
                if not left:
                    break
    report.cpu_s = cpu.spent_s()
    return report


def run_by_hand(spec: Spec, ready: Callable[[], Cpu]) -> Report:
    client = quiet_client(spec.address)
    report, topic = Report(), spec.topic
    shared = {"consumer_type": pulsar.ConsumerType.KeyShared}
    answering = IN_BATCHES if spec.batching else ONE_BY_ONE
    keyed = {**ONE_BY_ONE, "max_pending_messages": 5000}
    if spec.role == "flows":
        producer = client.create_producer(f"{topic}-data", **keyed)
        cpu = ready()
        input()
        for number, payload in enumerate(flows(spec)):
            key = str(number)
            producer.send_async(key.encode().ljust(_FLOW_BYTES, b"\0") + payload, _sent, partition_key=key)
        producer.flush()
    elif spec.role == "cheap":
        consumer = _subscribe(client, [f"{topic}-data"], spec, **shared)
        destination = client.create_producer(f"{topic}-out", **answering)
        asks = client.create_producer(f"{topic}-asks", **keyed)
        cpu = ready()
        for message in _received(consumer, spec, spec.count):
            content = message.data()
            acknowledge = _acknowledging(consumer, message)
            if is_sure_of(content[_FLOW_BYTES:]):
                destination.send_async(content, acknowledge)
            else:
                asks.send_async(content[:_FLOW_BYTES], acknowledge, partition_key=message.partition_key())
        destination.flush()
        asks.flush()
    elif spec.role == "dear":
        _dear_by_hand(client, spec, answering, shared, lambda: cpus.append(ready()))
        cpu = cpus.pop()
    else:
        consumer, answers = _subscribe(client, [f"{topic}-out"], spec), Answers(spec)
        cpu = ready()
        for message in _received(consumer, spec, spec.count):
            answers.take(message.data()[_FLOW_BYTES:])
            consumer.acknowledge(message)
        answers.tell(report)
    client.close()
    report.cpu_s = cpu.spent_s()
    return report


cpus: list[Cpu] = []


def _dear_by_hand(
    client: pulsar.Client, spec: Spec, answering: dict[str, Any], shared: dict[str, Any], started: Callable[[], None]
) -> None:
    """Data waits for its signal by key; the oldest makes room."""
    topic = spec.topic
    consumer = _subscribe(client, [f"{topic}-data", f"{topic}-asks"], spec, **shared)
    destination = client.create_producer(f"{topic}-out", **answering)
    started()
    waiting: OrderedDict[bytes, pulsar.Message] = OrderedDict()
    asked: dict[bytes, pulsar.Message] = {}
    left = -(-spec.count // UNSURE_OF)

    def answer(data: pulsar.Message, signal: pulsar.Message) -> None:
        def done(result: object, sent_id: object) -> None:
            consumer.acknowledge(data)
            consumer.acknowledge(signal)

        destination.send_async(data.data(), done)

    for message in _received(consumer, spec, None):
        content = message.data()
        flow = content[:_FLOW_BYTES]
        if len(content) == _FLOW_BYTES:
            data = waiting.pop(flow, None)
            if data is None:
                asked[flow] = message
                continue
            answer(data, message)
        else:
            signal = asked.pop(flow, None)
            if signal is None:
                waiting[flow] = message
                if len(waiting) > _MOST_WAITING:
                    consumer.acknowledge(waiting.popitem(last=False)[1])
                continue
            answer(message, signal)
        left -= 1
        if not left:
            break
    destination.flush()


def _sent(result: object, message_id: object) -> None:
    pass


def _acknowledging(consumer: pulsar.Consumer, message: pulsar.Message) -> Callable[[object, object], None]:
    return lambda result, message_id: consumer.acknowledge(message)


def _subscribe(client: pulsar.Client, topics: list[str], spec: Spec, **options: Any) -> pulsar.Consumer:
    if spec.batching:
        options["batch_receive_policy"] = pulsar.ConsumerBatchReceivePolicy(200, -1, 2)
        options["receiver_queue_size"] = 5000
    return client.subscribe(
        topics if len(topics) > 1 else topics[0],
        f"benchmark-{spec.role}",
        initial_position=pulsar.InitialPosition.Earliest,
        **options,
    )


def _received(consumer: pulsar.Consumer, spec: Spec, count: int | None) -> Iterator[pulsar.Message]:
    """The next `count` messages; None: for ever."""
    taken = 0
    while count is None or taken < count:
        batch = consumer.batch_receive() if spec.batching else [consumer.receive()]
        taken += len(batch)
        yield from batch
