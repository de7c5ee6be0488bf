"""The slots into which Pulsar divides keys: those of one slot are always with one consumer.

While a consumer holds anything of a slot unacknowledged that belongs to another consumer since, the broker holds back
whatever else falls into it. Sources: Apache Pulsar's PIP-379 (Key_Shared draining hashes) and its
`StickyKeyConsumerSelector`; MurmurHash3_x86_32 is Austin Appleby's, in the public domain.
"""

from __future__ import annotations

from functools import lru_cache

_SLOTS = 65_535
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=1 << 16)
def slot_of(key: str) -> int:
    """The slot of a key, from 1 to 65,535, as a broker of version 4 divides them."""
    return (_murmur3_32(key.encode()) & 0x7FFFFFFF) % _SLOTS + 1


def _murmur3_32(data: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0."""
    mixed = 0
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        mixed ^= _scrambled(data[at : at + 4])
        mixed = (_rotated(mixed, 13) * 5 + 0xE6546B64) & _MASK
    if whole < len(data):
        mixed ^= _scrambled(data[whole:])
    mixed ^= len(data)
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & _MASK
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & _MASK
    return mixed ^ mixed >> 16


def _scrambled(block: bytes) -> int:
    return _rotated(int.from_bytes(block, "little") * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK
