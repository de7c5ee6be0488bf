"""What follows the log of Pulsar's client, and does not end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edgeserve._broker import pulsar_log


def test_lines_that_are_mixed_up_or_of_several_are_passed_on(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "client.log"
    path.write_bytes(b"")
    follower = pulsar_log._Follower(os.open(path, os.O_RDWR))
    with open(path, "ab", buffering=0) as client, caplog.at_level(logging.WARNING, "edgeserve.broker.pulsar.client"):
        client.write(b"2026-01-02 03:04:05.678 WARN  [1:2] Connection:12 | 100% \xff of a: b | c\n  its second line\n")
        client.write(b"2026-01-02 03:04:05.679 INFO  [1:2] Connection:13 | not asked for\n2026-01-02 03:04:05.6")
        follower.pass_on(1)
        assert [record.getMessage() for record in caplog.records] == ["100% \ufffd of a: b | c", "  its second line"]
        client.write(b"80 ERROR [1:2] Connection:14 | the rest\n")
        follower.pass_on(1)
        first, _, last = caplog.records
        assert (first.levelname, first.filename, first.lineno) == ("WARNING", "Connection", 12)
        assert (last.levelname, last.getMessage(), round(last.msecs)) == ("ERROR", "the rest", 680)
        client.write(b"x" * pulsar_log._MOST_BYTES + b"\n")
        follower.pass_on(1)
        assert path.stat().st_size == 0
        client.write(b"2026-01-02 03:04:06.000 WARN  [1:2] Connection:12 | after the cut\n")
        follower.pass_on(1)
        assert caplog.records[-1].getMessage() == "after the cut"


def test_a_line_whose_time_is_none_ends_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "client.log"
    mixed_up = "2026-01-41 03:04:05.678 WARN  [1:2] Connection:12 | mixed up"
    path.write_text(f"2026-01-02 03:04:05.678 WARN  [1:2] X:1 | one\n{mixed_up}\n{mixed_up.replace('41', '03')}\n")
    with caplog.at_level(logging.WARNING, "edgeserve.broker.pulsar.client"):
        pulsar_log._Follower(os.open(path, os.O_RDWR)).pass_on(1)
    assert [record.getMessage() for record in caplog.records] == ["one", mixed_up, "mixed up"]


def test_a_filter_that_raises_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "client.log"
    path.write_text("2026-01-02 03:04:05.678 WARN  [1:2] X:1 | one\n2026-01-02 03:04:05.679 WARN  [1:2] X:1 | two\n")
    seen: list[str] = []

    def handle(record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        raise RuntimeError("a filter of the user's")

    monkeypatch.setattr(pulsar_log._log, "handle", handle)
    pulsar_log._Follower(os.open(path, os.O_RDWR)).pass_on(1)
    assert seen == ["one", "two"]


def test_a_client_that_says_more_than_can_be_passed_on_does_not_fill_the_disk(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulsar_log, "_MOST_BYTES", 1000)
    monkeypatch.setattr(pulsar_log, "_MOST_UNREAD_BYTES", 1 << 20)
    path = tmp_path / "client.log"
    path.write_bytes(b"x" * 999 + b"\n")
    with caplog.at_level(logging.WARNING, "edgeserve.broker.pulsar.client"), open(path, "ab", buffering=0) as client:
        for _ in range(3000):
            client.write(b"x" * 999 + b"\n")
        pulsar_log._Follower(os.open(path, os.O_RDWR)).pass_on(1)
        assert path.stat().st_size == 0
        assert "of this log came faster than they could be passed on" in caplog.records[-1].getMessage()
