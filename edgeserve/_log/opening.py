"""Opens the log of an operator's run: what it is called, and what its head says."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Protocol

from edgeserve._core.clock import Clock
from edgeserve._core.kinds import kinds_of
from edgeserve._core.plans import Plan
from edgeserve._log.folder import LogFiles, LogFolder, stem_of
from edgeserve._log.head import SUFFIXES, Head
from edgeserve._log.recording import LogTarget
from edgeserve._log.writer import LogWriter
from edgeserve._version import __version__
from edgeserve.errors import UsageError

# What a file can hold, as a number.
_NUMBERS_BELOW = 1 << 63


class Named(Protocol):
    """An operator, as far as a log's head goes."""

    @property
    def name(self) -> str:
        """Its name."""


def open_log(
    target: LogTarget,
    operator: Named,
    clock: Clock,
    topics_in: Sequence[str] = (),
    topics_out: Sequence[str] = (),
    plan: Plan | None = None,
    *,
    left_ms: Callable[[], int],
) -> LogWriter | None:
    """What writes the log of a run that begins now, if there is to be one; a source has no plan.

    `left_ms`: how many ms closing the operator may still take.

    Raises:
        UsageError: The arguments are wrong, or no log can be written there.
    """
    if target.path is None:
        return None
    head = Head(
        run=uuid.uuid4().hex,
        part=1,
        operator=operator.name,
        operator_class=next(kind for kind in kinds_of(operator) if kind in SUFFIXES),
        topics_in=topics_in,
        topics_out=topics_out,
        plan_kind=plan.kind if plan is not None else "",
        plan=_fields_of(plan) if plan is not None else {},
        host=socket.gethostname(),
        pid=os.getpid(),
        started_ms=clock.now().wall_ms,
        has_payloads=target.verbose,
        version=__version__,
    )
    folder = target.path if isinstance(target.path, LogFolder) else LogFolder(target.path)
    stem = target.filename
    if stem is None:
        started = datetime.fromtimestamp(head.started_ms / 1000, timezone.utc)
        stem = stem_of(head.operator, f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03}Z")
    try:
        return LogWriter(LogFiles(folder, stem, SUFFIXES[head.operator_class]), head, clock, left_ms)
    except OSError as error:
        raise UsageError(f"log_path: no log can be written to {folder.path}: {error.strerror or error}") from error


def _fields_of(plan: Any) -> dict[str, Any]:
    fields = asdict(plan)
    for name, value in fields.items():
        if isinstance(value, int) and value >= _NUMBERS_BELOW:
            raise UsageError(f"{name} is {value!r}: an operator with a log (log_path=) takes less than 2**63")
    if "parameters" in fields:
        fields["parameters"] = dict(plan.parameters)
    return fields
