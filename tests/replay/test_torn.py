"""Logs that are not whole: cut off, damaged, not ours, or with parts missing."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from edgeserve import Compute, DataSource, UsageError, replay
from edgeserve._log import reading
from edgeserve._log.folder import LogFolder
from edgeserve._log.head import SCHEMA, Head
from edgeserve._log.reading import LogFile, find_runs
from edgeserve._log.writer import FORMAT, pack_block, pack_head
from edgeserve.cli.replay_report import Report
from edgeserve.testing import end_memory_broker, memory_broker
from tests.broker.workers import until
from tests.replay.recorded import arrived, only_run, random_compute, served

HEAD = Head("run-1", 1, "op", "Compute", ["src"], ["dst"], "compute", {"parameters": {"a": "a"}}, "here", 1, 0, False)


def steps(number: int) -> list[Any]:
    """The records of one example that was served."""
    came = arrived(number, 10 * number, b"%016d" % number, 1 + number, publish_ms=number)
    return [came, served(number, number / 100, number / 100 + 0.001, b"o%015d" % number, 5)]


def blocks(count: int = 6) -> list[bytes]:
    return [pack_block(1000, 0.0, [each for at in range(3) for each in steps(3 * n + at)]) for n in range(count)]


def records(path: Path) -> list[Any]:
    return [record for run in find_runs(path) for block in run.blocks() for record in block.records]


def write(path: Path, data: bytes, name: str = "op.compute") -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(data)
    return path


def test_a_file_that_is_cut_off_at_any_byte_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    head, parts = pack_head(HEAD), blocks()
    whole = head + b"".join(parts)
    everything = records(write(tmp_path / "whole", whole))
    assert len(everything) == 36
    ends = [len(head) + sum(map(len, parts[:count])) for count in range(len(parts) + 1)]
    for size in range(len(whole) + 1):
        folder = write(tmp_path / "cut", whole[:size])
        if size < len(head):
            with pytest.raises(UsageError, match="there is no replay log in"):
                find_runs(folder)
            continue
        (run,) = find_runs(folder)
        got = [record for block in run.blocks() for record in block.records]
        count = sum(size >= end for end in ends) - 1
        assert (got, run.torn_bytes) == (everything[: 6 * count], size - ends[count])
        if size % 97 == 0:
            log = replay.load(folder)
            assert len(log.examples) == len(log.predictions) == 3 * count
            assert log.runs[0].torn_bytes == size - ends[count]


def test_a_part_that_was_cut_off_in_its_head_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path, pack_head(HEAD) + blocks()[0])
    for name, data in (("op.2.compute", pack_head(replace(HEAD, part=2))[:80]), ("op.3.compute", b"")):
        write(tmp_path, data, name)
    assert len(replay.load(tmp_path).examples) == 3
    with pytest.raises(UsageError, match="cut off"):
        replay.load(tmp_path / "op.2.compute")


def test_whatever_byte_is_wrong_nothing_that_was_not_written_is_read(tmp_path: Path) -> None:
    dice = random.Random(1)
    head, parts = pack_head(HEAD), blocks()
    whole = head + b"".join(parts)
    everything = records(write(tmp_path / "whole", whole))
    for at in range(len(head), len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << dice.randrange(8)
        got = records(write(tmp_path / "bad", bytes(damaged)))
        assert got == everything[: len(got)]
        assert len(got) // 6 == next(n for n in range(6) if at < len(head) + sum(map(len, parts[: n + 1])))


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(5000),
        b"\xff" * 100,
        b"\xc1",
        b"\xdd\x7f\xff\xff\xff",  # the beginning of a list that would fill the memory
        b"\xdf\x7f\xff\xff\xff\x01\x02",
        b"\xc6\x7f\xff\xff\xff\x01\x02",
        msgpack.packb({(1, 2): 3}),
        b"\x81\x81\x01\x02\x03",  # a map whose key is a map
        b"\x92\x01\xc4\x01\x00",
        b"\xd6\xff" + b"\xff" * 3,
        b"\x91" * 3000,
        b"Traceback (most recent call last):\n",
        random.Random(2).randbytes(3000),
    ],
    ids=range(13),
)
def test_what_follows_the_last_block_and_is_none_is_left_alone(tmp_path: Path, garbage: bytes) -> None:
    write(tmp_path, pack_head(HEAD) + b"".join(blocks()) + garbage)
    log = replay.load(tmp_path)
    assert (len(log.examples), log.runs[0].torn_bytes) == (18, len(garbage))


def test_a_log_of_a_newer_version_is_refused_and_says_so(tmp_path: Path) -> None:
    newer = msgpack.unpackb(pack_head(HEAD)) | {"schema": SCHEMA + 1}
    write(tmp_path, msgpack.packb(newer) + blocks()[0])
    with pytest.raises(UsageError, match=f"schema {SCHEMA + 1}.* install a newer one"):
        replay.load(tmp_path)


def test_a_head_may_say_more_than_this_version_knows(tmp_path: Path) -> None:
    more = msgpack.unpackb(pack_head(HEAD)) | {"kernel": "6.1"}
    write(tmp_path, msgpack.packb(more) + blocks()[0])
    assert len(replay.load(tmp_path).examples) == 3


def test_a_head_without_what_it_must_say_is_refused(tmp_path: Path) -> None:
    write(tmp_path, msgpack.packb({"format": FORMAT, "schema": SCHEMA, "run": "x"}))
    with pytest.raises(UsageError, match="has a head that is none"):
        replay.load(tmp_path)


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize("suffix", [".datasource", ".compute", ".output", ".destination", ".log"])
def test_a_file_of_the_research_prototype_is_never_unpickled(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, pack_head(HEAD) + blocks()[0])
    write(tmp_path, pickle.dumps([Bomb()]), f"old{suffix}")
    assert len(replay.load(tmp_path).examples) == 3, "in a folder, files of others are left alone"
    with pytest.raises(UsageError, match="is no replay log of edgeserve"):
        replay.load(tmp_path / f"old{suffix}")


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_a_folder_without_a_log_is_said_by_name(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=path):
        replay.load(tmp_path / path)


# Parts


@pytest.fixture
def parts(tmp_path: Path) -> Sequence[Path]:
    """The parts of one run."""
    write(tmp_path, pack_head(HEAD) + b"".join(blocks()[:2]))
    for part in (2, 3):
        data = pack_head(replace(HEAD, part=part)) + b"".join(blocks()[2 * part - 2 : 2 * part])
        write(tmp_path, data, f"op.{part}.compute")
    return [tmp_path / name for name in ("op.compute", "op.2.compute", "op.3.compute")]


def test_the_parts_of_a_run_are_one_in_whatever_order_and_however_often_they_are_named(parts: Sequence[Path]) -> None:
    folder = parts[0].parent
    again = Path(f"{folder}/../{folder.name}")
    for path in (folder, parts, parts[::-1], [*parts, folder], [folder, again], [*parts, again / "op.compute"]):
        log = replay.load(path)
        assert (len(log.runs), len(log.examples), len(log.predictions)) == (1, 18, 18)
        assert log.examples["example_id"].is_unique


def test_a_copy_of_a_part_is_read_once(parts: Sequence[Path]) -> None:
    write(parts[0].parent / "copy", parts[1].read_bytes(), "op.2.compute")
    assert len(replay.load(parts[0].parent).examples) == 18


@pytest.mark.parametrize("missing", [0, 1])
def test_without_one_of_its_parts_a_run_is_read_and_not_run_again(parts: Sequence[Path], missing: int) -> None:
    parts[missing].unlink()
    log = replay.load(parts[0].parent)
    assert (len(log.examples), len(log.predictions)) == (12, 12)
    with pytest.raises(UsageError, match="misses a part"):
        replay.run(log)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_part_that_is_removed_before_it_is_read_is_missing(parts: Sequence[Path], missing: int) -> None:
    (run,) = find_runs(parts[0].parent)
    parts[missing].unlink()
    assert run.is_from_start
    log = replay.ReplayLog([run])
    assert len(log.examples) == 12
    assert not run.is_from_start
    with pytest.raises(UsageError, match="misses a part"):
        replay.run(log)


def test_a_part_that_is_removed_once_it_was_read_is_missed_by_name(parts: Sequence[Path]) -> None:
    log = replay.load(parts[0].parent)
    parts[1].unlink()
    with pytest.raises(UsageError, match=f"{parts[1].name} was removed since it was read"):
        replay.run(log)


@pytest.mark.parametrize("step", ["_is_log", "_has_head", "LogFile"])
def test_a_part_that_is_removed_as_it_is_found_is_not_there(
    parts: Sequence[Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    look = getattr(reading, step)

    def removed(path: Path) -> Any:
        if path.name == parts[0].name:
            path.unlink(missing_ok=True)
        return look(path)

    monkeypatch.setattr(reading, step, removed)
    (run,) = find_runs(parts[0].parent)
    assert [file.head.part for file in run.files] == [2, 3]


def test_a_run_with_a_damaged_part_is_not_run_again_past_it(parts: Sequence[Path]) -> None:
    data = bytearray(parts[1].read_bytes())
    data[-20] ^= 1
    parts[1].write_bytes(data)
    log = replay.load(parts[0].parent)
    assert len(log.examples) == 15
    with pytest.raises(UsageError, match="damaged"):
        replay.run(log)


def test_what_was_made_of_inputs_whose_record_is_gone_has_none_and_no_age(tmp_path: Path) -> None:
    known, unknown = steps(1), steps(0)[1:]
    ran = (3, None, 40.0, 0.0, 41.0, None, None, [(b"p" * 16, 0, 5, None, None, True)])
    joined = (3, None, 50.0, 0.0, 51.0, None, None, [(b"q" * 16, 0, 5, [0, 1], None, True)])
    write(tmp_path, pack_head(replace(HEAD, part=2)) + pack_block(1000, 0.0, [*known, *unknown, ran, joined]))
    log = replay.load(tmp_path)
    made = log.predictions.set_index("output_id")
    whole, gone = made.loc[(b"o%015d" % 1).hex()], made.loc[[(b"o%015d" % 0).hex(), (b"p" * 16).hex()]]
    assert list(whole["input_ids"]) == [(b"%016d" % 1).hex()]
    assert (whole["capture_ms"], whole["age_ms"]) == (2, 1000 + 11 - 2)
    assert [list(each) for each in gone["input_ids"]] == [[None], [None]]
    partly = made.loc[(b"q" * 16).hex()]
    assert list(partly["input_ids"]) == [None, (b"%016d" % 1).hex()]
    columns = ["capture_ms", "oldest_capture_ms", "spread_ms", "received_ms", "last_input_id", "age_ms"]
    assert gone[columns].isna().all().all()
    assert partly[columns].isna().all()
    assert len(log.steps) == 4


def test_nothing_but_what_is_left_of_a_log_is_read_where_all_arrivals_are_gone(tmp_path: Path) -> None:
    write(tmp_path, pack_head(replace(HEAD, part=2)) + pack_block(1000, 0.0, steps(0)[1:]))
    log = replay.load(tmp_path)
    assert (len(log.examples), len(log.predictions), len(log.steps)) == (0, 1, 1)
    assert log.summary()["sent"].tolist() == [1]


# Runs that rotate


def test_a_log_is_cut_into_files_and_the_oldest_go(tmp_path: Path) -> None:
    broker = memory_broker()
    folder = LogFolder(tmp_path, max_file_bytes=64 * 1024, max_bytes=192 * 1024)
    with Compute(
        lambda cam: cam, broker, "rotating", topic_in="in", topic_out="out", log_path=folder, log_filename="r",
        log_verbose=True,
    ) as compute:  # fmt: skip
        for _ in range(14):
            with DataSource([bytes(3000)] * 5, broker, "cam", topic="in") as source:
                assert len(list(source)) == 5
            assert [next(compute) for _ in range(5)] == [bytes(3000)] * 5
            until(lambda: not compute._observer._records._records, "the log is written")  # type: ignore[union-attr]
            files = sorted(tmp_path.glob("*.compute"))
            assert sum(file.stat().st_size for file in files) <= folder.max_bytes
    end_memory_broker(broker)
    (run,) = find_runs(tmp_path)
    kept = [file.head.part for file in run.files]
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert kept[0] > 1
    log = replay.load(tmp_path)
    assert (log.runs[0].was_closed, log.runs[0].lost, log.runs[0].torn_bytes) == (True, 0, 0)
    assert not log.runs[0].is_from_start
    assert "its first files are not here" in " ".join(Report(log, None).notes())
    assert 0 < len(log.examples) < 70
    known = set(log.examples["example_id"])
    for inputs in log.predictions["input_ids"]:
        assert set(inputs) <= {*known, None}
    with pytest.raises(UsageError, match="misses a part"):
        replay.run(log)


def test_a_rotated_log_says_what_one_file_says(tmp_path: Path) -> None:
    whole = random_compute(tmp_path / "whole", 5, max_time_diff_ms=50)
    said = [record for block in whole.blocks() for record in block.records]
    heads = [pack_head(replace(whole.head, part=part)) for part in (1, 2, 3)]
    third = -(-len(said) // 3)
    for part, head in enumerate(heads):
        some = said[third * part : third * (part + 1)]
        write(tmp_path / "parts", head + pack_block(1_700_000_000_000, 0.0, some), f"r.{part}.compute")
    one, three = replay.load(tmp_path / "whole"), replay.load(tmp_path / "parts")
    for name in ("examples", "steps", "predictions", "drops"):
        assert len(getattr(one, name)) == len(getattr(three, name))
    assert Counter(one.examples["fate"].fillna("")) == Counter(three.examples["fate"].fillna(""))
    assert [list(each) for each in one.predictions["input_ids"]] == [
        list(each) for each in three.predictions["input_ids"]
    ]
    assert replay.run(three).predictions["output_id"].tolist() == one.predictions["output_id"].tolist()
    assert LogFile(only_run(tmp_path / "whole", "joined").files[0].path).head == whole.head
