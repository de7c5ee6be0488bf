"""The slots of keys, as a broker of Pulsar's divides them."""

from __future__ import annotations

import pytest

from edgeserve._broker.pulsar_slots import _murmur3_32, slot_of


@pytest.mark.parametrize(
    ("data", "expected"),
    # Published vectors of MurmurHash3_x86_32 with seed 0.
    [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_hash_is_murmurs(data: bytes, expected: int) -> None:
    assert _murmur3_32(data) == expected


def test_a_slot_is_where_a_broker_of_version_4_says_it_is() -> None:
    # Seen in the `drainingHashes` of a subscription whose keys were the numbers up to 3000.
    draining = {82, 91, 108, 134, 375, 434, 536, 539, 609, 636, 643, 646, 657, 661, 860, 864, 887}
    assert draining <= {slot_of(str(number)) for number in range(3000)}
    assert slot_of("983") == slot_of("2594")
