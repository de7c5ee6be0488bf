"""Payloads in an object store, like S3, by way of fsspec, which has a package for each."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import xxhash

from edgeserve._extras import require
from edgeserve.errors import PayloadNotStored
from edgeserve.routing.store import Write
from edgeserve.routing.urls import PayloadUrl, parse_payload_url, written

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PIECE_BYTES = 1 << 20


class ObjectStore:
    """Keeps payloads in an object store. How long they stay there is for the store to say (a lifecycle rule).

    Args:
        url: `s3://BUCKET/PREFIX`, or `gs://`, `az://`, `abfs://`.
        timeout_ms: Not used: each of fsspec's packages has time-outs of its own.
        options: What fsspec hands on to that package: credentials, an endpoint.
    """

    def __init__(self, url: PayloadUrl | str, timeout_ms: float = 10_000, **options: Any) -> None:
        if isinstance(url, str):
            url = parse_payload_url(url)
        fsspec = require("fsspec", "objects", f"keeping payloads in {url.scheme}://")
        self.scheme = url.scheme
        self._base = f"{url.public}/"
        self._files: Any = fsspec.filesystem(url.scheme, **options)

    def put(self, payload: Buffer) -> str:
        """Keep a payload. See `PayloadStore`."""
        content = memoryview(payload).cast("B")
        url = written(self._base, [secrets.token_hex(12)], len(content), xxhash.xxh3_64_hexdigest(content))
        try:
            self._files.pipe_file(_key(parse_payload_url(url)), bytes(content))
        except OSError as error:
            what = f"a payload of {len(content):,} bytes could not be kept in {self._base}"
            raise PayloadNotStored(f"{what}: {error}") from error
        return url

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Read a payload. See `PayloadStore`."""
        with self._files.open(_key(url), "rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE_BYTES):
                write(piece)

    def delete(self, url: PayloadUrl) -> None:
        """Remove a payload. See `PayloadStore`."""
        self._files.rm_file(_key(url))

    def close(self) -> None:
        """Do nothing: fsspec keeps its connections for all who ask."""


def _key(url: PayloadUrl) -> str:
    return "/".join((url.host, *url.path))
