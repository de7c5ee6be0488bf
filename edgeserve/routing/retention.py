"""Which files are removed to keep a folder within its bounds: the oldest, but none that is being sent or read."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import wall_ms
from edgeserve.routing.locks import remove_unless_held

_HOUR_MS = 3_600_000
# A look at so many files that are held is enough for once.
_MOST_HELD = 100


@dataclass(frozen=True)
class Keep:
    """How much is kept; beyond it the oldest payloads go, but never one that is being sent or read.

    Attributes:
        max_bytes: At most so many bytes of payloads.
        max_age_ms: No longer than this after they were written.
    """

    max_bytes: int = 10 << 30
    max_age_ms: int = 24 * _HOUR_MS

    def __post_init__(self) -> None:
        check_count("max_bytes", self.max_bytes)
        check_ms("max_age_ms", self.max_age_ms)


class _File(NamedTuple):
    written_ms: int
    size_bytes: int
    path: str


class Retention:
    """Removes the oldest of the files that it was told of. Safe to use from several threads."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._files: deque[_File] = deque()
        self._bytes = 0
        self.removed = 0
        """How many files were removed."""

    def add(self, path: str, size_bytes: int) -> None:
        """Take on a file that was just written, and remove others for it if need be."""
        with self._lock:
            self._files.append(_File(wall_ms(), size_bytes, path))
            self._bytes += size_bytes
        self.trim()

    def adopt(self, folder: str, suffix: str = "") -> None:
        """Take on the files that an earlier run left in a folder, those whose names end so."""
        found = []
        for inside, _, names in os.walk(folder):
            for name in [name for name in names if name.endswith(suffix)]:
                path = os.path.join(inside, name)
                with suppress(OSError):
                    status = os.lstat(path)
                    found.append(_File(int(status.st_mtime * 1000), status.st_size, path))
        with self._lock:
            self._files = deque(sorted([*self._files, *found]))
            self._bytes += sum(file.size_bytes for file in found)
        self.trim()

    def trim(self) -> None:
        """Remove what is too old, or too much; what is held stays until the next time."""
        oldest_ms = wall_ms() - self._keep.max_age_ms
        held: list[_File] = []
        with self._lock:
            while self._files:
                # The newest stays, however large it is, and whatever else is held.
                is_too_much = self._bytes > self._keep.max_bytes and len(self._files) > 1
                if not is_too_much and self._files[0].written_ms >= oldest_ms:
                    break
                file = self._files.popleft()
                try:
                    is_gone = remove_unless_held(file.path)
                except OSError:
                    is_gone = True  # it is none of ours any more
                if is_gone:
                    self._bytes -= file.size_bytes
                    self.removed += 1
                else:
                    held.append(file)
                    if len(held) == _MOST_HELD:
                        break
            self._files.extendleft(reversed(held))
