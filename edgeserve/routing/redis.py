"""Payloads in a Redis, for a cluster that shares one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import xxhash

from edgeserve._extras import require
from edgeserve.errors import PayloadNotStored
from edgeserve.routing.store import Write
from edgeserve.routing.transfer import shown
from edgeserve.routing.urls import PayloadUrl, parse_payload_url, written

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PIECE_BYTES = 1 << 20
_HOUR_MS = 3_600_000


class RedisStore:
    """Keeps payloads in a Redis, each for a time.

    Args:
        url: `redis://HOST:PORT/PREFIX`, or `rediss://` with TLS; user and password may be in it, and do not travel.
        timeout_ms: How long the server may be silent.
        max_age_ms: How long a payload is kept; how many of them there is room for is the server's to say.
    """

    def __init__(self, url: PayloadUrl | str, timeout_ms: float = 10_000, *, max_age_ms: int = _HOUR_MS) -> None:
        if isinstance(url, str):
            url = parse_payload_url(url)
        redis = require("redis", "redis", "keeping payloads in a Redis")
        self.scheme = url.scheme
        self._errors = redis.RedisError
        self._max_age_ms = max_age_ms
        self._base = f"{url.public}/"
        self._prefix = "/".join(url.path)
        self._client = redis.Redis(
            host=url.host,
            port=url.port or 6379,
            username=url.user or None,
            password=url.password or None,
            ssl=url.scheme == "rediss",
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=timeout_ms / 1000,
        )

    def put(self, payload: Buffer) -> str:
        """Keep a payload. See `PayloadStore`."""
        content = memoryview(payload).cast("B")
        name = secrets.token_hex(12)
        try:
            self._client.set(f"{self._prefix}/{name}", bytes(content), px=self._max_age_ms)
        except self._errors as error:
            what = f"a payload of {len(content):,} bytes could not be kept in {self._base}"
            raise PayloadNotStored(f"{what}: {shown(error)}") from error
        return written(self._base, [name], len(content), xxhash.xxh3_64_hexdigest(content))

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Read a payload. See `PayloadStore`."""
        key = "/".join(url.path)
        with self._translated():
            if not self._client.exists(key):
                raise FileNotFoundError(url.public)
            at = start
            while piece := self._client.getrange(key, at, at + _PIECE_BYTES - 1):
                write(piece)
                at += len(piece)

    def delete(self, url: PayloadUrl) -> None:
        """Remove a payload. See `PayloadStore`."""
        with self._translated():
            if not self._client.delete("/".join(url.path)):
                raise FileNotFoundError(url.public)

    def close(self) -> None:
        """Give up its connections."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise ConnectionError(shown(error)) from error
