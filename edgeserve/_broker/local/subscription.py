"""A subscription's file: how far it is in each of its topics, who consumes it, and what they have not acknowledged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from edgeserve._broker.base import Share
from edgeserve._broker.local import handout
from edgeserve._broker.local.database import Database, Durability, Schema
from edgeserve._broker.local.handout import Member
from edgeserve._broker.local.position import Position
from edgeserve._broker.local.settling import Settled
from edgeserve._broker.local.topic import AT_ONCE, Topic
from edgeserve.errors import UsageError

_SCHEMA = Schema(
    version=3,
    statements=(
        """CREATE TABLE topics (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, uid TEXT, cursor INTEGER NOT NULL)""",
        # `lifeline` is held while the consumer's process lives. `fetched`: it has taken its deliveries up to this id;
        # `behind`: up to earlier ids of these topics, as a JSON object.
        """CREATE TABLE consumers (
            id INTEGER PRIMARY KEY AUTOINCREMENT, lifeline TEXT NOT NULL, share TEXT NOT NULL, topics TEXT NOT NULL,
            room INTEGER NOT NULL, fetched INTEGER NOT NULL, behind TEXT NOT NULL)""",
        # What is handed out and not acknowledged. An id is never used again, so that a late acknowledgement hits no
        # other delivery. `consumer` is NULL for what a consumer left behind; `key` is set where keys are shared.
        """CREATE TABLE deliveries (
            id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, seq INTEGER NOT NULL, key TEXT,
            consumer INTEGER)""",
        # What consumers wait for, for the others to see.
        "CREATE TABLE asked (id INTEGER PRIMARY KEY AUTOINCREMENT, consumer INTEGER NOT NULL, key BLOB NOT NULL)",
        "CREATE INDEX deliveries_by_key ON deliveries (key) WHERE key IS NOT NULL",
        "CREATE INDEX deliveries_left ON deliveries (topic, seq) WHERE consumer IS NULL",
    ),
)


# What one of several replicas takes at once, so that the others get their part of a backlog.
_MOST_AT_ONCE = 20
_MOST_ASKED = 1000


class Evicted(Exception):
    """The others took this consumer for dead."""


class Assigned(NamedTuple):
    """A message that was handed out to a consumer."""

    id: int
    topic_id: int
    seq: int


class Turn(NamedTuple):
    """What a consumer got from one look.

    Attributes:
        mine: What it is to fetch now.
        position: How far it was before.
        seen_id: Its deliveries up to this id are all in `mine`, or were fetched before, or are of paused topics.
        has_more: Whether there was more to hand out than one turn does.
    """

    mine: Sequence[Assigned]
    position: Position
    seen_id: int
    has_more: bool

    def batches(self) -> Iterator[tuple[int, Sequence[Assigned]]]:
        """What is to be fetched, in runs of one topic, as long as can be fetched at once."""
        for topic_id, run in groupby(self.mine, key=attrgetter("topic_id")):
            while batch := list(islice(run, AT_ONCE)):
                yield topic_id, batch


class Progress(NamedTuple):
    """How far a subscription is in one topic.

    Attributes:
        uid: Which topic of this name it knows.
        cursor: It has handed out all up to this number.
        acknowledged: It has acknowledged all up to this number.
    """

    uid: str | None
    cursor: int
    acknowledged: int


class Subscription:
    """A subscription's open file."""

    def __init__(self, path: Path, name: str, durability: Durability) -> None:
        self._name = name
        self._database = Database(path, _SCHEMA, durability)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def changed(self) -> bool:
        """Whether somebody else has written since this was last asked; yes at first."""
        return self._database.changed()

    # Consumers come and go.

    def join(
        self, lifeline: str, is_alive: Callable[[str], bool], share: Share, topics: Sequence[str], room: int
    ) -> tuple[int, dict[str, int]]:
        """Become a consumer of these topics. Its id, and the ids that the topics have here.

        Raises:
            UsageError: The subscription is shared in another way by consumers that live.
        """
        with self._database.write() as sql:
            for name in topics:
                sql.execute("INSERT OR IGNORE INTO topics (name, cursor) VALUES (?, 0)", (name,))
            known: dict[str, int] = dict(sql.execute("SELECT name, id FROM topics").fetchall())
            ids = {name: known[name] for name in topics}
            members = _members(sql)
            _bury(sql, {member.lifeline for member in members.values() if not is_alive(member.lifeline)})
            for other in _members(sql).values():
                if other.share is not share and not other.topics.isdisjoint(ids.values()):
                    raise UsageError(
                        f"subscription {self._name!r} is shared in another way by a consumer that lives: "
                        f"{other.share.value!r}, not {share.value!r}"
                    )
            row = (lifeline, share.value, json.dumps(sorted(ids.values())), room)
            me = sql.execute(
                "INSERT INTO consumers (lifeline, share, topics, room, fetched, behind) VALUES (?, ?, ?, ?, 0, '{}')",
                row,
            ).lastrowid
        if me is None:
            raise sqlite3.InternalError("no id for a new consumer")
        return me, ids

    def attach(self, topic_id: int, uid: str) -> None:
        """Start at the beginning of a topic, unless the subscription knows this very topic already."""
        with self._database.write() as sql:
            ((known,),) = sql.execute("SELECT uid FROM topics WHERE id = ?", (topic_id,)).fetchall()
            if known != uid:
                sql.execute("UPDATE topics SET uid = ?, cursor = 0 WHERE id = ?", (uid, topic_id))
                sql.execute("DELETE FROM deliveries WHERE topic = ?", (topic_id,))

    def leave(self, me: int, settled: Settled) -> None:
        """Acknowledge what is done with, and leave the rest to others."""
        with self._database.write() as sql:
            _settle(sql, me, settled)
            _remove(sql, me)

    def members(self) -> Mapping[int, Member]:
        """The consumers by id, oldest first; some may be dead."""
        return {row[0]: Member.of(row) for row in self._database.read("SELECT * FROM consumers ORDER BY id")}

    def ask(self, me: int, keys: Sequence[bytes]) -> None:
        """Let the other consumers see what this one waits for, if there are any."""
        if len(self.members()) > 1:
            with self._database.write() as sql:
                sql.executemany("INSERT INTO asked (consumer, key) VALUES (?, ?)", ((me, key) for key in keys))
                sql.execute("DELETE FROM asked WHERE id <= (SELECT max(id) FROM asked) - ?", (_MOST_ASKED,))

    def asked(self, me: int, after_id: int) -> tuple[int, list[bytes]]:
        """What the other consumers have asked for since; and up to where that is."""
        rows = self._database.read("SELECT id, consumer, key FROM asked WHERE id > ? ORDER BY id", (after_id,))
        return (rows[-1][0] if rows else after_id), [key for _, consumer, key in rows if consumer != me]

    # Messages are handed out and acknowledged.

    def settle(self, me: int, settled: Settled) -> None:
        """Mark deliveries as done, and leave others to whoever is to have them now."""
        with self._database.write() as sql:
            _settle(sql, me, settled)

    def has_work(self, me: int, position: Position, sources: Mapping[int, Topic]) -> bool:
        """Whether a turn of this consumer's would find something in `sources`; cheap, and takes no turn."""
        (is_open, open_topics), (is_beyond, beyond) = position.of_open_topics, position.beyond
        left = f"SELECT 1 FROM deliveries WHERE consumer IS NULL AND {is_open}"  # noqa: S608 - marks
        mine = f"SELECT 1 FROM deliveries WHERE {is_beyond} AND consumer = ?"  # noqa: S608 - marks
        ((found,),) = self._database.read(f"SELECT EXISTS ({left}) OR EXISTS ({mine})", (*open_topics, *beyond, me))
        if found:
            return True
        cursors = dict(self._database.read("SELECT id, cursor FROM topics"))
        return any(topic.has_beyond(cursors[topic_id]) for topic_id, topic in sources.items())

    def take_turn(
        self,
        me: int,
        position: Position,
        limit: int,
        settled: Settled,
        dead: Collection[str],
        sources: Mapping[int, Topic],
    ) -> Turn:
        """Settle, bury the dead, hand out what there is to those it is for, and take what is this consumer's.

        `sources` are its topics that are not paused: it hands out those alone.

        Raises:
            Evicted: The others took this consumer for dead.
        """
        with self._database.write() as sql:
            _settle(sql, me, settled)
            _bury(sql, dead)
            members = _members(sql)
            if me not in members:
                raise Evicted
            if members[me].share is Share.MESSAGE and len(members) > 1:
                limit = min(limit, _MOST_AT_ONCE)
            if position.paused:
                position = _skip(sql, me, position)
            handed_all = True
            mine = _assigned(sql, me, position, limit)
            if not mine and members[me].is_active_among(members.values()):
                if members[me].share is Share.KEY:
                    handed_all = handout.by_key(sql, members.values(), sources, limit)
                else:
                    handed_all = handout.to_one(sql, me, sources, limit)
                mine = _assigned(sql, me, position, limit)
            seen_id = mine[-1].id if len(mine) == limit else _last_id(sql, position.after_id)
            if mine and members[me].share is Share.KEY:
                ahead = position.advanced(seen_id)
                update = "UPDATE consumers SET fetched = ?, behind = ? WHERE id = ?"
                sql.execute(update, (ahead.after_id, ahead.behind_text, me))
        return Turn(mine, position, seen_id, not handed_all)

    # What others want to know, and the end.

    def progress(self, topic: str) -> Progress | None:
        """How far it is in a topic; None if it does not have that topic."""
        rows = self._database.read(
            """SELECT uid, cursor, coalesce((SELECT min(seq) - 1 FROM deliveries WHERE topic = topics.id), cursor)
            FROM topics WHERE name = ?""",
            (topic,),
        )
        return Progress(*rows[0]) if rows else None

    def outstanding(self, topic: str) -> Sequence[int]:
        """The numbers of a topic's messages that are handed out and not acknowledged."""
        sql = "SELECT seq FROM deliveries WHERE topic = (SELECT id FROM topics WHERE name = ?)"
        return [seq for (seq,) in self._database.read(sql, (topic,))]

    def consumers(self, topic: str, is_alive: Callable[[str], bool]) -> int:
        """How many consumers of a topic live."""
        ids = self._database.read("SELECT id FROM topics WHERE name = ?", (topic,))
        members = self.members().values() if ids else ()
        return sum(ids[0][0] in member.topics and is_alive(member.lifeline) for member in members)

    def forget(self, topic: str, is_alive: Callable[[str], bool], unsubscribe: Callable[[], None]) -> int:
        """Remove a topic, and the file with the last one, unless consumers that live have it: how many do.

        `unsubscribe` is called in the same turn, so that whoever joins comes before all of it or after all of it.
        """
        with self._database.write() as sql:
            users = self.consumers(topic, is_alive)
            if users:
                return users
            sql.execute("DELETE FROM deliveries WHERE topic = (SELECT id FROM topics WHERE name = ?)", (topic,))
            sql.execute("DELETE FROM topics WHERE name = ?", (topic,))
            is_empty = not sql.execute("SELECT 1 FROM topics").fetchall()
            unsubscribe()
        if is_empty:
            self._database.remove_unless_shared()
        return 0


def _members(sql: sqlite3.Connection) -> Mapping[int, Member]:
    return {row[0]: Member.of(row) for row in sql.execute("SELECT * FROM consumers ORDER BY id").fetchall()}


def _assigned(sql: sqlite3.Connection, me: int, position: Position, limit: int) -> Sequence[Assigned]:
    is_beyond, beyond = position.beyond
    query = f"SELECT id, topic, seq FROM deliveries WHERE {is_beyond} AND consumer = ? ORDER BY id LIMIT ?"  # noqa: S608 - marks
    return [Assigned(*row) for row in sql.execute(query, (*beyond, me, limit)).fetchall()]


def _skip(sql: sqlite3.Connection, me: int, position: Position) -> Position:
    """Move on in paused topics to the first delivery, so that nobody has to look through the same rows again."""
    first = "SELECT id FROM deliveries WHERE id > ? AND topic = ? AND consumer = ? ORDER BY id LIMIT 1"
    nothing_until = {}
    for topic_id in position.paused:
        at_id = position.behind[topic_id]
        rows = sql.execute(first, (at_id, topic_id, me)).fetchall()
        nothing_until[topic_id] = rows[0][0] - 1 if rows else _last_id(sql, at_id)
    return position.skipping(nothing_until)


def _last_id(sql: sqlite3.Connection, default: int) -> int:
    """The greatest id that a delivery ever had."""
    rows = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'").fetchall()
    return int(rows[0][0]) if rows else default


def _settle(sql: sqlite3.Connection, me: int, settled: Settled) -> None:
    done, returned = settled
    sql.executemany("DELETE FROM deliveries WHERE id = ? AND consumer = ?", ((id_, me) for id_ in done))
    if returned:
        leave = "UPDATE deliveries SET consumer = NULL WHERE id = ? AND consumer = ?"
        sql.executemany(leave, ((id_, me) for id_ in returned))


def _bury(sql: sqlite3.Connection, dead: Collection[str]) -> None:
    for member in _members(sql).values() if dead else ():
        if member.lifeline in dead:
            _remove(sql, member.id)


def _remove(sql: sqlite3.Connection, consumer: int) -> None:
    sql.execute("UPDATE deliveries SET consumer = NULL WHERE consumer = ?", (consumer,))
    sql.execute("DELETE FROM consumers WHERE id = ?", (consumer,))
