"""Plain iterables of rows and frames, each with its capture time; no broker and no operators.

They are generators: closing one, or reading it to its end, closes its file or camera.
"""

from edgeserve.sources._frames import CameraId
from edgeserve.sources.camera import camera_frames
from edgeserve.sources.pacing import Captured, wait_until
from edgeserve.sources.time_series import time_series
from edgeserve.sources.video import video_frames

__all__ = ["CameraId", "Captured", "camera_frames", "time_series", "video_frames", "wait_until"]
