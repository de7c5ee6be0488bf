"""A sink that remembers what it has served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeserve import Deduplicate, Fate, Materialize, UsageError
from edgeserve._served_ids import ServedIds
from edgeserve.errors import EdgeServeError
from edgeserve.testing import memory_broker
from tests.operators.conftest import Wire

ID = b"i" * 16


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_id_is_served_once_also_by_the_next_run(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []
    wire.send("any", b"first", example_id=ID)
    wire.send("any", b"again", example_id=ID)
    with Materialize(seen.append, broker, topic=wire.src, deduplicate=True) as sink:
        assert [next(sink), next(sink)] == [None, None]
        assert sink.stats.fates == {Fate.USED: 1, Fate.DUPLICATE: 1}
        assert sink.stats.held == 0
    wire.send("any", b"and again", example_id=ID)
    with Materialize(seen.append, broker, topic=wire.src, deduplicate=True, idle_timeout_ms=1000) as sink:
        for _ in sink:
            pass
        assert sink.stats.fates == {Fate.DUPLICATE: 1}
    assert seen == [b"first"]
    with Materialize(seen.append, broker, topic=wire.src, deduplicate=True, idle_timeout_ms=300) as sink:
        assert list(sink) == [], "a duplicate is acknowledged"


def test_what_the_callable_raised_on_was_not_served(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []

    def fail_once(payload: bytes) -> None:
        seen.append(payload)
        if len(seen) == 1:
            raise ValueError

    wire.send("any", b"1", example_id=ID)
    with Materialize(fail_once, broker, topic=wire.src, deduplicate=True) as sink, pytest.raises(ValueError):  # noqa: PT011
        next(sink)
    with Materialize(fail_once, broker, topic=wire.src, deduplicate=True) as sink:
        next(sink)
        assert sink.stats.fates == {Fate.USED: 1}


def test_another_sink_of_the_topic_has_served_nothing(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []
    options: dict[str, Any] = {"topic": wire.src, "deduplicate": True}
    with (
        Materialize(seen.append, broker, sink_id="one", **options) as one,
        Materialize(seen.append, broker, sink_id="two", **options) as two,
    ):
        wire.send("any", b"1", example_id=ID)
        next(one)
        next(two)
    assert seen == [b"1", b"1"]


def ids(**limits: int) -> ServedIds:
    return ServedIds(Deduplicate(**limits), "pulsar://test:6650", ["t"], "s")


def number(value: int) -> bytes:
    return value.to_bytes(16, "big")


def test_ids_are_bounded_by_count_the_oldest_go_first() -> None:
    served = ids(max_ids=100)
    for value in range(1000):
        served.add(number(value), 1)
    assert served.has(number(999), 1)
    assert served.has(number(950), 1)
    assert not served.has(number(700), 1)
    ((count,),) = served._database.execute("SELECT count(*) FROM served").fetchall()
    assert count <= 200
    served.close()


def test_ids_are_bounded_by_age() -> None:
    served = ids(max_age_ms=1000)
    served.add(ID, 5000)
    assert served.has(ID, 6000)
    assert not served.has(ID, 6001)
    for value in range(2000):
        served.add(number(value), 10_000)
    ((count,),) = served._database.execute("SELECT count(*) FROM served WHERE id = ?", (ID,)).fetchall()
    assert count == 0
    served.close()


def test_two_processes_share_what_was_served() -> None:
    one, other = ids(), ids()
    one.add(ID, 1)
    assert other.has(ID, 1)
    other.add(number(1), 1)
    assert one.has(number(1), 1)
    one.close()
    other.close()


def test_a_broker_in_memory_leaves_no_file(home: Path) -> None:
    with Materialize(len, memory_broker(), deduplicate=True):
        pass
    assert not home.exists()


def test_a_folder_that_cannot_be_is_said(home: Path) -> None:
    home.mkdir()
    (home / "served").write_text("a file is in the way")
    with pytest.raises(EdgeServeError, match=r"deduplicate= keeps the ids .* served"):
        ids()


@pytest.mark.parametrize("wrong", ["yes", 1, Ellipsis])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="expected True, False or a Deduplicate"):
        Materialize(len, memory_broker(), deduplicate=wrong)


@pytest.mark.parametrize("limits", [{"max_ids": 0}, {"max_age_ms": -1}])
def test_bounds_are_checked(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Deduplicate(**limits)


def test_what_was_served_is_not_served_again_though_its_id_could_not_be_noted(
    broker: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EdgeServeError("the disk is full")

    seen: list[bytes] = []
    wire.send("any", b"1", example_id=ID)
    with Materialize(seen.append, broker, topic=wire.src, deduplicate=True, on_error="retry") as sink:
        monkeypatch.setattr(ServedIds, "add", fail)
        with pytest.raises(EdgeServeError, match="disk is full"):
            next(sink)
    assert seen == [b"1"], "the function did not fail"


def test_an_example_whose_id_could_not_be_looked_up_is_taken_by_the_next_step(
    broker: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise EdgeServeError("the disk is away")

    seen: list[bytes] = []
    wire.send("any", b"1", example_id=ID)
    with Materialize(seen.append, broker, topic=wire.src, deduplicate=True) as sink:
        with monkeypatch.context() as patched:
            patched.setattr(ServedIds, "has", fail)
            with pytest.raises(EdgeServeError, match="disk is away"):
                next(sink)
        next(sink)
    assert seen == [b"1"]
