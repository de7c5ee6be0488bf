"""Stepping, waiting, stopping and closing, which all operators share."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import edgeserve
from edgeserve import Compute, DataSource, Fate, Materialize, UsageError
from edgeserve._broker import connections
from edgeserve.testing import ManualClock
from tests.operators.conftest import Wire


def same(only: bytes) -> bytes:
    return only


def keep(payload: bytes) -> bytes:
    return payload


def test_who_iterates_again_waits_for_the_idle_timeout_again(broker: str, wire: Wire) -> None:
    with Materialize(keep, broker, topic=wire.src, idle_timeout_ms=1000) as sink:
        assert list(sink) == []
        threading.Timer(0.3, wire.send, ("any", b"1")).start()
        assert list(sink) == [b"1"]


def test_a_consumer_stops_when_nothing_has_come_for_the_idle_timeout(broker: str, wire: Wire) -> None:
    wire.send("any", b"1")
    with Materialize(keep, broker, topic=wire.src, idle_timeout_ms=1000) as sink:
        assert list(sink) == [b"1"]
        wire.send("any", b"2")
        assert list(sink) == [b"2"]


def test_the_idle_timeout_is_measured_by_the_clock_that_was_given(broker: str, wire: Wire) -> None:
    clock = ManualClock()
    has_ended = threading.Event()

    def turn() -> None:
        while not has_ended.wait(0.02):
            clock.advance(10**9)

    with Materialize(keep, broker, topic=wire.src, idle_timeout_ms=10**9, clock=clock) as sink:
        turning = threading.Thread(target=turn)
        turning.start()
        try:
            assert list(sink) == []
        finally:
            has_ended.set()
            turning.join()


def test_a_moment_that_is_due_is_served_before_the_idle_timeout_ends_the_iteration(broker: str, wire: Wire) -> None:
    wire.send("only", b"1")
    wire.send("only", b"2")
    with Compute(
        same, broker, topic_in=wire.src, topic_out=wire.dst, min_interval_ms=1500, idle_timeout_ms=700
    ) as compute:
        assert [value for value in compute if value is not None] == [b"1", b"2"]


def test_async_for_gives_the_same_as_for(broker: str, wire: Wire) -> None:
    async def read() -> list[bytes | None]:
        with Materialize(keep, broker, topic=wire.src, idle_timeout_ms=500) as sink:
            return [value async for value in sink]

    for payload in (b"1", b"2"):
        wire.send("any", payload)
    assert asyncio.run(read()) == [b"1", b"2"]


def test_cancelling_an_async_wait_loses_no_example(broker: str, wire: Wire) -> None:
    async def read() -> list[bytes | None]:
        with Materialize(keep, broker, topic=wire.src) as sink:
            found = []
            for payload in (b"1", b"2", b"3"):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(sink.__anext__(), 0.05)
                wire.send("any", payload)
                found.append(await asyncio.wait_for(sink.__anext__(), 20))
            return found

    assert asyncio.run(read()) == [b"1", b"2", b"3"]


def test_a_cancelled_step_is_finished_by_the_next_call_also_without_async(broker: str, wire: Wire) -> None:
    async def cancelled_wait(sink: Materialize[bytes]) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sink.__anext__(), 0.05)

    with Materialize(keep, broker, topic=wire.src) as sink:
        asyncio.run(cancelled_wait(sink))
        wire.send("any", b"1")
        wire.send("any", b"2")
        assert [next(sink), next(sink)] == [b"1", b"2"]


def test_two_calls_that_are_awaited_at_once_get_an_example_each(broker: str, wire: Wire) -> None:
    async def read() -> list[bytes | None]:
        with Materialize(keep, broker, topic=wire.src) as sink:
            waits = [asyncio.ensure_future(sink.__anext__()) for _ in range(2)]
            for payload in (b"1", b"2"):
                await asyncio.to_thread(wire.send, "any", payload)
            return await asyncio.wait_for(asyncio.gather(*waits), 20)

    assert asyncio.run(read()) == [b"1", b"2"]


def test_cancelled_waits_leave_nothing_behind_but_the_one_step(broker: str, wire: Wire) -> None:
    async def read() -> bytes | None:
        with Materialize(keep, broker, topic=wire.src) as sink:
            for _ in range(50):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(sink.__anext__(), 0.002)
            (step,) = sink._left
            assert step._waiters == []
            wire.send("any", b"1")
            return await asyncio.wait_for(sink.__anext__(), 20)

    assert asyncio.run(read()) == b"1"


@pytest.mark.parametrize("is_awaited", [False, True])
def test_closing_ends_a_cancelled_step_that_is_inside_a_stream_which_blocks(
    broker: str, wire: Wire, is_awaited: bool
) -> None:
    unblocked, is_inside = threading.Event(), threading.Event()

    def stream() -> Iterator[bytes]:
        is_inside.set()
        unblocked.wait()
        yield b"too late"

    async def leave_a_step(source: DataSource) -> None:
        wait = asyncio.ensure_future(source.__anext__())
        await asyncio.to_thread(is_inside.wait, 20)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    async def awaited(source: DataSource) -> None:
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(source.__anext__(), 20)
        with pytest.raises(UsageError, match="closed"):
            await asyncio.wait_for(source.__anext__(), 20)

    source = DataSource(stream(), broker, "s", topic=wire.src)
    try:
        asyncio.run(leave_a_step(source))
        source.close()
        if is_awaited:
            asyncio.run(awaited(source))
        else:
            with pytest.raises(StopIteration):
                next(source)
            with pytest.raises(UsageError, match="closed"):
                next(source)
    finally:
        unblocked.set()
    assert source.stats.sent == 0


def test_many_operators_wait_in_one_event_loop(broker: str, wire: Wire) -> None:
    sinks = [Materialize(keep, broker, topic=wire.src, sink_id=f"sink-{number}") for number in range(40)]

    async def read() -> list[bytes | None]:
        waits = [asyncio.ensure_future(sink.__anext__()) for sink in sinks]
        await asyncio.to_thread(wire.send, "any", b"1")
        return await asyncio.gather(*waits)

    try:
        assert asyncio.run(asyncio.wait_for(read(), 30)) == [b"1"] * 40
    finally:
        for sink in sinks:
            sink.close()


def test_closing_twice_does_nothing_and_use_after_close_is_an_error(broker: str, wire: Wire) -> None:
    source = DataSource([b"1"], broker, "s", topic=wire.src)
    sink = Materialize(keep, broker, topic=wire.src)
    for operator in (source, sink):
        operator.close()
        operator.close()
        with pytest.raises(UsageError, match="closed"):
            next(operator)
        with pytest.raises(UsageError, match="closed"), operator:
            pass


def test_closing_ends_a_wait_in_another_thread(broker: str, wire: Wire) -> None:
    sink = Materialize(keep, broker, topic=wire.src)
    values: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: values.extend(sink))
    waiting.start()
    wire.send("any", b"1")
    while not values:
        time.sleep(0.001)
    sink.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert values == [b"1"]


def test_a_task_may_close_its_own_operator(broker: str, wire: Wire) -> None:
    def last(payload: bytes) -> bytes:
        if payload == b"2":
            sink.close()
        return payload

    sink = Materialize(last, broker, topic=wire.src)
    for payload in (b"1", b"2", b"3"):
        wire.send("any", payload)
    assert list(sink) == [b"1", b"2"]
    with pytest.raises(UsageError, match="closed"):
        next(sink)
    with Materialize(keep, broker, topic=wire.src) as successor:
        assert next(successor) == b"3"


def test_a_run_whose_task_closes_the_operator_ends_as_if_the_stream_had(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []

    def last(payload: bytes) -> None:
        seen.append(payload)
        if payload == b"2":
            sink.close()

    sink = Materialize(last, broker, topic=wire.src)
    for payload in (b"1", b"2", b"3"):
        wire.send("any", payload)
    sink.run()
    assert seen == [b"1", b"2"]
    assert sink.stats.fates == {Fate.USED: 2}


def test_a_task_that_steps_its_own_operator_is_told_so(broker: str, wire: Wire) -> None:
    def greedy(payload: bytes) -> object:
        return next(sink)

    with Materialize(greedy, broker, topic=wire.src) as sink:
        wire.send("any", b"1")
        with pytest.raises(UsageError, match="middle of a step"):
            next(sink)


def test_operators_that_name_the_same_broker_share_one_connection(broker: str, wire: Wire) -> None:
    def open_connections() -> int:
        return len(connections._open)

    before = open_connections()
    with (
        DataSource([], broker, "s", topic=wire.src),
        Compute(same, broker, topic_in=wire.src, topic_out=wire.dst),
        Materialize(keep, broker, topic=wire.dst),
    ):
        assert open_connections() == before == 1  # the wire's, which names the same broker
    assert open_connections() == before


def test_one_name_stands_for_one_task_in_a_process(broker: str, wire: Wire) -> None:
    with Compute(same, broker, topic_in=wire.src, topic_out=wire.dst):
        with pytest.raises(UsageError, match="different names"):
            Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst)
        with Compute(same, broker, topic_in=wire.src, topic_out=wire.dst):
            pass
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst):
        pass


def test_a_constructor_that_fails_gives_back_what_it_had_opened(broker: str, wire: Wire) -> None:
    before = len(connections._open)
    with pytest.raises(UsageError):
        Compute(same, broker, topic_in=wire.src, topic_out="\n")
    assert len(connections._open) == before
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst):
        pass


def test_run_serves_until_all_streams_have_ended(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []
    edgeserve.run(
        DataSource([b"1", b"2", b"3"], broker, "only", topic=wire.src),
        Compute(same, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=1500),
        Materialize(seen.append, broker, topic=wire.dst, idle_timeout_ms=3000),
    )
    assert seen == [b"1", b"2", b"3"]


def test_one_that_fails_under_run_stops_all_and_its_error_names_it(broker: str, wire: Wire) -> None:
    def forever() -> Iterator[bytes]:
        while True:
            yield b"x"
            time.sleep(0.01)

    def fail(only: bytes) -> bytes:
        raise ZeroDivisionError("boom")

    operators = (
        DataSource(forever(), broker, "only", topic=wire.src),
        Compute(fail, broker, "failing", topic_in=wire.src, topic_out=wire.dst),
        Materialize(keep, broker, topic=wire.dst),
    )
    with pytest.raises(ZeroDivisionError, match="boom") as raised:
        edgeserve.run(*operators)
    if sys.version_info >= (3, 11):
        assert "in edgeserve operator 'failing'" in raised.value.__notes__
    for operator in operators:
        with pytest.raises(UsageError, match="closed"):
            next(operator)


def test_run_refuses_nothing_and_the_same_operator_twice(broker: str, wire: Wire) -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        edgeserve.run()
    with Materialize(keep, broker, topic=wire.src) as sink, pytest.raises(UsageError, match="twice"):
        edgeserve.run(sink, sink)


RUNNING = """
import signal, sys
import edgeserve
from edgeserve import Materialize, DataSource
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been inherited as ignored
broker, topic, what = sys.argv[1:]
if what == "blocked stream":
    import threading
    def stream():
        yield b"first"
        print("waiting", flush=True)
        threading.Event().wait()
    operator = DataSource(stream(), broker, "s", topic=topic)
else:
    operator = Materialize(lambda payload: print("waiting", flush=True), broker, topic=topic)
try:
    if what == "next":
        while True:
            next(operator)
    if what == "two":
        edgeserve.run(operator, Materialize(print, broker, topic=topic + "-other"))
    else:
        operator.run()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(3)
print("ended", operator.stats, flush=True)
"""


@pytest.mark.parametrize(
    ("what", "number", "said", "code"),
    [
        ("run", signal.SIGTERM, "ended 1 received, 1 used", 0),
        ("run", signal.SIGINT, "interrupted", 3),
        ("two", signal.SIGTERM, "ended 1 received, 1 used", 0),
        ("two", signal.SIGINT, "interrupted", 3),
        ("next", signal.SIGINT, "interrupted", 3),
        ("blocked stream", signal.SIGTERM, "ended 1 received, 1 used", 0),
        ("blocked stream", signal.SIGINT, "interrupted", 3),
    ],
)
def test_signals_end_a_process_that_waits(
    broker: str, wire: Wire, what: str, number: signal.Signals, said: str, code: int
) -> None:
    wire.send("any", b"1")
    command = [sys.executable, "-c", RUNNING, broker, wire.src, what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert said in out, err
    assert process.returncode == code
    assert err == ""


TOLD_TWICE = """
import sys, threading
from edgeserve import Materialize
broker, topic = sys.argv[1:]
def slow(payload):
    print("in the task", flush=True)
    while not operator._is_stopping:
        threading.Event().wait(0.01)
    print("closing", flush=True)
    sys.stdin.readline()
operator = Materialize(slow, broker, topic=topic)
operator.run()
print("ended", operator.stats, flush=True)
"""


def test_a_second_sigterm_does_not_cut_the_closing_short(broker: str, wire: Wire) -> None:
    wire.send("any", b"1")
    command = [sys.executable, "-c", TOLD_TWICE, broker, wire.src]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        for said in ("in the task\n", "closing\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate("go on\n", timeout=20)
    assert (out, err, process.returncode) == ("ended 1 received, 1 used, 0 held, 0 sent (0 unconfirmed)\n", "", 0)


EXITING = """
import sys
from edgeserve import DataSource, Materialize
broker, topic = sys.argv[1:]
source = DataSource([str(number) for number in range(500)], broker, "s", topic=topic)
sink = Materialize(print, broker, topic=topic + "-other")
list(source)
"""


def test_the_interpreters_exit_closes_and_confirms_what_was_sent(broker: str, wire: Wire) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXITING, broker, wire.dst], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [payload for _, _, payload, _ in wire.sent_on(500)] == [str(number).encode() for number in range(500)]


UNCLOSED = """
from edgeserve import DataSource, Materialize
from edgeserve.testing import memory_broker
broker = memory_broker()
source = DataSource([b"1", b"2"], broker, "s")
sink = Materialize(print, broker, topic="src")
list(source)
next(sink)
"""


def test_a_broker_in_memory_outlives_the_operators_that_the_exit_closes() -> None:
    done = subprocess.run([sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'1'\n", "")


FORKING = """
import os, sys
from edgeserve import Compute, DataSource, Materialize, UsageError
broker, topic = sys.argv[1:]
compute = Compute(lambda only: only, broker, topic_in=topic + "-in", topic_out=topic + "-out")
source = DataSource([b"parent", b"parent"], broker, "s", topic=topic)
next(source)
child = os.fork()
if child == 0:
    try:
        next(source)
    except UsageError as error:
        assert "fork" in str(error), error
    source.close()
    with DataSource([b"child"], broker, "s", topic=topic) as own:
        next(own)
    with Compute(lambda only: only + only, broker, topic_in=topic + "-in", topic_out=topic + "-out"):
        pass
    print("child done", flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
next(source)
source.close()
try:
    Compute(lambda only: only + only, broker, topic_in=topic + "-in", topic_out=topic + "-out")
except UsageError as error:
    assert "different names" in str(error), error
compute.close()
print("parent done", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_is_refused_its_parents_operators_and_makes_its_own(broker: str, wire: Wire) -> None:
    done = subprocess.run(
        [sys.executable, "-Wignore::DeprecationWarning", "-c", FORKING, broker, wire.dst],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "child done\nparent done\n", "")
    assert sorted(payload for _, _, payload, _ in wire.sent_on(3)) == [b"child", b"parent", b"parent"]
