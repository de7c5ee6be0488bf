"""Payloads that are on this machine already, and are read where they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from edgeserve.errors import PayloadUnavailable
from edgeserve.routing.folder import find_inside
from edgeserve.routing.urls import PayloadUrl

# What a URL without a port means.
_FTP_PORTS = (None, 21)


class ThisHost:
    """Finds payloads among the files of this machine, and nothing else among them.

    Args:
        root: The folder that this node's FTP server serves.
        folders: Further folders in which `file://` URLs may lie.
    """

    def __init__(self, root: str, folders: Sequence[str]) -> None:
        self._root = root
        self._folders = [root, *map(os.path.realpath, folders)]

    def find(self, url: PayloadUrl) -> str | None:
        """The payload's file; None if it is elsewhere.

        Raises:
            PayloadUnavailable: It is a file that is not there, or that may not be read.
        """
        if url.scheme == "file":
            return self._of_file_url(url)
        if url.scheme not in ("ftp", "ftps") or not is_this_host(url.host):
            return None
        found = find_inside(self._root, url.path)
        if found is None:
            return None
        if url.size_bytes is None:
            # Without a size to compare, another server of this machine may mean another file.
            return found if url.port in _FTP_PORTS else None
        return found if _size_bytes(found) == url.size_bytes else None

    def _of_file_url(self, url: PayloadUrl) -> str:
        for folder in self._folders:
            inside = os.path.relpath(os.path.join(os.sep, *url.path), folder).split(os.sep)
            found = find_inside(folder, inside) if inside[0] != os.pardir else None
            if found is not None and url.size_bytes in (None, _size_bytes(found)):
                return found
        raise PayloadUnavailable(
            url.public,
            f"it is not there as its URL says, or in none of the folders that may be read, {', '.join(self._folders)} "
            "(Fetching(folders=...) names others)",
        )


def _size_bytes(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:  # retention was faster
        return None


def is_this_host(host: str) -> bool:
    """Whether a name, in lower case, or an address is this machine's."""
    return host in ("localhost", "127.0.0.1", "::1") or host in _own_names()


@lru_cache(maxsize=1)
def _own_names() -> frozenset[str]:
    name = socket.gethostname()
    found = {name.lower(), socket.getfqdn().lower()}
    with suppress(OSError):
        found.update(str(entry[4][0]) for entry in socket.getaddrinfo(name, None))
    return frozenset(found)
