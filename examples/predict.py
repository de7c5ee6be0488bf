"""Predicts how warm a room feels, from both of its sensors. Usage: python predict.py [ADDRESS]."""

import sys

from edgeserve import Compute

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker


def humidex(temperature, humidity):
    """Canada's humidex, in °C; where your model goes. Each parameter has the name of a sensor."""
    vapour_hpa = 6.112 * 10 ** (7.5 * temperature / (237.7 + temperature)) * humidity / 100
    return temperature + 5 / 9 * (vapour_hpa - 10)


if __name__ == "__main__":
    Compute(
        humidex,
        ADDRESS,
        "humidex",
        gate_in=float,
        gate_out="{:.1f}".format,
        topic_in="room",
        topic_out="comfort",
        join="nearest",  # each temperature once, with the humidity that was measured nearest to it
    ).run()
