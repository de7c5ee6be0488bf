from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve.routing import FtpServer


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder of payloads on another node."""
    return tmp_path / "served"


@pytest.fixture
def server(served: Path) -> Iterator[FtpServer]:
    """That node's FTP server."""
    with FtpServer(served, port=0) as server:
        yield server
