from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgpack
import pytest

from edgeserve import replay
from edgeserve.cli.replay_page import page
from edgeserve.cli.replay_report import Report, duration
from edgeserve.replay import ClockPair
from tests.cli.command import edgeserve, edgeserve_here
from tests.replay.streams import log_pipeline, on_host

COUNT = 5


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs")
    log_pipeline(path, COUNT)
    return path


class Page(HTMLParser):
    """What is in a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_the_summary_has_what_each_operator_did_and_what_was_dropped(logs: Path) -> None:
    run = edgeserve("replay", str(logs))
    assert (run.returncode, run.stderr) == (0, "")
    said = rows(run.stdout)
    assert said[0][:5] == ["4", "runs,", "2023-11-14", "22:13:20Z", "and"]
    assert ["operator", "class", "received", "runs", "sent", "dropped", "held", "rate"] in said
    received = 3 * COUNT + 1
    (joined,) = [row for row in said if row[:2] == ["joined", "Compute"]]
    assert joined[2:7] == [str(received), str(COUNT), str(COUNT), str(COUNT + 1), "0"]
    assert joined[7].endswith("/s")
    (source,) = [row for row in said if row[:2] == ["right", "DataSource"]]
    assert source[2] == str(COUNT), "a source receives nothing"
    assert ["joined", "in", "the", "task", "4", "ms", "4", "ms"] in said
    assert ["from", "capture", "to", "finish", "4", "ms", "4", "ms"] in said
    (old,) = [row for row in said if row[:4] == ["joined", "left", "too", "old"]]
    assert old[4:7] == [str(COUNT), f"{100 * COUNT / (2 * COUNT + 1):.3g}", "%"]
    assert "-" not in [row[0] for row in said if row], "there is nothing to note"


def test_one_operator(logs: Path) -> None:
    run = edgeserve_here("replay", str(logs), "--operator", "sink")
    assert run.returncode == 0
    assert "sink" in run.stdout
    assert "joined" not in run.stdout
    assert "no log of a sink" not in run.stdout


def test_json_is_one_object(logs: Path) -> None:
    run = edgeserve_here("replay", str(logs), "--json")
    report = json.loads(run.stdout)
    assert list(report) == ["operators", "drops", "runs", "clocks"]
    by_name = {row["operator"]: row for row in report["operators"]}
    joined = by_name["joined"]
    assert (joined["received"], joined["sent"], joined["age_p99_ms"]) == (3 * COUNT + 1, COUNT, 4.0)
    parts = [joined[f"path_{part}_p50_ms"] for part in ("transfer", "queueing", "compute")]
    assert sum(parts) == pytest.approx(joined["timeliness_p50_ms"])
    assert by_name["left"]["age_p50_ms"] is None
    assert {"operator": "joined", "source": "left", "fate": "too old", "examples": COUNT} in report["drops"]
    assert all(run["was_closed"] for run in report["runs"])


def test_the_page_needs_nothing_from_elsewhere(logs: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    run = edgeserve_here("replay", str(logs), "--html", str(file))
    assert (run.returncode, run.stderr) == (0, f"wrote {file}\n")
    text = file.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    written = Page(text)
    assert written.open == []
    assert {tag for tag, _ in written.tags}.isdisjoint({"script", "link", "iframe"})
    images = [attributes for tag, attributes in written.tags if tag == "img"]
    assert [image["alt"] for image in images] == [
        "Time line of joined", "Latencies of joined", "Drops of joined over time",
        "Time line of sink", "Drops of sink over time",
    ]  # fmt: skip
    for image in images:
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert sum(tag == "table" for tag, _ in written.tags) == 3
    assert "prefers-color-scheme: dark" in text


def test_names_are_text_in_the_page_and_nothing_else(tmp_path: Path) -> None:
    log_pipeline(tmp_path, 1, "<b>&\"'$x$", ("<script>", "\x1b[2J"))
    log = replay.load(tmp_path)
    written = Page(page(Report(log, None)))
    tags = {tag for tag, _ in written.tags}
    assert not tags & {"b", "script"}
    assert "<b>&\"'$x$" in written.text
    assert "\x1b" not in written.text
    run = edgeserve_here("replay", str(tmp_path))
    assert "\x1b" not in run.stdout
    assert "\\x1b[2J" in run.stdout


def test_letters_that_the_font_does_not_have_are_no_error(tmp_path: Path) -> None:
    log_pipeline(tmp_path, 1, "カメラ")
    assert "カメラ" in page(Report(replay.load(tmp_path), None))


def test_a_torn_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    log_pipeline(tmp_path, COUNT)
    (file,) = tmp_path.glob("*.compute")
    file.write_bytes(file.read_bytes()[:-3])
    run = edgeserve_here("replay", str(tmp_path), "--html", str(tmp_path / "page.html"))
    assert run.returncode == 0
    notes = [line for line in run.stdout.splitlines() if line.startswith("- ")]
    assert [note.split(":")[0] for note in notes[:2]] == ["- joined", "- joined"]
    assert "bytes are no whole records" in notes[0]
    assert "it was not closed: it is running still, or was killed" in notes[1]


_KILLED = """
import itertools, sys, time
from edgeserve import DataSource

def stream():
    for number in itertools.count():
        time.sleep(0.005)
        yield b"%d" % number

DataSource(stream(), "local://" + sys.argv[1], "camera", log_path=sys.argv[2]).run()
"""


def test_a_log_of_a_process_that_runs_and_of_one_that_was_killed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "broker"), str(logs)], env=os.environ, stderr=subprocess.PIPE
    )
    try:
        deadline_s = time.monotonic() + 20
        while not any(path.stat().st_size > 1000 for path in logs.glob("*")):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        running = edgeserve_here("replay", str(logs))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed = edgeserve_here("replay", str(logs))
    for run in (running, killed):
        assert (run.returncode, run.stderr) == (0, "")
        assert "- camera: it was not closed" in run.stdout
        assert ["camera", "DataSource"] in [row[:2] for row in rows(run.stdout)]


def test_several_runs_of_an_operator_are_one_row_and_told_apart_in_notes(tmp_path: Path) -> None:
    for _ in range(2):
        log_pipeline(tmp_path, 2)
    for file in tmp_path.glob("*.compute"):
        file.write_bytes(file.read_bytes()[:-3])
    log = replay.load(tmp_path)
    assert sorted(log.summary()["operator"]) == ["joined", "left", "right", "sink"]
    notes = Report(log, "joined").notes()
    assert sum(note.startswith("joined (run of 2023-11-14 22:13:20Z): ") for note in notes) == len(notes) == 4


def test_without_the_log_of_a_sink_the_use_is_not_known(tmp_path: Path) -> None:
    log_pipeline(tmp_path, 2)
    (file,) = tmp_path.glob("*.destination")
    file.unlink()
    run = edgeserve_here("replay", str(tmp_path))
    assert "- no log of a sink is here that used the predictions: when they were used is not known\n" in run.stdout
    assert "from capture to use" not in run.stdout


def test_clocks_of_several_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch, "box")
    log_pipeline(tmp_path, 2)
    log = replay.load(tmp_path)
    pairs = {
        "box is 12.5 ms ± 500 µs ahead of arm, which the times": ClockPair("arm", "box", 12.5, 0.5, 1.0, "box"),
        "box is 3 ms ± 1 ms behind arm, which": ClockPair("arm", "box", -3.0, 1.0, 1.0, "box"),
        "messages went one way only, the fastest in 2 ms: ": ClockPair("arm", "box", None, None, 2.0, "arm"),
        "box is 40 ms or more behind arm, as messages seem": ClockPair("arm", "box", None, None, -40.0, "box"),
        "arm is 40 ms or more behind box, as messages seem": ClockPair("arm", "box", None, None, -40.0, "arm"),
    }
    for says, pair in pairs.items():
        log.clocks = [pair]
        (note,) = Report(log, None).notes()
        assert note.startswith(f"clocks of arm and box: {says}")
    assert all(run.host == "box" for run in log.runs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "there is no replay log at"),
        ("empty", "there is no replay log in"),
        ("newer", "has schema 99; this version reads up to 1: install a newer one"),
        ("other.compute", "is no replay log of edgeserve"),
    ],
)
def test_what_is_no_log_is_one_line_and_exit_code_2(tmp_path: Path, logs: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "other.compute").write_bytes(b"\x80\x04\x95 a pickle")
    head = {"format": "edgeserve replay log", "schema": 99}
    (tmp_path / "newer" / "one.compute").write_bytes(msgpack.packb(head))
    run = edgeserve_here("replay", str(tmp_path / name))
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("edgeserve: ")
    assert says in line


def test_wrong_names_are_one_line_and_exit_code_2(logs: Path, tmp_path: Path) -> None:
    for arguments, says in [
        (["--operator", "nobody"], "--operator is 'nobody': the log has "),
        (["--html", str(tmp_path / "no" / "page.html")], "can't be written: No such file or directory"),
    ]:
        run = edgeserve_here("replay", str(logs), *arguments)
        assert (run.returncode, run.stdout) == (2, "")
        (line,) = run.stderr.splitlines()
        assert says in line


def test_an_extra_that_is_missing_is_named(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeserve.cli import main

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["edgeserve", "replay", str(logs), "--html", "page.html"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "edgeserve replay --html needs matplotlib.figure: pip install 'edgeserve[plots]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.0, "0 µs"), (0.0134, "13.4 µs"), (1, "1 ms"), (999, "999 ms"), (1500, "1.5 s"), (119_000, "119 s"),
        (120_000, "2 min"), (7_200_000, "2 h"), (-3, "-3 ms"), (float("nan"), ""),
    ],
)  # fmt: skip
def test_durations_for_people(ms: float, text: Any) -> None:
    assert duration(ms) == text
