"""The three roles of a pipeline as processes of their own: with edgeserve, and by hand with pulsar-client.

    python -m benchmarks.roles KIND ROLE ADDRESS TOPIC COUNT SIZE RATE

KIND is `edgeserve` or `hand`, ROLE `source`, `compute` or `sink`. A role prints `ready` when it is connected; the
source waits for a line on its input before it sends. The sink prints its latencies in ms, as JSON, when it has seen
COUNT messages. A payload begins with the monotonic time at which it was made, which is the same clock in every
process of a machine.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator

STAMP = struct.Struct("<q")


def payloads(count: int, size: int, rate: float) -> Iterator[bytes]:
    """`count` payloads of `size` bytes, `rate` of them each second; the pace does not drift."""
    filler = bytes(size - STAMP.size)
    start_ns = time.monotonic_ns()
    for number in range(count):
        due_ns = start_ns + int(number / rate * 1e9)
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        yield STAMP.pack(time.monotonic_ns()) + filler


class Latencies:
    """Collects how long payloads were under way."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken_ms: list[float] = []

    def take(self, payload: bytes) -> bool:
        """Take one payload. Whether it was the last."""
        self.taken_ms.append((time.monotonic_ns() - STAMP.unpack_from(payload)[0]) / 1e6)
        return len(self.taken_ms) == self.count


def ready() -> None:
    print("ready", flush=True)


def identity(source: bytes) -> bytes:
    return source


def run_edgeserve(role: str, address: str, topic: str, count: int, size: int, rate: float) -> None:
    from edgeserve import Compute, DataSource, Materialize

    if role == "source":
        with DataSource(payloads(count, size, rate), address, "source", topic=f"{topic}-src") as source:
            ready()
            input()
            for _ in source:
                pass
    elif role == "compute":
        with Compute(identity, address, topic_in=f"{topic}-src", topic_out=f"{topic}-dst") as compute:
            ready()
            while compute.stats.sent < count:
                next(compute)
    else:
        latencies = Latencies(count)
        with Materialize(latencies.take, address, topic=f"{topic}-dst") as sink:
            ready()
            while not next(sink):
                pass
        print(json.dumps(latencies.taken_ms))


def run_by_hand(role: str, address: str, topic: str, count: int, size: int, rate: float) -> None:
    """What an expert writes: asynchronous sends, an input acknowledged when its output is confirmed, no batching."""
    import pulsar

    client = pulsar.Client(address, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"))
    options = {"block_if_queue_full": True, "max_pending_messages": 1000, "batching_enabled": False}

    def subscribe(name: str) -> pulsar.Consumer:
        return client.subscribe(name, "benchmark", initial_position=pulsar.InitialPosition.Earliest)

    if role == "source":
        producer = client.create_producer(f"{topic}-src", **options)
        ready()
        input()
        for payload in payloads(count, size, rate):
            producer.send_async(payload, lambda result, message_id: None)
        producer.flush()
    elif role == "compute":
        consumer, producer = subscribe(f"{topic}-src"), client.create_producer(f"{topic}-dst", **options)
        ready()
        for _ in range(count):
            message = consumer.receive()
            producer.send_async(
                identity(message.data()), lambda result, sent_id, done=message: consumer.acknowledge(done)
            )
        producer.flush()
    else:
        consumer, latencies = subscribe(f"{topic}-dst"), Latencies(count)
        ready()
        while True:
            message = consumer.receive()
            is_last = latencies.take(message.data())
            consumer.acknowledge(message)
            if is_last:
                break
        print(json.dumps(latencies.taken_ms))
    client.close()


def main() -> None:
    kind, role, address, topic, count, size, rate = sys.argv[1:]
    {"edgeserve": run_edgeserve, "hand": run_by_hand}[kind](role, address, topic, int(count), int(size), float(rate))


if __name__ == "__main__":
    main()
