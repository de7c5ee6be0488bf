from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeserve import replay
from edgeserve._broker.connections import connect
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.cli.demo import recordings
from edgeserve.cli.demo.prediction import train
from edgeserve.cli.demo.recordings import Window, cut_windows, split_by_person
from edgeserve.cli.demo.replay import plan_replay
from edgeserve.cli.demo.score import Score, percentile
from edgeserve.errors import EdgeServeError, MissingExtra, UsageError
from tests.cli.command import at, edgeserve, start_edgeserve

HELD_OUT = [8, 9, 10]


@pytest.fixture(scope="module")
def all_recordings() -> list[recordings.Recording]:
    return recordings.load_recordings(recordings.dataset_path())


@pytest.fixture(scope="module")
def offline(all_recordings: list[recordings.Recording]) -> Mapping[str, int]:
    """How many of the held-out windows the same models tell rightly with no stream in between."""
    known, unseen = map(cut_windows, split_by_person(all_recordings, HELD_OUT))
    one, two = train(known, ["accel"]), train(known, ["accel", "gyro"])
    return {
        "one_sensor": sum(one.predict(window.accel) == window.exercise for window in unseen),
        "two_sensors": sum(two.predict(window.accel, window.gyro) == window.exercise for window in unseen),
    }


def topics_of(run_id: str, address: LocalAddress | PulsarAddress) -> list[str]:
    connection = connect(address)
    try:
        return [topic.name for topic in connection.topics() if topic.name.startswith(f"edgeserve-demo-{run_id}")]
    finally:
        connection.close()


def check_counts(result: Mapping[str, Any]) -> None:
    for stats in result["operators"].values():
        assert stats["received"] == sum(stats["fates"].values()) + stats["held"]
    for model in ("one_sensor", "two_sensors"):
        tally = result[model]
        assert tally["accuracy"] == tally["right"] / tally["served"]
        assert 0 < tally["latency_p50_ms"] <= tally["latency_p99_ms"]


def test_what_is_streamed_is_predicted_as_it_would_be_offline(
    address: LocalAddress | PulsarAddress, offline: Mapping[str, int]
) -> None:
    run = edgeserve("demo", "--seconds", "4", "--json", *at(address))
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    check_counts(result)
    assert result["windows"] == 364
    assert result["held_out"] == HELD_OUT
    for model, right in offline.items():
        assert (result[model]["served"], result[model]["right"]) == (364, right)
        assert result[model]["misjoined"] == 0
    assert offline["two_sensors"] > offline["one_sensor"]
    assert topics_of(result["run_id"], address) == []


def test_windows_that_one_sensor_loses_are_dropped_with_a_reason(address: LocalAddress | PulsarAddress) -> None:
    run = edgeserve("demo", "--seconds", "4", "--gyro-loss", "0.2", "--json", *at(address))
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    check_counts(result)
    lost = result["operators"]["gyro"]["fates"]["gated"]
    assert 0 < lost < 364
    assert result["one_sensor"]["served"] == 364
    assert result["two_sensors"]["served"] == 364 - lost
    assert result["two_sensors"]["misjoined"] == 0
    assert result["operators"]["two-sensors"]["fates"] == {"used": 2 * (364 - lost), "expired": lost}


def test_without_a_terminal_there_are_four_lines_and_the_tables(tmp_path: Path) -> None:
    run = edgeserve("demo", "--seconds", "2", "--pulsar", f"local://{tmp_path}")
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stderr.splitlines()] == ["Training", "Streaming", "Replay", "To"]
    (served,) = (line.split() for line in run.stdout.splitlines() if line.startswith(" windows served"))
    assert served == ["windows", "served", "364", "364"]
    assert "\x1b" not in run.stdout + run.stderr
    assert list(tmp_path.rglob("*.db")) == [], "the broker's files are gone with the topics"


def test_the_demo_names_its_log_and_the_command_that_opens_it(
    address: LocalAddress | PulsarAddress, tmp_path: Path
) -> None:
    folder = tmp_path / "logs of mine"
    run = edgeserve("demo", "--seconds", "3", "--gyro-loss", "0.2", "--log", str(folder), "--json", *at(address))
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    *_, named, command = run.stderr.splitlines()
    assert named == f"Replay logs of this run: {folder}"
    assert command == f"To look at them: edgeserve replay '{folder}'"
    assert result["log_path"] == str(folder)
    log = replay.load(folder)
    for each in log.runs:
        stats = result["operators"][each.operator]
        fates = log.examples[log.examples["operator"] == each.operator]["fate"].value_counts().to_dict()
        assert each.was_closed
        assert each.lost == each.torn_bytes == 0
        assert fates == (stats["fates"] if each.topics_in else {})


def test_speed_and_seconds_together_stop_the_stream_early(tmp_path: Path) -> None:
    run = edgeserve("demo", "--speed", "100", "--seconds", "1", "--json", "--pulsar", f"local://{tmp_path}")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["speed"] == 100
    assert 0 < result["two_sensors"]["served"] == result["windows"] < 25


def test_ctrl_c_ends_it_and_leaves_nothing_at_the_broker(tmp_path: Path) -> None:
    address = LocalAddress(str(tmp_path))
    with start_edgeserve("demo", "--speed", "1", *at(address)) as process:
        try:
            wait_for_topics(address)
            process.send_signal(signal.SIGINT)
            _, talk = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert talk.splitlines()[-1] == "interrupted"
    assert topics_of("", address) == []


def test_another_file_in_the_place_of_the_recordings_is_refused_unread(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    data = tmp_path / "seglearn" / "data"
    data.mkdir(parents=True)
    (tmp_path / "seglearn" / "__init__.py").write_text("raise SystemExit('it was imported')")
    (data / "watch_dataset.npy").write_bytes(pickle.dumps(Trap(trap)))
    run = edgeserve("demo", "--pulsar", f"local://{tmp_path}", env={"PYTHONPATH": before_others(tmp_path)})
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert "was not loaded" in line
    assert recordings.DATASET_SHA256 in line
    assert "pip install" in line
    assert not trap.exists()


def before_others(folder: Path) -> str:
    """A PYTHONPATH with `folder` before what is installed, and this edgeserve."""
    return os.pathsep.join([str(folder), str(Path(recordings.__file__).parents[3])])


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_byte_changed_in_the_recordings_is_noticed(tmp_path: Path) -> None:
    content = bytearray(recordings.dataset_path().read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "watch_dataset.npy"
    changed.write_bytes(content)
    with pytest.raises(EdgeServeError, match=hashlib.sha256(content).hexdigest()):
        recordings.load_recordings(changed)


def test_recordings_that_are_not_there_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(EdgeServeError, match="pip install"):
        recordings.load_recordings(tmp_path / "watch_dataset.npy")


def test_missing_recordings_say_which_extra_has_them() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'edgeserve\[demo\]'"):
        recordings.dataset_path("a_package_that_nobody_has")


def test_a_missing_library_says_which_extra_has_it(tmp_path: Path) -> None:
    absent = 'raise ModuleNotFoundError("No module named \'sklearn\'", name="sklearn")'
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text(absent)
    run = edgeserve("demo", env={"PYTHONPATH": before_others(tmp_path)})
    assert (run.returncode, run.stdout) == (1, "")
    assert "pip install 'edgeserve[demo]'" in run.stderr.splitlines()[-1]


def test_the_recordings_are_what_the_docs_say(all_recordings: list[recordings.Recording]) -> None:
    assert len(all_recordings) == 140
    assert {recording.person for recording in all_recordings} == set(range(1, 11))
    assert len({recording.exercise for recording in all_recordings}) == 7
    assert all(recording.accel.shape == recording.gyro.shape for recording in all_recordings)
    lengths = [np.linalg.norm(recording.accel, axis=1) for recording in all_recordings]
    assert 1.0 < np.median(np.concatenate(lengths)) < 1.2, "in g: mostly gravity"


def test_nobody_is_on_both_sides_of_the_split(all_recordings: list[recordings.Recording]) -> None:
    known, unseen = split_by_person(all_recordings, HELD_OUT)
    assert {recording.person for recording in unseen} == set(HELD_OUT)
    assert {recording.person for recording in known} == {1, 2, 3, 4, 5, 6, 7}
    assert len(known) + len(unseen) == 140


def test_windows_do_not_overlap_and_none_spans_two_recordings() -> None:
    samples = np.arange(3 * 450, dtype=np.float32).reshape(450, 3)
    recording = recordings.Recording(1, "ROW", samples, -samples)
    windows = cut_windows([recording, recording._replace(exercise="PEN")])
    assert [(window.number, window.complete_ms, window.exercise) for window in windows] == [
        (0, 4_000, "ROW"),
        (1, 8_000, "ROW"),
        (2, 13_000, "PEN"),  # 450 samples are 9 s: the last second belongs to no window
        (3, 17_000, "PEN"),
    ]
    assert all(window.accel.shape == window.gyro.shape == (200, 3) for window in windows)
    assert np.array_equal(windows[1].gyro, -samples[200:400])


def window(number: int, complete_ms: int, exercise: str = "ROW") -> Window:
    return Window(number, complete_ms, 1, exercise, np.zeros((200, 3), np.float32), np.zeros((200, 3), np.float32))


@pytest.mark.parametrize(
    ("seconds", "speed", "played", "planned_speed"),
    [
        (None, None, 3, 1.0),
        (10.0, None, 3, 2.0),
        (None, 4.0, 3, 4.0),
        (2.0, 4.0, 1, 4.0),
        (1.999, 4.0, 0, None),
    ],
)
def test_a_replay_is_planned_from_time_or_speed_or_both(
    seconds: float | None, speed: float | None, played: int, planned_speed: float | None
) -> None:
    windows = [window(0, 8_000), window(1, 12_000), window(2, 20_000)]
    if planned_speed is None:
        with pytest.raises(UsageError, match=r"complete after 2\.0 s"):
            plan_replay(windows, seconds, speed)
    else:
        assert plan_replay(windows, seconds, speed) == (windows[:played], planned_speed)


def test_a_score_counts_each_window_once_and_knows_a_wrong_pair() -> None:
    score = Score([window(0, 4_000), window(1, 8_000, "PEN"), window(2, 12_000)])
    assert (score.tally().accuracy, score.tally().latency_p50_ms) == (None, None)
    score.add([0, 0], "ROW", 3.0)
    score.add([0, 0], "PEN", 9.0)
    score.add([1, 2], "ROW", 5.0)
    tally = score.tally()
    assert (tally.served, tally.right, tally.accuracy, tally.misjoined) == (2, 1, 0.5, 1)
    assert (tally.latency_p50_ms, tally.latency_p99_ms) == (3.0, 5.0)
    assert not score.is_complete
    score.add([2], "ROW", 1.0)
    assert score.is_complete


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected
    assert percentile([], share) is None


def wait_for_topics(address: LocalAddress) -> None:
    """Until the demo has opened its four topics; the test's time-out is the limit."""
    while len(topics_of("", address)) < 4:
        pass
