"""What the tests of replay logs have at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve.testing import end_memory_broker, memory_broker
from tests.operators.conftest import crew, wire
from tests.operators.flows import Flows

__all__ = ["crew", "flows", "logs", "memory", "wire"]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The folder of the test's logs."""
    return tmp_path / "logs"


@pytest.fixture
def flows(broker: str, wire: object, topic: str) -> Iterator[Flows]:
    flows = Flows(broker, wire, topic)  # type: ignore[arg-type]
    yield flows
    flows.close()


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of a broker in this process."""
    broker = memory_broker()
    yield broker
    end_memory_broker(broker)
