"""The demo's operators: two sensors, two predictors, two sinks that score them.

    accel ──┬─> one-sensor ──> score-one
            └─> two-sensors ─> score-two
    gyro ─────┘

A window leaves its sensor when it is complete on the replay clock, and that is its capture time. The watch took
both sensors' samples at the same moments, so the two windows of a moment have the same capture time; which of
them arrives first is up to the threads and the broker.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeserve import Compute, DataSource, Materialize, gates, run
from edgeserve._broker.connections import ConnectionLease
from edgeserve._core.ledger import Stats
from edgeserve._interrupts import uninterrupted
from edgeserve._logging import logger
from edgeserve.address import Address
from edgeserve.cli.demo.logs import new_log_folder
from edgeserve.cli.demo.prediction import Predictor
from edgeserve.cli.demo.replay import Reading, Replay, reading_in, reading_out
from edgeserve.cli.demo.score import Score
from edgeserve.errors import EdgeServeError

# Longer than the join waits for a match, and than a machine pauses that is busy with something else.
_IDLE_MS = 5000.0

_log = logger("demo")


@dataclass(frozen=True)
class Demo:
    """What is to be run.

    Attributes:
        broker: The broker's address.
        replay: The held-out people's windows, and when they are due.
        one_sensor: Predicts from the accelerometer's window.
        two_sensors: Predicts from the accelerometer's and the gyroscope's.
        gyro_loss: The share of the gyroscope's windows that never leave, from 0 to 1.
        log_path: The folder of its replay logs; None for one of its own.
    """

    broker: Address
    replay: Replay
    one_sensor: Predictor
    two_sensors: Predictor
    gyro_loss: float = 0.0
    log_path: Path | None = None


class Pipeline:
    """The operators of one run, on topics of their own. Closing it leaves nothing at the broker.

    Attributes:
        run_id: What the names of its topics have in them.
        one_sensor: How the predictor with one sensor does.
        two_sensors: How the one with both does.
        log_path: The folder of its replay logs.
    """

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self.one_sensor = Score(demo.replay.windows)
        self.two_sensors = Score(demo.replay.windows)
        self.run_id = uuid.uuid4().hex[:8]
        self.log_path = demo.log_path if demo.log_path is not None else new_log_folder(self.run_id)
        names = ("accel", "gyro", "one-sensor", "two-sensors")
        self._topics = {name: f"edgeserve-demo-{self.run_id}-{name}" for name in names}
        self._sinks: list[Materialize[None]] = []
        self._predictors: list[Compute] = []
        self._sensors: list[DataSource] = []

    def open(self) -> None:
        """Open the operators. Whatever comes of it, `close` is due.

        Raises:
            KeyboardInterrupt: Ctrl-C; only when all are open.
            EdgeServeError: The broker can't be used.
        """
        with uninterrupted():
            # Who reads subscribes before anything is sent.
            self._sinks.extend(self._make_sinks())
            self._predictors.extend(self._make_predictors())
            self._sensors.extend(self._make_sensors())

    def close(self) -> None:
        """Close what is open, and delete the topics."""
        self._demo.replay.stop()
        with ExitStack() as closing:
            closing.callback(self._delete_topics)
            for operator in reversed(self._operators):
                closing.callback(operator.close)

    def run(self) -> None:
        """Play the windows, until every one was scored or nothing comes any more.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EdgeServeError: The broker can't be used any more.
        """
        self._demo.replay.begin()
        run(*self._operators)

    def stats(self) -> Mapping[str, Stats]:
        """What each operator received, sent and dropped so far."""
        return {operator.name: operator.stats for operator in self._operators}

    @property
    def _operators(self) -> Sequence[DataSource | Compute | Materialize[None]]:
        """What sends before what receives."""
        return [*self._sensors, *self._predictors, *self._sinks]

    def _make_sensors(self) -> Iterator[DataSource]:
        gates_out: Mapping[str, Callable[[Reading], bytes | None]] = {
            "accel": reading_out,
            "gyro": _lossy(reading_out, self._demo.gyro_loss),
        }
        for sensor, gate in gates_out.items():
            yield DataSource(
                self._demo.replay.stream(sensor),
                self._demo.broker,
                sensor,
                gate,
                self._topics[sensor],
                self.log_path,
                event_time=lambda reading: reading.capture_ms,
            )

    def _make_predictors(self) -> Iterator[Compute]:
        models = self._demo

        # Their parameters have the names of the sensors. They see numbers and samples, never the truth.
        def predict_from_one(accel: Reading) -> Mapping[str, Any]:
            return {"windows": [accel.window], "exercise": models.one_sensor.predict(accel.samples)}

        def predict_from_two(accel: Reading, gyro: Reading) -> Mapping[str, Any]:
            exercise = models.two_sensors.predict(accel.samples, gyro.samples)
            return {"windows": [accel.window, gyro.window], "exercise": exercise}

        yield Compute(
            predict_from_one,
            models.broker,
            "one-sensor",
            reading_in,
            gates.msgpack_out,
            topic_in=self._topics["accel"],
            topic_out=self._topics["one-sensor"],
            log_path=self.log_path,
            log_verbose=True,
            idle_timeout_ms=self._idle_ms,
        )
        yield Compute(
            predict_from_two,
            models.broker,
            "two-sensors",
            reading_in,
            gates.msgpack_out,
            topic_in=[self._topics["accel"], self._topics["gyro"]],
            topic_out=self._topics["two-sensors"],
            log_path=self.log_path,
            log_verbose=True,
            # Windows of one moment belong together, and the next moment is a whole window away.
            max_time_diff_ms=int(models.replay.window_ms / 2),
            join="nearest",
            idle_timeout_ms=self._idle_ms,
        )

    def _make_sinks(self) -> Iterator[Materialize[None]]:
        scores = {"one-sensor": ("score-one", self.one_sensor), "two-sensors": ("score-two", self.two_sensors)}
        for stream, (sink_id, score) in scores.items():
            yield Materialize(
                partial(self._take, score),
                self._demo.broker,
                gates.msgpack_in,
                topic=self._topics[stream],
                log_path=self.log_path,
                sink_id=sink_id,
                idle_timeout_ms=self._idle_ms,
            )

    def _take(self, score: Score, prediction: Mapping[str, Any]) -> None:
        """What the sinks do with a prediction."""
        replay = self._demo.replay
        windows = prediction["windows"]
        score.add(windows, prediction["exercise"], replay.age_ms(replay.windows[windows[0]]))
        if self.one_sensor.is_complete and self.two_sensors.is_complete:
            for operator in self._operators:
                operator.stop()

    @property
    def _idle_ms(self) -> float:
        # Between two recordings, what is left over of the first one comes on top of a window.
        return _IDLE_MS + 2 * self._demo.replay.window_ms

    def _delete_topics(self) -> None:
        try:
            # A connection that comes after those of the operators, so that nothing has the topics open any more.
            lease = ConnectionLease(self._demo.broker)
            try:
                for topic in self._topics.values():
                    lease.connection.delete(topic, None)
            finally:
                lease.close()
        except EdgeServeError as error:
            _log.warning("the topics edgeserve-demo-%s-* are left at the broker: %s", self.run_id, error)


def _lossy(gate: Callable[[Reading], bytes], loss: float) -> Callable[[Reading], bytes | None]:
    """A gate that drops a share of what comes; which ones is the same in every run."""
    chance = random.Random(0)  # noqa: S311 - nobody is to be kept from guessing it
    return lambda reading: None if chance.random() < loss else gate(reading)
