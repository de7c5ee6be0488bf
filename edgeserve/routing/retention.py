"""Which files are removed to keep a folder within its bounds: the oldest, but none that is being sent or read."""

from __future__ import annotations

import os
import stat
import threading
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
        self._files: dict[str, _File] = {}  # the oldest first
        self._bytes = 0
        self.removed = 0
        """How many files were removed."""

    def add(self, path: str, size_bytes: int) -> None:
        """Take on a file that was just written, and remove others for it if need be."""
        with self._lock:
            self._forget(path)
            self._files[path] = _File(wall_ms(), size_bytes, path)
            self._bytes += size_bytes
        self.trim()

    def adopt(self, folder: str, suffix: str = "", exclude: str = "") -> None:
        """Take on the files that an earlier run left in a folder: those whose names end so, but for one name."""
        found = []
        for inside, _, names in os.walk(folder):
            for name in [name for name in names if name.endswith(suffix) and name != exclude]:
                path = os.path.join(inside, name)
                with suppress(OSError):
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode):
                        found.append(_File(int(status.st_mtime * 1000), status.st_size, path))
        with self._lock:
            new = [file for file in found if file.path not in self._files]
            self._files = {file.path: file for file in sorted([*self._files.values(), *new])}
            self._bytes += sum(file.size_bytes for file in new)
        self.trim()

    def trim(self) -> None:
        """Remove what is too old, or too much; what is held stays until the next time."""
        oldest_ms = wall_ms() - self._keep.max_age_ms
        with self._lock:
            held = 0
            for file in list(self._files.values()):
                # The newest stays, however large it is, and whatever else is held.
                is_too_much = self._bytes > self._keep.max_bytes and len(self._files) - held > 1
                if held == _MOST_HELD or not (is_too_much or file.written_ms < oldest_ms):
                    break
                try:
                    is_gone = remove_unless_held(file.path)
                except OSError:
                    self._forget(file.path)  # it can't be removed, and is none of ours then
                    continue
                if is_gone:
                    self._forget(file.path)
                    self.removed += 1
                else:
                    held += 1

    def _forget(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            self._bytes -= file.size_bytes
