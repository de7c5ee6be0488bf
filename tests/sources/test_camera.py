"""Frames of a camera, for which a video file stands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from edgeserve.errors import UsageError
from edgeserve.sources._frames import FrameFolder, opened
from edgeserve.sources.camera import camera_frames
from edgeserve.sources.video import live_frame
from tests.sources.conftest import HandClock, shade

cv2 = pytest.importorskip("cv2")

URL = "ftp://node-1/frames"


def read_back(folder: Path, url: str) -> np.ndarray:
    image = cv2.imread(str(folder / url.removeprefix(f"{URL}/")))
    assert image is not None
    return image


def test_every_frame_becomes_a_file_and_its_url(tmp_path: Path, video: Path, clock: HandClock) -> None:
    folder = tmp_path / "made" / "here"
    frames = list(camera_frames(folder, URL + "/", 64, 48, video, clock=clock))
    assert [frame.capture_ms - 1_700_000_000_000 for frame in frames] == [100 * index for index in range(10)]
    names = [frame.value.removeprefix(f"{URL}/") for frame in frames]
    assert sorted(os.listdir(folder)) == names
    for frame in frames:
        assert re.fullmatch(rf"{URL}/{frame.capture_ms}-\d{{8}}-[0-9a-f]{{8}}\.jpg", frame.value)
    for index, frame in enumerate(frames):
        image = read_back(folder, frame.value)
        assert image.shape == (48, 64, 3)
        assert abs(float(image.mean()) - shade(index)) < 5


def test_frames_have_the_size_that_was_asked_for(tmp_path: Path, video: Path, clock: HandClock) -> None:
    frame = next(camera_frames(tmp_path, URL, 30, 20, str(video), clock=clock))
    assert read_back(tmp_path, frame.value).shape == (20, 30, 3)


def test_two_cameras_share_a_folder_in_the_same_ms(tmp_path: Path, video: Path) -> None:
    urls = {
        frame.value
        for _ in range(2)
        for frame in camera_frames(tmp_path, URL, 64, 48, video, clock=HandClock(wall_ms=1000))
    }
    assert len(urls) == len(os.listdir(tmp_path)) == 20


def test_nothing_is_left_under_another_name_when_a_frame_cannot_be_written(tmp_path: Path) -> None:
    frames = FrameFolder(tmp_path, URL, 64, 48)
    url = frames.write(np.zeros((48, 64, 3), np.uint8), capture_ms=1)
    taken = url.removeprefix(f"{URL}/").replace("0000000000001-00000000", "0000000000002-00000001")
    (tmp_path / taken / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=re.escape(taken)):
        frames.write(np.zeros((48, 64, 3), np.uint8), capture_ms=2)
    assert sorted(os.listdir(tmp_path)) == [url.removeprefix(f"{URL}/"), taken]


def test_the_camera_is_released_when_the_reader_stops(video: Path) -> None:
    with opened(video, 64, 48) as capture:
        assert capture.isOpened()
    assert not capture.isOpened()
    with pytest.raises(RuntimeError, match="stopped"), opened(video, 64, 48) as capture:
        raise RuntimeError("stopped")
    assert not capture.isOpened()


@pytest.mark.parametrize(
    ("cam_id", "says"),
    [(99, "camera 99 cannot be opened: give the index"), ("missing.mp4", "'missing.mp4' .*no such file or device")],
)
def test_a_camera_that_cannot_be_opened_says_so(tmp_path: Path, cam_id: int | str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        next(camera_frames(tmp_path, URL, 64, 48, cam_id))
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_video_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no frames in here")
    with pytest.raises(UsageError, match=r"text\.mp4' cannot be opened"):
        next(camera_frames(tmp_path, URL, 64, 48, tmp_path / "text.mp4"))


@pytest.mark.parametrize(("width", "height"), [(0, 48), (64, -1), (64.0, 48), (True, 48)])
def test_frames_have_pixels(tmp_path: Path, video: Path, width: int, height: int) -> None:
    with pytest.raises(UsageError, match="whole pixels"):
        next(camera_frames(tmp_path, URL, width, height, video))


def test_a_camera_is_read_until_the_time_has_come(video: Path) -> None:
    class Ticking(HandClock):
        def now(self) -> object:  # type: ignore[override]
            self.turn(100)  # as a camera of 10 frames per second makes its reader wait
            return super().now()

    clock = Ticking(steady_ms=0.0)
    with opened(video, 64, 48) as capture:
        frame = live_frame(capture, 0, clock, steady_ms=300.0)
        assert abs(float(frame.mean()) - shade(2)) < 5
        with pytest.raises(OSError, match="camera 0 stopped giving frames"):
            live_frame(capture, 0, clock, steady_ms=1e9)
