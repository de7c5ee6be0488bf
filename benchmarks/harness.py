"""What the benchmarks share: options, a broker, processes of a pipeline, tables."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.spec import Report, Spec

RESULTS = Path(__file__).parent / "results"
# A run that takes longer than this hangs.
RUN_S = 1800


def options_of(
    description: str | None, arguments: Sequence[str] | None, *more: tuple[str, type, object]
) -> argparse.Namespace:
    """The options that all benchmarks take, and `more` of one's own: name, type and default.

    A default of None lets the benchmark choose, by `quick`.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("pulsar", nargs="?", help="an Apache Pulsar; without one, what needs it is left out")
    parser.add_argument("--apache-pulsar", action="store_true", help="start an Apache Pulsar, as the tests do")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; writes no result")
    parser.add_argument("--repeats", type=int, help="how often (default: 5, with --quick 1)")
    for name, kind, default in more:
        parser.add_argument(name, type=kind, default=default)
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


@contextmanager
def apache_pulsar(options: argparse.Namespace) -> Iterator[str | None]:
    """The address of the Apache Pulsar that the options name or ask for; None if they do neither."""
    if options.pulsar is not None or not options.apache_pulsar:
        yield options.pulsar
        return
    from tests.apache_pulsar import ApachePulsar

    with tempfile.TemporaryDirectory() as folder, ApachePulsar(Path(folder)) as broker:
        yield broker.url


@contextmanager
def local_broker() -> Iterator[str]:
    """The address of a local broker in a folder that is removed in the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"local://{folder}"


@contextmanager
def broker_at(address: str | None) -> Iterator[str]:
    """The address; where there is none, a fresh local broker's."""
    with ExitStack() as stack:
        yield address if address is not None else stack.enter_context(local_broker())


def run_roles(specs: Mapping[str, Spec]) -> dict[str, Report]:
    """Run one process for each spec, consumers first, on topics of their own; their reports by the same names."""
    topic = f"benchmark-{uuid.uuid4().hex[:12]}"
    started: dict[str, subprocess.Popen[str]] = {}
    pool = ThreadPoolExecutor(len(specs))
    try:
        for name, spec in specs.items():
            started[name] = _start(replace(spec, topic=topic))
        for name, spec in specs.items():
            if spec.role in ("source", "flows"):
                stdin = started[name].stdin
                assert stdin is not None
                stdin.write("go\n")
                stdin.flush()
        reports = {name: pool.submit(_report, name, process) for name, process in started.items()}
        ended, _ = wait(reports.values(), return_when=FIRST_EXCEPTION)
        for report in ended:  # where one failed, the others would wait for its messages
            report.result()
        return {name: report.result() for name, report in reports.items()}
    finally:
        for process in started.values():
            process.kill()
        pool.shutdown()
        for process in started.values():
            process.wait()


def run_pipeline(spec: Spec) -> dict[str, Report]:
    """Run a sink, a compute and a source."""
    return run_roles({role: replace(spec, role=role) for role in ("sink", "compute", "source")})


def _start(spec: Spec) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.roles", spec.to_json()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        process.kill()
        raise RuntimeError(f"{spec.kind} {spec.role} did not start: {line!r}")
    return process


def _report(name: str, process: subprocess.Popen[str]) -> Report:
    told, _ = process.communicate(timeout=RUN_S)
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}")
    return Report.from_json(told)


@dataclass(frozen=True)
class Pipeline:
    """One of the pipelines that take turns.

    Attributes:
        spec: What its roles are told.
        bar: What its ratio should reach, as it is printed.
        is_local: Whether it runs on a local broker of its own, a fresh one each time.
    """

    spec: Spec
    bar: str = ""
    is_local: bool = False

    def run(self) -> dict[str, Report]:
        with broker_at(None if self.is_local else self.spec.address) as address:
            return run_pipeline(replace(self.spec, address=address))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Minimum / median / maximum."""
    return " / ".join(f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def ratios(values: Sequence[float], reference: Sequence[float] | None, digits: int = 2) -> str:
    """The ratios to the reference of the same repeat, as a spread; `-` where nothing is to compare with."""
    if reference is None:
        return "-"
    return spread([value / other for value, other in zip(values, reference, strict=True)], digits)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def processor() -> str:
    """The processor's model, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def system() -> str:
    """The operating system, with its distribution's name where there is one."""
    try:
        return f"{platform.system()} ({platform.freedesktop_os_release()['PRETTY_NAME']})"
    except (OSError, KeyError):
        return platform.system()


def machine() -> str:
    """Versions and machine, as one sentence."""
    return (
        f"Python {platform.python_version()}, edgeserve {version('edgeserve')}, "
        f"pulsar-client {version('pulsar-client')}, {system()} on {platform.machine()}, "
        f"{os.cpu_count()} cores ({processor()})."
    )


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def publish(name: str, title: str, parts: Sequence[str], options: argparse.Namespace) -> None:
    """Print the page and, unless it is a quick look, write it to results/NAME.md."""
    page = "\n\n".join([f"# {title}", *parts, machine()]) + "\n"
    print(page, flush=True)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(page)
