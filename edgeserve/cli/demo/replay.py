"""The replay clock: recordings played again, faster than they were made."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgeserve import gates
from edgeserve._core.clock import SYSTEM_CLOCK, Now
from edgeserve.cli.demo.recordings import WINDOW_MS, Window
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_SECONDS = 20.0
# A window then takes 4 ms of the replay clock. Capture times are whole ms, and are to tell windows apart.
MAX_SPEED = 1000.0


class Reading(NamedTuple):
    """What one sensor sends of one window.

    Attributes:
        window: The window's number.
        samples: (200, 3) float32.
        capture_ms: When it was complete on the replay clock, ms since the epoch; it travels beside the payload,
            and None is what the predictors see of it.
    """

    window: int
    samples: NDArray[np.float32]
    capture_ms: int | None = None


def reading_out(reading: Reading) -> bytes:
    """The sensors' gate."""
    return gates.msgpack_out({"window": reading.window, "samples": gates.array_out(reading.samples)})


def reading_in(payload: bytes) -> Reading:
    """The predictors' gate."""
    fields = gates.msgpack_in(payload)
    return Reading(fields["window"], gates.array_in(fields["samples"]))


def plan_replay(
    windows: Sequence[Window], seconds: float | None, speed: float | None
) -> tuple[Sequence[Window], float]:
    """Which windows to play, and how many times as fast as they were recorded.

    `seconds` alone plays everything in that time, `speed` alone everything at that speed; both together stop
    after `seconds`, and neither means 20 s.

    Raises:
        UsageError: That would be too fast, or no window would fit.
    """
    recorded_s = windows[-1].complete_ms / 1000
    if speed is None:
        speed = recorded_s / (seconds or DEFAULT_SECONDS)
        seconds = None
    if speed > MAX_SPEED:
        raise UsageError(
            f"{recorded_s:.0f} s of recordings can be played at most {MAX_SPEED:.0f} times as fast as they were made, "
            f"in {recorded_s / MAX_SPEED:.1f} s; this would be {speed:.0f} times as fast"
        )
    played = [window for window in windows if seconds is None or window.complete_ms <= seconds * 1000 * speed]
    if not played:
        raise UsageError(f"the first window is complete after {windows[0].complete_ms / 1000 / speed:.1f} s")
    return played, speed


class Replay:
    """Windows, and when each of them is due. One `begin()`, then a stream for each sensor.

    Args:
        windows: In the order in which they were complete.
        speed: How many times as fast as recorded.
    """

    def __init__(self, windows: Sequence[Window], speed: float) -> None:
        self.windows = windows
        self.speed = speed
        self._began: Now | None = None
        self._is_stopped = threading.Event()

    @property
    def duration_ms(self) -> float:
        """How long the replay takes."""
        return self.windows[-1].complete_ms / self.speed

    @property
    def window_ms(self) -> float:
        """How long a window lasts on the replay clock."""
        return WINDOW_MS / self.speed

    def begin(self) -> None:
        """Start the replay clock."""
        self._began = SYSTEM_CLOCK.now()

    def stop(self) -> None:
        """End the streams, at once."""
        self._is_stopped.set()

    def age_ms(self, window: Window) -> float:
        """How long ago a window was complete on the replay clock; negative if it is not yet."""
        return self.position_ms() - window.complete_ms / self.speed

    def position_ms(self) -> float:
        """How long the replay has been going on; 0 before it began."""
        return 0.0 if self._began is None else SYSTEM_CLOCK.now().steady_ms - self._began.steady_ms

    def stream(self, sensor: str) -> Iterator[Reading]:
        """The windows of one sensor ("accel" or "gyro"), each as soon as it is complete on the replay clock."""
        if self._began is None:
            raise RuntimeError("the replay has not begun")
        for window in self.windows:
            if self._is_stopped.wait(max(0.0, -self.age_ms(window)) / 1000):
                return
            capture_ms = self._began.wall_ms + round(window.complete_ms / self.speed)
            yield Reading(window.number, getattr(window, sensor), capture_ms)
