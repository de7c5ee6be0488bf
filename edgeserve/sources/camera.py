"""Frames of a camera, as files in a folder; what travels is their URLs."""

from __future__ import annotations

import os
from collections.abc import Generator

from edgeserve._core.clock import SYSTEM_CLOCK, Clock
from edgeserve.sources._frames import CameraId, FrameFolder, frames_per_second, is_file, opened
from edgeserve.sources.pacing import Captured, Schedule


def camera_frames(
    local_ftp_path: str | os.PathLike[str],
    global_ftp_path: str,
    width: int,
    height: int,
    cam_id: CameraId = 0,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> Generator[Captured[str], None, None]:
    """Frames of a camera as they come, or of a video file at the file's own rate.

    Args:
        local_ftp_path: The folder that the frames go to as JPEG; it is made where there is none.
        global_ftp_path: The URL under which others find that folder.
        width: Pixels. The camera is asked for this size; frames of another one are scaled to it.
        height: Pixels.
        cam_id: OpenCV's index of a camera, a device, the URL of a stream, or a video file.
        clock: What is read and waited on.

    Yields:
        The URL of each frame, `global_ftp_path/NAME.jpg`; the files sort by capture time. A camera's frame is
        captured when it was read, a file's when it was due.

    Raises:
        UsageError: The camera cannot be opened.
        OSError: The camera stopped giving frames, or the folder cannot be written.
        MissingExtra: OpenCV is not installed.
    """
    with opened(cam_id, width, height) as capture:
        folder = FrameFolder(local_ftp_path, global_ftp_path, width, height)
        recorded = is_file(cam_id)
        interval_ms = 1000 / frames_per_second(capture, cam_id) if recorded else 0
        schedule = Schedule(clock)
        count = 0
        while True:
            ok, frame = capture.read()
            if not ok and recorded:
                return
            if not ok:
                raise OSError(f"camera {cam_id!r} stopped giving frames, after {count}")
            capture_ms = schedule.wait_for(count * interval_ms) if recorded else clock.now().wall_ms
            yield Captured(capture_ms, folder.write(frame, capture_ms))
            count += 1
