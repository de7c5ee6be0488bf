"""What a demo's run came to, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgeserve._core.ledger import Stats
from edgeserve._core.step import Fate
from edgeserve.cli.demo.score import Tally


class Drop(NamedTuple):
    """Inputs of one operator that were not used, and why; the fate is None for those that still waited at the end."""

    operator: str
    fate: Fate | None
    inputs: int


@dataclass(frozen=True)
class Report:
    """The result of one run.

    Attributes:
        broker: Its address.
        run_id: What the names of this run's topics had in them.
        held_out: The people whose recordings were streamed; the models were trained on the others'.
        windows: How many windows each sensor had to send.
        speed: How many times as fast as recorded.
        one_sensor: How the accelerometer alone did.
        two_sensors: How both sensors did.
        operators: The counts of each operator, in the order of the stream.
        log_path: The folder of its replay logs.
    """

    broker: str
    run_id: str
    held_out: Sequence[int]
    windows: int
    speed: float
    one_sensor: Tally
    two_sensors: Tally
    operators: Mapping[str, Stats]
    log_path: str

    def drops(self) -> Iterator[Drop]:
        """Everything that was received and not used, by operator and reason."""
        for operator, stats in self.operators.items():
            for fate, inputs in stats.fates.items():
                if fate is not Fate.USED:
                    yield Drop(operator, fate, inputs)
            if stats.held:
                yield Drop(operator, None, stats.held)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "broker": self.broker,
            "run_id": self.run_id,
            "held_out": list(self.held_out),
            "windows": self.windows,
            "speed": self.speed,
            "one_sensor": _tally_record(self.one_sensor),
            "two_sensors": _tally_record(self.two_sensors),
            "operators": {operator: _stats_record(stats) for operator, stats in self.operators.items()},
            "log_path": self.log_path,
        }


def _tally_record(tally: Tally) -> dict[str, Any]:
    return {
        "served": tally.served,
        "right": tally.right,
        "accuracy": tally.accuracy,
        "misjoined": tally.misjoined,
        "latency_p50_ms": tally.latency_p50_ms,
        "latency_p99_ms": tally.latency_p99_ms,
    }


def _stats_record(stats: Stats) -> dict[str, Any]:
    return {
        "received": stats.received,
        "held": stats.held,
        "sent": stats.sent,
        "fates": {str(fate.value): inputs for fate, inputs in stats.fates.items()},
    }
