"""A process that consumes, for tests that share a subscription among processes and kill some of them.

It appends what it does to a journal that all workers of a test write, in one order: what it got after it got it, what
it acknowledges before it does so. Run with the name of the worker, and the rest as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from typing import Any

from edgeserve._broker.base import Delivery, Share
from edgeserve._broker.connections import connect
from edgeserve.address import LocalAddress, PulsarAddress


class Journal:
    """One line an event; lines of several processes do not mix."""

    def __init__(self, path: str, worker: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._worker = worker

    def write(self, what: str, **facts: object) -> None:
        os.write(self._file, (json.dumps({"worker": self._worker, "what": what, **facts}) + "\n").encode())


def _set_at_the_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main(worker: str, options: dict[str, Any]) -> None:
    journal = Journal(options["journal"], worker)
    kind = {"local": LocalAddress, "apache": PulsarAddress}[options["broker"]]
    stop = threading.Event()
    # The parent closes our standard input to have us leave in order.
    threading.Thread(target=_set_at_the_end_of_input, args=(stop,), daemon=True).start()
    connection = connect(kind(options["address"]))
    consumer = connection.consumer(
        options["topics"], options["subscription"], Share(options["share"]), options["queue_size"]
    )
    consumer.pause(options["paused"])
    journal.write("ready")
    held: deque[Delivery] = deque()
    was_active = False

    def acknowledge(keep: int) -> None:
        while len(held) > keep:
            done = held.popleft()
            journal.write("acknowledges", id=done.payload.decode(), key=done.key)
            consumer.acknowledge([done])

    while not stop.is_set():
        if consumer.is_active is not was_active:
            was_active = not was_active
            journal.write("active" if was_active else "standby")
        arrived = consumer.receive(50)
        for delivery in arrived:
            journal.write("got", id=delivery.payload.decode(), key=delivery.key, topic=delivery.topic)
            held.append(delivery)
            if options["lag"] is not None:
                acknowledge(options["lag"])
        if not arrived and options["lag"] is not None:
            acknowledge(0)
    journal.write("leaves")
    consumer.close()
    connection.close()
    journal.write("left")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
