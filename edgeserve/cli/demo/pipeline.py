"""The demo's operators: two sensors, two predictors, two sinks that score them.

    accel ──┬─> one-sensor ──> score-one
            └─> two-sensors ─> score-two
    gyro ─────┘

A window leaves its sensor when it is complete on the replay clock, and that is its capture time. The watch took
both sensors' samples at the same moments, so the two windows of a moment have the same capture time; which of
them arrives first is up to the threads and the broker.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from edgeserve import Compute, DataSource, Materialize, gates, run
from edgeserve._broker.connections import ConnectionLease
from edgeserve._core.ledger import Stats
from edgeserve.cli.demo.prediction import Predictor
from edgeserve.cli.demo.replay import Reading, Replay, reading_out
from edgeserve.cli.demo.score import Score
from edgeserve.errors import EdgeServeError

# Longer than the join waits for a match, and than a machine pauses that is busy with something else.
_IDLE_MS = 3000.0

_log = logging.getLogger("edgeserve.demo")


@dataclass(frozen=True)
class Demo:
    """What is to be run.

    Attributes:
        pulsar_node: The broker's address; None for the local broker.
        replay: The held-out people's windows, and when they are due.
        one_sensor: Predicts from the accelerometer's window.
        two_sensors: Predicts from the accelerometer's and the gyroscope's.
        gyro_loss: The share of the gyroscope's windows that never leave, from 0 to 1.
    """

    pulsar_node: str | None
    replay: Replay
    one_sensor: Predictor
    two_sensors: Predictor
    gyro_loss: float = 0.0


class Pipeline:
    """The operators of one run, on topics of their own. Closing it leaves nothing at the broker.

    Attributes:
        one_sensor: How the predictor with one sensor does.
        two_sensors: How the one with both does.
    """

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self.one_sensor = Score(demo.replay.windows)
        self.two_sensors = Score(demo.replay.windows)
        run_id = uuid.uuid4().hex[:8]
        names = ("accel", "gyro", "one-sensor", "two-sensors")
        self._topics = {name: f"edgeserve-demo-{run_id}-{name}" for name in names}
        with ExitStack() as opening:  # closes what is open already when the rest fails
            self._lease = ConnectionLease(demo.pulsar_node)
            opening.callback(self._lease.close)
            # Who reads subscribes before anything is sent.
            self._sinks = [opening.enter_context(sink) for sink in self._make_sinks()]
            self._predictors = [opening.enter_context(predictor) for predictor in self._make_predictors()]
            self._sensors = [opening.enter_context(sensor) for sensor in self._make_sensors()]
            self._parts = opening.pop_all()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._demo.replay.stop()
        with self._parts:
            for operator in self._operators:
                operator.close()
            self._delete_topics()
