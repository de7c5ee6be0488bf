"""The public interface is what it is promised to be, and what belongs together stays together."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest

import edgeserve
from edgeserve import errors

FTP = "/srv/ftp/"
CAMERA: list[tuple[str, Any]] = [
    ("local_ftp_path", Parameter.empty),
    ("global_ftp_path", Parameter.empty),
    ("width", Parameter.empty),
    ("height", Parameter.empty),
    ("source_id", Parameter.empty),
    ("gate", None),
    ("topic", "src"),
    ("cam_id", 0),
]
NODE: tuple[str, Any] = ("pulsar_node", Parameter.empty)

COMPUTE: list[tuple[str, Any]] = [
    ("task", Parameter.empty),
    NODE,
    ("worker_id", "worker1"),
    ("gate_in", None),
    ("gate_out", None),
    ("ftp", False),
    ("ftp_memory", False),
    ("ftp_delete", False),
    ("local_ftp_path", FTP),
    ("topic_in", "src"),
    ("topic_out", "dst"),
    ("max_time_diff_ms", 10_000),
    ("no_overlap", False),
    ("min_interval_ms", 0),
    ("log_path", None),
    ("log_filename", None),
]
BATCHES: list[tuple[str, Any]] = [
    ("batch_max_num_msg", 100),
    ("batch_max_bytes", 10 * 1024 * 1024),
    ("batch_timeout_ms", 10),
]
CASCADE_TOPICS: list[tuple[str, Any]] = [
    ("task", Parameter.empty),
    NODE,
    ("topic_in_data", Parameter.empty),
    ("topic_out_destination", Parameter.empty),
    ("topic_in_signal", None),
    ("topic_out_signal", None),
    ("gate_in_data", None),
    ("gate_out_destination", None),
    ("gate_in_signal", None),
    ("gate_out_signal", None),
]
CASCADE_OPTIONS: list[tuple[str, Any]] = [
    ("header_size", None),
    ("ftp", False),
    ("ftp_memory", False),
    ("ftp_delete", False),
    ("local_ftp_path", FTP),
    ("max_time_diff_ms", 10_000),
    ("no_overlap", False),
    ("min_interval_ms", 0),
    ("log_path", None),
    ("log_filename", None),
    ("acknowledge", True),
]

# The arguments by position that scripts rely on, with their defaults.
POSITIONS: dict[str, list[tuple[str, Any]]] = {
    "edgeserve.data_source.DataSource": [
        ("stream", Parameter.empty),
        NODE,
        ("source_id", Parameter.empty),
        ("gate", None),
        ("topic", "src"),
        ("log_path", None),
        ("log_filename", None),
    ],
    "edgeserve.data_source.CameraSource": [NODE, *CAMERA],
    "edgeserve.data_source.SimulateVideoWithTimestamps": [("timestamps", Parameter.empty), NODE, *CAMERA],
    "edgeserve.data_source.SimulateTimeSeries": [
        ("filename", Parameter.empty),
        NODE,
        ("source_id", Parameter.empty),
        ("gate", None),
        ("topic", "src"),
    ],
    "edgeserve.compute.Compute": [
        *COMPUTE,
        ("drop_if_older_than_ms", None),
        ("log_verbose", False),
    ],
    "edgeserve.batch_compute.BatchCompute": [
        *COMPUTE,
        ("acknowledge", True),
        *BATCHES,
    ],
    "edgeserve.model.Model": [
        *CASCADE_TOPICS,
        ("model_id", "model1"),
        *CASCADE_OPTIONS,
        ("receiver_queue_size", 10_000),
    ],
    "edgeserve.batch_model.BatchModel": [*CASCADE_TOPICS, *CASCADE_OPTIONS, *BATCHES],
    "edgeserve.materialize.Materialize": [
        ("materialize", Parameter.empty),
        NODE,
        ("gate", None),
        ("ftp", False),
        ("ftp_delete", False),
        ("local_ftp_path", FTP),
        ("topic", "dst"),
        ("log_path", None),
        ("log_filename", None),
    ],
    "edgeserve.worker.Worker": [
        NODE,
        ("topic", "code"),
        ("ftp", False),
        ("ftp_memory", True),
        ("local_ftp_path", FTP),
    ],
    "edgeserve.message_format.GraphCodec": [("msg_uuid_size", 16), ("op_from_size", 16), ("header_size", 0)],
    "edgeserve.message_format.NetworkCodec": [("header_size", Parameter.empty)],
    "edgeserve.message_format.BaseBytesCodec": [],
    "edgeserve.window.Window": [("size", Parameter.empty)],
}

OPERATORS = [
    edgeserve.DataSource,
    edgeserve.Compute,
    edgeserve.BatchCompute,
    edgeserve.Model,
    edgeserve.BatchModel,
    edgeserve.Materialize,
    edgeserve.Worker,
]
# A topic is read under one name and written under another; a task is called as its operator does. A worker has the
# prototype's name and way of fetching, and does not stop when somebody's script fails.
MAY_DIFFER = {"topic", "task", "worker_id", "ftp_memory", "on_error"}


def found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", POSITIONS)
def test_the_positions_and_defaults_of_arguments_are_fixed(path: str) -> None:
    positional = [p for p in signature(found(path)).parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == POSITIONS[path]


def test_the_code_sources_positions_are_fixed_and_its_gate_encodes() -> None:
    parameters = signature(edgeserve.CodeSource).parameters
    positional = [name for name, each in parameters.items() if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["stream", "pulsar_node", "gate", "topic"]
    assert parameters["gate"].default("é") == "é".encode()


@pytest.mark.parametrize("name", sorted({n for op in OPERATORS for n in signature(op).parameters} - MAY_DIFFER))
def test_a_parameter_means_the_same_in_every_operator(name: str) -> None:
    parameters = [p for op in OPERATORS for p in signature(op).parameters.values() if p.name == name]
    assert len({(p.annotation, p.default) for p in parameters}) == 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_docstring_tells_of_every_argument(operator: type) -> None:
    described = inspect.getdoc(operator) or ""
    for name in signature(operator).parameters:
        assert re.search(rf"\b{re.escape(name)}\b", described), name


def test_all_is_what_is_public_and_the_same_for_a_type_checker() -> None:
    source = ast.parse(Path(edgeserve.__file__).read_text(encoding="utf-8"))
    (for_type_checkers,) = [node for node in source.body if isinstance(node, ast.If)]
    declared = {
        (imported.module, alias.asname)
        for imported in for_type_checkers.body
        if isinstance(imported, ast.ImportFrom)
        for alias in imported.names
    }
    assert {name for _, name in declared} == set(edgeserve.__all__)
    for module, name in declared:
        assert getattr(edgeserve, str(name)) is getattr(importlib.import_module(str(module)), str(name))
    assert set(edgeserve.__all__) <= set(dir(edgeserve))
    with pytest.raises(AttributeError, match="nothing"):
        _ = edgeserve.nothing


@pytest.mark.parametrize("name", ["errors.BrokerError", "gates.text_out", "Window", "testing.ManualClock"])
def test_what_is_public_is_there_as_soon_as_the_package_is_imported(name: str) -> None:
    code = f"import edgeserve; edgeserve.{name}"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).stderr == b""


def test_every_public_module_is_an_attribute_of_the_package() -> None:
    assert set(edgeserve._MODULES) == {name.rpartition(".")[2] for name in public_modules()} - {"cli"}


def public_modules() -> list[str]:
    walked = pkgutil.iter_modules(edgeserve.__path__, "edgeserve.")
    return [module.name for module in walked if not module.name.rpartition(".")[2].startswith("_")]


@pytest.mark.parametrize("name", public_modules())
def test_a_public_module_and_its_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), public


def test_the_tree_of_errors_at_the_top_of_the_module_is_the_real_one() -> None:
    drawn = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        words = line.split()
        if not words or words[0] not in errors.__all__:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth:] = [words[0]]
        drawn[words[0]] = stack[depth - 1] if depth else "Exception"
    real = {name: getattr(errors, name).__mro__[1].__name__ for name in errors.__all__}
    assert drawn == real


LAZY = ["numpy", "pandas", "matplotlib", "pulsar", "cv2", "sklearn", "rich", "typer", "sqlite3"]
LAZY += ["opentelemetry", "prometheus_client"]


def test_importing_edgeserve_loads_nothing_that_is_optional() -> None:
    code = f"import sys, edgeserve; print([name for name in {LAZY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
