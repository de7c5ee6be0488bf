"""The reference: the three roles as an expert writes them with pulsar-client alone.

Sends are asynchronous, and an input is acknowledged when its output is confirmed. For latency nothing is batched; for
throughput the client batches with 1 ms of delay, and receives in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pulsar

from benchmarks.gauges import Cpu, sink_gauge
from benchmarks.spec import Report, Spec, payloads

ONE_BY_ONE = {"block_if_queue_full": True, "max_pending_messages": 1000, "batching_enabled": False}
IN_BATCHES = {
    "block_if_queue_full": True,
    "max_pending_messages": 5000,
    "batching_enabled": True,
    "batching_max_publish_delay_ms": 1,
    "batching_max_messages": 1000,
    "batching_max_allowed_size_in_bytes": 1024 * 1024,
}


def quiet_client(address: str) -> pulsar.Client:
    return pulsar.Client(address, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"))


def run_by_hand(spec: Spec, ready: Callable[[], Cpu]) -> Report:
    client = quiet_client(spec.address)
    report = Report()
    if spec.role == "source":
        producer = client.create_producer(f"{spec.topic}-src", **_sending(spec))
        cpu = ready()
        input()
        for payload in payloads(spec):
            producer.send_async(payload, _sent)
        producer.flush()
    elif spec.role == "compute":
        consumer = _subscribe(client, f"{spec.topic}-src", spec)
        producer = client.create_producer(f"{spec.topic}-dst", **_sending(spec))
        cpu = ready()
        for message in _received(consumer, spec):
            producer.send_async(message.data(), lambda result, sent_id, done=message: consumer.acknowledge(done))
        producer.flush()
    else:
        consumer, gauge = _subscribe(client, f"{spec.topic}-dst", spec), sink_gauge(spec)
        cpu = ready()
        for message in _received(consumer, spec):
            gauge.take(message.data())
            consumer.acknowledge(message)
        gauge.tell(report)
    client.close()
    report.cpu_s = cpu.spent_s()
    return report


def _sending(spec: Spec) -> dict[str, Any]:
    return IN_BATCHES if spec.batching else ONE_BY_ONE


def _sent(result: object, message_id: object) -> None:
    pass


def _subscribe(client: pulsar.Client, topic: str, spec: Spec) -> pulsar.Consumer:
    options: dict[str, Any] = {"initial_position": pulsar.InitialPosition.Earliest}
    if spec.batching:
        # Less interpreter time than a receive() for each message, and the best of the sizes that were tried (100, 200
        # and 1000); it waits 2 ms at most for a full batch.
        options["batch_receive_policy"] = pulsar.ConsumerBatchReceivePolicy(200, -1, 2)
        options["receiver_queue_size"] = 5000
    return client.subscribe(topic, "benchmark", **options)


def _received(consumer: pulsar.Consumer, spec: Spec) -> Iterator[pulsar.Message]:
    """The next `count` messages."""
    left = spec.count
    while left > 0:
        batch = consumer.batch_receive() if spec.batching else [consumer.receive()]
        left -= len(batch)
        yield from batch
