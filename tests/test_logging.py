from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve import DataSource, Materialize, PulsarAddress, _logging
from edgeserve._logging import Seldom, is_heard, last_words, logger
from tests.broker.workers import until
from tests.operators.outages import Line

ROOT = Path(__file__).parents[1]

on_apache = pytest.mark.parametrize("broker", ["apache"], indirect=True)

LISTEN = """
import logging, sys
logging.basicConfig(level=sys.argv[3], format="%(levelname)s %(name)s %(message)s")
"""

PIPELINE = """
import sys
from edgeserve import Compute, DataSource, Materialize
broker, topic = sys.argv[1:3]
source = DataSource((str(number) for number in range(1000)), broker, "thermometer", topic=topic)
double = Compute(lambda thermometer: thermometer * 2, broker, "double", topic_in=topic, topic_out=topic + "-2",
                 idle_timeout_ms=1000, on_error="skip")
sink = Materialize(len, broker, sink_id="display", topic=topic + "-2", idle_timeout_ms=1000)
for _ in source: pass
for _ in double: pass
count = sum(1 for _ in sink)
assert count == 1000, count
"""


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of the package's that no other test has."""
    made = logger(f"test-{uuid.uuid4().hex[:8]}")
    yield made
    made.handlers.clear()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `Seldom` reads."""
    now = [1000.0]
    monkeypatch.setattr(_logging, "steady_ms", lambda: now[0])
    return now


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """But for what Pulsar's client says, in its own time."""
    return [record.getMessage() for record in caplog.records if not record.name.endswith(".client")]


# One line


def test_a_message_that_quotes_others_is_one_line(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("topic %s: %s", "room", ValueError("first\r\n\tsecond\u2028third"))
    assert messages(caplog) == ["topic room: first second third"]


def test_a_message_that_quotes_what_is_no_unicode_can_be_written(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    log.warning("there is no %s", os.fsdecode(b"\xff.jpg"))
    assert caplog.messages == ["there is no \\udcff.jpg"]


def test_an_exception_is_one_line_with_its_place(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("topic room")
    (record,) = caplog.records
    assert re.fullmatch(
        r"topic room: ValueError: first second \(.*test_logging.py:\d+ in test_.*\)", record.getMessage()
    )
    assert record.exc_info is None


def test_who_debugs_has_the_traceback_too(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, log.name):
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("topic room")
    (record,) = caplog.records
    assert record.getMessage() == "topic room: ValueError: why"
    assert record.exc_info is not None


def test_what_is_one_line_is_left_as_it_is(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("topic %s", "room")
    (record,) = caplog.records
    assert (record.msg, record.args) == ("topic %s", ("room",))


def test_an_error_that_cannot_be_shown_reaches_no_step(log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.propagate = False
    log.addHandler(logging.StreamHandler())
    log.warning("topic room: %s", MuteError())


# Seldom


def test_what_happens_again_and_again_is_said_once_a_minute_with_how_often_it_was(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, steady: list[float]
) -> None:
    seldom = Seldom(log)
    for number in range(1001):
        seldom.say("message %d", number)
    steady[0] += 59_999
    seldom.say("message %d", 1001)
    steady[0] += 1
    seldom.say("message %d", 1002)
    seldom.say("message %d", 1003)
    seldom.close()
    seldom.close()
    assert messages(caplog) == [
        "message 0",
        "message 1002 (and 1001 times since the last such line)",
        "message 1003 (the last of 1 since the last such line)",
    ]


def test_what_was_over_is_said_at_once_when_it_happens_again(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, steady: list[float]
) -> None:
    seldom = Seldom(log)
    assert seldom.is_due
    seldom.say("first")
    assert not seldom.is_due
    seldom.over()
    seldom.say("second")
    assert messages(caplog) == ["first", "second"]


# Who listens


def test_nobody_hears_what_no_handler_takes(log: logging.Logger) -> None:
    log.propagate = False
    assert not is_heard(log, logging.ERROR)
    log.addHandler(logging.NullHandler())
    assert not is_heard(log, logging.ERROR)
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    log.addHandler(handler)
    assert [is_heard(log, level) for level in (logging.WARNING, logging.ERROR)] == [False, True]
    log.setLevel(logging.CRITICAL)
    assert not is_heard(log, logging.ERROR)


def test_an_error_at_exit_goes_to_stderr_only_if_nobody_listens(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    last_words(log, "operator %s: %s", "x", "heard")
    log.propagate = False
    log.addHandler(logging.NullHandler())
    last_words(log, "operator %s: %s", "x", "first\nsecond")
    assert messages(caplog) == ["operator x: heard"]
    assert capsys.readouterr() == ("", "edgeserve: operator x: first second\n")


def test_every_logger_is_of_the_kind_whose_records_are_one_line() -> None:
    code = """
import importlib, logging, pkgutil, edgeserve
for module in pkgutil.walk_packages(edgeserve.__path__, "edgeserve."):
    if not module.name.endswith("__main__") and "pytest" not in module.name:
        importlib.import_module(module.name)
made = logging.Logger.manager.loggerDict
assert len([name for name in made if name.startswith("edgeserve.")]) > 8
for name, log in made.items():
    if name.startswith("edgeserve.") and isinstance(log, logging.Logger):
        assert log.filters, name
"""
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What a pipeline says


def test_every_logger_is_in_the_table_of_the_docs() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "edgeserve").rglob("*.py")]
    made = {f"edgeserve.{name}" for source in sources for name in re.findall(r'\blogger\("([\w.]+)"\)', source)}
    page = (ROOT / "docs" / "concepts" / "watching.md").read_text(encoding="utf-8")
    assert made == set(re.findall(r"^\| `(edgeserve\.[\w.]+)` \|", page, re.MULTILINE))


def test_a_pipeline_says_nothing_unless_somebody_listens(broker: str, topic: str) -> None:
    done = run_python(PIPELINE, broker, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_a_thousand_examples_are_no_thousand_lines(broker: str, topic: str, level: str) -> None:
    done = run_python(LISTEN + PIPELINE, broker, topic, level)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    ours = [line for line in lines if " edgeserve.broker.pulsar.client " not in line]
    if level == "WARNING":
        assert ours == []
        return
    assert sorted(line.split()[3:5] for line in ours) == [
        [name, event] for name in ("display", "double", "thermometer") for event in ("closed:", "opened:")
    ]
    assert any("double closed: 1000 received, 1000 used, 0 held, 1000 sent" in line for line in ours)
    # Of Pulsar's client, some ten for each of the two producers and two consumers.
    assert len(lines) < 100


def test_a_flood_of_malformed_messages_is_two_lines(broker: str, topic: str) -> None:
    flood = """
import sys
from edgeserve import Fate, Materialize
from edgeserve._broker.base import Message
from edgeserve._broker.connections import connect
from edgeserve.address import parse_address
broker, topic = sys.argv[1:3]
connection = connect(parse_address(broker))
sink = Materialize(len, broker, sink_id="display", topic=topic, idle_timeout_ms=2000)
producer = connection.producer(topic)
for number in range(300):
    producer.send(Message(b"short"), lambda error: None)
for _ in sink: pass
assert sink.stats.fates == {Fate.MALFORMED: 300}, sink.stats
producer.close(5000)
connection.close()
"""
    done = run_python(LISTEN + flood, broker, topic, "WARNING")
    assert (done.returncode, done.stdout) == (0, "")
    first, last = done.stderr.splitlines()
    assert first.startswith("WARNING edgeserve.operator operator display: message ")
    assert f"of topic {topic} is malformed" in first.replace("persistent://public/default/", "")
    assert last.endswith("(the last of 299 since the last such line)")


def test_what_fails_while_closing_at_exit_is_said_although_nobody_listens(tmp_path: Path, topic: str) -> None:
    code = """
import sys
from edgeserve import DataSource, LocalAddress
source = DataSource([bytes(60_000)] * 9, LocalAddress(sys.argv[1], max_topic_bytes=100_000), "s", topic=sys.argv[2],
                    close_timeout_ms=500)
for _ in source: pass
"""
    done = run_python(code, str(tmp_path), topic)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeserve: operator s: while closing at exit: ")


def test_examples_that_are_given_up_one_after_the_other_are_two_lines(
    broker: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> None:
        raise ValueError("of\ntwo lines")

    with DataSource([b"x"] * 300, broker, "thermometer", topic=topic) as source:
        for _ in source:
            pass
    with Materialize(fail, broker, sink_id="display", topic=topic, on_error="skip", idle_timeout_ms=1000) as sink:
        for _ in sink:
            pass
    first, last = messages(caplog)
    assert first.startswith("operator display gives up ")
    assert first.endswith(": ValueError: of two lines")
    assert last.endswith("(the last of 299 since the last such line)")


@on_apache
def test_a_spool_says_when_it_begins_to_keep_and_when_it_is_heard_again(
    broker: str, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgeserve.spool")
    line = Line(int(broker.rpartition(":")[2]))
    line.cut()
    address = PulsarAddress(f"pulsar://127.0.0.1:{line.port}", connection_timeout_ms=300)
    spool = str(tmp_path)
    try:
        with DataSource([b"x"], address, "thermometer", topic=topic, overflow="spool", spool_path=spool) as source:
            next(source)
            until(lambda: messages(caplog), "it is said")
            threading.Event().wait(3)  # tries that fail as well
            line.restore()
    finally:
        line.close()
    began = f"topic {topic!r} of {address} gets nothing now, what is sent is kept in the spool: BrokerUnreachable: "
    first, last = messages(caplog)
    assert first.startswith(began)
    assert last == f"topic {topic!r} of {address} gets what is in the spool again"


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, "WARNING"),
        (1, "client WARNING INFO"),
        (2, "client client-INFO WARNING INFO DEBUG"),
        (3, "client client-INFO client-DEBUG WARNING INFO DEBUG"),
        (9, "client client-INFO client-DEBUG WARNING INFO DEBUG"),
    ],
)
def test_the_command_shows_more_the_more_it_is_asked_to(verbosity: int, shown: str) -> None:
    code = f"""
from edgeserve._logging import logger
from edgeserve.cli.log import show_log
show_log({verbosity})
client, operator = logger("broker.pulsar.client"), logger("operator")
client.error("client"), client.info("client-INFO"), client.debug("client-DEBUG")
operator.warning("WARNING"), operator.info("INFO"), operator.debug("DEBUG")
"""
    done = run_python(code)
    assert (done.returncode, done.stdout) == (0, "")
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == shown.split()


# Pulsar's client


OUTAGE = """
import sys, threading, time
from edgeserve import Compute, DataSource, Materialize, PulsarAddress
port, topic = int(sys.argv[1]), sys.argv[2]
address = PulsarAddress(f"pulsar://127.0.0.1:{port}", connection_timeout_ms=2000)
def numbers():
    for number in range(10_000):
        yield str(number)
        time.sleep(0.002)
source = DataSource(numbers(), address, "thermometer", topic=topic, max_unconfirmed=100, close_timeout_ms=1000)
sink = Materialize(len, address, sink_id="display", topic=topic, close_timeout_ms=1000)
each = Compute(lambda thermometer: thermometer, address, "each", topic_in=topic, topic_out=topic + "-2",
               close_timeout_ms=1000)
for operator in (source, sink, each):
    threading.Thread(target=lambda steps: [None for _ in steps], args=(operator,), daemon=True).start()
while sink.stats.received < 100:
    time.sleep(0.01)
print("it works", flush=True)
sys.stdin.readline()
"""


@on_apache
@pytest.mark.parametrize("level", [None, "INFO"])
def test_an_outage_is_some_lines_or_none_and_the_process_ends(broker: str, topic: str, level: str | None) -> None:
    line = Line(int(broker.rpartition(":")[2]))
    command = [sys.executable, "-c", (LISTEN if level else "") + OUTAGE, str(line.port), topic, level or ""]
    pipe = subprocess.PIPE
    threads = "import threading; threading.excepthook = lambda _: None\n"
    command[2] = threads + command[2]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "it works\n"
            line.cut()
            threading.Event().wait(6)
            output, said = process.communicate("\n", timeout=40)
        finally:
            process.kill()
            line.close()
    assert (process.returncode, output) == (0, "")
    if level is None:
        # What could not be confirmed is lost with this process, and nobody else is there to say so.
        assert all(each.startswith("edgeserve: operator ") for each in said.splitlines())
        assert "WARNING" not in said
        return
    lines = said.splitlines()
    assert all(re.match(r"(INFO|WARNING|ERROR) edgeserve\.", each) for each in lines), said
    assert f"topic {topic} of pulsar://127.0.0.1:{line.port}: sends wait" in said
    assert f"subscription 'display' of {topic}: the connection is lost, standing by" in said
    assert f"subscription 'each' of {topic}: the connection is lost, and comes back by itself" in said
    assert len([each for each in lines if ".client " not in each]) < 20
    assert len(lines) < 500


CONNECT = """
import sys
from edgeserve._broker.connections import connect
from edgeserve.address import PulsarAddress
url, topic = sys.argv[1:3]
connection = connect(PulsarAddress(url))
producer = connection.producer(topic)
"""


@on_apache
@pytest.mark.parametrize("end", ["", "connection.close()"], ids=["left open", "closed"])
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_what_the_client_says_is_in_the_tree_to_the_last_line(broker: str, topic: str, level: str, end: str) -> None:
    done = run_python(LISTEN + CONNECT + end, broker, topic, level)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert all(re.match(r"(DEBUG|INFO) edgeserve\.broker\.pulsar\.client ", each) for each in lines)
    assert any("Created producer on broker" in each for each in lines)
    assert any("Closed producer" in each for each in lines)
    assert any(each.startswith("DEBUG") for each in lines) is (level == "DEBUG")


@on_apache
def test_the_client_is_asked_for_no_more_than_a_handler_takes(broker: str, topic: str) -> None:
    quiet = 'logging.getLogger("edgeserve.broker.pulsar.client").setLevel("ERROR")\n'
    done = run_python(LISTEN + quiet + CONNECT, broker, topic, "DEBUG")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_apache
def test_the_client_writes_to_the_file_that_the_variable_names(broker: str, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "client.log"
    for _ in range(2):
        done = run_python(LISTEN + CONNECT, broker, topic, "INFO", EDGESERVE_PULSAR_LOG=str(path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO ", each) for each in lines)
    assert len([each for each in lines if "Created producer on broker" in each]) == 2


def test_a_file_that_cannot_be_written_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "client.log"
    done = run_python(CONNECT.replace("producer =", "0 #"), "pulsar://127.0.0.1:1", "t", EDGESERVE_PULSAR_LOG=str(path))
    assert "UsageError: EDGESERVE_PULSAR_LOG is " in done.stderr.splitlines()[-1]


@on_apache
@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="there is no fork on this platform")
def test_a_child_of_fork_logs_into_its_parents(broker: str, topic: str) -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")
if os.fork() == 0:
    own = connect(PulsarAddress(url))
    own.producer(topic + "-of-the-child")
    own.close()
    sys.exit(0)
assert os.wait()[1] == 0
connection.close()
"""
    done = run_python(LISTEN + CONNECT + code, broker, topic, "INFO")
    assert (done.returncode, done.stdout) == (0, "")
    created = [line for line in done.stderr.splitlines() if "Created producer on broker" in line]
    assert [f"{topic}-of-the-child" in line for line in created] == [False, True]
