"""Payloads on their way to a task: fetched once, checked, and only when somebody is about to use them."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._core.ledger import FetchStats
from edgeserve._interrupts import raise_noted
from edgeserve.errors import PayloadUnavailable, UsageError
from edgeserve.routing.deletes import Deletes
from edgeserve.routing.fetched_files import FetchedFiles
from edgeserve.routing.retention import Keep
from edgeserve.routing.store import Stores, is_registered
from edgeserve.routing.this_host import ThisHost
from edgeserve.routing.transfer import InMemory, Target, bring, shown
from edgeserve.routing.urls import PayloadUrl, parse_payload_url

_SLICE_MS = 50
_MOST_AT_ONCE = 8
_MOST_AHEAD = 4
_RECENT = 1000
# How many fetched files are remembered for another use; they stay on the disk all the same.
_MOST_FILES = 10_000


@dataclass(frozen=True)
class Fetching:
    """How an operator fetches payloads.

    Attributes:
        hosts: The hosts that it may fetch from; None for all.
        schemes: The kinds of stores that it may open, beside those that were registered in this process. A store of
            objects or a Redis is opened with this node's own rights, so that it has to be named here.
        folders: The folders of this machine in which `file://` URLs may lie, beside `local_ftp_path`.
        logins: User and password by store, like `{"ftps://camera-node:2121": ("me", "...")}`; they go to no other, and
            never travel with a message.
        max_bytes: The largest payload that it fetches.
        cache_bytes: How much of what it fetched into memory it keeps for another use.
        timeout_ms: How long a store may be silent.
        max_retries: How often a fetch that broke off is tried again, from where it broke off.
        retry_interval_ms: How long it waits before each time.
        keep: How much it keeps of what it fetched into files.
    """

    hosts: Sequence[str] | None = None
    schemes: Sequence[str] = ("ftp", "ftps", "file")
    folders: Sequence[str] = ()
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    max_bytes: int = 1 << 30
    cache_bytes: int = 64 << 20
    timeout_ms: float = 10_000
    max_retries: int = 3
    retry_interval_ms: float = 200
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        for name in ("hosts", "schemes", "folders"):
            if isinstance(getattr(self, name), (str, bytes)):
                raise UsageError(f"{name} is {getattr(self, name)!r}: expected a list of them")
        if self.hosts is not None and (wrong := [host for host in self.hosts if "/" in host or host.count(":") == 1]):
            raise UsageError(f"hosts has {wrong[0]!r}: expected names or addresses, without port or path")
        check_count("max_bytes", self.max_bytes)
        check_count("cache_bytes", self.cache_bytes, least=0)
        check_count("max_retries", self.max_retries, least=0)
        check_ms("timeout_ms", self.timeout_ms)
        check_ms("retry_interval_ms", self.retry_interval_ms)

    def check_allows(self, url: PayloadUrl) -> None:
        """Check what a URL says before anything is opened.

        Raises:
            PayloadUnavailable: It is of another host or scheme, or too large.
        """
        if url.scheme not in self.schemes and not is_registered(url.scheme):
            allowed = ", ".join(self.schemes)
            raise PayloadUnavailable(
                url.public, f"its scheme is none of those allowed ({allowed}): Fetching(schemes=...)"
            )
        if self.hosts is not None and url.host not in map(str.lower, self.hosts) and url.scheme != "file":
            raise PayloadUnavailable(
                url.public, f"its host is none of those allowed, {', '.join(self.hosts)} (Fetching(hosts=...))"
            )
        if url.size_bytes is not None and url.size_bytes > self.max_bytes:
            over = f"it is {url.size_bytes:,} bytes, over the limit of {self.max_bytes:,}"
            raise PayloadUnavailable(url.public, over)


class Stopped(Exception):
    """Nobody waits for a fetch any more: the operator is closed. It says nothing of the payload."""


class Fetcher:
    """Fetches payloads for one operator, into memory or into files. Safe to use from several threads.

    Args:
        fetching: Its limits.
        root: The folder of this node's own payloads, as its FTP server serves it; in file mode, what is fetched goes
            to `root/HOST/`.
        in_memory: Whether a payload becomes bytes, or the path of a file.
        remembers: Whether what was fetched may serve another use of the same URL; not where what is there may change.
        limit_ms: How long a payload may take in all, with every try; None: for as long as its store is not silent.
            Then all stores are hung up on, so it is for who fetches one payload after the other.
    """

    def __init__(
        self, fetching: Fetching, root: str, *, in_memory: bool, remembers: bool = True, limit_ms: float | None = None
    ) -> None:
        self._limits = fetching
        self._root = os.path.realpath(root)
        self._this_host = ThisHost(self._root, fetching.folders)
        self._in_memory = in_memory
        self._remembers = remembers
        self._limit_ms = limit_ms
        self._stores = Stores(fetching.timeout_ms)
        self._files = FetchedFiles(self._root, fetching.keep)
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._paths: dict[str, str] = {}
        self._under_way: dict[str, Future[bytes | str]] = {}
        # What was fetched ahead and nobody has asked for yet.
        self._ahead: OrderedDict[str, Future[bytes | str]] = OrderedDict()
        # Two pools, so that what is needed later never holds up what is needed now.
        self._fetching = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="edgeserve-fetch")
        self._prefetching = ThreadPoolExecutor(_MOST_AHEAD, thread_name_prefix="edgeserve-prefetch")
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

        In memory they are bytes, else the paths of files, which are held until `release`.

        Raises:
            PayloadUnavailable: One can't be had; what came of the others is kept for the next time.
            Stopped: Nobody waits any more.
        """
        # In threads also where there is but one, so that whoever waits can be told to stop.
        begun = [self._begun(text) for text in texts]
        return [self._held(text, each) for text, each in zip(texts, begun, strict=True)]

    def prefetch(self, text: str, most: int) -> None:
        """Begin to fetch a payload that will be asked for soon; `most` such are kept until they are."""
        with self._lock:
            if text in self._ahead or self._is_stopped or self._known(text) is not None:
                return
            self._ahead[text] = self._under_way.get(text) or self._begin(text, self._prefetching)
            while len(self._ahead) > most:
                self._ahead.popitem(last=False)

    def release(self) -> None:
        """Say that the task is done with the files that it was given."""
        self._files.release()

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
        self._stores.close()  # which ends transfers that are under way
        for pool in (self._fetching, self._prefetching):
            pool.shutdown(wait=False, cancel_futures=True)
        self._files.release()

    def _begun(self, text: str) -> bytes | str | Future[bytes | str]:
        """A payload that is here, or whoever brings it."""
        self.check()
        with self._lock:
            ahead = self._ahead.pop(text, None)
            if ahead is not None:
                return ahead
            known = self._known(text)
            if known is not None:
                self._counts["cache_hits"] += 1
                return known
            return self._under_way.get(text) or self._begin(text, self._fetching)

    def _held(self, text: str, begun: bytes | str | Future[bytes | str]) -> bytes | str:
        """A payload, when it is here; a file is held, and brought again if it went since it was fetched ahead."""
        payload = self._waited_for(text, begun) if isinstance(begun, Future) else begun
        if isinstance(payload, bytes) or self._files.hold(payload):
            return payload
        with self._lock:
            again = self._under_way.get(text) or self._begin(text, self._fetching)
        return self._waited_for(text, again)

    def _begin(self, text: str, pool: ThreadPoolExecutor) -> Future[bytes | str]:
        """Have a payload fetched. With the lock."""
        future: Future[bytes | str] = Future()
        self._under_way[text] = future
        pool.submit(self._run, text, future, self._until_ms())
        return future

    def _until_ms(self) -> float:
        return math.inf if self._limit_ms is None else steady_ms() + self._limit_ms

    def _run(self, text: str, future: Future[bytes | str], until_ms: float) -> None:
        try:
            payload = self._loaded(text, until_ms)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            with self._lock:
                del self._under_way[text]
                self._counts["failed"] += isinstance(error, PayloadUnavailable)
            future.set_exception(error)
            return
        with self._lock:
            self._remember(text, payload)
            del self._under_way[text]
        future.set_result(payload)

    def _waited_for(self, text: str, future: Future[bytes | str]) -> bytes | str:
        until_ms = self._until_ms()
        while not wait([future], _SLICE_MS / 1000).done:
            raise_noted()
            self.check()
            if steady_ms() >= until_ms:
                self._stores.close()  # which ends the transfer
                raise self.too_late(parse_payload_url(text))
        return future.result()

    def too_late(self, url: PayloadUrl) -> PayloadUnavailable:
        """The error of a payload that is not here at the limit."""
        return PayloadUnavailable(url.public, f"it was not here after {self._limit_ms:,.0f} ms, which is the limit")

    def _known(self, text: str) -> bytes | str | None:
        """What was fetched before and is still there. With the lock."""
        if self._in_memory:
            payload = self._cache.get(text)
            if payload is not None:
                self._cache.move_to_end(text)
            return payload
        path = self._paths.get(text)
        if path is not None and not self._files.hold(path):
            del self._paths[text]
            return None
        return path

    def _remember(self, text: str, payload: bytes | str) -> None:
        """Keep it for another use, within the bounds. With the lock."""
        if not self._remembers:
            return
        if isinstance(payload, str):
            self._paths[text] = payload
            if len(self._paths) > _MOST_FILES:
                del self._paths[next(iter(self._paths))]
            return
        if len(payload) > self._limits.cache_bytes:
            return
        self._cached_bytes += len(payload) - len(self._cache.pop(text, b""))
        self._cache[text] = payload
        while self._cached_bytes > self._limits.cache_bytes:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def _loaded(self, text: str, until_ms: float) -> bytes | str:
        url = parse_payload_url(text)
        self._limits.check_allows(url)
        try:
            here = self._this_host.find(url)
            return self._read_here(url, here) if here is not None else self._brought(url, until_ms)
        except OSError as error:
            raise PayloadUnavailable(url.public, shown(error)) from error

    def _brought(self, url: PayloadUrl, until_ms: float) -> bytes | str:
        limits = self._limits
        started_ms = steady_ms()
        store = self._stores.of(self._with_login(url))
        target: Target
        target = InMemory(url, limits.max_bytes) if self._in_memory else self._files.place(url, limits.max_bytes)
        try:
            bring(url, target, store, limits.max_retries, _Transfer(self, url, until_ms))
            payload = target.result()
        except BaseException:
            target.discard()
            raise
        finally:
            with self._lock:
                self._counts["fetched_bytes"] += target.size_bytes
        if isinstance(payload, str):
            self._files.took(payload, target.size_bytes)
        with self._lock:
            self._counts["fetched"] += 1
            self._took_ms.append(steady_ms() - started_ms)
        return payload

    def _with_login(self, url: PayloadUrl) -> PayloadUrl:
        login = self._limits.logins.get(url.origin)
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

    def check(self) -> None:
        """Raise if the operator is closed.

        Raises:
            Stopped: It is.
        """
        if self._is_stopped:
            raise Stopped

    def pause(self) -> None:
        """Wait before a fetch that broke off is tried again.

        Raises:
            Stopped: The operator is closed.
        """
        until_ms = steady_ms() + self._limits.retry_interval_ms
        while (left_ms := until_ms - steady_ms()) > 0:
            self.check()
            pause_ms(min(left_ms, _SLICE_MS))


class _Transfer:
    """Whoever waits for one transfer, and until when.

    Args:
        fetcher: Whose it is.
        url: What is fetched.
        until_ms: When it is given up, by the steady clock.
    """

    def __init__(self, fetcher: Fetcher, url: PayloadUrl, until_ms: float) -> None:
        self._fetcher = fetcher
        self._url = url
        self._until_ms = until_ms

    def check(self) -> None:
        """See `Watch`."""
        self._fetcher.check()
        if steady_ms() >= self._until_ms:
            raise self._fetcher.too_late(self._url)

    def pause(self) -> None:
        """See `Watch`."""
        self._fetcher.pause()
        self.check()
