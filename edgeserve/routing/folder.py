"""A folder of this node as a store of payloads: each written whole or not at all, and none reached from outside."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import xxhash

from edgeserve._core.clock import wall_ms
from edgeserve.errors import PayloadNotStored, PayloadUnavailable, UsageError
from edgeserve.routing.retention import Keep, Retention
from edgeserve.routing.store import Write, has_store
from edgeserve.routing.urls import PayloadUrl, parse_payload_url, redacted, written

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SUFFIX = ".payload"
_PART = ".part"
_PIECE_BYTES = 1 << 20


class FolderStore:
    """Keeps payloads in a folder of this node, for others to fetch from under a URL.

    With `url`, some server has to serve the folder there: `FtpServer`, `edgeserve ftp`, or one of your own. Without it,
    the payloads are for the processes of this machine, and their URLs begin with `file://`; a folder in memory, as
    `/dev/shm/NAME` is on Linux, is the fastest. Consumers then name the folder in `Fetching(folders=...)`, for what
    comes off a topic opens no file elsewhere.

    Of what is in the folder only payloads are ever removed, by the ending of their names. Safe to use from several
    threads, and by several processes.

    Args:
        path: The folder; it is made where there is none.
        url: The URL under which others find the folder, like `ftp://camera-node:2121/`; None for this machine alone.
        inside: The folder in it that this store's payloads go to, `cam-1` perhaps; "" for itself.
        keep: How much is kept; None for everything.

    Raises:
        UsageError: The URL or the name of the inner folder is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        url: str | None = None,
        *,
        inside: str = "",
        keep: Keep | None = None,
    ) -> None:
        root = os.path.realpath(path)
        if url is None:
            url = written("file:///", root.split(os.sep)[1:])
        base = f"{url.rstrip('/')}/"
        self._url = f"{base}{inside}/" if inside else base
        try:
            probe = parse_payload_url(f"{self._url}payload")
        except PayloadUnavailable as error:
            given = redacted(self._url)
            raise UsageError(
                f"{given} is none of a folder: {error.reason}; expected one like ftp://camera-node:2121/"
            ) from None
        if not has_store(probe.scheme):
            raise UsageError(
                f"no store opens URLs that begin with {probe.scheme}://: expected ftp://, ftps:// or file://"
            )
        if probe.user is not None or probe.password is not None:
            raise UsageError("url= has a user or a password, which would travel with every message: leave them out")
        self.scheme = probe.scheme
        self._prefix = probe.path[:-1]
        self._folder = os.path.join(root, inside)
        try:
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise UsageError(f"no payloads can be kept in {self._folder}: {error.strerror or error}") from error
        # Names sort by time, and those of two stores that share a folder differ.
        self._numbers = itertools.count()
        self._run = secrets.token_hex(4)
        self._retention = Retention(keep) if keep is not None else None
        if self._retention is not None:
            self._retention.adopt(self._folder, _SUFFIX)

    @property
    def removed(self) -> int:
        """How many payloads were removed to make room, or for their age."""
        return self._retention.removed if self._retention is not None else 0

    def __repr__(self) -> str:
        return f"FolderStore({self._folder!r}, {self._url!r})"

    def put(self, payload: Buffer) -> str:
        """Keep a payload. See `PayloadStore`."""
        content = memoryview(payload).cast("B")
        name = f"{wall_ms():013d}-{next(self._numbers):08d}-{self._run}{_SUFFIX}"
        path = os.path.join(self._folder, name)
        try:
            os.makedirs(self._folder, exist_ok=True)
            with open(f"{path}{_PART}", "xb") as file:
                file.write(content)
            os.replace(f"{path}{_PART}", path)
        except BaseException as error:
            with suppress(OSError):
                os.remove(f"{path}{_PART}")
            if not isinstance(error, OSError):
                raise
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "there is no room left" if is_full else str(error.strerror or error)
            what = f"a payload of {len(content):,} bytes could not be kept in {self._folder}"
            raise PayloadNotStored(f"{what}: {why}") from error
        if self._retention is not None:
            self._retention.add(path, len(content))
        return written(self._url, [name], len(content), xxhash.xxh3_64_hexdigest(content))

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Read one of its payloads. See `PayloadStore`."""
        with open(self._find(url), "rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE_BYTES):
                write(piece)

    def delete(self, url: PayloadUrl) -> None:
        """Remove one of its payloads. See `PayloadStore`."""
        os.remove(self._find(url))

    def close(self) -> None:
        """Do nothing: the payloads stay."""

    def _find(self, url: PayloadUrl) -> str:
        found = find_inside(self._folder, url.path[len(self._prefix) :])
        if found is None or url.path[: len(self._prefix)] != self._prefix:
            raise FileNotFoundError(url.public)
        return found


def find_inside(root: str, path: Sequence[str]) -> str | None:
    """The file at a path in a folder (its real path); None where there is none, or where a link leads out of it."""
    found = os.path.realpath(os.path.join(root, *path))
    return found if lies_in(found, root) and os.path.isfile(found) else None


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is a folder or something in it, also after all links were followed."""
    inside, root = os.path.realpath(path), os.path.realpath(folder)
    return inside == root or inside.startswith(f"{root.rstrip(os.sep)}{os.sep}")
