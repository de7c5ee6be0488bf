"""Packs come out as they went in, and bytes from elsewhere are malformed or read rightly."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve._core.packs import MAX_EXAMPLES, URL, Entry, pack, unpack
from edgeserve.errors import MalformedMessage

ENTRIES = st.lists(st.tuples(st.binary(max_size=50), st.integers(1, (1 << 63) - 1)), min_size=1, max_size=20)


@given(ENTRIES)
def test_what_went_in_comes_out(entries: list[tuple[bytes, int]]) -> None:
    assert list(unpack(pack(entries))) == entries


MARKED = st.lists(
    st.one_of(
        st.tuples(st.binary(max_size=50), st.integers(1, (1 << 63) - 1)),
        st.tuples(st.binary(max_size=50), st.integers(1, (1 << 63) - 1), st.just(URL)),
    ),
    min_size=1,
    max_size=20,
)


@given(MARKED)
def test_marks_come_out_with_the_examples_that_they_were_put_on(entries: list[Entry]) -> None:
    assert list(unpack(pack(entries), is_marked=True)) == entries


@pytest.mark.parametrize("mark", [0, 2, True, b"", None, 1.0])
def test_a_mark_that_is_none_makes_a_pack_malformed(mark: object) -> None:
    with pytest.raises(MalformedMessage):
        unpack(msgpack.packb([[b"example", 1, mark]]), is_marked=True)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        7,
        None,
        b"bytes",
        "text",
        [b"example"],
        [[b"example"]],
        [[b"example", 1, 2]],
        [[b"one", 1], [b"two"]],
        [[b"one", 1], [b"two", 1, 3]],
        [[b"example", 1.0]],
        [[b"example", True]],
        [["text", 1]],
        [[b"example", 0]],
        [[b"example", -1]],
        [[b"example", 1 << 63]],
        [[b"example", None]],
        [{b"example": 1}],
        [msgpack.ExtType(5, b"x")],
        [[b"example", msgpack.Timestamp(1)]],
        [[b"e", 1]] * (MAX_EXAMPLES + 1),
    ],
)
def test_what_is_no_list_of_examples_with_their_capture_times_is_malformed(value: object) -> None:
    with pytest.raises(MalformedMessage, match="marked as a pack"):
        unpack(msgpack.packb(value))


def test_the_most_examples_of_a_pack_are_taken() -> None:
    assert len(unpack(pack([(b"e", 1)] * MAX_EXAMPLES))) == MAX_EXAMPLES


@given(st.one_of(st.binary(max_size=200), ENTRIES.map(pack)), st.data())
def test_random_and_mutated_bytes_are_malformed_or_come_out_the_same(data: bytes, draw: st.DataObject) -> None:
    mutated = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        if mutated:
            mutated[draw.draw(st.integers(0, len(mutated) - 1))] = draw.draw(st.integers(0, 255))
    try:
        entries = unpack(bytes(mutated))
    except MalformedMessage:
        return
    assert unpack(pack(entries)) == entries
