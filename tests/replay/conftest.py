"""What the tests of replay logs have at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operators.conftest import crew, wire
from tests.operators.flows import Flows

__all__ = ["crew", "flows", "logs", "wire"]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The folder of the test's logs."""
    return tmp_path / "logs"


@pytest.fixture
def flows(broker: str, wire: object, topic: str) -> Iterator[Flows]:
    flows = Flows(broker, wire, topic)  # type: ignore[arg-type]
    yield flows
    flows.close()
