"""The examples as a user starts them: three processes that know nothing of each other but the broker."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# Each temperature of the sensor with the humidity that was captured nearest to it.
SERVED = [(20, 40), (21, 40), (22, 60), (23, 60), (24, 80), (25, 80), (26, 80), (27, 60), (28, 60), (29, 50), (30, 50)]


def expected_line(temperature: float, humidity: float) -> str:
    vapour_hpa = 6.112 * 10 ** (7.5 * temperature / (237.7 + temperature)) * humidity / 100
    feels_like = round(temperature + 5 / 9 * (vapour_hpa - 10), 1)
    return f"feels like {feels_like} °C: fan {'on' if feels_like > 30 else 'off'}\n"


EXPECTED = list(itertools.starmap(expected_line, SERVED))


class Scripts:
    """Starts scripts of a folder as processes and ends them with the test."""

    def __init__(self, folder: Path, home: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._working_folder = home.parent
        self._environment = {**os.environ, "EDGESERVE_HOME": str(home), "PYTHONIOENCODING": "utf-8"}
        self._stack = stack

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(self._folder / name), *arguments],
            env=self._environment,
            cwd=self._working_folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Tell a process to end: its code, and what else it wrote."""
    process.send_signal(signal.SIGTERM)
    rest, talk = process.communicate(timeout=20)
    return process.returncode, rest, talk


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    with ExitStack() as stack:
        yield Scripts(EXAMPLES, tmp_path / "home", stack)


def test_three_processes_meet_at_the_default_broker_and_serve_each_temperature_once_in_each_run(
    scripts: Scripts,
) -> None:
    act, predict, sensor = scripts.start("act.py"), scripts.start("predict.py"), scripts.start("sensor.py")
    assert sensor.communicate(timeout=20) == ("", "")
    assert sensor.returncode == 0
    assert lines_of(act, len(EXPECTED)) == EXPECTED
    again = scripts.start("sensor.py")
    assert again.communicate(timeout=20) == ("", "")
    assert lines_of(act, len(EXPECTED)) == EXPECTED
    assert ended(predict) == (0, "", "")
    assert ended(act) == (0, "", "")


def test_scripts_that_start_after_the_sensor_has_ended_get_everything(scripts: Scripts) -> None:
    assert scripts.start("sensor.py").communicate(timeout=20) == ("", "")
    predict, act = scripts.start("predict.py"), scripts.start("act.py")
    assert lines_of(act, len(EXPECTED)) == EXPECTED
    assert ended(predict) == (0, "", "")
    assert ended(act) == (0, "", "")


@pytest.mark.timeout(180)  # two videos are decoded, and the operators wait for some seconds to see that nothing follows
def test_two_cameras_give_the_same_picture_whichever_way_their_frames_travel(scripts: Scripts, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("pyftpdlib.exceptions")
    pictures, beside = [], []
    for way in ("lazy", "eager"):
        script = scripts.start("two_cameras.py", way, f"local://{tmp_path / way}")
        said, talk = script.communicate(timeout=80)
        assert (script.returncode, talk) == (0, "")
        assert said.startswith("60 pictures")
        beside.append(int(said.split()[-3].replace(",", "")))
        pictures.append((tmp_path / "tracks.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert beside == [120 * (640 * 360 * 3 + 128), 0]


def test_the_same_scripts_run_at_any_broker_by_its_address(broker: str, topic: str, tmp_path: Path) -> None:
    for example in (EXAMPLES / name for name in ("act.py", "predict.py", "sensor.py")):
        code = example.read_text(encoding="utf-8")
        for name in ("room", "comfort"):  # topics that no earlier run has used
            code = code.replace(f'"{name}"', f'"{topic}-{name}"')
        (tmp_path / example.name).write_text(code, encoding="utf-8")
    with ExitStack() as stack:
        scripts = Scripts(tmp_path, tmp_path / "home", stack)
        act, predict = scripts.start("act.py", broker), scripts.start("predict.py", broker)
        sensor = scripts.start("sensor.py", broker)
        assert sensor.communicate(timeout=20) == ("", "")
        assert lines_of(act, len(EXPECTED)) == EXPECTED
        assert ended(predict) == (0, "", "")
        assert ended(act) == (0, "", "")
