"""Writes a replay log beside the steps: they add records, a thread packs them and writes them to the disk.

A file is a stream of msgpack: a map, the head, then blocks `[checksum, bytes]`, each some hundred records and both
clocks of one moment. The checksum, XXH64 of the bytes, tells a block that was cut off by a crash from a whole one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import msgpack
import xxhash

from edgeserve._core.clock import Clock
from edgeserve._core.reasons import reason_of
from edgeserve._log.folder import LogFiles
from edgeserve._log.head import SCHEMA, Head
from edgeserve._log.records import LOST
from edgeserve._logging import Seldom, logger

FORMAT = "edgeserve replay log"

_log = logger("log")

RECORD_BYTES = 512
"""About what a record takes in memory, and what is about one example in it."""
EXAMPLE_BYTES = 100
"""About what each example more in it takes: an id and some numbers."""

# What waits to be written, at most; and how often it is written, so that a disk sees few writes.
_MOST_RECORDS = 65_536
_MOST_FIELDS = 500_000
_MOST_BYTES = 64 * 1024 * 1024
_TOGETHER_S = 0.1
# Packing holds the interpreter, so it is done in slices that a step does not notice, of a ms or less.
_BLOCK_RECORDS = 512
_BLOCK_BYTES = 512 * 1024
# How long closing waits for the disk where other things have taken the time for it.
_LEAST_CLOSE_S = 0.5


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
        left_ms: How many ms closing may still take.

    Attributes:
        most_fields: See `Records`.

    Raises:
        OSError: The disk does not take the head.
    """

    most_fields = _MOST_FIELDS

    def __init__(self, files: LogFiles, head: Head, clock: Clock, left_ms: Callable[[], int]) -> None:
        self._files = files
        self._head = head
        self._clock = clock
        self._left_ms = left_ms
        self._records: list[Any] = []
        # About how large each of them is; those waiting are the difference of the two sums.
        self._sizes: list[int] = []
        self._added_bytes = self._written_bytes = 0
        self._many: list[tuple[int, int, list[Any]]] = []
        # What found no room, and what the disk did not take: each since the log said so, and what it says. Two threads
        # count, each its own.
        self._lost = self._lost_said = 0
        self._unwritten = self._unwritten_said = 0
        self._in_hand = 0
        """How many are on their way to the disk just now."""
        self._warnings = Seldom(_log)
        self._closing = threading.Event()
        self._is_closed = False
        try:
            self._append_head()
        except BaseException:
            files.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"edgeserve-log-{head.operator}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many records could not be kept; once it is closed, what still waits for the disk is among them."""
        counted = self._lost_said + self._lost + self._unwritten_said + self._unwritten
        return counted + self._waiting() if self._is_closed else counted

    def _waiting(self) -> int:
        return self._in_hand + len(self._records) + sum(len(fields) // width for _, width, fields in self._many)

    def add(self, record: Sequence[Any], size: int = RECORD_BYTES) -> None:
        """Have a record written. `size`: about how many bytes it takes in memory."""
        records = self._records
        if len(records) >= _MOST_RECORDS or self._added_bytes - self._written_bytes > _MOST_BYTES:
            self._lost += 1
            return
        if self._lost:
            self._say_lost()
        self._added_bytes += size
        self._sizes.append(size)
        records.append(record)

    def _say_lost(self) -> None:
        self._append((LOST, self._lost))
        self._lost_said += self._lost
        self._lost = 0

    def _append(self, record: Sequence[Any]) -> None:
        """Have a record written, whether or not there is room."""
        self._added_bytes += RECORD_BYTES
        self._sizes.append(RECORD_BYTES)
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
        try:
            while not self._closing.wait(_TOGETHER_S):
                self._write_all()
            self._write_all()
            if self._unwritten:
                self._write([], 0)  # there may be room for that
        finally:
            self._end_file()

    def _end_file(self) -> None:
        try:
            self._files.close()
        except OSError as error:
            self._warn("may miss its end", error)

    def _warn(self, what: str, error: Exception) -> None:
        self._warnings.say(
            "operator %s: its replay log %s %s: %s", self._head.operator, self._files.path, what, reason_of(error)
        )

    def _write_all(self) -> None:
        # Others append meanwhile, and only append: so what is taken is taken from the front.
        while self._records:
            block = self._records[: self._next_count()]
            self._in_hand = len(block)
            del self._records[: len(block)]
            sizes = self._sizes[: len(block)]
            del self._sizes[: len(block)]
            self._write(block, len(block))
            self._in_hand = 0
            self._written_bytes += sum(sizes)
        for kind, width, fields in self._many:
            while fields:
                some = fields[: _BLOCK_RECORDS * width]
                self._in_hand = len(some) // width
                del fields[: len(some)]
                self._write([(kind, some)], len(some) // width)
                self._in_hand = 0

    def _next_count(self) -> int:
        """How many records the next block has."""
        size = 0
        for count, each in enumerate(self._sizes[:_BLOCK_RECORDS], 1):
            size += each
            if size > _BLOCK_BYTES:
                return count
        return _BLOCK_RECORDS

    def _write(self, block: list[Any], count: int) -> None:
        """Write a block with so many records, or count them as lost, whatever fails: the next one may not."""
        try:
            now = self._clock.now()
            if self._unwritten:
                block = [(LOST, self._unwritten), *block]
            data = pack_block(now.wall_ms, now.steady_ms, block)
            if self._files.is_full(len(data)):
                self._begin_next()
            if not self._files.size:
                self._append_head()
            self._files.append(data)
        except Exception as error:  # noqa: BLE001 - said and counted
            self._unwritten += count
            self._warn("loses records", error)
        else:
            self._unwritten_said += self._unwritten
            self._unwritten = 0

    def _append_head(self) -> None:
        self._files.append(pack_head(replace(self._head, part=self._files.part)))

    def _begin_next(self) -> None:
        """Go on in another file, or, where there can be none, in the one that is there.

        Raises:
            OSError: There can be no other file, and that one is broken.
        """
        try:
            self._files.begin_next()
        except OSError as error:
            if self._files.is_broken:
                raise
            self._warn("grows, as there can be no other file", error)
            return
        try:
            self._files.tidy_up()
        except OSError as error:
            self._warn("goes on, but the files before it could not be closed or removed", error)

    def close(self, last: Sequence[Any]) -> None:
        """Write what was added, and a last record, for which there is always room; close the file.

        What a disk that stands still has not taken when the time for closing is over counts as lost. It is written
        nevertheless if the disk goes on before the process ends.
        """
        if self._lost:
            self._say_lost()
        self._append(last)
        self._closing.set()
        self._thread.join(max(_LEAST_CLOSE_S, self._left_ms() / 1000))
        self._is_closed = True
        self._warnings.close()
        if lost := self.lost:
            why = ", as the disk does not take them" if self._thread.is_alive() else ""
            _log.warning("operator %s: its replay log misses %d records%s", self._head.operator, lost, why)
