"""What a cascade gives: accuracy and compute time of a flow, against each of its models alone, on real data.

    python -m benchmarks.accuracy [--repeats 5] [--splits 10]

Two data sets that ship with installed packages: the wrist recordings of the demo, split by person, and scikit-learn's
digits. Each split has three parts: the models learn from the first, thresholds are chosen on the second, and the third
is only measured on. No broker: what is timed is the models, one flow at a time, with the computing of their features.
The reference is the dear model alone. The table is written to benchmarks/results/accuracy.md.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.harness import options_of, progress, publish, spread, table
from edgeserve.cascade import Cascade, Threshold, choose_threshold
from edgeserve.cli.demo.recordings import SAMPLE_RATE_HZ, Window, cut_windows, dataset_path, load_recordings

Features = NDArray[np.float64]
F = TypeVar("F")

TREES = 200
# The bar: this close to the dear model's accuracy, at less than this share of its compute time.
BAR_POINTS = -0.5
BAR_RATIO = 0.5
BANDS_HZ = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 25.1)


@dataclass(frozen=True)
class Part(Generic[F]):
    """Flows, what they really are, and whose they are."""

    flows: Sequence[F]
    labels: Sequence[Any]
    people: Sequence[int] = ()


@dataclass(frozen=True)
class Split(Generic[F]):
    train: Part[F]
    calibration: Part[F]
    test: Part[F]


@dataclass(frozen=True)
class Task(Generic[F]):
    """A data set, the two models for it, and how it is split. Of several dear models, the training part decides."""

    name: str
    about: str
    cheap_features: Callable[[F], Features]
    cheap: Callable[[int], Any]
    dear_features: Callable[[F], Features]
    dear: Callable[[int], dict[str, Any]]
    splits: Callable[[int], Iterator[Split[F]]]


@dataclass
class Found:
    """What was measured of one way to answer; one value for each split."""

    accuracy: list[float] = field(default_factory=list)
    escalated: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Model(Generic[F]):
    """A fitted classifier as a model of a cascade: the class it finds likeliest, and how likely that is."""

    classifier: Any
    features: Callable[[F], Features]

    @classmethod
    def fit(cls, classifier: Any, features: Callable[[F], Features], part: Part[F]) -> Model[F]:
        classifier.fit(np.stack([features(flow) for flow in part.flows]), list(part.labels))
        return cls(classifier, features)

    def __call__(self, flow: F) -> tuple[Any, float]:
        shares = self.classifier.predict_proba(self.features(flow)[None, :])[0]
        best = int(shares.argmax())
        return self.classifier.classes_[best].item(), float(shares[best])


def means_and_deviations(window: Window) -> Features:
    """12 numbers: mean and standard deviation of each axis."""
    samples = np.hstack([window.accel, window.gyro])
    return np.concatenate([samples.mean(0), samples.std(0)]).astype(np.float64)


def rich_features(window: Window) -> Features:
    """Of each axis and of both lengths: moments, quantiles, change, spectrum; and how the axes go together."""
    axes = np.hstack([window.accel, window.gyro]).astype(np.float64)
    lengths = np.stack([np.linalg.norm(window.accel, axis=1), np.linalg.norm(window.gyro, axis=1)], axis=1)
    signals = np.hstack([axes, lengths])
    mean, deviation = signals.mean(0), signals.std(0)
    scaled = (signals - mean) / np.maximum(deviation, 1e-9)
    power = np.abs(np.fft.rfft(signals - mean, axis=0)) ** 2
    hz = np.fft.rfftfreq(len(signals), 1 / SAMPLE_RATE_HZ)
    bands = [power[(hz >= low) & (hz < high)].sum(0) for low, high in pairwise(BANDS_HZ)]
    together = np.corrcoef(axes, rowvar=False)[np.triu_indices(6, 1)]
    parts = [
        mean,
        deviation,
        (scaled**3).mean(0),
        (scaled**4).mean(0),
        np.quantile(signals, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), axis=0).ravel(),
        np.abs(np.diff(signals, axis=0)).mean(0),
        hz[power.argmax(0)],
        np.log1p(np.concatenate(bands)),
        np.nan_to_num(together),
    ]
    return np.concatenate(parts)


def pixels(image: Features) -> Features:
    return image.ravel()


def split_windows(count: int) -> Iterator[Split[Window]]:
    """By person, in turns: 2 to test on, the next 2 to calibrate, 6 to learn from. In 10 splits, each tests twice."""
    windows = cut_windows(load_recordings(dataset_path()))
    people = sorted({window.person for window in windows})

    def of(*chosen: int) -> Part[Window]:
        found = [window for window in windows if window.person in chosen]
        return Part(found, [window.exercise for window in found], [window.person for window in found])

    for first in range(count):
        turned = [people[(first + offset) % len(people)] for offset in range(len(people))]
        yield Split(train=of(*turned[4:]), calibration=of(*turned[2:4]), test=of(*turned[:2]))


def split_digits(count: int) -> Iterator[Split[Features]]:
    """At random, the classes evenly: 60 % to learn from, 20 % to calibrate, 20 % to test on."""
    digits = load_digits()
    for seed in range(count):
        images, rest, labels, rest_labels = train_test_split(
            digits.images, digits.target, test_size=0.4, random_state=seed, stratify=digits.target
        )
        calibration, test, calibration_labels, test_labels = train_test_split(
            rest, rest_labels, test_size=0.5, random_state=seed, stratify=rest_labels
        )
        yield Split(
            Part(images, labels.tolist()),
            Part(calibration, calibration_labels.tolist()),
            Part(test, test_labels.tolist()),
        )


def logistic_regression(seed: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed))


def forests(seed: int) -> dict[str, Any]:
    trees = ExtraTreesClassifier(TREES, random_state=seed)
    return {
        "a random forest": RandomForestClassifier(TREES, random_state=seed),
        "extremely randomised trees": trees,
        "the mean of such trees and a logistic regression": VotingClassifier(
            [("trees", trees), ("linear", logistic_regression(seed))], voting="soft"
        ),
    }


TASKS: list[Task[Any]] = [
    Task(
        "Wrist recordings",
        "7 shoulder exercises of 10 people, windows of 4 s of a 6-axis sensor at 50 Hz (data of `edgeserve demo`).\n"
        "Cheap: logistic regression on the mean and the standard deviation of each axis.\n"
        f"Dear: {TREES} trees on moments, quantiles, change, spectrum and correlations, in one of three ways; which\n"
        "is decided by 3-fold cross-validation by person within the people to learn from.\n"
        "Split by person: 6 to learn from, 2 to calibrate, 2 to test on, in turns: of 10 splits, each person is in\n"
        "the test part of two. A random forest alone, tried first, was less accurate than the cheap model in the test\n"
        "part of the three splits that it was run on; the other two ways were added then.",
        means_and_deviations,
        logistic_regression,
        rich_features,
        forests,
        split_windows,
    ),
    Task(
        "Digits",
        "1,797 images of 8 x 8 pixels, 10 classes (scikit-learn's `load_digits`).\n"
        "Cheap: logistic regression on the pixels.\n"
        f"Dear: extremely randomised trees, {TREES} of them, on the pixels.\n"
        "Split at random: 60 % to learn from, 20 % to calibrate, 20 % to test on.",
        pixels,
        logistic_regression,
        pixels,
        lambda seed: {"extremely randomised trees": ExtraTreesClassifier(TREES, random_state=seed)},
        split_digits,
    ),
]

CHEAP, DEAR = "cheap alone", "dear alone"
AS_ACCURATE, HALF_COST = "cascade, as accurate", "cascade, half the cost"


def timed(answer: Callable[[F], Any], flows: Sequence[F]) -> tuple[list[Any], float]:
    """The answers, one flow at a time, and the mean ms of a flow."""
    answers = []
    spent_s = 0.0
    gc.collect()
    for flow in flows:
        start_s = time.perf_counter()
        given = answer(flow)
        spent_s += time.perf_counter() - start_s
        answers.append(given)
    return answers, spent_s * 1e3 / len(flows)


def right(answers: Sequence[Any], labels: Sequence[Any]) -> float:
    return sum(answer == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


def best_of(candidates: dict[str, Any], features: Callable[[F], Features], part: Part[F]) -> str:
    """The candidate that does best on people that it has not learnt from, within the training part."""
    if len(candidates) == 1:
        return next(iter(candidates))
    inputs = np.stack([features(flow) for flow in part.flows])
    accuracy = {
        name: cross_val_score(candidate, inputs, part.labels, groups=part.people, cv=GroupKFold(3)).mean()
        for name, candidate in candidates.items()
    }
    return max(accuracy, key=accuracy.__getitem__)


def calibrate(cheap: Model[F], dear: Model[F], part: Part[F]) -> dict[str, Threshold]:
    """The thresholds of both cascades: as accurate as the dear model on this part, and at most half its cost."""
    pairs, cheap_ms = timed(cheap, part.flows)
    dear_pairs, dear_ms = timed(dear, part.flows)
    dear_answers = [answer for answer, _ in dear_pairs]
    sample: dict[str, Any] = {
        "labels": part.labels,
        "answers": [answer for answer, _ in pairs],
        "confidences": [confidence for _, confidence in pairs],
        "dear_answers": dear_answers,
        "cost": cheap_ms,
        "dear_cost": dear_ms,
    }
    return {
        AS_ACCURATE: choose_threshold(**sample, accuracy=right(dear_answers, part.labels)),
        HALF_COST: choose_threshold(**sample, budget=dear_ms * BAR_RATIO),
    }


def measure(task: Task[F], split: Split[F], seed: int, repeats: int, found: dict[str, Found]) -> str:
    """Add what one split shows, and tell which dear model it was."""
    candidates = task.dear(seed)
    best = best_of(candidates, task.dear_features, split.train)
    cheap = Model.fit(task.cheap(seed), task.cheap_features, split.train)
    dear = Model.fit(candidates[best], task.dear_features, split.train)
    thresholds = calibrate(cheap, dear, split.calibration)
    cascades = {name: Cascade([(cheap, chosen.threshold), (dear, None)]) for name, chosen in thresholds.items()}
    ways: dict[str, Callable[[F], Any]] = {
        CHEAP: lambda flow: cheap(flow)[0],
        DEAR: lambda flow: dear(flow)[0],
        **{name: cascade.answer for name, cascade in cascades.items()},
    }
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[Any]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            answers[name], ms = timed(way, split.test.flows)
            times_ms[name].append(ms)
    for name in ways:
        found[name].accuracy.append(right(answers[name], split.test.labels))
        found[name].ms.append(statistics.median(times_ms[name]))
        escalated = (
            cascades[name].answered[1] / sum(cascades[name].answered) if name in cascades else float(name == DEAR)
        )
        found[name].escalated.append(escalated)
    progress(
        f"{task.name}, split {seed + 1}: "
        + "; ".join(
            f"{name} {one.accuracy[-1]:.2%} right, {one.escalated[-1]:.0%} escalated, {one.ms[-1]:.2f} ms"
            for name, one in found.items()
        )
        + f"; dear: {best}"
    )
    return best


def section(task: Task[Any], found: dict[str, Found], chosen: Counter[str]) -> str:
    dear = found[DEAR]
    rows, verdicts = [], []
    for name, one in found.items():
        points = [100 * (mine - its) for mine, its in zip(one.accuracy, dear.accuracy, strict=True)]
        shares = [mine / its for mine, its in zip(one.ms, dear.ms, strict=True)]
        is_cascade = name in {AS_ACCURATE, HALF_COST}
        rows.append(
            [
                name,
                spread([100 * accuracy for accuracy in one.accuracy], 1),
                f"{100 * statistics.mean(one.accuracy):.1f}",
                spread(points, 1),
                f"{statistics.mean(points):+.1f}",
                spread([100 * share for share in one.escalated], 1) if is_cascade else "-",
                spread(one.ms),
                spread(shares),
            ]
        )
        if is_cascade:
            points_reached, ratio_reached = (
                statistics.median(points) >= BAR_POINTS,
                statistics.median(shares) < BAR_RATIO,
            )
            both = sum(p >= BAR_POINTS and s < BAR_RATIO for p, s in zip(points, shares, strict=True))
            verdicts.append(
                f"The bar, for *{name}*: accuracy {'reached' if points_reached else 'missed'} and time "
                f"{'reached' if ratio_reached else 'missed'} in the median; both in {both} of {len(points)} splits."
            )
    head = ["", "accuracy %", "mean", "points from dear", "mean", "escalated %", "ms a flow", "ratio to dear"]
    dear_models = (
        f"The dear model was {', '.join(f'{name} (splits: {count})' for name, count in chosen.most_common())}."
    )
    return "\n\n".join([f"## {task.name}", task.about, table(head, rows), "\n".join([*verdicts, dear_models])])


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--splits", int, None))
    splits = options.splits or (1 if options.quick else 10)
    sections = []
    for task in TASKS:
        found = {name: Found() for name in (CHEAP, DEAR, AS_ACCURATE, HALF_COST)}
        chosen = Counter(
            measure(task, split, seed, options.repeats, found) for seed, split in enumerate(task.splits(splits))
        )
        sections.append(section(task, found, chosen))
    versions = f"scikit-learn {version('scikit-learn')} (numpy {version('numpy')})"
    explanation = (
        f"Models of {versions}, asked for one flow at a time in one process,\n"
        "the computing of features included. They learn from the first part of a split; thresholds are chosen on the\n"
        "second; everything below is of the third, on which nothing was chosen. *As accurate*: the cheapest threshold\n"
        "that is as accurate as the dear model on the second part. *Half the cost*: the most accurate threshold whose\n"
        "expected time on the second part is at most half of the dear model's.\n"
        f"{splits} splits; minimum / median / maximum over them. The time of a split is the median of\n"
        f"{options.repeats} repeats in which the four take turns, each the mean over the flows of the test part.\n"
        "Points and ratio are with the dear model alone, on the same split.\n\n"
        f"The bar: within {-BAR_POINTS} points of the dear model's accuracy, at less than {BAR_RATIO} of its time."
    )
    publish("accuracy", "What a cascade gives", [explanation, *sections], options)


if __name__ == "__main__":
    main()
