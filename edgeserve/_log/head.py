"""What a replay log's file begins with: whose run it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = 1
"""The version of the records that follow. Whoever reads them refuses what is newer."""

SUFFIXES = {
    "DataSource": ".datasource",
    "Compute": ".compute",
    "BatchCompute": ".compute",
    "Model": ".log",
    "BatchModel": ".log",
    "Materialize": ".destination",
    "Worker": ".log",
}
"""How the files of each class of operators end, as in the research prototype."""


@dataclass(frozen=True)
class Head:
    """What a log's file begins with.

    Attributes:
        run: What the files of one operator's run have in common.
        part: Which of them it is, from 1.
        operator: The operator's name.
        operator_class: Its class.
        topics_in: What it reads.
        topics_out: What it writes, in the order of its outputs.
        plan_kind: Which plan makes its join; "" for a source.
        plan: The fields of that plan.
        host: The machine, by which clocks are told apart.
        pid: The process.
        started_ms: When the run began, ms since the epoch.
        has_payloads: Whether payloads are logged.
        version: That of edgeserve.
    """

    run: str
    part: int
    operator: str
    operator_class: str
    topics_in: Sequence[str]
    topics_out: Sequence[str]
    plan_kind: str
    plan: Mapping[str, Any]
    host: str
    pid: int
    started_ms: int
    has_payloads: bool
    version: str = ""
