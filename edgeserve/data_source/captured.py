"""Sources that bring their own streams, of what has been captured at times of its own: frames, and rows of a file."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._payload import Gate
from edgeserve.address import Address
from edgeserve.data_source.stream import DataSource
from edgeserve.gates import csv_row_out, text_out
from edgeserve.sources import CameraId, Captured, camera_frames, time_series, video_frames


class _CapturedSource(DataSource):
    """A source that brings its own stream, whose items know when they were captured."""

    def __init__(
        self,
        stream: Generator[Captured[Any], None, None],
        pulsar_node: Address,
        source_id: str,
        gate: Gate,
        topic: str,
        log: LogTarget,
    ) -> None:
        def gate_of_item(item: Captured[Any]) -> Any:
            return gate(item.value)

        super().__init__(
            stream,
            pulsar_node,
            source_id,
            gate_of_item,
            topic,
            log.path,
            log.filename,
            log_verbose=log.verbose,
            event_time=attrgetter("capture_ms"),
        )
        self._parts.callback(_close_stream, stream)


class CameraSource(_CapturedSource):
    """Writes a camera's frames as JPEG into a folder that is served, and sends their URLs.

    Args:
        pulsar_node, source_id, gate, topic: As for `DataSource`; the gate gets the URL (str).
        local_ftp_path: The folder for the frames; it is made where there is none.
        global_ftp_path: The URL under which others find that folder.
        width: Pixels.
        height: Pixels.
        cam_id: OpenCV's index of a camera, a device, the URL of a stream, or a video file.
        log_path, log_filename, log_verbose: As for `DataSource`.

    Raises:
        UsageError: An argument is wrong; the first step raises it if the camera can't be opened.
        MissingExtra: OpenCV is not installed; raised by the first step.
    """

    def __init__(
        self,
        pulsar_node: Address,
        local_ftp_path: str,
        global_ftp_path: str,
        width: int,
        height: int,
        source_id: str,
        gate: Gate | None = None,
        topic: str = "src",
        cam_id: CameraId = 0,
        *,
        log_path: LogPath = None,
        log_filename: str | None = None,
        log_verbose: bool = False,
    ) -> None:
        frames = camera_frames(local_ftp_path, global_ftp_path, width, height, cam_id)
        log = LogTarget(log_path, log_filename, log_verbose)
        super().__init__(frames, pulsar_node, source_id, text_out if gate is None else gate, topic, log)


class SimulateVideoWithTimestamps(_CapturedSource):
    """Sends the frames that a video shows at given times, as `CameraSource` does, at the intervals between the times.

    Args:
        timestamps: Positions in the video, in seconds, not decreasing.
        pulsar_node, local_ftp_path, global_ftp_path, width, height, source_id, gate, topic: As for `CameraSource`.
        cam_id: A video file, or a camera.
        log_path, log_filename, log_verbose: As for `DataSource`.

    Raises:
        UsageError: An argument is wrong; the first step raises it if the video can't be opened.
        MissingExtra: OpenCV is not installed; raised by the first step.
    """

    def __init__(
        self,
        timestamps: Sequence[float],
        pulsar_node: Address,
        local_ftp_path: str,
        global_ftp_path: str,
        width: int,
        height: int,
        source_id: str,
        gate: Gate | None = None,
        topic: str = "src",
        cam_id: CameraId = 0,
        *,
        log_path: LogPath = None,
        log_filename: str | None = None,
        log_verbose: bool = False,
    ) -> None:
        frames = video_frames(timestamps, local_ftp_path, global_ftp_path, width, height, cam_id)
        log = LogTarget(log_path, log_filename, log_verbose)
        super().__init__(frames, pulsar_node, source_id, text_out if gate is None else gate, topic, log)


class SimulateTimeSeries(_CapturedSource):
    """Sends the rows of a CSV file at the intervals that its first column says, whatever a step took.

    Args:
        filename: A CSV file in UTF-8 whose first column is seconds; a line of column names may come first.
        pulsar_node, source_id, topic: As for `DataSource`.
        gate: Gets the row's values after the first column, a list of str. None: they are sent as a line of CSV.
        log_path, log_filename, log_verbose: As for `DataSource`.

    Raises:
        UsageError: An argument is wrong; a step raises it for a line that is no such row, with the line's number.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        pulsar_node: Address,
        source_id: str,
        gate: Gate | None = None,
        topic: str = "src",
        *,
        log_path: LogPath = None,
        log_filename: str | None = None,
        log_verbose: bool = False,
    ) -> None:
        log = LogTarget(log_path, log_filename, log_verbose)
        gate = csv_row_out if gate is None else gate
        super().__init__(time_series(filename), pulsar_node, source_id, gate, topic, log)


def _close_stream(stream: Generator[Any, None, None]) -> None:
    # A step that was abandoned may still be inside it; it is then closed with the process.
    with suppress(ValueError):
        stream.close()
