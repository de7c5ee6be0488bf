"""Where replay logs are kept, how large they become, and what their files are called."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from edgeserve._core.checks import check_count
from edgeserve.errors import UsageError

_LEAST_FILE_BYTES = 64 * 1024


@dataclass(frozen=True)
class LogFolder:
    """A folder for replay logs, and how much of it one operator's run may fill. Give it as `log_path=`.

    Attributes:
        path: The folder; it is made where there is none.
        max_file_bytes: How large a file becomes; 64 KiB or more. A block of records that is larger has its own.
        max_bytes: How much the files of one run may hold together: beyond it the oldest are removed. What is left can
            be read, but not run again, as a join's past is gone. None: any number.

    Raises:
        UsageError: A value is wrong.
    """

    path: str | os.PathLike[str]
    max_file_bytes: int = 64 * 1024 * 1024
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not str(self.path) or "\0" in str(self.path):
            raise UsageError(f"log_path is {self.path!r}: expected the path of a folder")
        check_count("max_file_bytes", self.max_file_bytes, least=_LEAST_FILE_BYTES)
        if self.max_bytes is not None:
            check_count("max_bytes", self.max_bytes, least=2 * self.max_file_bytes)


LogPath = str | os.PathLike[str] | LogFolder | None
"""What operators take as `log_path=`."""


class LogFiles:
    """The files of one run, of which the last one is written to.

    Args:
        folder: Where they are.
        stem: What their names begin with.
        suffix: What they end with.

    Raises:
        UsageError: There can be no files in the folder, or none of this name.
    """

    def __init__(self, folder: LogFolder, stem: str, suffix: str) -> None:
        if not isinstance(stem, str) or not stem or Path(stem).name != stem or "\0" in stem:
            raise UsageError(f"log_filename is {stem!r}: expected the name of a file, without a folder")
        self._folder = folder
        self._path = Path(folder.path)
        self._stem = stem
        self._suffix = suffix
        self._number = 0
        # Those before, and the last of them until it is closed.
        self._mine: list[tuple[Path, int]] = []
        self._before: FileIO | None = None
        self.is_broken = False
        """Whether the file ends with a part of a block that can't be cut off: what follows it is not read."""
        self.part = 0
        """Which file of the run is written to, from 1."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._file = self._next_file()
        except OSError as error:
            raise UsageError(f"log_path: no log can be written to {self._path}: {error.strerror or error}") from error
        self.size = 0
        """The bytes of that file."""
        self._appended = 0

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return Path(os.fsdecode(self._file.name))

    def _next_file(self) -> FileIO:
        """A new file: `STEM.SUFFIX`, or `STEM.2.SUFFIX` and so on where that is there, from this run or another one."""
        while True:
            self._number += 1
            number = f".{self._number}" if self._number > 1 else ""
            try:
                file = FileIO(self._path / f"{self._stem}{number}{self._suffix}", "xb")
            except FileExistsError:
                continue
            self.part += 1
            return file

    def is_full(self, more: int) -> bool:
        """Whether so many bytes more belong into another file: not if there is nothing but a head in this one."""
        return self.is_broken or (self._appended > 1 and self.size + more > self._folder.max_file_bytes)

    def begin_next(self) -> None:
        """Write to another file from now on; `tidy_up` closes the one before.

        Raises:
            OSError: There can be none. The one that is there is written to as before, unless it is broken.
        """
        following = self._next_file()
        self._mine.append((self.path, self.size))
        self._before, self._file = self._file, following
        self.size, self._appended, self.is_broken = 0, 0, False

    def tidy_up(self) -> None:
        """Close the file before, and remove the oldest ones if they are too large together.

        Raises:
            OSError: One can't be closed, or removed: the next call tries to remove it again.
        """
        failed: OSError | None = None
        before, self._before = self._before, None
        if before is not None:
            try:
                before.close()
            except OSError as error:
                failed = error
        excess = 0
        if self._folder.max_bytes is not None:
            room = self._folder.max_bytes - self._folder.max_file_bytes
            excess = sum(size for _, size in self._mine) - room
        for each in list(self._mine):
            if excess <= 0:
                break
            path, size = each
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failed = error
                continue  # others make room
            self._mine.remove(each)
            excess -= size
        if failed is not None:
            raise failed

    def append(self, data: bytes) -> None:
        """Write all of it, or nothing.

        Raises:
            OSError: As the disk says.
        """
        if self.is_broken:
            raise OSError(errno.EIO, "what was written in part could not be taken back")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            if len(rest) < len(data):
                self._take_back()
            raise
        self.size += len(data)
        self._appended += 1

    def _take_back(self) -> None:
        try:
            self._file.truncate(self.size)
            self._file.seek(self.size)
        except OSError:
            self.is_broken = True

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def stem_of(operator: str, started: str) -> str:
    """What the files of an operator's run begin with, unless the user says it.

    Args:
        operator: Its name, in which anything may be.
        started: When it began, as text.
    """
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', operator).lstrip('.') or '_'}-{started}"
