"""Switches a fan as the predictions say. Usage: python act.py [ADDRESS]."""

import sys

from edgeserve import Materialize

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker


def switch_fan(feels_like):
    print(f"feels like {feels_like} °C: fan {'on' if feels_like > 30 else 'off'}", flush=True)


if __name__ == "__main__":
    Materialize(switch_fan, ADDRESS, gate=float, topic="comfort", sink_id="fan").run()
