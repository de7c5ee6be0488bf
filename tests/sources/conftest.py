"""What the tests of the sources share: a clock that turns itself, and a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeserve._core.clock import Now


class HandClock:
    """Stands still until it is turned, or until someone waits, which turns it to the end of the wait.

    Attributes:
        waits_ms: The steady times that were waited for.
    """

    def __init__(self, wall_ms: int = 1_700_000_000_000, steady_ms: float = 5000.0) -> None:
        self._now = Now(wall_ms, steady_ms)
        self.waits_ms: list[float] = []

    def now(self) -> Now:
        return self._now

    def turn(self, ms: float) -> None:
        self._now = Now(self._now.wall_ms + round(ms), self._now.steady_ms + ms)

    def slice_ms(self, until_steady_ms: float | None) -> int:
        assert until_steady_ms is not None
        self.waits_ms.append(until_steady_ms)
        self.turn(until_steady_ms - self._now.steady_ms)
        return 0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def shade(index: int) -> int:
    """The grey of frame `index` of the video; far enough apart to survive two lossy codecs."""
    return 20 + 15 * index


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames at 10 per second, 64 x 48, each of its own grey."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    assert writer.isOpened()
    for index in range(10):
        writer.write(np.full((48, 64, 3), shade(index), np.uint8))
    writer.release()
    return path
