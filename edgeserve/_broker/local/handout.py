"""Who gets which message: new ones, and those that a consumer left behind when it closed or died.

Runs inside the transaction of a consumer's turn.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from edgeserve._broker.base import Share
from edgeserve._broker.local.position import behind_of
from edgeserve._broker.local.topic import Topic

_INSERT = "INSERT INTO deliveries (topic, seq, key, consumer) VALUES (?, ?, ?, ?)"
_LEFT = "SELECT seq, id FROM deliveries WHERE consumer IS NULL AND topic = ? ORDER BY seq LIMIT ?"

_Row = tuple[int, int, "str | None", int]


class Member(NamedTuple):
    """A consumer, as the others see it.

    Attributes:
        id: The older, the smaller.
        lifeline: The lock that says whether its process lives.
        share: How it shares.
        topics: The ids of its topics.
        room: How many messages of a topic may be assigned to it that it has not fetched.
        fetched: It has fetched its deliveries up to this id.
        behind: Topics of which it has fetched less, and up to which id.
    """

    id: int
    lifeline: str
    share: Share
    topics: frozenset[int]
    room: int
    fetched: int
    behind: Mapping[int, int]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Member:
        """From its row."""
        id_, lifeline, share, topics, room, fetched, behind = row
        return cls(id_, lifeline, Share(share), _ids(topics), room, fetched, behind_of(behind))

    def is_active_among(self, members: Iterable[Member]) -> bool:
        """Whether it is handed messages: with `Share.STANDBY` only the oldest one of each topic is."""
        taken: set[int] = set()
        for member in members if self.share is Share.STANDBY else ():
            if member.topics.isdisjoint(taken):
                taken |= member.topics
                if member.id == self.id:
                    return True
        return self.share is not Share.STANDBY


@lru_cache(maxsize=1024)
def _ids(topics: str) -> frozenset[int]:
    return frozenset(json.loads(topics))


def to_one(sql: sqlite3.Connection, consumer: int, sources: Mapping[int, Topic], limit: int) -> bool:
    """Hand out at most `limit` messages to one consumer, a part from each topic. Whether that was all."""
    is_all, topics_left = True, len(sources)
    for topic_id, topic in sources.items():
        part = -(-limit // topics_left)
        behind = sql.execute(_LEFT, (topic_id, part)).fetchall()
        fresh = topic.keys_beyond(_cursor(sql, topic_id), part - len(behind)) if part > len(behind) else []
        _assign(sql, topic_id, [(topic_id, seq, None, consumer) for seq, _ in behind + fresh], behind)
        found = len(behind) + len(fresh)
        is_all = is_all and found < part
        limit, topics_left = limit - found, topics_left - 1
    return is_all


def by_key(sql: sqlite3.Connection, members: Collection[Member], sources: Mapping[int, Topic], limit: int) -> bool:
    """Hand out at most `limit` messages of each topic to the owners of their keys. Whether that was all.

    It stops at the first message whose owner has no room: what is not handed out yet can still go to a newcomer.
    Messages without a key are of one key, as on Pulsar.
    """
    owners = _Owners(sql, members)
    is_all = True
    for topic_id, topic in sources.items():
        behind = sql.execute(_LEFT, (topic_id, limit)).fetchall()
        keys = [(seq, topic.key(seq)) for seq, _ in behind]
        keys += topic.keys_beyond(_cursor(sql, topic_id), limit - len(behind)) if limit > len(behind) else []
        rows: list[_Row] = []
        for seq, key in keys:
            owner = owners.take_room(key or "", topic_id)
            if owner is None:
                break
            rows.append((topic_id, seq, key or "", owner))
        _assign(sql, topic_id, rows, behind[: len(rows)])
        is_all = is_all and len(rows) < limit
    return is_all


def _cursor(sql: sqlite3.Connection, topic_id: int) -> int:
    ((cursor,),) = sql.execute("SELECT cursor FROM topics WHERE id = ?", (topic_id,)).fetchall()
    return int(cursor)


def _assign(sql: sqlite3.Connection, topic_id: int, rows: Sequence[_Row], behind: Sequence[tuple[int, int]]) -> None:
    """Store deliveries; those that replace one that was left `behind` come first, and get a new id too."""
    sql.executemany("DELETE FROM deliveries WHERE id = ?", ((id_,) for _, id_ in behind))
    sql.executemany(_INSERT, rows)
    if len(rows) > len(behind):
        sql.execute("UPDATE topics SET cursor = ? WHERE id = ?", (rows[-1][1], topic_id))


class _Owners:
    """Which consumer a key belongs to, and who has room."""

    def __init__(self, sql: sqlite3.Connection, members: Collection[Member]) -> None:
        self._sql = sql
        self._members = members
        self._holders: dict[str, int | None] = {}
        self._room = {member.id: _room(sql, member) for member in members}

    def take_room(self, key: str, topic_id: int) -> int | None:
        """The key's owner, with one place less; None if it has no room."""
        candidates = [member.id for member in self._members if topic_id in member.topics]
        holder = self._holder(key)
        owner = holder if holder in candidates else max(candidates, key=lambda id_: _weight(id_, key))
        room = self._room[owner]
        if room[topic_id] <= 0:
            return None
        room[topic_id] -= 1
        if holder is None:
            self._holders[key] = owner
        return owner

    def _holder(self, key: str) -> int | None:
        if key not in self._holders:
            held = "SELECT consumer FROM deliveries WHERE key = ? AND consumer IS NOT NULL LIMIT 1"
            rows = self._sql.execute(held, (key,)).fetchall()
            self._holders[key] = rows[0][0] if rows else None
        return self._holders[key]


def _room(sql: sqlite3.Connection, member: Member) -> dict[int, int]:
    """How many messages of each of its topics may still be assigned to a consumer."""
    unfetched = "SELECT topic, count(*) FROM deliveries WHERE id > ? AND consumer = ? GROUP BY topic"
    taken = dict(sql.execute(unfetched, (member.fetched, member.id)).fetchall())
    if member.behind:
        # Counted up to its room only: of a topic that is paused, many may be waiting, among even more of others.
        rows = "SELECT 1 FROM deliveries WHERE id > ? AND consumer = ? AND topic = ? LIMIT ?"
        for topic_id, id_ in member.behind.items():
            count = f"SELECT count(*) FROM ({rows})"  # noqa: S608 - constants
            ((taken[topic_id],),) = sql.execute(count, (id_, member.id, topic_id, member.room)).fetchall()
    return {topic_id: member.room - taken.get(topic_id, 0) for topic_id in member.topics}


@lru_cache(maxsize=65536)
def _weight(consumer: int, key: str) -> bytes:
    """Rendezvous hashing: the heaviest owns the key, so that one who comes or goes moves only its own keys."""
    return hashlib.blake2b(key.encode(), digest_size=8, salt=consumer.to_bytes(16, "little")).digest()
