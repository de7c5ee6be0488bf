"""Ready-made gates: what goes out comes in again, and bytes from elsewhere are malformed or read rightly."""

from __future__ import annotations

import datetime
import io
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeserve._extras import require
from edgeserve.errors import MalformedMessage, MissingExtra, UsageError
from edgeserve.gates import (
    array_in,
    array_out,
    csv_row_in,
    csv_row_out,
    msgpack_in,
    msgpack_out,
    text_in,
    text_out,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


# Text


@given(texts)
def test_text_comes_in_as_it_went_out(text: str) -> None:
    assert text_in(text_out(text)) == text
    assert text_in(text) == text
    assert text_out(text.encode()) == text.encode()


@pytest.mark.parametrize("payload", [bytearray(b"\xc3\xa9"), memoryview(b"\xc3\xa9")])
def test_text_is_read_from_anything_bytes_like(payload: bytearray | memoryview) -> None:
    assert text_in(payload) == "é"
    assert text_out(payload) == b"\xc3\xa9"


def test_bytes_that_are_not_utf8_are_no_text() -> None:
    with pytest.raises(MalformedMessage, match="2 bytes are not UTF-8 text"):
        text_in(b"\xc3(")
    with pytest.raises(UsageError, match="not text"):
        text_out(b"\xc3(")


@pytest.mark.parametrize("value", [1, None, ["a"], "\ud800", 0.5])
def test_what_is_no_text_does_not_leave_as_text(value: str) -> None:
    with pytest.raises(UsageError, match="text"):
        text_out(value)


# CSV rows


# Before Python 3.11 the csv module neither writes nor reads NUL.
csv_values = texts if sys.version_info >= (3, 11) else texts.filter(lambda text: "\0" not in text)


@given(st.lists(csv_values))
def test_a_csv_row_comes_in_as_it_went_out(values: list[str]) -> None:
    assert csv_row_in(csv_row_out(values)) == values


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["0.1", "-2", ""], b"0.1,-2,"),
        ([0.1, 2, None], b"0.1,2,"),
        (["a,b", 'c"d', "e\nf"], b'"a,b","c""d","e\nf"'),
        (["é"], b"\xc3\xa9"),
        ([""], b'""'),
        ([], b""),
    ],
)
def test_values_leave_joined_by_commas(values: list[object], line: bytes) -> None:
    assert csv_row_out(values) == line


@pytest.mark.parametrize("payload", [b"a\nb", b'"a', b'"a"b', b"\xff", b"1,2\n3,4\n"])
def test_bytes_that_are_not_one_csv_row_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        csv_row_in(payload)


@pytest.mark.parametrize("values", ["text", b"bytes", 5, None, ["\ud800"]])
def test_what_is_not_the_values_of_a_row_is_refused(values: list[object]) -> None:
    with pytest.raises(UsageError, match="csv_row_out"):
        csv_row_out(values)


# msgpack

utc_times = st.datetimes(
    min_value=datetime.datetime(1900, 1, 1),
    max_value=datetime.datetime(2200, 1, 1),
    timezones=st.just(datetime.timezone.utc),
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary()
)
values = st.recursive(
    scalars | utc_times,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.binary(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_a_msgpack_value_comes_in_as_it_went_out(value: object) -> None:
    assert msgpack_in(msgpack_out(value)) == value


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", b"", [], {}])
def test_a_falsy_value_is_a_value(value: object) -> None:
    read = msgpack_in(msgpack_out(value))
    assert read == value
    assert type(read) is type(value)


def test_tuples_arrive_as_lists_and_any_bytes_like_payload_is_read() -> None:
    assert msgpack_in(bytearray(msgpack_out((1, (2,))))) == [1, [2]]
    assert msgpack_in(memoryview(msgpack_out("a"))) == "a"


def test_times_arrive_in_utc() -> None:
    east = datetime.timezone(datetime.timedelta(hours=2))
    sent = datetime.datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=east)
    read = msgpack_in(msgpack_out(sent))
    assert read == sent
    assert read.tzinfo == datetime.timezone.utc


@pytest.mark.parametrize(
    "value",
    [
        {1: "a"},
        {(1, 2): "a"},
        {None: 0},
        object(),
        {1, 2},
        2**64,
        -(2**63) - 1,
        np.float32(1),
        np.zeros(2),
        datetime.datetime(2024, 5, 1),
        "\ud800",
        msgpack.ExtType(5, b"x"),
    ],
)
def test_what_could_not_be_read_does_not_leave(value: object) -> None:
    with pytest.raises(UsageError, match="msgpack_out cannot send"):
        msgpack_out([value])


def test_a_value_nested_too_deep_does_not_leave() -> None:
    value: list[Any] = []
    for _ in range(3000):
        value = [value]
    with pytest.raises(UsageError):
        msgpack_out(value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        msgpack.packb([1, 2]) + b"\xc0",
        msgpack.packb([1, 2])[:-1],
        b"\xa2\xff\xff",
        b"\x81\x01\x02",
        b"\x81\x90\x02",
        msgpack.packb(msgpack.ExtType(5, b"abc")),
        b"\x91\xd4\xfe\x00",
        b"\xc7\x03\xff\x00\x00\x00",
        b"\xc7\x0c\xff\0\0\0\0\x7f" + b"\xff" * 7,
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa0" * 50_000 + b"\xc0",
    ],
    ids=lambda payload: payload[:12].hex() or "empty",
)
def test_bytes_that_are_not_one_plain_msgpack_value_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage, match=f"{len(payload)} bytes are not one msgpack value"):
        msgpack_in(payload)


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb"], ids=["list", "dict", "bytes", "str"])
def test_a_msgpack_promise_of_more_than_there_is_takes_no_memory(head: bytes) -> None:
    with pytest.raises(MalformedMessage):
        msgpack_in(head + b"\xff\xff\xff\xff" + b"\xc0" * 10)


def test_nested_promises_of_many_items_take_no_memory() -> None:
    size = 200_000
    payload = (b"\xdd" + (size // 2).to_bytes(4, "big")) * 400 + bytes(size)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            msgpack_in(payload)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(payload)
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=60))
def test_random_bytes_are_a_msgpack_value_or_malformed(payload: bytes) -> None:
    with suppress(MalformedMessage):
        msgpack_in(payload)


@given(values, st.data())
def test_mutated_msgpack_is_a_value_or_malformed(value: object, data: st.DataObject) -> None:
    payload = mutated(msgpack_out(value), data)
    with suppress(MalformedMessage):
        msgpack_in(payload)


# Arrays


def has_latin1_names(dtype: np.dtype[Any]) -> bool:
    """Whether the layout can name its fields, with one kind of quotes in each name."""
    return max(repr(dtype.descr)) <= "\xff"


dtypes = (
    arrays.scalar_dtypes()
    | arrays.datetime64_dtypes()
    | arrays.unicode_string_dtypes(max_len=5)
    | arrays.byte_string_dtypes(max_len=5)
)
some_arrays = arrays.arrays(
    dtypes | arrays.array_dtypes(dtypes, max_size=3, allow_subarrays=True).filter(has_latin1_names),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether dtype, shape and bytes agree; NaN and NaT are no values to compare."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(some_arrays, st.sampled_from(["as it is", "fortran", "reversed", "transposed", "every other"]))
@settings(max_examples=300)
def test_an_array_comes_in_as_it_went_out(array: np.ndarray[Any, Any], layout: str) -> None:
    if layout == "fortran":
        array = np.asfortranarray(array) if array.ndim else array
    elif layout == "transposed":
        array = array.T
    elif array.ndim and layout == "reversed":
        array = array[::-1]
    elif array.ndim and layout == "every other":
        array = array[..., ::2]
    payload = array_out(array)
    assert type(payload) is bytes
    read = array_in(payload)
    assert same(read, array)
    assert not read.flags.writeable
    assert same(np.load(io.BytesIO(payload), allow_pickle=False), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5),
        np.zeros((0, 3), "i2"),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(100, dtype=">f8")[::-3],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.array(["2020-01-01", "NaT"], "M8[25ns]")[::-1],
        np.array(["a", "bcé"]),
        np.zeros(2, np.longdouble),
        np.zeros(3, np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)),
        np.zeros(2, [("it's", "c8"), (("title", "n"), "?")]),
        np.broadcast_to(np.arange(3), (4, 3)),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_leave_with_the_bytes_that_numpy_writes(array: np.ndarray[Any, Any]) -> None:
    saved = io.BytesIO()
    np.save(saved, array, allow_pickle=False)
    assert array_out(array) == saved.getvalue()
    assert same(array_in(saved.getvalue()), array)


def test_an_array_has_the_literal_bytes_of_the_layout() -> None:
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }"
    expected = b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + b"\x01\x00\x02\x00"
    assert array_out(np.array([1, 2], "<i2")) == expected


def test_headers_of_other_writers_are_read() -> None:
    header = b'{"shape": (2, 1), "fortran_order": True, "descr": "<u2"}\n'
    payload = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\1\0\2\0"
    assert array_in(payload).tolist() == [[1], [2]]


def test_fortran_order_is_kept() -> None:
    read = array_in(array_out(np.asfortranarray(np.arange(6).reshape(2, 3))))
    assert read.flags.f_contiguous
    assert read.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("value", [0, False, 0.0, [], [[1, 2], [3, 4]], np.float32(2)])
def test_numbers_and_lists_become_arrays(value: Any) -> None:
    assert same(array_in(array_out(value)), np.asarray(value))


def test_an_array_is_read_without_copying_and_cannot_be_written() -> None:
    payload = bytearray(array_out(np.zeros(1000)))
    read = array_in(payload)
    payload[-8:] = np.float64(1).tobytes()
    assert read[-1] == 1
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 1


@pytest.mark.parametrize("layout", ["c", "fortran", "gaps"])
def test_the_data_of_an_array_is_copied_once(layout: str) -> None:
    whole = np.zeros((1000, 2000), order="F" if layout == "fortran" else "C")
    array = whole[:, ::2] if layout == "gaps" else whole
    array_in(array_out(array[:1]))  # the headers' parser is loaded
    tracemalloc.start()
    try:
        payload = array_out(array)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * array.nbytes
        tracemalloc.reset_peak()
        array_in(payload)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * array.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.zeros(2, [("a", "f4"), ("b", [("c", "O")])]),
        [None],
        2**70,
        [[1], [2, 3]],
        np.ma.masked_array([1, 2], [0, 1]),
        np.zeros(3, "V0"),
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})),
        np.zeros(2, [("日", "f4")]),
        np.zeros(2, [(f"field{index}", "f8") for index in range(500)]),
    ],
    ids=lambda array: type(array).__name__,
)
def test_what_the_layout_cannot_name_does_not_leave(array: Any) -> None:
    with pytest.raises(UsageError, match="array_out") as refused:
        array_out(array)
    assert len(str(refused.value)) < 1000


def test_metadata_of_a_dtype_stays_without_a_warning() -> None:
    assert array_in(array_out(np.zeros(2, np.dtype("i4", metadata={"unit": "m"})))).dtype == np.dtype("i4")


def npy(descr: str = "'<f4'", shape: str = "(2,)", fortran: str = "False", data: bytes = bytes(8)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def test_the_hostile_headers_below_differ_from_one_that_is_read() -> None:
    assert array_in(npy()).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (npy(data=bytes(7)), r"promises 8 bytes of data, \(2,\) of float32; there are 7"),
        (npy(data=bytes(9)), "promises 8 bytes of data, .* there are 9"),
        (npy(shape="(1000000000000000000,)"), "promises 4000000000000000000 bytes of data.*there are 8"),
        (npy(shape="(1000000000000000000, 1000000000000000000)"), "promises"),
        (npy(shape="(0, 1000000000000000000, 1000000000000000000)", data=b""), "cannot hold"),
        (npy(shape="(" + "1, " * 65 + ")", data=bytes(4)), "not a tuple of sizes, at most 64"),
        (npy(shape="(" + "1000000000000000000, " * 400 + ")"), "not a tuple of sizes, at most 64"),
        (npy(shape="(-2, -1)"), "what NumPy does not write"),
        (npy(shape="[2]"), "not a tuple of sizes"),
        (npy(shape="(True, 2)"), "not a tuple of sizes"),
        (npy(shape="2"), "not a tuple of sizes"),
        (npy(fortran="1"), "not a bool"),
        (npy("'|O'"), "Python objects"),
        (npy("'<f4, <f4'"), "no dtype"),
        (npy("'(2,)f4'"), "no dtype"),
        (npy("'a4'"), "no dtype"),
        (npy("[('a', '|O')]"), "Python objects"),
        (npy("[('a', [('b', '|O')])]"), "Python objects"),
        (npy("[('a', '<f4', 1)]"), "not the shape"),
        (npy("[('a', '<f4', (1000000000000, 1000000000000))]"), "not one"),
        (npy("[('a', '<f2'), ('a', '<f2')]"), "not one"),
        (npy("[('a',)]"), "not a field"),
        (npy("['ab']"), "not a field"),
        (npy("[(1, '<f4')]"), "not a field"),
        (npy("[]"), "no bytes of their own"),
        (npy("('<f4', (1,))"), "neither a str nor a list"),
        (npy("'|V0'"), "no bytes of their own"),
        (npy("'|S0'", data=b""), "no bytes of their own"),
        (npy("'<U9999999999'"), "no dtype"),
        (npy("'<U99999999'"), "promises 799999992 bytes"),
        (npy("'<f3'"), "not one"),
        (npy("__import__('os')"), "what NumPy does not write"),
        (npy("'a' 'b'('c')"), "not one"),
        (npy("'\\74f4'"), "what NumPy does not write"),
        (npy("[" * 150 + "]" * 150), "not one"),
        (npy("[" * 3000 + "]" * 3000), "not one"),
        (npy("'a'" + "[1]" * 2500), "not one"),
        (npy("'<f4', 'extra': 1"), "not a dict of"),
        (npy(shape="(2,), " + " " * 10_000), "at most 10000"),
        (npy("'<U1'", "(2,)", data=b"\xff" * 8), "characters that there are not"),
        (npy("[('a', '<U1'), ('b', '>U1')]", "(1,)", data=b"a\0\0\0b\0\0\0"), "characters that there are not"),
        (b"\x93NUMPY\x01\x00\x00\x00", "not one"),
        (b"\x93NUMPY\x01\x00\x05\x00{}", "promises 5 bytes; 2 follow"),
        (b"\x93NUMPY\x01\x00\x05", "9 bytes do not begin"),
        (b"\x93NUMPY\x02\x00" + npy()[8:], "do not begin like a .npy of version 1.0"),
        (b"", "0 bytes do not begin"),
        (b"\x80\x04K\x01.", "do not begin"),
    ],
)
def test_hostile_npy_bytes_are_malformed_and_say_what_they_promise(payload: bytes, says: str) -> None:
    for _ in range(2):  # once more, as headers are remembered
        with pytest.raises(MalformedMessage, match=says) as refused:
            array_in(payload)
        assert len(str(refused.value)) < 1000


@pytest.mark.timeout(10)
@pytest.mark.parametrize("run", ["1" * 19 + ",", "1" * 400, "'a'", "False", "('<f8',"])
def test_a_header_that_goes_wrong_at_its_end_is_refused_without_trying_all_ways_to_read_it(run: str) -> None:
    text = (run * 10_000)[:9_990] + "!"
    with pytest.raises(MalformedMessage, match="what NumPy does not write"):
        array_in(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())


@given(some_arrays, st.data())
@settings(max_examples=300)
def test_mutated_npy_bytes_are_an_array_of_their_size_or_malformed(
    array: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    payload = mutated(array_out(array), data)
    try:
        read = array_in(payload)
    except MalformedMessage:
        return
    assert read.nbytes == len(payload) - 10 - int.from_bytes(payload[8:10], "little")
    read.tolist()


def mutated(payload: bytes, data: st.DataObject) -> bytes:
    """Change, insert or take away a few bytes."""
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    return bytes(changed)


def test_a_view_with_gaps_is_no_payload() -> None:
    with pytest.raises(UsageError, match="gaps"):
        array_in(memoryview(npy() * 2)[::2])


# What is optional


def test_gates_are_imported_without_numpy_and_opencv() -> None:
    code = "import sys, edgeserve.gates, edgeserve.sources; print({'numpy', 'cv2'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_a_missing_extra_says_how_to_install_it() -> None:
    with pytest.raises(MissingExtra, match=r"array_in needs no_such_module: pip install 'edgeserve\[arrays\]'"):
        require("no_such_module", "arrays", "array_in")
    with pytest.raises(MissingExtra):
        require("no_such_module.inner", "arrays", "array_in")


def test_a_module_that_is_broken_says_so_itself(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as raised:
        require("broken_module", "arrays", "array_in")
    assert not isinstance(raised.value, MissingExtra)
