"""Whatever reads bytes from outside gives a right answer or its own error, never another one, at a bounded price.

Each decoder has samples that are valid, and a check of what it reads. The samples are cut, spliced and changed by a
loop with a seed, so that a failure can be had again: its message has the decoder and the bytes. A hang is a test that
times out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import struct
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeserve._broker import inbox
from edgeserve._broker.base import Delivery
from edgeserve._broker.dead_letters import DeadLetter
from edgeserve._broker.local.names import file_name, subscription_name, topic_name
from edgeserve._broker.marks import HEADER_SIZE, PACK, UNREADABLE
from edgeserve._core import packs
from edgeserve._core.signed import ScriptRefused, Signed, unpack_signed
from edgeserve.address import LocalAddress, PulsarAddress, parse_address
from edgeserve.cli.dead_letters import letter_record, letters_table
from edgeserve.errors import MalformedMessage, PayloadUnavailable, UsageError
from edgeserve.gates import (
    array_in,
    array_out,
    csv_row_in,
    csv_row_out,
    msgpack_in,
    msgpack_out,
    text_in,
)
from edgeserve.message_format import GraphCodec, NetworkCodec, split_example
from edgeserve.routing.urls import parse_payload_url
from edgeserve.sources.time_series import read_rows

SEED = 20_240_229
STRINGS = 20_000
LONG_STRINGS = 1_000_000

EXAMPLE = GraphCodec().encode(uuid.UUID(int=1), "camera-é", b"payload of 19 bytes")
EXAMPLE_WITH_HEADER = GraphCodec(header_size=8).encode(uuid.UUID(int=2), "m", b"payload", b"f\x00low")
PACK_SAMPLES = (
    packs.pack([(EXAMPLE, 1), (EXAMPLE_WITH_HEADER, 1_700_000_000_000), (b"", (1 << 63) - 1)]),
    packs.pack([(EXAMPLE, 1)] * packs.MAX_EXAMPLES),
)
SIGNED_SAMPLES = (
    Signed(1_700_000_000_000, bytes(32), bytes(32), script=b"print(1)").packed(),
    Signed(1, bytes(32), b"s" * 32, stored="ftp://node:2121/a.payload#size=8").packed(),
    Signed(1, bytes(32), b"s" * 32, url="ftp://node/job.py").packed(),
)
MSGPACK_SAMPLES = tuple(
    msgpack.packb(value)
    for value in (
        {"a": [1, -1, 1.5, None, True, b"\x00\xff", "é"], b"k": {"b": [[], {}]}},
        [msgpack.Timestamp(1_700_000_000, 5000), 1 << 63, -(1 << 63), "x" * 40, b"y" * 300],
        [list(range(20))] * 3,
        None,
    )
)
ARRAY_SAMPLES = tuple(
    array_out(array)
    for array in (
        np.arange(12, dtype="<f4").reshape(3, 4),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.array(["ab", "é"]),
        np.zeros(2, [("a", "<i4"), ("b", "S3", (2,)), ("c", [("d", "?")])]),
        np.array(["2024-01-01"], "datetime64[ms]"),
        np.float64(1),
        np.zeros((0, 3), complex),
    )
)
CSV_SAMPLES = (b'0.1,2,"a,""b""\n",\xc3\xa9,', b"1,2\r\n", b"")
ADDRESS_SAMPLES = (
    b"pulsar://host:6650",
    b"pulsar+ssl://[::1]:6651,other:1/",
    b"local:///tmp/room?sync=full&max_topic_bytes=4096",
    b"local://~/a%20b",
    b"local://:memory:name",
)
NAME_SAMPLES = ("src-é".encode(), b"public/default/src", b"persistent://public/default/src")

INTERESTING = (
    *(bytes([first]) for first in (0x00, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC7, 0xD4, 0xD6, 0xD9, 0xFF, 0x7F)),
    *(b"\xdd" + struct.pack(">I", count) for count in (0, 1, 501, 0x7FFF_FFFF, 0xFFFF_FFFF)),
    *(bytes([kind]) + b"\xff\xff\xff\xff" for kind in (0xC6, 0xC9, 0xDB, 0xDF, 0xCE)),
    *(bytes([kind]) + b"\xff" * 8 for kind in (0xCB, 0xCF, 0xD3, 0xD7)),
    b"\xd6\xff\xff\xff\xff\xff",
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\xdc\x01\xf5",
    b"\x91" * 40,
    b"\x81\xa0" * 40,
    b"\x93NUMPY\x01\x00",
    b"(99999999999999999999,)",
    b"(4611686018427387904, 4)",
    b"'|O'",
    b"'<U99999999'",
    b"'V0'",
    b"[('a', '<f8')]",
    b"'fortran_order': True",
    b"shape",
    b"(((((((((((((((((((((((((((((",
    b"-1",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b'"',
    b",",
    b"\r\n",
    b"nan",
    b"1e999",
    b"://",
    b"%00",
    b"%ff",
    b"~nobody/",
    b"[",
    b"@",
    b"?",
    b"&sync=",
    b"max_topic_bytes=99999999999999999999",
    b"persistent://",
)


class Decoder(NamedTuple):
    """One reader of bytes from outside.

    Attributes:
        read: Reads; it raises if what it has read is not what the bytes say.
        samples: What it can read.
        errors: What it may raise.
        spare_bytes: The memory that it may use for an input however small, see `MEMORY_TIMES`.
    """

    read: Callable[[bytes], object]
    samples: Sequence[bytes]
    errors: type[Exception] | tuple[()] = MalformedMessage
    spare_bytes: int = 1 << 19


def read_graph(data: bytes) -> None:
    for codec in (GraphCodec(), GraphCodec(header_size=8)):
        example_id, name, header, payload = codec.decode(data)
        assert codec.encode(example_id, name, payload, header) == data


def read_other_sizes(data: bytes) -> None:
    codec = GraphCodec(4, 2, 1)
    example_id, name, header, payload = codec.decode(data)
    assert codec.encode(example_id, name, payload, header) == data


def read_network(data: bytes) -> None:
    assert NetworkCodec(8).encode(NetworkCodec(8).decode(data)) == data


def read_example(data: bytes) -> None:
    for header_size in (0, 7):
        example_id, name, header, payload = split_example(data, header_size)
        whole = example_id + name.encode().ljust(16, b"\0") + header.ljust(header_size, b"\0") + payload
        assert whole == data


def read_pack(data: bytes) -> None:
    entries = packs.unpack(data)
    assert 0 < len(entries) <= packs.MAX_EXAMPLES
    assert list(packs.unpack(packs.pack(entries))) == list(entries)


def read_marked_pack(data: bytes) -> None:
    entries = packs.unpack(data, is_marked=True)
    assert list(packs.unpack(packs.pack(entries), is_marked=True)) == list(entries)


def read_signed(data: bytes) -> None:
    signed = unpack_signed(data)
    assert unpack_signed(signed.packed()) == signed


def read_payload_url(data: bytes) -> None:
    url = parse_payload_url(data)
    assert not {"", ".", ".."} & set(url.path)
    assert "".join((url.host, url.user or "", url.password or "", *url.path)).isprintable()
    assert parse_payload_url(url.public).path == url.path


def read_delivery(data: bytes) -> None:
    """An input is a payload and, before it, a byte that says how its message is marked, and the text of a mark."""
    kind, mark, payload = (data[:1] or b"\0")[0], data[1:5].decode("latin1"), data[5:]
    properties = {}
    if kind & 1:
        properties[PACK] = mark if kind & 8 else "1"
    if kind & 2:
        properties[HEADER_SIZE] = mark if kind & 4 else "8"
    if kind & 16:
        properties[mark] = mark
    if kind & 64:
        properties[UNREADABLE] = mark
    event_ms = None if kind & 32 else 5
    examples = inbox._open(Delivery(None, "src", "m", payload, event_ms, 7, None, properties))
    parcels = {id(example.parcel) for example in examples}
    assert examples
    assert len(parcels) == 1
    assert examples[0].parcel is not None
    assert examples[0].parcel.open_examples == len(examples)
    size = int(properties.get(HEADER_SIZE, "0")) if examples[0].malformed is None else 0
    for example in examples:
        assert example.capture_ms > 0
        if example.malformed is None:
            whole = example.id + example.source.encode().ljust(16, b"\0") + example.header.ljust(size, b"\0")
            assert whole + example.value == example.data
    # As its bytes go to the dead letters, so do they come from there.
    if len(examples) == 1 and PACK not in properties:
        assert examples[0].data == payload


def read_letter(data: bytes) -> None:
    texts = [part.decode("utf-8", "surrogateescape") for part in _cut(data, 4)]
    names = ("edgeserve-error", "edgeserve-operator", "edgeserve-topic", "edgeserve-message-id")
    event_ms = int.from_bytes(data[:8], "big") or None
    letter = DeadLetter.of(Delivery(None, "t", "m", data, event_ms, 1, None, dict(zip(names, texts, strict=True))))
    json.dumps(letter_record(letter))
    assert letters_table([letter]).row_count == 1


def _cut(data: bytes, parts: int) -> list[bytes]:
    size = len(data) // parts
    return [data[number * size : (number + 1) * size] for number in range(parts)]


def read_text(data: bytes) -> None:
    assert text_in(data).encode() == data


def read_csv(data: bytes) -> None:
    row = csv_row_in(data)
    assert csv_row_in(csv_row_out(row)) == row


def read_msgpack(data: bytes) -> None:
    value = msgpack_in(data)
    assert repr(msgpack_in(msgpack_out(value))) == repr(value)  # as NaN is not NaN


def read_array(data: bytes) -> None:
    array = array_in(data)
    assert not array.flags.writeable
    if array.size:  # without items it may still have as many rows as it likes
        array.tolist()
    again = array_in(array_out(array))
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())


def read_address(data: bytes) -> None:
    # As text, and with the bytes as they can stand in a URL.
    for address_text in (data.decode("utf-8", "surrogateescape"), "local://" + quote_from_bytes(data)):
        address = parse_address(address_text)
        assert isinstance(address, PulsarAddress | LocalAddress)
        assert parse_address(address) == address
        assert str(address)


def read_names(data: bytes) -> None:
    given = data.decode("utf-8", "surrogateescape")
    name = topic_name(given)
    assert topic_name(name) == name
    assert file_name(name).isascii()
    subscription_name(given)


class _SeriesFile:
    """A file that is written anew for each input."""

    path: Path

    def __call__(self, data: bytes) -> None:
        self.path.write_bytes(data)
        seconds = [second for second, _ in read_rows(self.path)]
        assert seconds == sorted(seconds)


read_series = _SeriesFile()

# A pack's reader makes room for 500 entries at each of 1024 levels before it can know better, and a .npy header of at
# most 10,000 bytes becomes a tree of Python's: these are the same for any input.
_PACK_SPARE = 5 << 20
_NPY_SPARE = 5 << 20

DECODERS: dict[str, Decoder] = {
    "GraphCodec": Decoder(read_graph, (EXAMPLE, EXAMPLE_WITH_HEADER)),
    "GraphCodec of other sizes": Decoder(read_other_sizes, (b"abcdxyhpayload",)),
    "NetworkCodec": Decoder(read_network, (b"12345678data",)),
    "split_example": Decoder(read_example, (EXAMPLE, EXAMPLE_WITH_HEADER)),
    "packs.unpack": Decoder(read_pack, PACK_SAMPLES, spare_bytes=_PACK_SPARE),
    "packs.unpack, marked": Decoder(
        read_marked_pack, (packs.pack([(EXAMPLE, 1, packs.URL), (EXAMPLE, 2)]), *PACK_SAMPLES), spare_bytes=_PACK_SPARE
    ),
    "unpack_signed": Decoder(read_signed, SIGNED_SAMPLES, ScriptRefused),
    "parse_payload_url": Decoder(
        read_payload_url,
        (b"ftp://me:pw@node-1:2121/a%20b/c.jpg#size=12&xxh3=0123456789abcdef", b"file:///dev/shm/x", b"ftp://[::1]/x"),
        PayloadUnavailable,
    ),
    "inbox": Decoder(
        read_delivery,
        (
            b"\x00....." + EXAMPLE,
            b"\x02...." + EXAMPLE_WITH_HEADER,
            b"\x06" + b"0008" + EXAMPLE_WITH_HEADER,
            b"\x010001" + PACK_SAMPLES[0],
            b"\x1b1..." + PACK_SAMPLES[0],
        ),
        spare_bytes=_PACK_SPARE,
    ),
    "dead letter": Decoder(read_letter, (EXAMPLE, b"ValueError: xworkersrc 12:0:1"), errors=()),
    "text_in": Decoder(read_text, ("é\U0001f600 text".encode(), b"")),
    "csv_row_in": Decoder(read_csv, CSV_SAMPLES),
    "msgpack_in": Decoder(read_msgpack, MSGPACK_SAMPLES),
    "array_in": Decoder(read_array, ARRAY_SAMPLES, spare_bytes=_NPY_SPARE),
    "parse_address": Decoder(read_address, ADDRESS_SAMPLES, UsageError),
    "names": Decoder(read_names, NAME_SAMPLES, UsageError),
    "time_series": Decoder(read_series, (b"time,a\n0,1\n0.5,2\n", *CSV_SAMPLES), UsageError),
}


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path) -> Iterator[None]:
    log = logging.getLogger("edgeserve.operator")
    read_series.path = tmp_path / "series.csv"
    log.disabled = True  # a line for each malformed message, a million times
    yield
    log.disabled = False


def mutated(samples: Sequence[bytes], chance: random.Random) -> bytes:
    """A sample with one to four changes, or nothing but chance."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(80))
    data = bytearray(chance.choice(samples))
    for _ in range(chance.randrange(1, 5)):
        at, other = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
        chance.choice(CHANGES)(data, at, other, samples, chance)
    return bytes(data)


def cut_off(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    del data[at:]


def take_out(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    del data[at : min(other, at + 8)]


def duplicate(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    data[at:at] = data[other : other + 200]


def insert(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    data[at:at] = chance.choice(INTERESTING)


def overwrite(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    new = chance.choice(INTERESTING)
    data[at : at + len(new)] = new


def splice(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    sample = chance.choice(samples)
    data[at:] = sample[chance.randrange(len(sample) + 1) :]


def flip(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    data[at : at + 1] = bytes([each ^ 1 << chance.randrange(8) for each in data[at : at + 1]])


def change(data: bytearray, at: int, other: int, samples: Sequence[bytes], chance: random.Random) -> None:
    data[at : at + 1] = chance.randbytes(len(data[at : at + 1]))


CHANGES = (cut_off, take_out, duplicate, insert, overwrite, splice, flip, change)


def fuzz(name: str, count: int, seed: int) -> dict[str, float]:
    """Feed a decoder; what came of it."""
    decoder, chance = DECODERS[name], random.Random(f"{seed} {name}")
    answered, slowest_s = 0, 0.0
    for number in range(count):
        data = mutated(decoder.samples, chance)
        started_s = time.perf_counter()
        try:
            decoder.read(data)
            answered += 1
        except decoder.errors:
            pass
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, string {number}: {data!r}") from error
        slowest_s = max(slowest_s, time.perf_counter() - started_s)
    return {"strings": count, "answered": answered, "slowest_ms": round(slowest_s * 1000, 1)}


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_valid_is_read(name: str) -> None:
    for sample in DECODERS[name].samples:
        DECODERS[name].read(sample)


@pytest.mark.parametrize("name", DECODERS)
def test_mutated_bytes_are_read_rightly_or_refused(name: str) -> None:
    result = fuzz(name, STRINGS // len(DECODERS), SEED)
    assert 0 < result["answered"] < result["strings"] or name in ("inbox", "dead letter"), result


@pytest.mark.parametrize("name", DECODERS)
@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_are_read_rightly_or_refused(name: str, data: bytes) -> None:
    with contextlib.suppress(DECODERS[name].errors):
        DECODERS[name].read(data)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", DECODERS)
def test_a_million_mutated_strings_are_read_rightly_or_refused(name: str) -> None:
    print(name, fuzz(name, -(-LONG_STRINGS // len(DECODERS)), SEED + 1))


# The most that a byte can become: in msgpack, 2 bytes are a dict of one entry, of up to 232 bytes, and 8 for its place
# in a list, 120 times as much; an empty dict is 1 byte, and 64 + 8. CSV makes a str of some 80 bytes and its place of 3
# bytes. Twice that, because a check keeps what was read while it reads what it has written. `spare_bytes` has the
# buffers with which msgpack and csv begin.
MEMORY_TIMES = 256


def peak_bytes(name: str, data: bytes) -> int:
    """The memory that reading takes at its peak, the input itself not counted."""
    decoder = DECODERS[name]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        with contextlib.suppress(decoder.errors):
            decoder.read(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npy_of(descr: bytes, shape: bytes) -> bytes:
    return npy(b"{'descr': " + descr + b", 'fortran_order': False, 'shape': " + shape + b", }\n")


_MANY = 10_000
HOSTILE = {
    "lists in lists": b"\x91" * _MANY,
    "lists of 4 G in each other": b"\xdd\xff\xff\xff\xff" * _MANY,
    "lists of as many as there are bytes, in each other": (b"\xdd" + struct.pack(">I", 4 * _MANY)) * (_MANY // 2),
    "lists of 500 in each other": b"\xdc\x01\xf4" * _MANY,
    "maps in maps": b"\x81\xa0" * _MANY,
    "maps of 4 G in each other": b"\xdf\xff\xff\xff\xff\xa0" * _MANY,
    "an empty map for each byte": b"\xdd" + struct.pack(">I", _MANY) + b"\x80" * _MANY,
    "a map of one for each 3 bytes": b"\xdd" + struct.pack(">I", _MANY) + b"\x81\xa0\xc0" * _MANY,
    "bytes of 4 GB": b"\xc6\xff\xff\xff\xff" + bytes(_MANY),
    "text of 4 GB": b"\xdb\xff\xff\xff\xff" + bytes(_MANY),
    "an extension of 4 GB": b"\xc9\xff\xff\xff\xff\x05" + bytes(_MANY),
    "a pack of 4 G examples": b"\xdd\xff\xff\xff\xff" + b"\x92\xc4\x00\x01" * _MANY,
    "a pack of too many": b"\xdd" + struct.pack(">I", _MANY) + b"\x92\xc4\x00\x01" * _MANY,
    "an array of EB": npy_of(b"'<f8'", b"(1152921504606846975,)") + bytes(_MANY),
    "an array without items, and wide": npy_of(b"'<f8'", b"(0, 9223372036854775807)"),
    "an array of 64 dimensions": npy_of(b"'<f8'", b"(" + b"1, " * 64 + b")") + bytes(8),
    "items of 100 MB": npy_of(b"'<U99999999'", b"(1,)"),
    "items of many times 100 MB": npy_of(b"[('a', 'V99999999', (99, 99, 99, 99))]", b"(1,)"),
    "fields in fields": npy_of(b"[('a', " * 200 + b"'<f8'" + b")]" * 200, b"(1,)"),
    "a header of brackets": npy(b"(" * 9_999),
    "a header of dicts": npy(b"{" * 9_999),
    "a header of numbers": npy(b"(" + b"1," * 4_990 + b")"),
    "a header of numbers that goes wrong": npy(b"(" + b"1234567890123456789," * 490 + b"!"),
    "a header of one text": npy(b"'" + b"\\n" * 4_990),
    "a header of open texts": npy(b"'a" * 4_999),
    "a header of spaces": npy(b" " * 65_535),
    "commas": b"," * _MANY,
    "values of one character": "\U0001f600,".encode() * (_MANY // 5),
    "quotes": b'"' * _MANY,
    "lines": b"\n" * _MANY,
    "numbers in lines": b"1\n" * _MANY,
    "a number of many digits": b"1" * _MANY,
    "text of 4 bytes a character": "\U0001f600".encode() * (_MANY // 4) + b"a" * _MANY,
    "text that is none at its end": b"a" * _MANY + b"\xff",
    "percents": b"local://" + b"%00" * _MANY,
    "options": b"local://a?" + b"sync=full&" * _MANY,
    "hosts": b"pulsar://" + b"a," * _MANY,
    "a folder of many parts": b"local://" + b"a/" * _MANY,
    "NULs": bytes(_MANY),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", DECODERS)
def test_memory_is_in_proportion_to_what_is_there_and_not_to_what_it_promises(name: str, hostile: str) -> None:
    decoder = DECODERS[name]
    # The inbox's own first bytes say how a delivery is marked.
    data = (b"\x011..." if name == "inbox" else b"") + HOSTILE[hostile]
    peak_bytes(name, decoder.samples[0])  # what is imported and made once
    peak = peak_bytes(name, data)
    assert peak <= MEMORY_TIMES * len(data) + decoder.spare_bytes, f"{peak / len(data):.1f} times {len(data)}"


@pytest.mark.parametrize("name", DECODERS)
def test_memory_of_mutated_bytes_is_bounded(name: str) -> None:
    decoder, chance = DECODERS[name], random.Random(f"memory {name}")
    peak_bytes(name, decoder.samples[0])
    for _ in range(50):
        data = mutated(decoder.samples, chance)
        peak = peak_bytes(name, data)
        assert peak <= MEMORY_TIMES * len(data) + decoder.spare_bytes, f"{peak} for {data!r}"
