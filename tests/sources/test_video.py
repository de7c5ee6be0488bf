"""Frames of a video at given times."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve.errors import UsageError
from edgeserve.sources.video import video_frames
from tests.sources.conftest import HandClock, shade

cv2 = pytest.importorskip("cv2")

URL = "ftp://node-1/frames"


def shown(folder: Path, url: str) -> int:
    """Which frame of the video it is, by its grey."""
    grey = float(cv2.imread(str(folder / url.removeprefix(f"{URL}/"))).mean())
    return min(range(10), key=lambda index: abs(grey - shade(index)))


@pytest.mark.parametrize(
    ("timestamps", "indexes"),
    [
        ([0.0], [0]),
        ([0.3], [3]),
        ([0.0, 0.1, 0.7], [0, 1, 7]),
        ([0.05, 0.0999, 0.1], [0, 0, 1]),
        ([0.2, 0.2, 0.25], [2, 2, 2]),
        ([0, 0.999], [0, 9]),
        ([], []),
    ],
)
def test_a_time_gives_the_frame_that_the_video_shows_then(
    tmp_path: Path, video: Path, clock: HandClock, timestamps: list[float], indexes: list[int]
) -> None:
    frames = list(video_frames(timestamps, tmp_path, URL, 64, 48, video, clock=clock))
    assert [shown(tmp_path, frame.value) for frame in frames] == indexes
    assert len({frame.value for frame in frames}) == len(timestamps)


def test_frames_leave_at_the_intervals_between_their_times_whatever_a_step_took(
    tmp_path: Path, video: Path, clock: HandClock
) -> None:
    left_ms, captured_ms = [], []
    for frame in video_frames([0.1, 0.2, 0.4, 0.9], tmp_path, URL, 64, 48, video, clock=clock):
        left_ms.append(clock.now().steady_ms - 5000)
        captured_ms.append(frame.capture_ms - 1_700_000_000_000)
        clock.turn(150)
    assert left_ms == pytest.approx([0, 150, 300, 800])
    assert captured_ms == [0, 100, 300, 800]


def test_a_time_past_the_end_is_an_error_that_says_where_the_end_is(
    tmp_path: Path, video: Path, clock: HandClock
) -> None:
    frames = video_frames([0.9, 1.0], tmp_path, URL, 64, 48, video, clock=clock)
    next(frames)
    with pytest.raises(UsageError, match=r"ends after 1\.000 s \(10 frames\); there is no frame at 1\.0 s"):
        next(frames)


@pytest.mark.parametrize(
    ("timestamps", "says"),
    [
        ([0.2, 0.1], "timestamp 1 is 0.1 s, before the one at 0.2 s"),
        ([-0.1], "timestamp 0 is -0.1"),
        ([0.0, float("nan")], "timestamp 1 is nan"),
        ([float("inf")], "timestamp 0 is inf"),
    ],
)
def test_times_are_positions_that_do_not_decrease(
    tmp_path: Path, video: Path, timestamps: list[float], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        next(video_frames(timestamps, tmp_path, URL, 64, 48, video))


def test_a_video_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        next(video_frames([0.0], tmp_path, URL, 64, 48, tmp_path / "missing.avi"))
