"""Short pipelines whose operators write logs, and what these say."""

from __future__ import annotations

from typing import Any

from edgeserve import Compute, DataSource
from edgeserve._log.reading import LoggedRun
from edgeserve._log.records import Record
from edgeserve.replay._history import record_of


def said(run: LoggedRun) -> list[Record]:
    """The records of a run."""
    return [record_of(each) for block in run.blocks() for each in block.records]


def pass_on(only: bytes) -> bytes:
    """A task."""
    return only


def compute(broker: str, logs: Any, **options: Any) -> Compute:
    """An operator that passes on what comes."""
    return Compute(pass_on, broker, topic_in="in", topic_out="out", log_path=logs, **options)


def send(broker: str, count: int, topic: str = "in", **options: Any) -> None:
    """Send so many numbers."""
    with DataSource([b"%d" % number for number in range(count)], broker, "only", topic=topic, **options) as source:
        assert len(list(source)) == count
