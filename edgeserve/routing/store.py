"""What a payload store is, and which one a URL belongs to."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgeserve.errors import PayloadUnavailable, UsageError
from edgeserve.routing.urls import PayloadUrl

if TYPE_CHECKING:
    from typing_extensions import Buffer

Write = Callable[[bytes], object]
"""Takes the next piece of a payload."""


class PayloadStore(Protocol):
    """Keeps payloads, each under a URL. Safe to use from several threads.

    Attributes:
        scheme: What the URLs of its payloads begin with, without `://`.
    """

    scheme: str

    def put(self, payload: Buffer) -> str:
        """Keep a payload and return its URL, with its size and checksum (see `edgeserve.routing.urls`).

        Raises:
            PayloadNotStored: It can't be kept, for lack of room perhaps.
        """

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Pass a payload on in pieces, from byte `start` on; what `write` raises ends it.

        Raises:
            FileNotFoundError: There is none of that URL.
            PermissionError: It may not be had.
            OSError: The store can't be reached, or broke off: it may be tried again.
        """

    def delete(self, url: PayloadUrl) -> None:
        """Remove a payload.

        Raises:
            FileNotFoundError, PermissionError, OSError: As for `fetch`.
        """

    def close(self) -> None:
        """Give up connections."""


def check_store(store: object) -> None:
    """Check an optional store.

    Raises:
        UsageError: It is neither None nor can keep anything.
    """
    if store is not None and (isinstance(store, type) or not callable(getattr(store, "put", None))):
        raise UsageError(f"store is {store!r}: expected a store of payloads, like edgeserve.routing.FolderStore")


OpenStore = Callable[[PayloadUrl, float], PayloadStore]
"""Opens the store that a URL belongs to; no call of it may take longer than so many ms without an answer."""

_openers: dict[str, OpenStore] = {}

# The package's own, by scheme: the module and the name in it, imported when the first URL comes.
_OWN = {
    "ftp": ("ftp", "FtpClient"),
    "ftps": ("ftp", "FtpClient"),
    "redis": ("redis", "RedisStore"),
    "rediss": ("redis", "RedisStore"),
    **dict.fromkeys(("s3", "gs", "az", "abfs"), ("object_store", "ObjectStore")),
}


def register_store(scheme: str, open_store: OpenStore) -> None:
    """Have URLs of a scheme opened by a store of your own, in every operator that is made afterwards.

    Args:
        scheme: What the URLs begin with, without `://`, in lower case.
        open_store: Called with a URL and a time-out in ms; returns the store that the URL belongs to. What it returns
            is used for all URLs with the same host, port and user.

    Raises:
        UsageError: The scheme has a store already.
    """
    if scheme in _OWN or scheme == "file" or _openers.get(scheme, open_store) is not open_store:
        raise UsageError(f"URLs of scheme {scheme!r} have a store already")
    _openers[scheme] = open_store


def is_registered(scheme: str) -> bool:
    """Whether a store of the user's own opens URLs of this scheme."""
    return scheme in _openers


def has_store(scheme: str | None) -> bool:
    """Whether URLs of this scheme can be opened."""
    return scheme in _openers or scheme in _OWN or scheme == "file"


def _opener(scheme: str) -> OpenStore | None:
    if scheme not in _OWN:
        return _openers.get(scheme)
    module, name = _OWN[scheme]
    opener: OpenStore = getattr(importlib.import_module(f"edgeserve.routing.{module}"), name)
    return opener


class Stores:
    """The stores that one operator has open."""

    def __init__(self, timeout_ms: float) -> None:
        self._timeout_ms = timeout_ms
        self._lock = threading.Lock()
        self._open: dict[object, PayloadStore] = {}

    def of(self, url: PayloadUrl) -> PayloadStore:
        """The store that a URL belongs to.

        Raises:
            PayloadUnavailable: No store is registered for its scheme.
            MissingExtra: The store needs a package that is not installed.
        """
        store = self._open.get(url.store)
        if store is not None:
            return store
        opener = _opener(url.scheme)
        if opener is None:
            known = ", ".join(sorted({*_OWN, *_openers, "file"}))
            raise PayloadUnavailable(url.public, f"no store is registered for its scheme; there are {known}")
        made = opener(url, self._timeout_ms)  # without the lock, for it may wait
        with self._lock:
            store = self._open.setdefault(url.store, made)
        if store is not made:
            made.close()
        return store

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            stores, self._open = list(self._open.values()), {}
        for store in stores:
            store.close()
