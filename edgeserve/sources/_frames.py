"""What camera and video share: opening a capture, and frames as JPEG files under their final name."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgeserve._extras import require
from edgeserve.errors import UsageError

CameraId = int | str | os.PathLike[str]


def is_file(cam_id: CameraId) -> bool:
    """Whether it is a recording, which has a beginning, a rate and an end, and no device or live stream."""
    return not isinstance(cam_id, int) and os.path.isfile(cam_id)


@contextmanager
def opened(cam_id: CameraId, width: int, height: int) -> Iterator[Any]:
    """A `cv2.VideoCapture`, released at the end.

    Raises:
        UsageError: It cannot be opened, or the size is none.
        MissingExtra: OpenCV is not installed.
    """
    for pixels in (width, height):
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
            raise UsageError(f"frames are whole pixels wide and high, 1 or more, not {width!r} x {height!r}")
    cv2 = require("cv2", "video", "reading a camera or a video file")
    name = cam_id if isinstance(cam_id, int) else os.fspath(cam_id)
    # OpenCV reports a missing file as "cannot open", among warnings about each library it tried.
    if isinstance(name, str) and "://" not in name and not os.path.exists(name):
        raise UsageError(f"camera {name!r} cannot be opened: there is no such file or device")
    capture = cv2.VideoCapture(name)
    try:
        if not capture.isOpened():
            raise UsageError(
                f"camera {name!r} cannot be opened: give the index of a camera that is connected and not in use, "
                "a device, a URL, or a video file that OpenCV reads"
            )
        if not is_file(cam_id):
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        yield capture
    finally:
        capture.release()


def frames_per_second(capture: Any, cam_id: CameraId) -> float:
    """The rate of a recording.

    Raises:
        UsageError: The file does not say it.
    """
    cv2 = require("cv2", "video", "reading a video file")
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    if not math.isfinite(fps) or fps <= 0:
        raise UsageError(f"video {cam_id!r} does not say how many frames it has per second ({fps})")
    return fps


class FrameFolder:
    """Writes frames as JPEG files into a folder that is served under a URL.

    A file's name says its capture time and sorts by it; a part of it is random, so that cameras and runs can
    share a folder. It appears under its name only when it is whole.

    Args:
        local_ftp_path: The folder; it is made where there is none.
        global_ftp_path: The URL under which others find the folder.
        width: Pixels; a frame of another size is scaled to `width` x `height`.
        height: Pixels.
    """

    def __init__(self, local_ftp_path: str | os.PathLike[str], global_ftp_path: str, width: int, height: int) -> None:
        self._folder = os.fspath(local_ftp_path)
        self._url = global_ftp_path.rstrip("/")
        self._size = (width, height)
        self._run = secrets.token_hex(4)
        self._count = 0
        os.makedirs(self._folder, exist_ok=True)

    def write(self, frame: Any, capture_ms: int) -> str:
        """Write one frame (height x width x 3, uint8, blue green red) and return its URL.

        Raises:
            OSError: The folder is full or not writable.
        """
        cv2 = require("cv2", "video", "writing frames")
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        ok, jpeg = cv2.imencode(".jpg", frame)
        if not ok:
            raise UsageError(f"OpenCV cannot write a frame of {frame.shape} {frame.dtype} as JPEG")
        name = f"{capture_ms:013d}-{self._count:08d}-{self._run}.jpg"
        self._count += 1
        part = os.path.join(self._folder, f".{name}.part")
        try:
            with open(part, "wb") as file:
                file.write(jpeg)
            os.replace(part, os.path.join(self._folder, name))
        except BaseException:
            with suppress(OSError):
                os.remove(part)
            raise
        return f"{self._url}/{name}"
