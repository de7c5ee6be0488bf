"""One payload on its way here: where its bytes go, what its URL says they are, and what happens when it breaks off."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Protocol

import xxhash

from edgeserve.errors import PayloadUnavailable
from edgeserve.routing.store import PayloadStore, Write
from edgeserve.routing.urls import PayloadUrl


class Refused(Exception):
    """A target does not take a piece: there are too many, or there is no room for it."""


class Target(ABC):
    """Takes a payload piece by piece; a transfer that broke off goes on at `size_bytes`.

    Args:
        url: The payload's.
        max_bytes: The largest payload that is taken.
    """

    def __init__(self, url: PayloadUrl, max_bytes: int) -> None:
        self._url = url
        self._most_bytes = max_bytes if url.size_bytes is None else url.size_bytes
        self._checksum = xxhash.xxh3_64() if url.checksum is not None else None
        self.size_bytes = 0

    def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            Refused: It is more than there may be, or can't be kept.
        """
        if self.size_bytes + len(piece) > self._most_bytes:
            raise Refused(f"there is more of it than {self._most_bytes:,} bytes")
        try:
            self._take(piece)
        except OSError as error:
            raise Refused(f"it can't be kept: {error.strerror or error}") from error
        self.size_bytes += len(piece)
        if self._checksum is not None:
            self._checksum.update(piece)

    @property
    def is_short(self) -> bool:
        """Whether some of it is missing."""
        return self._url.size_bytes is not None and self.size_bytes < self._url.size_bytes

    @property
    def is_right(self) -> bool:
        """Whether the whole of it is what the URL says; a URL that says nothing is believed."""
        return self._checksum is None or self._checksum.hexdigest() == self._url.checksum

    def reset(self) -> None:
        """Begin again."""
        self.size_bytes = 0
        if self._checksum is not None:
            self._checksum.reset()
        self._clear()

    @abstractmethod
    def _take(self, piece: bytes) -> None:
        """Keep a piece."""

    @abstractmethod
    def _clear(self) -> None:
        """Forget all pieces."""

    @abstractmethod
    def result(self) -> bytes | str:
        """The payload, whole."""

    def discard(self) -> None:
        """Give it up."""
        self._clear()


class InMemory(Target):
    """Becomes the payload's bytes."""

    def __init__(self, url: PayloadUrl, max_bytes: int) -> None:
        super().__init__(url, max_bytes)
        self._pieces: list[bytes] = []

    def _take(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def _clear(self) -> None:
        self._pieces.clear()

    def result(self) -> bytes:
        """The payload's bytes."""
        return b"".join(self._pieces)


class InFile(Target):
    """Becomes a file, which appears under its name when it is whole.

    Args:
        path: That name, in a folder that is there.

    Raises:
        OSError: The file can't be made.
    """

    def __init__(self, url: PayloadUrl, max_bytes: int, path: str) -> None:
        super().__init__(url, max_bytes)
        self._path = path
        self._part = f"{path}.{os.urandom(4).hex()}.part"
        self._file = open(self._part, "xb")  # noqa: SIM115 - closed by `result` or `discard`

    def _take(self, piece: bytes) -> None:
        self._file.write(piece)

    def _clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def result(self) -> str:
        """The file's path."""
        self._file.close()
        os.replace(self._part, self._path)
        return self._path

    def discard(self) -> None:
        """Remove what there is of the file."""
        with suppress(OSError):  # what could not be written is written once more, in vain
            self._file.close()
        with suppress(OSError):
            os.remove(self._part)


class Watch(Protocol):
    """Whoever waits for a transfer."""

    def check(self) -> None:
        """Raise if nobody waits any more."""

    def pause(self) -> None:
        """Wait before another try; raise if nobody waits any more."""


def bring(url: PayloadUrl, target: Target, store: PayloadStore, max_retries: int, watch: Watch) -> None:
    """Bring a payload here, going on where it broke off.

    Raises:
        PayloadUnavailable: It can't be had.
    """

    def write(piece: bytes) -> None:
        watch.check()
        target.write(piece)

    has_begun_again = False
    tries = 1
    while True:
        start = target.size_bytes
        why = _fetched(url, store, write, start)
        if why is not None and url.checksum is not None and not target.is_short and target.is_right:
            return  # it broke off after the last byte
        if why is None and target.is_short:
            why = f"{target.size_bytes:,} bytes came of the {url.size_bytes:,} that its URL says"
        if why is None:
            if target.is_right:
                return
            # What was fetched last may be of another file than what was fetched before it broke off.
            if has_begun_again or start == 0:
                raise PayloadUnavailable(url.public, "its bytes are not those that its URL was made for")
            has_begun_again = True
            target.reset()
            continue
        if tries > max_retries:
            raise PayloadUnavailable(url.public, f"{why} (tried {tries} times)")
        tries += 1
        watch.pause()


def _fetched(url: PayloadUrl, store: PayloadStore, write: Write, start: int) -> str | None:
    """Fetch what is missing. Why it broke off, where another try may go on; None if it did not.

    Raises:
        PayloadUnavailable: Another try would meet the same.
    """
    try:
        store.fetch(url, write, start)
    except Refused as error:
        raise PayloadUnavailable(url.public, str(error)) from error
    except FileNotFoundError as error:
        raise PayloadUnavailable(url.public, "it is gone, or never was there") from error
    except PermissionError as error:
        raise PayloadUnavailable(url.public, f"its store refuses it: {shown(error)}") from error
    except OSError as error:
        return shown(error)
    return None


def shown(error: Exception) -> str:
    """What a store said, without what could be a password in it, and not more than a line."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ascii(re.sub(r"//\S*@", "//", text)[:200])[1:-1]
