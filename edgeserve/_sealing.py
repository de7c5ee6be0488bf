"""What a source that has a key makes of its scripts: each signed, for one topic and one example."""

from __future__ import annotations

from dataclasses import replace

from edgeserve._core.checks import check_count
from edgeserve._core.signed import Signer
from edgeserve._route import DEFAULT_FTP_PATH, Route, RoutePolicy
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore, check_store, has_store
from edgeserve.routing.urls import scheme_of


class Sealing:
    """Signs scripts.

    Args:
        key: What with.
        topic: Where they go.
        store: Where they are kept, so that only their URLs travel; None sends them whole.
        store_above_bytes: What is no larger than this travels whole all the same.
        fetching: How what is given as a URL is fetched to be signed.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self, key: bytes, topic: str, *, store: PayloadStore | None, store_above_bytes: int, fetching: Fetching | None
    ) -> None:
        self._signer = Signer(key)
        self._topic = topic
        check_store(store)
        check_count("store_above_bytes", store_above_bytes, least=0)
        self._store = store
        self._store_above_bytes = store_above_bytes
        policy = RoutePolicy.from_flags(ftp=True, memory=True, delete=False, root=DEFAULT_FTP_PATH, fetching=fetching)
        # What is at a URL today may be another script tomorrow.
        self._route = Route(replace(policy, remembers=False))

    def seal(self, payload: bytes, example_id: bytes, signed_ms: int) -> bytes:
        """What travels of a script, or of one that is given as its URL.

        Raises:
            PayloadUnavailable: It can't be fetched.
            PayloadNotStored: It can't be kept.
        """
        url = _url_in(payload)
        script = payload if url is None else self._route.fetch([url])[0]
        stored = None
        if url is None and self._store is not None and len(script) > self._store_above_bytes:
            stored = self._store.put(script)
        return self._signer.signed(self._topic, example_id, signed_ms, script, stored=stored, url=url).packed()

    def stop(self) -> None:
        """Have a fetch that is under way raise."""
        self._route.stop()

    def close(self, timeout_ms: int) -> None:
        """Hang up."""
        self._route.close(timeout_ms)


def _url_in(payload: bytes) -> str | None:
    """The URL that a payload consists of, if it is nothing else."""
    scheme = scheme_of(payload)
    if scheme is None or not has_store(scheme):
        return None
    text = payload.decode("utf-8", "replace").strip()
    return text if len(text.split()) == 1 else None
