"""Reads the files of replay logs, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import xxhash

from edgeserve._log.head import SCHEMA, SUFFIXES, Head
from edgeserve._log.writer import FORMAT
from edgeserve.errors import UsageError

_CHUNK_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 31
# Of what is not inside a block: damage may promise a list for which there is no memory.
_LONGEST_LIST = 1 << 16

_LOG_SUFFIXES = frozenset(SUFFIXES.values())


@dataclass(frozen=True)
class Block:
    """Some records, and both clocks of the moment at which they were written.

    Attributes:
        wall_ms: ms since the epoch.
        steady_ms: The same moment, on the steady clock of the records.
        records: Tuples; `KINDS[record[0]](*record)` has their fields by name.
    """

    wall_ms: int
    steady_ms: float
    records: Sequence[tuple[Any, ...]]


class LogFile:
    """One file of a log.

    Args:
        path: The file.

    Attributes:
        path: The file.
        head: What it begins with.
        torn_bytes: How many bytes at its end are no whole block, once it was read to its end: those that were being
            written when the process or the machine died.

        is_gone: Whether it was removed before it was read: a run that goes on does that to its oldest (`max_bytes`).

    Raises:
        FileNotFoundError: There is none.
        UsageError: It is no log, or of a version that this one does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn_bytes = 0
        self.is_gone = False
        self._was_read = False
        with _opened(path) as file, _said(path):
            self.head = _head_of(next(_unpacked(file)[1], None), path)

    def blocks(self) -> Iterator[Block]:
        """Its records, in order. Ends where a block is torn, or is not what was written. None if it is gone.

        Raises:
            UsageError: It can't be read, or was read before and is gone now: it does not say again what it said.
        """
        try:
            opened = _opened(self.path)
        except FileNotFoundError as error:
            if self._was_read:
                raise UsageError(
                    f"{self.path} was removed since it was read (max_bytes): load the log again, or a copy of it"
                ) from error
            self.is_gone = True
            return
        self._was_read = True
        with opened as file, _said(self.path):
            unpacker, values = _unpacked(file)
            next(values)
            whole_bytes = unpacker.tell()
            for value in values:
                block = _block_of(value)
                if block is None:
                    break
                yield block
                whole_bytes = unpacker.tell()
            self.torn_bytes = os.fstat(file.fileno()).st_size - whole_bytes


def _opened(path: Path) -> BinaryIO:
    """A file, to be read.

    Raises:
        FileNotFoundError: There is none.
        UsageError: It can't be read.
    """
    with _said(path):
        return path.open("rb")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say which file it is that can't be read."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error


def _unpacked(file: BinaryIO) -> tuple[Any, Iterator[Any]]:
    """An unpacker of the file, and the values in it; they end where the bytes are no msgpack."""
    unpacker = msgpack.Unpacker(
        file,
        use_list=False,
        read_size=_CHUNK_BYTES,
        max_buffer_size=_LARGEST_BLOCK,
        max_array_len=_LONGEST_LIST,
        strict_map_key=False,
    )

    def values() -> Iterator[Any]:
        try:
            yield from unpacker
        except (TypeError, ValueError, msgpack.UnpackException):
            return

    return unpacker, values()


def _head_of(value: Any, path: Path) -> Head:
    if value is None and _is_log(path):
        raise UsageError(f"{path} was cut off before its first record")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UsageError(f"{path} is no replay log of edgeserve: those of the research prototype can't be read")
    schema = value.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UsageError(f"{path} has schema {schema!r}; this version reads up to {SCHEMA}: install a newer one")
    known = {each.name for each in fields(Head)}
    try:
        return Head(**{name: each for name, each in value.items() if name in known})
    except TypeError as error:
        raise UsageError(f"{path} has a head that is none: {error}") from error


def _block_of(value: Any) -> Block | None:
    try:
        checksum, body = value
        if xxhash.xxh64_intdigest(body) != checksum:
            return None
        return Block(*msgpack.unpackb(body, use_list=False, strict_map_key=False))
    except (TypeError, ValueError, msgpack.UnpackException):
        return None


@dataclass(frozen=True)
class LoggedRun:
    """One run of one operator: its files, in order.

    Attributes:
        head: That of the first of them.
        files: The files.
    """

    head: Head
    files: Sequence[LogFile]

    @property
    def is_from_start(self) -> bool:
        """Whether its first file is there, and all that follow it up to the last."""
        return [file.head.part for file in self.files if not file.is_gone] == list(range(1, len(self.files) + 1))

    def blocks(self) -> Iterator[Block]:
        """Its records, in order."""
        for file in self.files:
            yield from file.blocks()

    @property
    def torn_bytes(self) -> int:
        """How many bytes were torn, as far as the files were read."""
        return sum(file.torn_bytes for file in self.files)


def find_runs(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[LoggedRun]:
    """The runs whose files these are, or which are in these folders and the folders in them; the earliest first.

    Raises:
        UsageError: There is no such file or folder, no log in it, or one that can't be read.
    """
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(each) for each in path]
    found: dict[str, dict[int, LogFile]] = {}
    for file_path in sorted({file.resolve() for each in paths for file in _log_files(each)}):
        try:
            file = LogFile(file_path)
        except FileNotFoundError:
            continue  # a run that is going on has removed it
        found.setdefault(file.head.run, {}).setdefault(file.head.part, file)  # a copy says the same
    if not found:
        raise UsageError(
            f"there is no replay log in {', '.join(map(str, paths))}: expected files that end with "
            f"{', '.join(sorted(_LOG_SUFFIXES))}"
        )
    runs = [[files[part] for part in sorted(files)] for files in found.values()]
    return sorted((LoggedRun(files[0].head, files) for files in runs), key=lambda run: run.head.started_ms)


def _log_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"there is no replay log at {path}: expected a file or a folder")
    found = [each for each in path.rglob("*") if each.suffix in _LOG_SUFFIXES and each.is_file()]
    return [each for each in found if _is_log(each) and _has_head(each)]


def _is_log(path: Path) -> bool:
    """Whether a file in a folder is one of ours: other programs have files that end with `.log`, too."""
    try:
        with _opened(path) as file, _said(path):
            return FORMAT.encode() in file.read(64)
    except FileNotFoundError:
        return False  # a run that is going on has removed it


def _has_head(path: Path) -> bool:
    """Whether it is whole as far as its head: the process may have died as it began the file."""
    try:
        with _opened(path) as file, _said(path):
            return next(_unpacked(file)[1], None) is not None
    except FileNotFoundError:
        return False
