"""The sources that bring their own frames, as operators."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve import CameraSource, Materialize, SimulateVideoWithTimestamps, UsageError


def test_a_camera_source_writes_frames_and_sends_their_urls(edgeserve_broker: str, video: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    with (
        CameraSource(edgeserve_broker, str(frames), "ftp://host/files", 64, 48, "camera", cam_id=str(video)) as camera,
        Materialize(bytes.decode, edgeserve_broker, topic="src") as sink,
    ):
        sent = [next(camera) for _ in range(3)]
        urls = [next(sink) for _ in range(3)]
    assert [url.encode() for url in urls if url is not None] == sent
    names = sorted(path.name for path in frames.iterdir())
    assert urls == [f"ftp://host/files/{name}" for name in names]


def test_a_video_source_sends_the_frames_at_the_given_times_through_its_gate(
    edgeserve_broker: str, video: Path, tmp_path: Path
) -> None:
    source = SimulateVideoWithTimestamps(
        [0.0, 0.05, 0.2],
        edgeserve_broker,
        str(tmp_path),
        "ftp://host",
        64,
        48,
        "camera",
        lambda url: url.rpartition("/")[2],
        "frames",
        str(video),
    )
    with source:
        names = list(source)
    captures_ms = [int(name[:13]) for name in names if name is not None]
    assert [capture_ms - captures_ms[0] for capture_ms in captures_ms] == [0, 50, 200]


def test_a_camera_that_cannot_be_opened_is_an_error_of_the_first_step(edgeserve_broker: str, tmp_path: Path) -> None:
    with (
        CameraSource(edgeserve_broker, str(tmp_path), "ftp://host", 64, 48, "camera", cam_id="none.avi") as camera,
        pytest.raises(UsageError, match=r"none\.avi"),
    ):
        next(camera)
