"""Two sensors of a room, two seconds long. Usage: python sensor.py [ADDRESS]."""

import sys
import time

from edgeserve import DataSource, run

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker
START_MS = time.time() * 1000


def readings(values, interval_ms):
    """Pairs of a time, ms since the epoch, and a value; each as soon as its time has come."""
    for number, value in enumerate(values):
        captured_ms = START_MS + number * interval_ms
        time.sleep(max(0, captured_ms / 1000 - time.time()))
        yield captured_ms, value


def sensor(name, values, interval_ms):
    return DataSource(
        readings(values, interval_ms), ADDRESS, name, gate=lambda r: str(r[1]), topic="room", event_time=lambda r: r[0]
    )


if __name__ == "__main__":
    run(
        sensor("temperature", [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], interval_ms=200),  # °C
        sensor("humidity", [40, 60, 80, 60, 50], interval_ms=500),  # %
    )
