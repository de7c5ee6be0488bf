"""What is signed is what was signed: nothing that was changed on the way passes, and no bytes are a surprise."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve._core.signed import MAGIC, ScriptRefused, Signed, Signer, check_age, unpack_signed
from edgeserve.errors import UsageError

KEY = bytes(range(32))
ID = b"i" * 16
SIGNER = Signer(KEY)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TIMES = st.integers(1, (1 << 63) - 1)
IDS = st.binary(min_size=16, max_size=16)


def signed(script: bytes = b"print()", topic: str = "code", example_id: bytes = ID, signed_ms: int = 1000) -> Signed:
    return SIGNER.signed(topic, example_id, signed_ms, script)


@given(TEXTS, IDS, TIMES, st.binary(max_size=200))
def test_what_was_signed_passes(topic: str, example_id: bytes, signed_ms: int, script: bytes) -> None:
    travelled = unpack_signed(signed(script, topic, example_id, signed_ms).packed())
    assert travelled.script == script
    SIGNER.check(travelled, topic, example_id)
    travelled.check_script(script)


PARTS = st.tuples(TEXTS, IDS, TIMES, st.binary(max_size=200))


@given(PARTS, PARTS)
def test_one_signature_is_of_one_topic_id_time_and_script(
    one: tuple[str, bytes, int, bytes], other: tuple[str, bytes, int, bytes]
) -> None:
    assert (SIGNER.signed(*one).signature == SIGNER.signed(*other).signature) is (one == other)


def test_no_byte_passes_from_one_part_into_the_next() -> None:
    assert signed(topic="code1").signature != signed(example_id=b"1" + ID).signature
    time = (1000).to_bytes(8, "big")
    assert signed(example_id=ID + time).signature != signed(topic="code" + ID.decode(), example_id=time).signature


@pytest.mark.parametrize("url", [{}, {"stored": "ftp://node/x#size=7"}, {"url": "ftp://node/x"}])
def test_the_signature_is_what_its_format_says(url: dict[str, str]) -> None:
    made = SIGNER.signed("code", ID, 1000, b"print()", **url)
    ((place, text),) = url.items() or [("script", "")]
    sha256 = hashlib.sha256(b"print()").digest()
    parts = [
        b"edgeserve code, version 1",
        b"code",
        ID,
        (1000).to_bytes(8, "big"),
        sha256,
        place.encode(),
        text.encode(),
    ]
    said = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert made.signature == hmac.new(KEY, said, hashlib.sha256).digest()
    assert made.sha256 == sha256


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": "code2"},
        {"example_id": b"j" * 16},
        {"signed": replace(signed(), signed_ms=1001)},
        {"signed": replace(signed(), sha256=bytes(32))},
        {"signed": replace(signed(), signature=bytes(32))},
        {"signed": Signer(KEY[::-1]).signed("code", ID, 1000, b"print()")},
        {"signed": replace(signed(), script=None, stored="")},
        {"signed": replace(SIGNER.signed("code", ID, 1000, b"print()", url="ftp://a/x"), url="ftp://b/x")},
        {"signed": replace(SIGNER.signed("code", ID, 1000, b"print()", url="ftp://a/x"), url=None, stored="ftp://a/x")},
    ],
)
def test_what_differs_in_one_thing_is_refused_before_its_script_is_there(wrong: dict[str, object]) -> None:
    given = {"signed": signed(), "topic": "code", "example_id": ID, **wrong}
    with pytest.raises(ScriptRefused, match="its signature is not that of this key"):
        SIGNER.check(**given)  # type: ignore[arg-type] # one of each


def test_other_bytes_than_those_that_were_signed_are_refused() -> None:
    with pytest.raises(ScriptRefused, match="its bytes are not those that were signed"):
        signed().check_script(b"print(1)")


def check_packed(payload: bytes) -> None:
    travelled = unpack_signed(payload)
    SIGNER.check(travelled, "code", ID)
    travelled.check_script(travelled.script or b"")


@given(st.data())
def test_a_payload_that_was_changed_anywhere_is_refused(data: st.DataObject) -> None:
    packed = bytearray(signed().packed())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ScriptRefused):
        check_packed(bytes(packed))


def test_the_same_values_written_in_another_way_are_refused() -> None:
    packed = signed(signed_ms=1000).packed()
    fields = msgpack.unpackb(packed[len(MAGIC) :])
    as_signed_number = packed.replace(b"\xcd\x03\xe8", b"\xd1\x03\xe8")
    in_another_order = MAGIC + msgpack.packb(dict(reversed(fields.items())))
    for other in (as_signed_number, in_another_order):
        assert other != packed
        assert msgpack.unpackb(other[len(MAGIC) :]) == fields
        with pytest.raises(ScriptRefused, match="not written as a sender writes it"):
            unpack_signed(other)


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda data: MAGIC + data)))
def test_any_other_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(ScriptRefused):
        check_packed(payload)


SIGNATURE = {"signed_ms": 1, "sha256": bytes(32), "signature": bytes(32)}


@pytest.mark.parametrize(
    "fields",
    [
        7,
        [],
        {},
        SIGNATURE,
        {**SIGNATURE, "script": "text"},
        {**SIGNATURE, "script": None},
        {**SIGNATURE, "url": b"ftp://node/x"},
        {**SIGNATURE, "script": b"", "url": "ftp://node/x"},
        {**SIGNATURE, "script": b"", "more": 1},
        {**SIGNATURE, "script": b"", "signed_ms": 0},
        {**SIGNATURE, "script": b"", "signed_ms": True},
        {**SIGNATURE, "script": b"", "signed_ms": 1.0},
        {**SIGNATURE, "script": b"", "signed_ms": 1 << 63},
        {**SIGNATURE, "script": b"", "sha256": bytes(31)},
        {**SIGNATURE, "script": b"", "signature": bytes(31)},
        {**SIGNATURE, "script": b"", "signature": "s" * 32},
        {"signed_ms": 1, "sha256": bytes(32), "script": b"", 7: 7},
    ],
)
def test_fields_that_are_none_are_refused(fields: object) -> None:
    with pytest.raises(ScriptRefused, match="damaged"):
        unpack_signed(MAGIC + msgpack.packb(fields))


@pytest.mark.parametrize("place", [{"stored": "ftp://node/x#size=1"}, {"url": "ftp://node/x"}])
def test_a_url_travels_in_the_place_of_the_script_whose_hash_is_signed(place: dict[str, str]) -> None:
    made = SIGNER.signed("code", ID, 1000, b"print()", **place)
    travelled = unpack_signed(made.packed())
    assert travelled == made
    assert travelled.script is None
    SIGNER.check(travelled, "code", ID)
    travelled.check_script(b"print()")


@pytest.mark.parametrize(
    ("now_ms", "said"),
    [
        (1500, None),
        (1501, "signed 501 ms ago, and max_age_ms is 500"),
        (500, None),
        (499, "501 ms in the future.*a clock is wrong"),
    ],
)
def test_what_was_signed_too_long_ago_or_in_the_future_is_refused(now_ms: int, said: str | None) -> None:
    if said is None:
        check_age(1000, now_ms, 500)
    else:
        with pytest.raises(ScriptRefused, match=said):
            check_age(1000, now_ms, 500)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (b"k" * 15, "the key has 15 bytes: expected 16 or more"),
        ("secret" * 8, "the key is of type str: expected bytes: bytes.fromhex"),
        (bytearray(b"secret" * 8), "the key is of type bytearray: expected bytes"),
        (7, "the key is of type int"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(key: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        Signer(key)  # type: ignore[arg-type] # that is the test
    assert "secretsecret" not in str(raised.value)
    assert "secrets.token_bytes(32)" in str(raised.value)


def test_a_signer_shows_nothing_of_its_key() -> None:
    key = b"0123456789abcdef-this-is-my-key-"
    signer = Signer(key)
    assert repr(signer) == "Signer()"
    assert key not in vars(signer).values()
    assert signer.fingerprint == Signer(key).fingerprint != SIGNER.fingerprint
