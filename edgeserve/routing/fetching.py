"""Payloads on their way to a task: fetched once, checked, and only when somebody is about to use them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout  # in Python 3.10 not yet the built-in one
from contextlib import suppress
from dataclasses import dataclass, field, replace

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._core.ledger import FetchStats
from edgeserve._interrupts import raise_noted
from edgeserve.errors import PayloadUnavailable
from edgeserve.routing.deletes import Deletes
from edgeserve.routing.retention import Keep, Retention
from edgeserve.routing.store import Stores
from edgeserve.routing.this_host import ThisHost
from edgeserve.routing.transfer import InFile, InMemory, Target, bring
from edgeserve.routing.urls import PayloadUrl, parse_payload_url

_SLICE_MS = 50
_MOST_AT_ONCE = 8
_RECENT = 1000
# How many fetched files are remembered for another use; they stay on the disk all the same.
_MOST_FILES = 10_000


@dataclass(frozen=True)
class Fetching:
    """How an operator fetches payloads.

    Attributes:
        hosts: The hosts that it may fetch from; None for all.
        folders: The folders of this machine in which `file://` URLs may lie, beside `local_ftp_path`.
        logins: User and password by host, for stores that ask for them; they never travel with a message.
        max_bytes: The largest payload that it fetches.
        cache_bytes: How much of what it fetched into memory it keeps for another use.
        timeout_ms: How long a store may be silent.
        max_retries: How often a fetch that broke off is tried again, from where it broke off.
        retry_interval_ms: How long it waits before each time.
        keep: How much it keeps of what it fetched into files.
    """

    hosts: Sequence[str] | None = None
    folders: Sequence[str] = ()
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    max_bytes: int = 1 << 30
    cache_bytes: int = 64 << 20
    timeout_ms: float = 10_000
    max_retries: int = 3
    retry_interval_ms: float = 200
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        check_count("max_bytes", self.max_bytes)
        check_ms("timeout_ms", self.timeout_ms)
        check_ms("retry_interval_ms", self.retry_interval_ms)


class Fetcher:
    """Fetches payloads for one operator, into memory or into files. Safe to use from several threads.

    Args:
        fetching: Its limits.
        root: The folder of this node's own payloads, as its FTP server serves it; in file mode, what is fetched goes
            to `root/HOST/`.
        in_memory: Whether a payload becomes bytes, or the path of a file.
    """

    def __init__(self, fetching: Fetching, root: str, *, in_memory: bool) -> None:
        self._limits = fetching
        self._root = os.path.realpath(root)
        self._this_host = ThisHost(self._root, fetching.folders)
        self._in_memory = in_memory
        self._stores = Stores(fetching.timeout_ms)
        self._retention = Retention(fetching.keep)
        self._adopted: set[str] = set()
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._files: dict[str, str] = {}
        self._under_way: dict[str, Future[bytes | str]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._deletes = Deletes(self._delete)
        self._counts = dict.fromkeys(("fetched", "fetched_bytes", "local", "cache_hits", "failed"), 0)
        self._took_ms: deque[float] = deque(maxlen=_RECENT)
        self._is_stopped = False

    @property
    def stats(self) -> FetchStats:
        """What the fetches did so far."""
        with self._lock:
            took_ms, counts = sorted(self._took_ms), dict(self._counts)
        if not took_ms:
            return FetchStats(**counts, deletes_refused=self._deletes.refused)
        median_ms, p99_ms = (took_ms[(len(took_ms) * percent - 1) // 100] for percent in (50, 99))
        return FetchStats(**counts, deletes_refused=self._deletes.refused, median_ms=median_ms, p99_ms=p99_ms)

    def fetch(self, texts: Sequence[str]) -> list[bytes | str]:
        """The payloads of some URLs, in order: those that are missing are fetched all at once.

        In memory they are bytes, else the paths of files.

        Raises:
            PayloadUnavailable: One can't be had; what came of the others is kept for the next time.
        """
        with self._lock:
            known = [self._known(text) for text in texts]
            self._counts["cache_hits"] += sum(payload is not None for payload in known)
        # In threads also where there is but one, so that whoever waits can be told to stop.
        missing = [text for text, payload in zip(texts, known, strict=True) if payload is None]
        under_way = {text: self._in_background(text) for text in missing}
        return [
            payload if payload is not None else self._waited_for(under_way[text])
            for text, payload in zip(texts, known, strict=True)
        ]

    def prefetch(self, text: str) -> None:
        """Begin to fetch a payload that will be asked for soon. What goes wrong is found again when it is."""
        self._in_background(text)

    def delete_later(self, text: str) -> None:
        """Have a payload deleted where it is kept, by and by; a store that refuses is counted.

        In file mode a payload of this node's own store is left alone: it is the very file that the task was given.
        """
        self._deletes.put(text)

    def _delete(self, text: str) -> None:
        url = parse_payload_url(text)
        here = self._this_host.find(url)
        if here is None:
            self._stores.of(self._with_login(url)).delete(url)
        elif self._in_memory:
            os.remove(here)

    def stop(self) -> None:
        """Have every fetch that is under way, or begins from now on, raise."""
        self._is_stopped = True

    def close(self, timeout_ms: int) -> None:
        """Carry out the deletes that wait, within a limit, and hang up."""
        self._deletes.close(timeout_ms)
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._stores.close()

    def _in_background(self, text: str) -> Future[bytes | str]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="edgeserve-fetch")
        return self._pool.submit(self._get, text)

    def _waited_for(self, other: Future[bytes | str]) -> bytes | str:
        while True:
            with suppress(TimeoutError, FutureTimeout):
                return other.result(_SLICE_MS / 1000)
            raise_noted()
            self.check()

    def _get(self, text: str) -> bytes | str:
        """One payload: from the cache, from whoever fetches it already, or from its store."""
        with self._lock:
            known = self._known(text)
            if known is not None:
                self._counts["cache_hits"] += 1
                return known
            under_way = self._under_way.get(text)
            if under_way is None:
                mine: Future[bytes | str] = Future()
                self._under_way[text] = mine
        if under_way is not None:
            return self._waited_for(under_way)
        try:
            payload = self._loaded(text)
        except BaseException as error:
            with self._lock:
                del self._under_way[text]
                self._counts["failed"] += isinstance(error, PayloadUnavailable)
            mine.set_exception(error)
            mine.exception()  # whether anybody waits for it or not
            raise
        with self._lock:
            self._remember(text, payload)
            del self._under_way[text]
        mine.set_result(payload)
        return payload

    def _known(self, text: str) -> bytes | str | None:
        """What was fetched before and is still there. With the lock."""
        if self._in_memory:
            payload = self._cache.get(text)
            if payload is not None:
                self._cache.move_to_end(text)
            return payload
        path = self._files.get(text)
        if path is not None and not os.path.isfile(path):
            del self._files[text]
            return None
        return path

    def _remember(self, text: str, payload: bytes | str) -> None:
        """Keep it for another use, within the bounds. With the lock."""
        if isinstance(payload, str):
            self._files[text] = payload
            if len(self._files) > _MOST_FILES:
                del self._files[next(iter(self._files))]
            return
        if len(payload) > self._limits.cache_bytes:
            return
        self._cache[text] = payload
        self._cached_bytes += len(payload)
        while self._cached_bytes > self._limits.cache_bytes:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def _loaded(self, text: str) -> bytes | str:
        url = parse_payload_url(text)
        limits = self._limits
        if limits.hosts is not None and url.host not in limits.hosts and url.scheme != "file":
            raise PayloadUnavailable(url.public, f"its host is none of those allowed, {', '.join(limits.hosts)}")
        if url.size_bytes is not None and url.size_bytes > limits.max_bytes:
            over = f"it is {url.size_bytes:,} bytes, over the limit of {limits.max_bytes:,}"
            raise PayloadUnavailable(url.public, over)
        here = self._this_host.find(url)
        if here is not None:
            return self._read_here(url, here)
        started_ms = steady_ms()
        target: Target = InMemory(url, limits.max_bytes) if self._in_memory else self._file_for(url)
        try:
            bring(url, target, self._stores.of(self._with_login(url)), limits.max_retries, self)
            payload = target.result()
        except BaseException:
            target.discard()
            raise
        finally:
            with self._lock:
                self._counts["fetched_bytes"] += target.size_bytes
        if isinstance(payload, str):
            self._retention.add(payload, target.size_bytes)
        with self._lock:
            self._counts["fetched"] += 1
            self._took_ms.append(steady_ms() - started_ms)
        return payload

    def _with_login(self, url: PayloadUrl) -> PayloadUrl:
        login = self._limits.logins.get(url.host)
        return url if login is None or url.user is not None else replace(url, user=login[0], password=login[1])

    def _read_here(self, url: PayloadUrl, path: str) -> bytes | str:
        with self._lock:
            self._counts["local"] += 1
        if not self._in_memory:
            return path
        try:
            if os.path.getsize(path) > self._limits.max_bytes:
                raise PayloadUnavailable(url.public, f"it is over the limit of {self._limits.max_bytes:,} bytes")
            with open(path, "rb") as file:
                payload = file.read()
        except OSError as error:
            raise PayloadUnavailable(url.public, f"it can't be read: {error.strerror}") from error
        if url.size_bytes is not None and len(payload) != url.size_bytes:
            raise PayloadUnavailable(url.public, f"it is {len(payload):,} bytes, and its URL says {url.size_bytes:,}")
        return payload

    def _file_for(self, url: PayloadUrl) -> InFile:
        """Where a payload goes in file mode: a folder for each host, so that those of two never mix."""
        port = f"_{url.port}" if url.port is not None else ""
        folder = os.path.join(self._root, f"{url.host.replace(':', '_')}{port}")
        with self._lock:
            is_new = folder not in self._adopted
            self._adopted.add(folder)
        if is_new:
            self._retention.adopt(folder)
        path = os.path.join(folder, *url.path)
        inside = os.path.realpath(os.path.dirname(path))
        if not f"{inside}{os.sep}".startswith(f"{self._root.rstrip(os.sep)}{os.sep}"):
            raise PayloadUnavailable(url.public, f"a link leads out of {self._root}")
        try:
            return InFile(url, self._limits.max_bytes, path)
        except OSError as error:
            why = error.strerror or str(error)
            raise PayloadUnavailable(url.public, f"no file can be made for it in {folder}: {why}") from error

    def check(self) -> None:
        """Raise if the operator is closed.

        Raises:
            PayloadUnavailable: It is.
        """
        if self._is_stopped:
            raise PayloadUnavailable("", "the operator is closed")

    def pause(self) -> None:
        """Wait before a fetch that broke off is tried again.

        Raises:
            PayloadUnavailable: The operator is closed.
        """
        until_ms = steady_ms() + self._limits.retry_interval_ms
        while (left_ms := until_ms - steady_ms()) > 0:
            self.check()
            pause_ms(min(left_ms, _SLICE_MS))
