"""Lazy data routing as an operator does it: which of its inputs are fetched, when, and what is deleted afterwards."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeserve._core.checks import check_count
from edgeserve._core.ledger import FetchStats
from edgeserve._core.step import Example, Parcel, said_bytes
from edgeserve.errors import UsageError
from edgeserve.gates import array_out
from edgeserve.message_format import whole_bytes
from edgeserve.routing.fetching import Fetcher, Fetching
from edgeserve.routing.folder import FolderStore, lies_in
from edgeserve.routing.store import PayloadStore, check_store, has_store
from edgeserve.routing.urls import scheme_of
from edgeserve.util import local_to_global_path

DEFAULT_FTP_PATH = "/srv/ftp/"


@dataclass(frozen=True)
class RoutePolicy:
    """What the prototype's flags, and the options since, come to.

    Attributes:
        wants_urls: Whether what is a URL by its looks is fetched, also where its sender did not mark it.
        in_memory: Whether the task gets the payload's bytes, or the path of a file.
        deletes: Whether a payload is deleted where it is kept when its example was used.
        root: The folder of this node's own payloads, and of what is fetched into files.
        fetching: How payloads are fetched.
        prefetch: How many payloads are fetched ahead.
        remembers: Whether what was fetched may serve another use of the same URL.
        limit_ms: How long a payload may take in all; None: for as long as its store is not silent.
    """

    wants_urls: bool
    in_memory: bool
    deletes: bool
    root: str
    fetching: Fetching
    prefetch: int
    remembers: bool = True
    limit_ms: float | None = None

    @classmethod
    def from_flags(
        cls, *, ftp: bool, memory: bool, delete: bool, root: str, fetching: Fetching | None, prefetch: int = 0
    ) -> RoutePolicy:
        """Sort an operator's arguments.

        Raises:
            UsageError: One is none.
        """
        if not isinstance(root, str) or not root:
            raise UsageError(f"local_ftp_path is {root!r}: expected the path of a folder")
        if fetching is not None and not isinstance(fetching, Fetching):
            raise UsageError(f"fetching is {fetching!r}: expected a Fetching")
        if prefetch:
            check_count("prefetch", prefetch)
        in_memory = memory or not ftp
        return cls(ftp, in_memory, delete, root, fetching if fetching is not None else Fetching(), prefetch)


class Route:
    """Fetches what one operator's inputs stand for. Its fetcher is made when the first URL comes."""

    def __init__(self, policy: RoutePolicy) -> None:
        self.policy = policy
        self._fetcher: Fetcher | None = None
        self._used_bytes = 0

    def url_of(self, example: Example) -> str | None:
        """The URL to fetch for the task, if what the gate has made of the example is one."""
        if not (example.is_url or self.policy.wants_urls):
            return None
        scheme = scheme_of(example.value)
        if scheme is None or not (example.is_url or has_store(scheme)):
            return None
        value = example.value
        return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")

    def fetch(self, urls: Sequence[str]) -> Sequence[Any]:
        """The payloads of some URLs, in their order.

        Raises:
            PayloadUnavailable: One can't be had.
        """
        return self._made().fetch(urls)

    def handed_out(self, example: Example, url: str, payload: Any) -> None:
        """Note that a payload was given to the task."""
        if example.fetched_from is None and example.is_url:
            self._used_bytes += said_bytes(example.data)
        example.fetched_from = url
        example.path = payload if isinstance(payload, str) else None

    def used(self, examples: Sequence[Example]) -> None:
        """Note that a task has used examples, whose payloads may be deleted then, if that was asked for.

        Before what was made of them is sent: its confirmation may acknowledge them at any time.
        """
        if self.policy.deletes:
            for example in examples:
                if example.fetched_from is not None and example.parcel is not None:
                    example.parcel.used_urls = {*(example.parcel.used_urls or ()), example.fetched_from}

    def unused(self, examples: Sequence[Example]) -> None:
        """Take that back: nothing was sent of them."""
        for example in examples:
            if example.parcel is not None and example.parcel.used_urls:
                example.parcel.used_urls -= {example.fetched_from}

    def release(self) -> None:
        """Say that the step is over: the files of its inputs may be removed."""
        if self._fetcher is not None and not self.policy.in_memory:
            self._fetcher.release()

    def prefetch(self, example: Example) -> None:
        """Begin to fetch what an example stands for, unless that has begun."""
        if not example.is_prefetched and (url := self.url_of(example)) is not None:
            example.is_prefetched = True
            self._made().prefetch(url, 1 + self.policy.prefetch)  # that of this step is one of them

    def acknowledged(self, parcels: Sequence[Parcel]) -> None:
        """Have the payloads deleted that were used of these messages, if that was asked for."""
        for parcel in parcels:
            for url in parcel.used_urls or ():
                self._made().delete_later(url)

    def url_here(self, example: Example) -> str | None:
        """The URL under which this node's FTP server has an example's payload; None where it has not."""
        if example.path is None or not lies_in(example.path, self.policy.root):
            return None
        return local_to_global_path(example.path, self.policy.root)

    def stats(self, announced_bytes: int) -> FetchStats:
        """What was fetched, and what of `announced_bytes` was not."""
        fetched = self._fetcher.stats if self._fetcher is not None else FetchStats()
        return replace(fetched, unmoved_bytes=announced_bytes - self._used_bytes)

    def stop(self) -> None:
        """Have a fetch that is under way raise."""
        if self._fetcher is not None:
            self._fetcher.stop()

    def close(self, timeout_ms: int) -> None:
        """Carry out the deletes that wait, within a limit, and hang up."""
        if self._fetcher is not None:
            self._fetcher.close(timeout_ms)

    def _made(self) -> Fetcher:
        if self._fetcher is None:
            policy = self.policy
            self._fetcher = Fetcher(
                policy.fetching,
                policy.root,
                in_memory=policy.in_memory,
                remembers=policy.remembers,
                limit_ms=policy.limit_ms,
            )
        return self._fetcher


class KeptOutputs:
    """Outputs that stay on this node, in file mode.

    Args:
        store: Where they are kept; None for a folder in that of this node's own payloads.
        policy: The operator's.
    """

    def __init__(self, store: PayloadStore | None, policy: RoutePolicy) -> None:
        check_store(store)
        if store is not None and policy.in_memory:
            raise UsageError("store= is for file mode: give ftp=True without ftp_memory")
        self.is_used = not policy.in_memory
        self._policy = policy
        self._store = store

    def keep(self, result: Any) -> str:
        """Keep what a task returned: bytes-like, text (as UTF-8), or an array (as `array_out` writes it). Its URL.

        Raises:
            UsageError: It is none of these.
            PayloadNotStored: There is no room for it, perhaps.
        """
        if isinstance(result, str):
            content: Any = result.encode("utf-8")
        elif hasattr(result, "__array_interface__"):
            content = array_out(result)
        else:
            content = whole_bytes(result, "an output that is kept in a file")
        if self._store is None:
            url = f"ftp://{socket.gethostname()}/"
            self._store = FolderStore(self._policy.root, url, inside="ftp_output", keep=self._policy.fetching.keep)
        return self._store.put(content)
