"""Writes a replay log beside the steps: they add records, a thread packs them and writes them to the disk.

A file is a stream of msgpack: a map, the head, then blocks `[checksum, bytes]`, each some hundred records and both
clocks of one moment. The checksum, XXH64 of the bytes, tells a block that was cut off by a crash from a whole one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import msgpack
import xxhash

from edgeserve._core.clock import Clock
from edgeserve._log.folder import LogFiles
from edgeserve._log.records import LOST, SCHEMA, Head
from edgeserve._logging import Seldom, logger

FORMAT = "edgeserve replay log"

_log = logger("log")

# What waits to be written, at most; and how often it is written, so that a disk sees few writes.
_MOST_RECORDS = 65_536
_MOST_FIELDS = 500_000
_MOST_BYTES = 64 * 1024 * 1024
_TOGETHER_S = 0.1
# Packing holds the interpreter, so it is done in slices that a step does not notice.
_BLOCK_RECORDS = 512
_BLOCK_BYTES = 4 * 1024 * 1024
_CLOSE_S = 10.0


def pack_head(head: Head) -> bytes:
    """What a file begins with."""
    packed: bytes = msgpack.packb({"format": FORMAT, "schema": SCHEMA, **asdict(head)})
    return packed


def pack_block(wall_ms: int, steady_ms: float, records: Sequence[Any]) -> bytes:
    """Records as a block, with both clocks of one moment."""
    # What a task raised may quote the name of a file, and those are not always text.
    body = msgpack.packb((wall_ms, steady_ms, records), unicode_errors="backslashreplace")
    packed: bytes = msgpack.packb((xxhash.xxh64_intdigest(body), body))
    return packed


class LogWriter:
    """Takes records and writes them. One thread adds; adding never waits.

    What the disk does not take in time is lost, and counted; the log says where.

    Args:
        files: Where to.
        head: What each file begins with, but for its part.
        clock: The operator's.

    Attributes:
        most_fields: See `Records`.

    Raises:
        OSError: The disk does not take the head.
    """

    most_fields = _MOST_FIELDS

    def __init__(self, files: LogFiles, head: Head, clock: Clock) -> None:
        self._files = files
        self._head = head
        self._clock = clock
        self._records: list[Any] = []
        # Of each of them, where payloads are logged; those waiting are the difference of the two sums.
        self._sizes: list[int] = []
        self._added_bytes = self._written_bytes = 0
        self._many: list[tuple[int, int, list[Any]]] = []
        # What found no room, and what the disk did not take: each since the log said so, and what it says. Two threads
        # count, each its own.
        self._lost = self._lost_said = 0
        self._unwritten = self._unwritten_said = 0
        self._warnings = Seldom(_log)
        self._closing = threading.Event()
        try:
            self._append_head()
        except OSError:
            files.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"edgeserve-log-{head.operator}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many records could not be kept."""
        return self._lost_said + self._lost + self._unwritten_said + self._unwritten

    def add(self, record: Sequence[Any], size: int = 0) -> None:
        """Have a record written. `size`: the bytes of the payloads in it."""
        if len(self._records) >= _MOST_RECORDS or self._added_bytes - self._written_bytes > _MOST_BYTES:
            self._lost += 1
            return
        if self._lost:
            self._say_lost()
        self._append(record, size)

    def _say_lost(self) -> None:
        self._append((LOST, self._lost), 0)
        self._lost_said += self._lost
        self._lost = 0

    def _append(self, record: Sequence[Any], size: int) -> None:
        if self._head.has_payloads:
            self._added_bytes += size
            self._sizes.append(size)
        self._records.append(record)

    def many(self, kind: int, width: int) -> list[Any]:
        """A list for records so frequent that each is nothing but its fields, `width` of them, one after the other.

        Whoever extends it looks first that it is shorter than `most_fields`, and reports what is not added as lost.
        """
        fields: list[Any] = []
        self._many.append((kind, width, fields))
        return fields

    def lose(self) -> None:
        """Count a record that found no room."""
        self._lost += 1

    def _run(self) -> None:
        while not self._closing.wait(_TOGETHER_S):
            self._write_all()
        self._write_all()
        if self._unwritten:
            self._write([], 0)  # there may be room for that
        self._files.close()

    def _write_all(self) -> None:
        # Others append meanwhile, and only append: so what is taken is taken from the front.
        while self._records:
            block = self._records[: self._next_count()]
            del self._records[: len(block)]
            sizes = self._sizes[: len(block)]
            del self._sizes[: len(block)]
            self._write(block, len(block))
            self._written_bytes += sum(sizes)
        for kind, width, fields in self._many:
            while fields:
                some = fields[: _BLOCK_RECORDS * width]
                del fields[: len(some)]
                self._write([(kind, some)], len(some) // width)

    def _next_count(self) -> int:
        """How many records the next block has."""
        size = 0
        for count, each in enumerate(self._sizes[:_BLOCK_RECORDS], 1):
            size += each
            if size > _BLOCK_BYTES:
                return count
        return _BLOCK_RECORDS

    def _write(self, block: list[Any], count: int) -> None:
        """Write a block with so many records, or count them as lost."""
        now = self._clock.now()
        if self._unwritten:
            block = [(LOST, self._unwritten), *block]
        data = pack_block(now.wall_ms, now.steady_ms, block)
        try:
            if self._files.is_full(len(data)):
                self._begin_next()
            if not self._files.size:
                self._append_head()
            self._files.append(data)
        except OSError as error:
            self._unwritten += count
            self._warnings.say(
                "operator %s: its replay log %s loses records: %s", self._head.operator, self._files.path, error
            )
        else:
            self._unwritten_said += self._unwritten
            self._unwritten = 0

    def _append_head(self) -> None:
        self._files.append(pack_head(replace(self._head, part=self._files.part)))

    def _begin_next(self) -> None:
        try:
            self._files.begin_next()
        except OSError as error:
            self._warnings.say(
                "operator %s: its replay log goes on in %s, as there can be no other file: %s",
                self._head.operator,
                self._files.path,
                error,
            )

    def close(self, last: Sequence[Any]) -> None:
        """Write what was added, and a last record, for which there is always room; close the file."""
        if self._lost:
            self._say_lost()
        self._append(last, 0)
        self._closing.set()
        self._thread.join(_CLOSE_S)
        self._warnings.close()
        if self.lost:
            _log.warning("operator %s: its replay log misses %d records", self._head.operator, self.lost)
