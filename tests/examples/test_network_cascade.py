"""The network cascade as a user starts it: four processes, two of them models, of which one asks the other."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from edgeserve import Materialize
from edgeserve.gates import msgpack_in
from tests.examples.test_examples import EXAMPLES, Scripts, ended

pytest.importorskip("sklearn")
import numpy as np

# Four processes train models, or have those that import what does, on as many cores as there are.
pytestmark = pytest.mark.timeout(300)

FOLDER = EXAMPLES / "network_cascade"
TOPICS = ("flows", "questions", "verdicts")

# On the flows on which the threshold is chosen, the cascade loses a point at most against the dear model. It loses
# where it keeps an answer of the cheap model's that is wrong while the dear model's is right, and wins where it is the
# other way round. Both together are less than 1 % of the flows, so that of 1200 independent flows the standard error of
# the loss is sqrt(0.01 / 1200) = 0.29 points, and that of the difference between two such samples sqrt(2) times as
# much. Here are more than two of these.
LOSS = 0.01 + 0.01


class Modules(NamedTuple):
    """The modules that the scripts share."""

    capture: ModuleType
    models: ModuleType


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield Modules(importlib.import_module("capture"), importlib.import_module("models"))
    for name in ("capture", "models"):
        del sys.modules[name]


@pytest.fixture
def alone(modules: Modules) -> dict[str, float]:
    """How accurate each model is by itself."""
    flows = modules.capture.capture(modules.capture.LIVE)
    found = {}
    for name, features in (("cheap", "header_features"), ("dear", "sequence_features")):
        model = getattr(modules.models, f"train_{name}")()
        rows = [getattr(modules.models, features)(each.protocol, each.server_port, each.packets) for each in flows]
        found[name] = float(np.mean(model.predict(rows) == [flow.label for flow in flows]))
    return found


def check(
    modules: Modules,
    alone: dict[str, float],
    act: Popen[str],
    witness: Materialize[tuple[bytes, dict[str, Any]]],
    said_first: str = "",
) -> None:
    """One verdict for each flow, from both models, and about as good as the dear model's."""
    rest, talk = act.communicate(timeout=150)
    said = said_first + rest
    assert (act.returncode, talk) == (0, "")
    verdicts = [pair for pair in witness if pair is not None]
    truth = {modules.capture.flow_id(flow): flow.label for flow in modules.capture.capture(modules.capture.LIVE)}
    assert Counter(key for key, _ in verdicts) == dict.fromkeys(truth, 1)
    answered = Counter(verdict["by"] for _, verdict in verdicts)
    assert answered.keys() == {"cheap", "dear"}
    accuracy = sum(verdict["class"] == truth[key] for key, verdict in verdicts) / len(truth)
    assert alone["cheap"] < alone["dear"] - LOSS, "the cheap model alone would not do"
    assert accuracy >= alone["dear"] - LOSS
    attacks = sum(verdict["class"] in modules.capture.ATTACKS for _, verdict in verdicts)
    first, *reports, counts, score = said.splitlines()
    assert first == "waits for the verdicts of 1200 flows"
    assert len(reports) == attacks
    assert counts == f"1200 flows: {answered['cheap']} answered by cheap, {answered['dear']} by dear"
    assert score == f"{100 * accuracy:.1f} % right, {answered['dear'] / 12:.1f} % escalated"


def witness_of(address: str, topic: str) -> Materialize[tuple[bytes, dict[str, Any]]]:
    """Somebody else who reads all verdicts."""
    return Materialize(
        lambda pair: pair,
        address,
        gate=msgpack_in,
        topic=topic,
        sink_id="witness",
        with_flow_id=True,
        idle_timeout_ms=1000,
    )


@pytest.mark.parametrize(
    "order", ["sensor dear act cheap", "act cheap dear sensor"], ids=["sensor first", "sensor last"]
)
def test_each_flow_has_one_verdict_in_whichever_order_the_scripts_start(
    order: str, modules: Modules, alone: dict[str, float], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        scripts = Scripts(FOLDER, tmp_path / "home", stack)
        witness = stack.enter_context(witness_of(f"local://{tmp_path / 'home'}", "verdicts"))
        processes = {name: scripts.start(f"{name}.py") for name in order.split()}
        check(modules, alone, processes["act"], witness)
        assert processes["sensor"].communicate(timeout=60) == ("", "")
        for name in ("cheap", "dear"):
            code, said, talk = ended(processes[name])
            assert (code, said.count("\n"), talk) == (0, 1, "")


def test_the_cascade_runs_at_any_broker_by_its_address(
    broker: str, topic: str, modules: Modules, alone: dict[str, float], tmp_path: Path
) -> None:
    folder = tmp_path / "network_cascade"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in folder.glob("*.py"):  # topics that no earlier run has used
        code = re.sub(rf'"({"|".join(TOPICS)})"', rf'"{topic}-\1"', script.read_text(encoding="utf-8"))
        script.write_text(code, encoding="utf-8")
    with ExitStack() as stack:
        scripts = Scripts(folder, tmp_path / "home", stack)
        witness = stack.enter_context(witness_of(broker, f"{topic}-verdicts"))
        waiting = [scripts.start(f"{name}.py", broker) for name in ("act", "cheap", "dear")]
        act, *operators = waiting
        said_first = [process.stdout.readline() for process in waiting if process.stdout is not None]
        assert all(said_first), "they wait"
        sensor = scripts.start("sensor.py", broker)
        assert sensor.communicate(timeout=60) == ("", "")
        check(modules, alone, act, witness, said_first[0])
        assert [ended(process) for process in operators] == [(0, "", "")] * 2


def test_a_capture_is_the_same_for_the_same_seed_and_has_some_of_each_class(modules: Modules) -> None:
    capture = modules.capture.capture
    one, again, other = capture(5, 300), capture(5, 300), capture(6, 300)
    assert [modules.capture.pack(flow) for flow in one] == [modules.capture.pack(flow) for flow in again]
    assert [modules.capture.pack(flow) for flow in one] != [modules.capture.pack(flow) for flow in other]
    assert {flow.label for flow in one} == set(modules.capture.SHARES)
    assert len({modules.capture.flow_id(flow) for flow in one}) == 300
