"""What a worker remembers of the scripts that it has started."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve import EdgeServeError
from edgeserve._core.signed import ScriptRefused
from edgeserve._script_journal import Earlier, ScriptJournal

ID, OTHER = b"i" * 16, b"o" * 16
MAX_AGE_MS = 1000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def journal(topic: str = "code", worker_id: str = "w", max_age_ms: float = MAX_AGE_MS) -> ScriptJournal:
    return ScriptJournal(topic, worker_id, max_age_ms, in_memory=False)


def test_a_script_starts_once_also_for_a_replica_and_for_the_next_run() -> None:
    first, replica = journal(), journal()
    assert first.start(ID, "m1", 5000, 5001) is None
    assert replica.start(ID, "m2", 5000, 5002) == Earlier("m1", 5001)
    first.end(ID)
    first.close()
    assert replica.find(ID) == Earlier("m1", 5001, has_ended=True)
    replica.close()
    again = journal()
    assert again.start(ID, "m1", 5000, 5003) == Earlier("m1", 5001, has_ended=True)
    assert again.find(OTHER) is None
    again.close()


def test_a_start_that_is_taken_back_was_none() -> None:
    opened = journal()
    opened.start(ID, "m1", 5000, 5001)
    opened.take_back(ID)
    assert opened.find(ID) is None
    assert opened.start(ID, "m2", 5000, 5002) is None
    opened.close()


def test_a_script_that_failed_is_known_as_such_until_it_runs_without_failing() -> None:
    opened = journal()
    opened.start(ID, "m1", 5000, 5001)
    opened.end(ID, has_failed=True)
    assert opened.find(ID) == Earlier("m1", 5001, has_ended=True, has_failed=True)
    opened.end(ID)
    assert opened.find(ID) == Earlier("m1", 5001, has_ended=True)
    opened.close()


@pytest.mark.parametrize(
    ("earlier", "reruns", "expected"),
    [
        (Earlier("m", 1), False, "its end was not, as its worker was killed or closed"),
        (Earlier("m", 1), True, False),
        (Earlier("m", 1, has_ended=True), False, True),
        (Earlier("m", 1, has_ended=True), True, True),
        (Earlier("m", 1, has_ended=True, has_failed=True), True, "has failed"),
        (Earlier("another", 1), True, "replay"),
        (Earlier("another", 1, has_ended=True), True, "replay"),
    ],
)
def test_what_is_known_of_a_script_decides_whether_it_runs_again(
    earlier: Earlier, reruns: bool, expected: bool | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ScriptRefused, match=expected):
            earlier.has_succeeded("m", reruns_interrupted=reruns)
    else:
        assert earlier.has_succeeded("m", reruns_interrupted=reruns) is expected


@pytest.mark.parametrize("other", [{"topic": "code2"}, {"worker_id": "v"}])
def test_another_worker_or_topic_has_started_nothing(other: dict[str, str]) -> None:
    one, two = journal(), journal(**other)  # type: ignore[arg-type] # str, all of them
    one.start(ID, "m", 5000, 5000)
    assert two.find(ID) is None
    one.close()
    two.close()


def test_what_is_too_old_to_run_is_forgotten_and_never_runs_again() -> None:
    opened = journal()
    opened.start(ID, "m", 5000, 5000)
    assert opened.start(b"a" * 16, "m", 6000, 6000) is None
    assert opened.find(ID) is not None, "5000 is no more than 1000 ms before 6000"
    opened.start(OTHER, "m", 6001, 6001)
    assert opened.find(ID) is None
    with pytest.raises(ScriptRefused, match="of what was signed until 5000 this worker has forgotten"):
        opened.start(ID, "m", 5000, 5000)  # the clock was turned back
    opened.close()
    patient = journal(max_age_ms=10 * MAX_AGE_MS)
    with pytest.raises(ScriptRefused):
        patient.start(ID, "m", 5000, 6002)
    patient.close()


def test_a_worker_of_a_broker_in_memory_leaves_no_file(home: Path) -> None:
    opened = ScriptJournal("code", "w", MAX_AGE_MS, in_memory=True)
    opened.start(ID, "m", 5000, 5000)
    assert opened.find(ID) is not None
    opened.close()
    assert not home.exists()


def test_a_folder_that_cannot_be_is_said(home: Path) -> None:
    home.mkdir()
    (home / "scripts").write_text("a file is in the way")
    with pytest.raises(EdgeServeError, match=r"notes which scripts it has started in .*scripts"):
        journal()


def test_a_start_that_cannot_be_noted_is_an_error() -> None:
    opened = journal()
    opened.close()
    with pytest.raises(EdgeServeError, match="so it is not run"):
        opened.start(ID, "m", 5000, 5000)
    with pytest.raises(EdgeServeError, match="could not be looked up"):
        opened.find(ID)
    with pytest.raises(EdgeServeError, match="the end of a script could not be noted"):
        opened.end(ID)
    with pytest.raises(EdgeServeError, match="it could not be noted that a script was not started"):
        opened.take_back(ID)
    with pytest.raises(EdgeServeError, match="it could not be noted that a script was not started"):
        opened.take_back(ID)
