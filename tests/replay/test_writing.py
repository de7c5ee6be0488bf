"""What operators write to their logs; what they do where it can't be written is in test_disk.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import edgeserve
from edgeserve import (
    BatchCompute,
    BatchModel,
    CodeSource,
    Compute,
    DataSource,
    Materialize,
    Model,
    SimulateTimeSeries,
    UsageError,
    replay,
)
from edgeserve._broker.connections import is_open
from edgeserve._log.folder import LogFiles, LogFolder
from edgeserve._log.reading import find_runs
from edgeserve._log.records import Arrived, Ended, Fetched, Ran, SentMore
from edgeserve._operator import Operator
from edgeserve.replay._columns import Columns
from edgeserve.routing import FtpServer
from tests.operators.conftest import Wire
from tests.operators.flows import Flows
from tests.operators.processes import Crew
from tests.replay.pipelines import compute, pass_on, said, send
from tests.replay.recorded import only_run

# What is written


def models(model: Any, flows: Flows, logs: Path) -> Operator[Any]:
    def many(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return dict.fromkeys(batch, True), dict(batch)

    task: Any = many if model is BatchModel else lambda data: (True, data)
    options: dict[str, Any] = {"batch_max_num_msg": 3, "batch_timeout_ms": 60_000} if model is BatchModel else {}
    made: Operator[Any] = model(task, flows.broker, flows.data, flows.out, log_path=logs, header_size=32, **options)
    return made


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (lambda flows, logs: Compute(pass_on, flows.broker, "w", topic_in=flows.data, log_path=logs,
                                     topic_out=flows.out, inputs={"only": "only"}), "compute"),
        (lambda flows, logs: BatchCompute(b"".join, flows.broker, "w", topic_in=flows.data, topic_out=flows.out,
                                          batch_max_num_msg=3, batch_timeout_ms=60_000, log_path=logs), "compute"),
        (lambda flows, logs: models(Model, flows, logs), "log"),
        (lambda flows, logs: models(BatchModel, flows, logs), "log"),
        (lambda flows, logs: Materialize(pass_on, flows.broker, topic=flows.data, log_path=logs), "destination"),
    ],
    ids=["Compute", "BatchCompute", "Model", "BatchModel", "Materialize"],
)  # fmt: skip
def test_each_class_of_operators_writes_one_file_with_its_suffix(
    flows: Flows, logs: Path, make: Callable[..., Operator[Any]], suffix: str, request: pytest.FixtureRequest
) -> None:
    with make(flows, logs) as operator:
        flows.send_all("abc")
        while operator.stats.held or operator.stats.received < 3:
            next(operator)
    (file,) = logs.iterdir()
    assert file.suffix == f".{suffix}"
    (run,) = find_runs(logs)
    columns = Columns(run)
    assert type(operator).__name__ == run.head.operator_class == request.node.callspec.id.split("-")[-1]
    assert (run.head.operator, run.head.pid, run.torn_bytes) == (operator.name, os.getpid(), 0)
    assert columns.ended is not None
    stats = operator.stats
    assert (columns.ended.received, columns.ended.sent) == (stats.received, stats.sent) == (3, stats.sent)
    assert dict(columns.ended.fates) == {fate.value: count for fate, count in stats.fates.items()} == {"used": 3}
    assert len(columns.examples) == 3
    log = replay.load(logs)
    ran_on = sorted(example_id for inputs in log.steps["input_ids"] for example_id in inputs)
    assert ran_on == sorted(log.examples["example_id"])


def test_a_source_writes_what_it_sent(broker: str, topic: str, logs: Path) -> None:
    send(broker, 5, topic, log_path=logs, log_filename="mine")
    assert [file.name for file in logs.iterdir()] == ["mine.datasource"]
    log = replay.load(logs)
    assert (len(log.sent), set(log.sent["topic"]), log.sent["example_id"].is_unique) == (5, {topic}, True)
    assert (log.sent["taken_ms"] <= log.sent["handed_ms"]).all()


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_written_over(memory: str, logs: Path) -> None:
    logs.mkdir()
    (logs / "x.compute").write_bytes(b"somebody's")
    for _ in range(2):
        compute(memory, logs, log_filename="x").close()
    with compute(memory, logs, log_filename="x"), compute(memory, logs, worker_id="w2", log_filename="x"):
        pass
    assert {file.name for file in logs.iterdir()} == {"x.compute", *(f"x.{number}.compute" for number in (2, 3, 4, 5))}
    assert (logs / "x.compute").read_bytes() == b"somebody's"
    assert len(find_runs(logs)) == 4


def test_processes_with_one_name_in_one_folder_write_files_of_their_own(crew: Crew, tmp_path: Path, logs: Path) -> None:
    broker = f"local://{tmp_path / 'broker'}"
    options = {"broker": broker, "topic_out": "out", "log_path": str(logs), "log_filename": "same"}
    members = [crew.start("compute", wait=False, topic_in=f"in-{n}", worker_id=f"w{n}", **options) for n in range(3)]
    for number, member in enumerate(members):
        send(broker, 20, f"in-{number}")
        member.until_lines(21)
    for member in members:
        member.end()
    assert sorted(file.name for file in logs.iterdir()) == ["same.2.compute", "same.3.compute", "same.compute"]
    log = replay.load(logs)
    assert {run.operator for run in log.runs} == {"w0", "w1", "w2"}
    assert log.examples.groupby("operator").size().tolist() == [20, 20, 20]


def test_the_log_of_a_killed_process_is_read_as_far_as_it_goes(crew: Crew, tmp_path: Path, logs: Path) -> None:
    broker = f"local://{tmp_path / 'broker'}"
    worker = crew.start("compute", broker=broker, topic_in="in", topic_out="out", log_path=str(logs), work_ms=0.2)
    with DataSource((b"%013d" % number for number in range(100_000)), broker, "only", topic="in") as source:
        while worker.lines() < 600:
            next(source)
        worker.kill()
    log = replay.load(logs)
    assert not log.runs[0].was_closed
    assert 0 < len(log.predictions) <= len(log.examples)
    assert set().union(*log.predictions["input_ids"]) - {None} <= set(log.examples["example_id"])
    assert len(replay.run(log).predictions) <= len(log.predictions)


def test_without_a_folder_nothing_is_written_whatever_else_is_asked_for(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    send(memory, 1, log_filename="../x", log_verbose=True)
    with compute(memory, None, log_filename="../x", log_verbose=True) as operator:
        assert next(operator) == b"0"
    assert list(tmp_path.iterdir()) == []
    assert not any(thread.name.startswith("edgeserve-log") for thread in threading.enumerate())


@pytest.mark.parametrize("packing", [True, False])
def test_payloads_are_logged_as_they_travelled_if_that_is_asked_for(
    broker: str, wire: Wire, logs: Path, packing: bool
) -> None:
    send(broker, 3, wire.src, log_path=logs, log_verbose=True, packing=packing)
    with Compute(
        lambda only: only * 2, broker, topic_in=wire.src, topic_out=wire.dst, gate_in=lambda payload: b"<" + payload,
        decode=bytes.decode, gate_out=str.encode, log_path=logs, log_verbose=True,
    ) as operator:  # fmt: skip
        assert [next(operator) for _ in range(3)] == [b"<0<0", b"<1<1", b"<2<2"]
    sent = [each.payload for each in said(only_run(logs, "only")) if isinstance(each, SentMore)]
    records = said(only_run(logs, "worker1"))
    came = [payload for each in records if isinstance(each, Arrived) for payload in each.payloads or ()]
    made = [output[4] for each in records if isinstance(each, Ran) for output in each.outputs]
    assert sent == came == [b"0", b"1", b"2"]
    assert made == [b"<0<0", b"<1<1", b"<2<2"]


@pytest.mark.parametrize("verbose", [True, False])
def test_what_was_fetched_into_memory_is_logged_with_payloads(
    broker: str, wire: Wire, tmp_path: Path, logs: Path, verbose: bool
) -> None:
    frames = [bytes([number]) * 40_000 for number in range(3)]
    with FtpServer(tmp_path / "camera", port=0) as camera:
        with DataSource(
            frames, broker, "cam", topic=wire.src, store=camera.store("cam"), log_path=logs, log_verbose=verbose
        ) as source:
            urls = list(source)
        with Compute(
            lambda cam: cam[:1], broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs, log_verbose=verbose,
            local_ftp_path=str(tmp_path / "here"),
        ) as operator:  # fmt: skip
            assert [next(operator) for _ in frames] == [b"\0", b"\1", b"\2"]
    records = said(only_run(logs, "worker1"))
    fetched = [each.payload for each in records if isinstance(each, Fetched)]
    came = [payload for each in records if isinstance(each, Arrived) for payload in each.payloads or ()]
    assert (fetched, came) == ((frames, urls) if verbose else ([], []))
    log = replay.load(logs)
    assert log.examples["is_url"].all()
    assert log.sent["is_url"].all()
    assert (log.steps["fetch_ms"] > 0).all()
    if verbose:
        assert len(replay.run(log, task=lambda cam: cam[:2]).predictions) == 3


def test_an_error_whose_text_is_no_unicode_is_logged_all_the_same(memory: str, logs: Path) -> None:
    def fail(only: bytes) -> bytes:
        if only == b"1":
            raise OSError(os.fsdecode(b"\xff.jpg"))
        return only

    send(memory, 3)
    with Compute(fail, memory, topic_in="in", log_path=logs, on_error="skip") as operator:
        assert [next(operator) for _ in range(3)] == [b"0", None, b"2"]
    log = replay.load(logs)
    assert log.steps["error"].dropna().tolist() == ["OSError: \\udcff.jpg"]
    assert log.runs[0].was_closed


def test_sources_of_every_kind_write_logs(memory: str, logs: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("0,a\n0.001,b\n", encoding="utf-8")
    sources: list[DataSource] = [
        DataSource([b"1", b"2"], memory, "plain", topic="in", log_path=logs),
        CodeSource(["1", "2"], memory, topic="in", log_path=logs),
        CodeSource(["1", "2"], memory, topic="in", key=bytes(16), log_path=logs, log_verbose=True),
        SimulateTimeSeries(tmp_path / "rows.csv", memory, "rows", topic="in", log_path=logs),
    ]
    for source in sources:
        with source:
            assert len(list(source)) == 2
    assert [file.suffix for file in logs.iterdir()] == [".datasource"] * 4
    log = replay.load(logs)
    assert [run.started_ms for run in log.runs] == sorted(run.started_ms for run in log.runs)
    # Those that begin in the same ms are in no order.
    assert sorted(run.operator for run in log.runs) == sorted(source.name for source in sources)
    assert log.sent["operator"].tolist() == [run.operator for run in log.runs for _ in range(2)]


def test_the_log_names_the_packages_version_where_nothing_is_installed(
    memory: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", none)
    compute(memory, logs).close()
    assert only_run(logs, "worker1").head.version == edgeserve.__version__


def test_a_class_of_the_users_is_logged_as_what_it_is_made_of(memory: str, logs: Path) -> None:
    class Model(Compute):
        """Has the name of another one."""

    class Materialize(DataSource):
        """As well."""

    with Model(pass_on, memory, topic_in="in", log_path=logs), Materialize([], memory, "only", log_path=logs):
        pass
    classes = {run.head.operator_class: run.files[0].path.suffix for run in find_runs(logs)}
    assert classes == {"Compute": ".compute", "DataSource": ".datasource"}


# What is refused


def test_a_number_that_no_file_holds_is_refused_by_name(memory: str, logs: Path) -> None:
    compute(memory, None, max_time_diff_ms=10**20).close()
    with pytest.raises(UsageError, match=r"max_time_diff_ms is 100000000000000000000: .*log_path"):
        compute(memory, logs, max_time_diff_ms=10**20)
    assert not is_open(memory)
    assert not logs.exists()


@pytest.mark.parametrize("option", [{}, {"log_filename": "x"}])
@pytest.mark.parametrize("path", ["file", "file/below", "\0", ""])
def test_a_folder_that_can_be_none_is_refused_before_anything_is_opened(
    memory: str, tmp_path: Path, path: str, option: dict[str, Any]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="log_path"):
        compute(memory, str(tmp_path / path) if path.startswith("file") else path, **option)
    with pytest.raises(UsageError, match="log_path"):
        send(memory, 1, log_path=str(tmp_path / path) if path.startswith("file") else path)
    assert not is_open(memory)


@pytest.mark.parametrize("name", ["a/b", "", ".", "x" * 300, "a\0b", "/etc/x", 5, b"x"])
def test_a_name_that_is_no_files_is_refused(memory: str, logs: Path, name: Any) -> None:
    with pytest.raises(UsageError, match="log_"):
        compute(memory, logs, log_filename=name)
    assert not is_open(memory)


@pytest.mark.parametrize("options", [{"max_file_bytes": 1000}, {"max_bytes": 1 << 20}, {"path": ""}, {"path": None}])
def test_a_wrong_bound_of_a_folder_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).replace("path", "log_path")):
        LogFolder(**{"path": "logs"} | options)


# Its life


def test_a_fork_writes_nothing_into_the_log_of_its_parent(memory: str, logs: Path) -> None:
    send(memory, 2)
    with compute(memory, logs) as operator:
        assert next(operator) == b"0"
        child = os.fork()
        if child == 0:
            try:
                operator.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert next(operator) == b"1"
    log = replay.load(logs)
    assert (len(log.examples), log.runs[0].was_closed, log.runs[0].torn_bytes) == (2, True, 0)
    assert sum(isinstance(each, Ended) for each in said(only_run(logs, "worker1"))) == 1


def test_closing_twice_ends_the_log_once(memory: str, logs: Path) -> None:
    operator = compute(memory, logs)
    operator.close()
    operator.close()
    assert [type(each) for each in said(only_run(logs, "worker1"))] == [Ended]
    assert not any(thread.name.startswith("edgeserve-log") for thread in threading.enumerate())


def test_what_fails_to_open_leaves_no_thread_and_no_open_file(memory: str, logs: Path) -> None:
    files = LogFiles(LogFolder(logs), "x", ".log")
    files.close()
    assert files.path == logs / "x.log"
    with pytest.raises(UsageError):
        compute(memory, logs, max_time_diff_ms=-1)
    assert [file.name for file in logs.iterdir()] == ["x.log"]
