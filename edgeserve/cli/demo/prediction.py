"""What the demo serves: logistic regressions on four simple features of each sensor axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve.cli.demo.recordings import PURPOSE, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def features(sensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean, standard deviation, minimum and maximum of each axis of each sensor, in this order.

    Args:
        sensors: One (samples, axes) array for each sensor.
    """
    numpy = require("numpy", "demo", PURPOSE)
    parts = [part for samples in sensors for part in (samples.mean(0), samples.std(0), samples.min(0), samples.max(0))]
    result: NDArray[np.float64] = numpy.concatenate(parts).astype(numpy.float64)
    return result


class Predictor:
    """Tells which exercise a window of one or more sensors shows."""

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier

    def predict(self, *sensors: NDArray[np.float32]) -> str:
        """The exercise's short name; the sensors are those it was trained on, in the same order."""
        return str(self._classifier.predict(features(sensors)[None, :])[0])


def train(windows: Iterable[Window], sensors: Sequence[str]) -> Predictor:
    """Fit a predictor to windows whose exercises are known.

    Args:
        windows: What to learn from.
        sensors: The attributes of a window that it may look at: "accel", "gyro".
    """
    numpy = require("numpy", "demo", PURPOSE)
    linear_model = require("sklearn.linear_model", "demo", PURPOSE)
    pipeline = require("sklearn.pipeline", "demo", PURPOSE)
    preprocessing = require("sklearn.preprocessing", "demo", PURPOSE)
    known = list(windows)
    inputs = numpy.stack([features([getattr(window, sensor) for sensor in sensors]) for window in known])
    classifier = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=2000))
    classifier.fit(inputs, [window.exercise for window in known])
    return Predictor(classifier)
