"""Payloads in an object store, like S3, by way of fsspec, which has a package for each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import xxhash

from edgeserve._extras import require
from edgeserve.errors import PayloadNotStored
from edgeserve.routing.store import Write
from edgeserve.routing.transfer import shown
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
        except Exception as error:  # whatever that package raises
            what = f"a payload of {len(content):,} bytes could not be kept in {self._base}"
            raise PayloadNotStored(f"{what}: {shown(error)}") from error
        return url

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Read a payload. See `PayloadStore`."""
        with _translated():
            opened = self._files.open(_key(url), "rb")
        with opened as file:
            file.seek(start)
            while True:
                with _translated():
                    piece = file.read(_PIECE_BYTES)
                if not piece:
                    return
                write(piece)

    def delete(self, url: PayloadUrl) -> None:
        """Remove a payload. See `PayloadStore`."""
        with _translated():
            self._files.rm_file(_key(url))

    def close(self) -> None:
        """Do nothing: fsspec keeps its connections for all who ask."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # errors of the store's own package
        raise ConnectionError(shown(error)) from error


def _key(url: PayloadUrl) -> str:
    return "/".join((url.host, *url.path))
