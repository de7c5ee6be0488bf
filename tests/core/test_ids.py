from __future__ import annotations

import hashlib
import os
import uuid

from edgeserve._core.ids import DerivedIds, random_ids


def test_a_derived_id_is_a_uuid_of_version_5_that_depends_on_the_operator_and_each_input_in_order() -> None:
    ids = [uuid.uuid4().bytes for _ in range(2)]
    derived = DerivedIds(b"worker".ljust(16, b"\0")).of(b"".join(ids))
    named = uuid.uuid5(uuid.UUID(int=0), "edgeserve").bytes + b"worker".ljust(16, b"\0") + b"".join(ids)
    assert derived == uuid.UUID(bytes=hashlib.sha1(named).digest()[:16], version=5).bytes
    others = [
        DerivedIds(b"other".ljust(16, b"\0")).of(b"".join(ids)),
        DerivedIds(b"worker".ljust(16, b"\0")).of(b"".join(ids[::-1])),
    ]
    assert derived not in others


def test_random_ids_are_uuids_of_version_4_that_keep_all_other_bits() -> None:
    randomness = os.urandom(16 * 64)
    expected = [uuid.UUID(bytes=randomness[at : at + 16], version=4).bytes for at in range(0, len(randomness), 16)]
    assert random_ids(randomness) == expected
