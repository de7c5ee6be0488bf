"""Sends the flows of a capture, 100 times as fast as they came. Usage: python sensor.py [ADDRESS]."""

import sys
import time

from capture import LIVE, capture, flow_id, pack

from edgeserve import DataSource

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker
SPEED = 100


def replay():
    """Pairs of a time, ms since the epoch, and a flow; each as soon as its time has come."""
    flows = capture(LIVE)
    start_ms = time.time() * 1000
    for flow in flows:
        captured_ms = start_ms + flow.seen_ms / SPEED
        time.sleep(max(0, captured_ms / 1000 - time.time()))
        yield captured_ms, flow


if __name__ == "__main__":
    DataSource(
        replay(),
        ADDRESS,
        "sensor",
        gate=lambda item: pack(item[1]),
        topic="flows",
        event_time=lambda item: item[0],
        flow_id=lambda item: flow_id(item[1]),  # by which the models know a flow
    ).run()
