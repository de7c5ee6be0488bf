"""The one thread of a connection that writes messages: whatever has queued up goes into one transaction."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Sequence

from edgeserve._broker.local.folder import Folder
from edgeserve._broker.local.producer import LocalProducer
from edgeserve._broker.local.session import Session
from edgeserve._broker.local.topic import Row, Topic, bytes_of
from edgeserve._core.clock import steady_ms
from edgeserve._logging import Seldom, logger
from edgeserve.errors import DeliveryError

_log = logger("broker.local")

_MOST_FILES = 64
_RETRY_MS = 20
# How often a writer that waits for room looks whether somebody died before it could trim, and says that it waits.
_TRIM_MS = 1_000
_WARN_MS = 60_000


class Writer:
    """Writes for all producers of a connection."""

    def __init__(self, folder: Folder) -> None:
        self.address = folder.address
        self._folder = folder
        self._session = Session(_MOST_FILES)
        self._ready: queue.SimpleQueue[LocalProducer | None] = queue.SimpleQueue()
        self._blocked: dict[LocalProducer, None] = {}
        self._retry_ms = 0.0
        self._trimmed_ms: dict[str, float] = {}
        self._full: dict[str, Seldom] = {}
        self._producers: set[LocalProducer] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def producer(self, topic: str) -> LocalProducer:
        """A new producer; the topic is made if need be."""
        with self._session:
            self._folder.topic(self._session, topic).make()
        producer = LocalProducer(self, topic)
        with self._lock:
            self._producers.add(producer)
        return producer

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child's copy."""
        return self._session.is_inherited

    def schedule(self, producer: LocalProducer) -> None:
        """Have the producer's messages written soon."""
        self._ready.put(producer)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="edgeserve-local-writer", daemon=True)
                    self._thread.start()

    def forget(self, producer: LocalProducer) -> None:
        """The producer is closed."""
        with self._lock:
            self._producers.discard(producer)

    def close(self, timeout_ms: int) -> None:
        """Close all producers, within `timeout_ms` together, then the thread."""
        give_up_ms = steady_ms() + timeout_ms
        for producer in list(self._producers):
            producer.close(max(0, int(give_up_ms - steady_ms())))
        self._ready.put(None)
        if self._thread is not None:
            self._thread.join()
        self._session.close()

    def _run(self) -> None:
        while True:
            try:
                producer = self._ready.get(timeout=_RETRY_MS / 1000 if self._blocked else None)
            except queue.Empty:
                pass
            else:
                if producer is None:
                    return
                self._write(producer)
            if self._blocked and steady_ms() >= self._retry_ms:
                blocked, self._blocked = self._blocked, {}
                for producer in blocked:
                    self._write(producer)
                self._retry_ms = steady_ms() + _RETRY_MS

    def _write(self, producer: LocalProducer) -> None:
        """Write one batch of a producer's, or note that its topic is full."""
        rows = batch = producer.batch()
        error: DeliveryError | None = None
        try:
            with self._session:
                topic = self._folder.topic(self._session, producer.topic)
                rows = self._what_fits(batch, topic)
                if rows:
                    topic.append(rows)
        except Exception as cause:  # noqa: BLE001 - whatever it is, the sender is told, and the next batch is tried
            self._session.close()
            why = self._folder.explain(cause)
            error = DeliveryError(f"not stored in topic {producer.topic!r}: {why}", self.address)
            error.__cause__ = cause
        producer.is_blocked = bool(batch) and not rows
        if producer.is_blocked:
            self._blocked[producer] = None
        elif producer.has_sent(len(rows), error):
            self._ready.put(producer)

    def _what_fits(self, rows: Sequence[Row], topic: Topic) -> Sequence[Row]:
        """As many as the cap on the topic leaves room for; a message that is alone may be larger than the cap."""
        limit_bytes = self._folder.max_topic_bytes
        if topic.file_bytes() + sum(map(bytes_of, rows)) <= limit_bytes:
            return rows
        used_bytes = topic.used_bytes()
        is_empty = used_bytes == 0
        for count, row in enumerate(rows):
            used_bytes += bytes_of(row)
            if used_bytes > limit_bytes and (count > 0 or not is_empty):
                if count == 0:
                    self._wait_for_room(topic)
                return rows[:count]
        return rows

    def _wait_for_room(self, topic: Topic) -> None:
        now_ms = steady_ms()
        if now_ms - self._trimmed_ms.get(topic.name, -math.inf) >= _TRIM_MS:
            self._trimmed_ms[topic.name] = now_ms
            self._folder.trim_for_all(self._session, topic)
            if topic.used_bytes() < self._folder.max_topic_bytes:
                return
        full = self._full.setdefault(topic.name, Seldom(_log))
        if full.is_due:
            behind = topic.behind()
            full.say(
                "topic %r at %s holds its limit of %s bytes, and sends wait: %s",
                topic.name,
                self.address,
                f"{self._folder.max_topic_bytes:,}",
                f"not acknowledged by {', '.join(map(repr, behind))}" if behind else "no subscription reads it",
            )
