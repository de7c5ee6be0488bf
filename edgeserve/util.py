"""The prototype's helpers for files that are fetched over FTP. New scripts have `edgeserve.routing`."""

from __future__ import annotations

import os
import socket
from urllib.parse import quote

from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetcher, Fetching

__all__ = ["ftp_fetch", "local_to_global_path"]


def local_to_global_path(path: str, local_ftp_path: str) -> str:
    """The URL under which this node's FTP server has a file.

    Args:
        path: The file.
        local_ftp_path: The folder that the server serves.

    Raises:
        UsageError: The file is not in that folder.
    """
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(local_ftp_path))
    if inside.split(os.sep)[0] == os.pardir:
        raise UsageError(f"{path} is not in {local_ftp_path}, which the FTP server serves")
    return f"ftp://{socket.gethostname()}/{quote(inside.replace(os.sep, '/'))}"


def ftp_fetch(url: str, local_ftp_path: str = "/srv/ftp/", memory: bool = True, delete: bool = False) -> bytes | str:  # noqa: FBT001 - the prototype's
    """Fetch one payload.

    Args:
        url: Its URL, of any scheme that has a store.
        local_ftp_path: The folder of this node's own payloads; fetched files go to `local_ftp_path/HOST/`.
        memory: Whether to return its bytes; else the path of a file.
        delete: Whether to delete it where it is kept, afterwards.

    Raises:
        PayloadUnavailable: It can't be had.
    """
    fetcher = Fetcher(Fetching(), local_ftp_path, in_memory=memory)
    try:
        (payload,) = fetcher.fetch([url])
        if delete:
            fetcher.delete_later(url)
        return payload
    finally:
        fetcher.close(10_000)
