from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import edgeserve as package
from edgeserve._broker.connections import connect
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.cli.options import broker_address
from edgeserve.errors import UsageError
from tests.cli.command import edgeserve


def test_the_version_is_data() -> None:
    run = edgeserve("--version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"edgeserve {package.__version__}\n", "")


def test_no_command_shows_the_commands() -> None:
    run = edgeserve()
    assert run.returncode == 2
    assert "demo" in run.stdout + run.stderr
    assert "topics" in run.stdout + run.stderr


@pytest.mark.parametrize("arguments", [["bogus"], ["topics", "--bogus"], ["demo", "--seconds", "soon"]])
def test_a_wrong_call_leaves_stdout_empty(arguments: list[str]) -> None:
    run = edgeserve(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["topics", "--pulsar", "http://somewhere"], "expected pulsar://HOST:PORT"),
        (["topics", "--pulsar", "local://x?sync=maybe"], "sync=full"),
        (["topics", "--pulsar", "local://x", "--web", "http://localhost"], "--web is for Apache Pulsar"),
        (["demo", "--held-out", "8,elephant"], "--held-out"),
        (["demo", "--held-out", "11"], "no person 11"),
        (["demo", "--held-out", "1,2,3,4,5,6,7,8,9,10"], "not all"),
        (["demo", "--seconds", "0.5"], "at most 1000 times as fast"),
        (["demo", "--speed", "1", "--seconds", "2"], "complete after 4.0 s"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    run = edgeserve(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("edgeserve: ")
    assert says in line


def test_a_broker_that_does_not_answer_is_one_line_and_exit_code_1() -> None:
    with socket.socket() as taken:  # bound and not listening: refuses connections, and is nobody else's
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        run = edgeserve("topics", "--pulsar", "pulsar://127.0.0.1:1", "--web", f"http://127.0.0.1:{port}")
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("edgeserve: ")
    assert f"127.0.0.1:{port}" in line


def test_an_error_over_several_lines_leaves_as_one(tmp_path: Path) -> None:
    run = edgeserve("topics", "--pulsar", "no\naddress")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1


def test_the_home_of_the_local_broker_comes_from_the_environment(tmp_path: Path) -> None:
    connection = connect(LocalAddress(str(tmp_path)))
    connection.producer("from-home").close(1000)
    connection.close()
    run = edgeserve("topics", "--json", env={"EDGESERVE_HOME": str(tmp_path)})
    assert [json.loads(line)["name"] for line in run.stdout.splitlines()] == ["from-home"]


def test_the_command_starts_without_loading_what_only_the_demo_needs() -> None:
    heavy = ("numpy", "sklearn", "seglearn", "cv2", "rich.live", "_pulsar")
    code = f"import sys, edgeserve.cli; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout.strip() == "[]"


def test_an_address_without_web_stays_as_it_was_given() -> None:
    assert broker_address("pulsar://host:6650", None) == PulsarAddress("pulsar://host:6650")
    assert broker_address("pulsar://host:6650", "http://host:9") == PulsarAddress(
        "pulsar://host:6650", web_url="http://host:9"
    )
    with pytest.raises(UsageError, match="--web"):
        broker_address(None, "http://host:9")
