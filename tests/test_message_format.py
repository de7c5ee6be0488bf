"""The bytes of one example: those of the prototype, whole headers, and both sides of each size."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve.errors import MalformedMessage, UsageError
from edgeserve.message_format import (
    BaseBytesCodec,
    GraphCodec,
    NetworkCodec,
    header_field,
    name_field,
    pack_example,
    split_example,
)

ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
ID_BYTES = bytes.fromhex("00112233445566778899aabbccddeeff")

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=16).filter(
    lambda name: len(name.encode()) <= 16
)


def test_an_example_without_header_has_the_bytes_of_the_prototype() -> None:
    encoded = GraphCodec().encode(ID, "camera-1", b"\x00frame\x00")
    assert encoded == (
        b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
        b"camera-1\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x00frame\x00"
    )
    assert GraphCodec().decode(encoded) == [ID, "camera-1", b"", b"\x00frame\x00"]


def test_an_example_with_header_has_the_bytes_of_the_prototype() -> None:
    encoded = GraphCodec(header_size=4).encode(ID, "été", b"data", b"f1")
    assert encoded == ID_BYTES + b"\xc3\xa9t\xc3\xa9" + b"\0" * 11 + b"f1\0\0" + b"data"
    assert GraphCodec(header_size=4).decode(encoded) == [ID, "été", b"f1", b"data"]


@given(st.uuids(), names, st.binary(), st.binary(max_size=8), st.integers(0, 3))
def test_what_is_encoded_is_decoded(
    msg_uuid: uuid.UUID, op_from: str, payload: bytes, header: bytes, spare: int
) -> None:
    codec = GraphCodec(header_size=len(header) + spare)
    decoded = codec.decode(codec.encode(msg_uuid, op_from, payload, header))
    assert decoded == [msg_uuid, op_from, header.rstrip(b"\0"), payload]
    assert isinstance(decoded, list)


@given(st.binary(max_size=80), st.sampled_from([0, 1, 7, 32]))
def test_bytes_from_elsewhere_are_malformed_or_come_out_the_same(data: bytes, header_size: int) -> None:
    codec = GraphCodec(header_size=header_size)
    try:
        msg_uuid, op_from, header, payload = codec.decode(data)
    except MalformedMessage:
        return
    assert codec.encode(msg_uuid, op_from, payload, header) == data


@given(names, st.binary(max_size=9), st.binary(max_size=40), st.data())
def test_mutated_bytes_are_malformed_or_come_out_the_same(
    op_from: str, header: bytes, payload: bytes, data: st.DataObject
) -> None:
    codec = GraphCodec(header_size=9)
    message = bytearray(codec.encode(ID, op_from, payload, header))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(0, len(message))) :]
    try:
        msg_uuid, name, read_header, read_payload = codec.decode(message)
    except MalformedMessage:
        return
    assert codec.encode(msg_uuid, name, read_payload, read_header) == bytes(message)


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (None, b""),
        (b"", b""),
        (b"\0", b""),
        (b"\0a", b"\0a"),
        (b"a\0b", b"a\0b"),
        (b"a\0b\0", b"a\0b"),
        (b"\0\0\0\1", b"\0\0\0\1"),
        (b"\xff\xfe\xfd\xfc", b"\xff\xfe\xfd\xfc"),
    ],
)
def test_only_the_trailing_nuls_come_off_a_header(header: bytes | None, read: bytes) -> None:
    codec = GraphCodec(header_size=4)
    assert codec.decode(codec.encode(ID, "a", b"", header))[2] == read


def test_a_header_fits_up_to_its_size() -> None:
    assert header_field(b"abcd", 4) == b"abcd"
    with pytest.raises(UsageError, match="the header is 5 bytes; at most 4 fit"):
        GraphCodec(header_size=4).encode(ID, "a", b"", b"abcde")
    with pytest.raises(UsageError, match="the header is 1 bytes; at most 0 fit"):
        GraphCodec().encode(ID, "a", b"", b"f")


def test_a_name_fits_up_to_its_size_in_utf8() -> None:
    assert name_field("é" * 8) == b"\xc3\xa9" * 8
    with pytest.raises(UsageError, match="17 bytes of UTF-8; at most 16 fit"):
        GraphCodec().encode(ID, "é" * 8 + "a", b"")


@pytest.mark.parametrize("name", ["a\0b", "\0", "a\0"])
def test_a_name_with_nul_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="contains NUL"):
        GraphCodec().encode(ID, name, b"")


@pytest.mark.parametrize("name", [b"a", None, 1, "\ud800"])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        GraphCodec().encode(ID, name, b"")


def test_a_message_is_at_least_its_fields() -> None:
    codec = GraphCodec(header_size=8)
    assert codec.decode(b"\0" * 40) == [uuid.UUID(int=0), "", b"", b""]
    with pytest.raises(MalformedMessage, match=r"39 bytes is shorter than its fields: 16 of id .* 8 of header = 40"):
        codec.decode(b"\0" * 39)
    with pytest.raises(MalformedMessage, match="0 bytes"):
        codec.decode(b"")


@pytest.mark.parametrize("field", [b"\xff" + b"\0" * 15, b"a\0b" + b"\0" * 13, b"\0a" + b"\0" * 14, b"\xc3" * 16])
def test_a_name_field_that_is_not_nul_padded_utf8_is_malformed(field: bytes) -> None:
    for _ in range(2):  # once more, as the names are remembered
        with pytest.raises(MalformedMessage, match="16 bytes of the operator's name"):
            split_example(ID_BYTES + field + b"payload", 0)


def test_other_sizes_keep_the_id_as_bytes() -> None:
    codec = GraphCodec(msg_uuid_size=4, op_from_size=2, header_size=1)
    encoded = codec.encode(b"\1\2\3\0", "ab", b"xyz", b"h")
    assert encoded == b"\1\2\3\0abhxyz"
    assert codec.decode(encoded) == [b"\1\2\3\0", "ab", b"h", b"xyz"]
    with pytest.raises(UsageError, match="the id is 16 bytes and must be exactly 4"):
        codec.encode(ID, "ab", b"")


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_has_exactly_its_size(size: int) -> None:
    assert GraphCodec().encode(ID_BYTES, "a", b"") == GraphCodec().encode(ID, "a", b"")
    with pytest.raises(UsageError, match=f"the id is {size} bytes and must be exactly 16"):
        GraphCodec().encode(b"x" * size, "a", b"")


@pytest.mark.parametrize("payload", [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"aXbXcXdX")[::2]])
def test_bytes_like_payloads_leave_as_their_bytes(payload: bytearray | memoryview) -> None:
    assert GraphCodec().encode(ID, "a", payload)[32:] == b"abcd"


def test_the_memory_of_an_array_leaves_in_c_order() -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(6, dtype="<i2").reshape(2, 3)
    assert GraphCodec().encode(ID, "a", array)[32:] == array.tobytes()
    assert GraphCodec().encode(ID, "a", np.asfortranarray(array))[32:] == array.tobytes()
    assert GraphCodec().encode(ID, "a", np.zeros(1, [("Offset", "f8")]))[32:] == bytes(8)


def test_an_array_of_python_objects_is_refused_and_not_sent_as_addresses() -> None:
    np = pytest.importorskip("numpy")
    for array in (np.array(["a", 1], dtype=object), np.zeros(1, [("a", "O")])):
        with pytest.raises(UsageError, match="a payload is bytes-like, not ndarray"):
            GraphCodec().encode(ID, "a", array)


@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2], 0])
def test_what_is_not_bytes_like_is_refused(wrong: bytes) -> None:
    with pytest.raises(UsageError, match="a payload is bytes-like"):
        GraphCodec().encode(ID, "a", wrong)
    with pytest.raises(UsageError, match="a message is bytes-like"):
        GraphCodec().decode(wrong)
    with pytest.raises(UsageError, match="bytes-like"):
        BaseBytesCodec().encode([b"a", wrong])
    if wrong is not None:
        with pytest.raises(UsageError, match="a header is bytes-like"):
            GraphCodec(header_size=8).encode(ID, "a", b"", wrong)


@pytest.mark.parametrize("size", [-1, 1.0, "4", None, True])
def test_a_size_is_a_number_of_bytes(size: int) -> None:
    for make in (
        lambda: NetworkCodec(size),
        lambda: GraphCodec(size),
        lambda: GraphCodec(16, size),
        lambda: GraphCodec(16, 16, size),
    ):
        with pytest.raises(UsageError, match="number of bytes"):
            make()


def test_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="shorter"):
        GraphCodec().decode(b"")
    with pytest.raises(ValueError, match="exactly"):
        NetworkCodec(2).encode([b"abc", b""])


def test_the_base_codec_joins_and_cannot_decode() -> None:
    assert BaseBytesCodec().encode([b"a", b"", bytearray(b"b"), memoryview(b"c")]) == b"abc"
    assert BaseBytesCodec().encode([]) == b""
    with pytest.raises(NotImplementedError, match="NetworkCodec"):
        BaseBytesCodec().decode(b"abc")


@given(st.binary(max_size=8), st.binary())
def test_the_network_codec_gives_back_header_and_data(header: bytes, data: bytes) -> None:
    codec = NetworkCodec(len(header))
    assert codec.encode([header, data]) == header + data
    assert codec.decode(header + data) == [header, data]


def test_the_network_codec_wants_the_header_whole() -> None:
    codec = NetworkCodec(header_size=4)
    for header, size in ((b"abc", 3), (b"abcde", 5), (b"", 0)):
        with pytest.raises(UsageError, match=f"the header is {size} bytes and must be exactly 4"):
            codec.encode([header, b"data"])
    assert codec.decode(b"abcd") == [b"abcd", b""]
    with pytest.raises(MalformedMessage, match="3 bytes is shorter than its header, 4"):
        codec.decode(b"abc")
    with pytest.raises(UsageError, match="there are 3 parts"):
        codec.encode([b"abcd", b"", b""])


@given(st.binary(min_size=16, max_size=16), names, st.binary(max_size=32), st.binary())
def test_the_functions_of_the_operators_agree_with_the_codec(
    msg_id: bytes, name: str, header: bytes, payload: bytes
) -> None:
    packed = pack_example(msg_id, name_field(name), header_field(header, 32), payload)
    assert packed == GraphCodec(header_size=32).encode(msg_id, name, payload, header)
    assert split_example(packed, 32) == (msg_id, name, header.rstrip(b"\0"), payload)
