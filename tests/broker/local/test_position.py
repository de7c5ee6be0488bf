"""How far a consumer is, over topics that are paused and resumed, against a list of deliveries."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from edgeserve._broker.local.position import Position, behind_of

DELIVERIES = [(id_, id_ % 3) for id_ in range(1, 61)]


@pytest.fixture
def sql() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, topic INTEGER)")
        sql.executemany("INSERT INTO deliveries VALUES (?, ?)", DELIVERIES)
        yield sql


def following(sql: sqlite3.Connection, position: Position, limit: int) -> list[tuple[int, int]]:
    """The deliveries that come next."""
    is_beyond, parameters = position.beyond
    query = f"SELECT id, topic FROM deliveries WHERE {is_beyond} ORDER BY id LIMIT ?"
    return sql.execute(query, (*parameters, limit)).fetchall()


@pytest.mark.parametrize("seed", range(20))
def test_each_delivery_comes_once_and_in_the_order_of_its_topic(sql: sqlite3.Connection, seed: int) -> None:
    rng = random.Random(seed)
    position, found = Position(), list[tuple[int, int]]()
    for _ in range(40):
        paused = frozenset(rng.sample(range(3), rng.randint(0, 3)))
        position = position.pausing(paused)
        for _ in range(rng.randint(0, 2)):
            limit = rng.randint(1, 4)
            part = following(sql, position, limit)
            assert not {topic for _, topic in part} & paused
            position = position.advanced(part[-1][0] if len(part) == limit else DELIVERIES[-1][0])
            found += part
    position = position.pausing(frozenset())
    found += following(sql, position, 100)
    position = position.advanced(DELIVERIES[-1][0])
    assert sorted(found) == DELIVERIES
    for topic in range(3):
        of_topic = [each for each in found if each[1] == topic]
        assert of_topic == sorted(of_topic)
    assert (position.after_id, position.behind, position.paused) == (DELIVERIES[-1][0], {}, frozenset())


def test_what_is_behind_is_stored_as_it_is() -> None:
    position = Position(7).pausing(frozenset({2, 12})).advanced(9)
    assert behind_of(position.behind_text) == position.behind == {2: 7, 12: 7}
    assert behind_of(Position(7).behind_text) == {}


def test_rows_of_a_paused_topic_that_are_none_of_its_own_are_looked_through_once(sql: sqlite3.Connection) -> None:
    position = Position().pausing(frozenset({1})).advanced(40).skipping({1: 30})
    assert following(sql, position.pausing(frozenset()), 3) == [(31, 1), (34, 1), (37, 1)]
