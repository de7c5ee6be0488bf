"""Frames of a video at given times."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Sequence
from typing import Any

from edgeserve._core.clock import SYSTEM_CLOCK, Clock
from edgeserve.errors import UsageError
from edgeserve.sources._frames import CameraId, FrameFolder, frames_per_second, is_file, opened
from edgeserve.sources.pacing import Captured, Schedule


def video_frames(
    timestamps: Sequence[float],
    local_ftp_path: str | os.PathLike[str],
    global_ftp_path: str,
    width: int,
    height: int,
    cam_id: CameraId = 0,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> Generator[Captured[str], None, None]:
    """The frames that a video shows at the given times, leaving at the intervals between these times.

    `timestamps[i]` is a position in the video, in seconds from its beginning (at 25 frames per second, 2.0 is
    frame 50; the rate is taken as constant). The first frame leaves at once, frame i
    `timestamps[i] - timestamps[0]` seconds after it, whatever its reader did in between. Times closer than
    the video's frames give the same frame again. Of a camera, the frame is the one that it gives when the
    time has come, counted from the first one.

    Args:
        timestamps: Seconds, 0 or more, not decreasing.
        local_ftp_path: As for `camera_frames`, like all that follow.
        global_ftp_path: The URL of that folder.
        width: Pixels.
        height: Pixels.
        cam_id: A video file, or a camera.
        clock: What is read and waited on.

    Yields:
        The URL of each frame; a video's is captured when it was due, a camera's when it was read.

    Raises:
        UsageError: The video cannot be opened, a time is past its end, or the times decrease.
        OSError: The camera stopped giving frames, or the folder cannot be written.
        MissingExtra: OpenCV is not installed.
    """
    times_s = _checked(timestamps)
    with opened(cam_id, width, height) as capture:
        folder = FrameFolder(local_ftp_path, global_ftp_path, width, height)
        schedule = Schedule(clock)
        recording = Recording(capture, cam_id) if is_file(cam_id) else None
        for time_s in times_s:
            offset_ms = (time_s - times_s[0]) * 1000
            if recording is not None:
                frame = recording.frame_at(time_s)
                capture_ms = schedule.wait_for(offset_ms)
            else:
                frame = live_frame(capture, cam_id, clock, schedule.due(offset_ms).steady_ms)
                capture_ms = clock.now().wall_ms
            yield Captured(capture_ms, folder.write(frame, capture_ms))


class Recording:
    """Reads a video file forward, decoding only the frames that are asked for."""

    def __init__(self, capture: Any, cam_id: CameraId) -> None:
        self._capture = capture
        self._cam_id = cam_id
        self._fps = frames_per_second(capture, cam_id)
        self._grabbed = 0
        self._frame: Any = None

    def frame_at(self, time_s: float) -> Any:
        """The frame shown at `time_s`, which is not before the one asked for last."""
        # 0.1 s at 30 per second is frame 3, though 0.1 * 30 may fall just short of it.
        index = math.floor(time_s * self._fps + 1e-6)
        if index < self._grabbed:
            return self._frame
        while self._grabbed <= index:
            # Seeking by number lands on other frames with some codecs; reading on does not.
            if not self._capture.grab():
                raise UsageError(
                    f"video {self._cam_id!r} ends after {self._grabbed / self._fps:.3f} s "
                    f"({self._grabbed} frames); there is no frame at {time_s} s"
                )
            self._grabbed += 1
        ok, self._frame = self._capture.retrieve()
        if not ok:
            raise UsageError(f"video {self._cam_id!r} has a frame at {time_s} s that OpenCV cannot decode")
        return self._frame


def live_frame(capture: Any, cam_id: CameraId, clock: Clock, steady_ms: float) -> Any:
    """Read a camera until the time has come, and return its first frame from then on."""
    while True:
        # Asked before the frame comes: what was under way before the time had come is too early.
        come = clock.now().steady_ms >= steady_ms
        ok, frame = capture.read()
        if not ok:
            raise OSError(f"camera {cam_id!r} stopped giving frames")
        if come:
            return frame


def _checked(timestamps: Sequence[float]) -> list[float]:
    times_s = [float(time_s) for time_s in timestamps]
    for index, time_s in enumerate(times_s):
        if not math.isfinite(time_s) or time_s < 0:
            raise UsageError(f"timestamp {index} is {time_s}; positions in a video are seconds, 0 or more")
        if index and time_s < times_s[index - 1]:
            raise UsageError(f"timestamp {index} is {time_s} s, before the one at {times_s[index - 1]} s before it")
    return times_s
