"""The 16 bytes by which an example is known.

A source's are random (version 4 of RFC 9562). What an operator makes from examples has an id derived from theirs and
from its own name (version 5, SHA-1 of a namespace and a name, on bytes): the same inputs give the same id, so that a
run which is repeated after a crash can be recognised.
"""

from __future__ import annotations

import hashlib

ID_SIZE = 16

# The namespace of derived ids: UUIDv5 of "edgeserve" in the nil namespace.
_NAMESPACE = bytes.fromhex("e9c70594405558cd8b96ebd81a961adb")

# An id says its version in the upper half of byte 6, and the layout of the RFC in the two upper bits of byte 8.
_VERSION_AT, _VARIANT_AT = 6, 8
_VERSION_4 = bytes(0x40 | byte & 0x0F for byte in range(256))
_VERSION_5 = tuple(bytes([0x50 | byte & 0x0F]) for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))
_VARIANTS = tuple(_VARIANT[byte : byte + 1] for byte in range(256))


class DerivedIds:
    """The ids of what one operator makes.

    Args:
        operator: Its name, in bytes.
    """

    def __init__(self, operator: bytes) -> None:
        self._begun = hashlib.sha1(_NAMESPACE + operator, usedforsecurity=False)

    def of(self, inputs: bytes) -> bytes:
        """The id of what is made from the examples whose ids are `inputs`, one after the other."""
        name = self._begun.copy()
        name.update(inputs)
        digest = name.digest()
        return digest[:6] + _VERSION_5[digest[6]] + digest[7:8] + _VARIANTS[digest[8]] + digest[9:16]


def random_ids(randomness: bytes) -> list[bytes]:
    """An id for each 16 bytes of randomness."""
    numbers = bytearray(randomness)
    numbers[_VERSION_AT::ID_SIZE] = numbers[_VERSION_AT::ID_SIZE].translate(_VERSION_4)
    numbers[_VARIANT_AT::ID_SIZE] = numbers[_VARIANT_AT::ID_SIZE].translate(_VARIANT)
    marked = bytes(numbers)
    return [marked[at : at + ID_SIZE] for at in range(0, len(marked), ID_SIZE)]
