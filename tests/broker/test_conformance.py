"""What every broker does for the operators: all of this runs on each of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import permutations

import pytest

from edgeserve._broker.base import MAX_MESSAGE_BYTES, Connection, Delivery, Message, Share
from edgeserve._core.clock import wall_ms
from edgeserve.errors import BrokerError, PayloadTooLarge, UsageError
from tests.broker.helpers import KEYS, Connect, Feed, ids, keyed, numbered, receive, rest, send
from tests.broker.workers import Workers, keys_with_two_holders, until
from tests.conftest import Ability

every_share = pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
MANY = 2000
# Sending


def test_a_message_arrives_as_it_was_sent(connection: Connection, topic: str) -> None:
    sent = Message(bytes(range(256)), 1_234_567_890_123, "key-ü", {"mark": "1", "other": "ü"})
    before_ms = wall_ms()
    send(connection.producer(topic), [sent])
    (got,) = receive(connection.consumer([topic], "s", Share.MESSAGE, 10), 1)
    assert Message(got.payload, got.event_ms, got.key, dict(got.properties)) == sent
    assert got.topic == topic
    assert before_ms - 1000 <= got.publish_ms <= wall_ms() + 1000


def test_what_a_message_does_not_have_is_absent(connection: Connection, topic: str) -> None:
    send(connection.producer(topic), [b""])
    (got,) = receive(connection.consumer([topic], "s", Share.MESSAGE, 10), 1)
    assert (got.payload, got.event_ms, got.key, dict(got.properties)) == (b"", None, None, {})


def test_sends_are_confirmed_in_their_order_with_thousands_in_flight(connection: Connection, topic: str) -> None:
    producer, done = connection.producer(topic), threading.Event()
    confirmed: list[tuple[int, BrokerError | None, int]] = []
    for number in range(MANY):

        def note(error: BrokerError | None, number: int = number) -> None:
            confirmed.append((number, error, threading.get_ident()))
            if number == MANY - 1:
                done.set()

        producer.send(Message(b"%d" % number), note)
    assert done.wait(30)
    assert [(number, error) for number, error, _ in confirmed] == [(number, None) for number in range(MANY)]
    assert threading.get_ident() not in {thread for _, _, thread in confirmed}


def test_messages_arrive_in_the_order_of_their_sends(connection: Connection, topic: str) -> None:
    send(connection.producer(topic), numbered(MANY))
    assert ids(receive(connection.consumer([topic], "s", Share.STANDBY, 1000), MANY)) == numbered(MANY)


def test_a_message_that_is_not_read_yet_is_waited_for(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "s", Share.STANDBY, 10)
    late = threading.Timer(0.3, lambda: send(connection.producer(topic), ["late"]))
    late.start()
    assert ids(receive(consumer, 1)) == ["late"]
    late.join()


def test_producers_of_several_threads_each_keep_their_order(connection: Connection, topic: str) -> None:
    shared = connection.producer(topic)
    producers = [shared, shared, connection.producer(topic), connection.producer(topic)]
    threads = [
        threading.Thread(target=send, args=(producer, numbered(200, f"thread-{number}-")))
        for number, producer in enumerate(producers)
    ]
    for thread in threads:
        thread.start()
    got = ids(receive(connection.consumer([topic], "s", Share.STANDBY, 1000), 800))
    for thread in threads:
        thread.join()
    for number in range(4):
        own = [each for each in got if each.startswith(f"thread-{number}-")]
        assert own == numbered(200, f"thread-{number}-")


def test_closing_a_producer_waits_for_its_confirmations(connection: Connection, topic: str) -> None:
    producer, confirmed = connection.producer(topic), list[BrokerError | None]()
    for each in numbered(500):
        producer.send(Message(each.encode()), confirmed.append)
    producer.close(30_000)
    assert confirmed == [None] * 500


@pytest.mark.parametrize("size", [5_000_000, MAX_MESSAGE_BYTES])
def test_a_large_message_arrives_whole(connection: Connection, topic: str, size: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    send(connection.producer(topic), [payload[:size], b"next"])
    got = receive(connection.consumer([topic], "s", Share.STANDBY, 2), 2)
    assert [delivery.payload for delivery in got] == [payload[:size], b"next"]


def test_a_message_over_the_limit_is_refused_and_the_next_one_is_not(connection: Connection, topic: str) -> None:
    producer, confirmed = connection.producer(topic), list[BrokerError | None]()
    with pytest.raises(PayloadTooLarge, match="lazy") as refused:
        producer.send(Message(bytes(MAX_MESSAGE_BYTES + 1)), confirmed.append)
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (MAX_MESSAGE_BYTES + 1, MAX_MESSAGE_BYTES)
    assert confirmed == []
    send(producer, ["next"])
    assert ids(receive(connection.consumer([topic], "s", Share.STANDBY, 10), 1)) == ["next"]


# Receiving


@pytest.mark.parametrize("timeout_ms", [0, 50])
def test_receiving_from_an_empty_topic_ends_in_time(connection: Connection, topic: str, timeout_ms: int) -> None:
    consumer = connection.consumer([topic], "s", Share.STANDBY, 10)
    assert list(consumer.receive(timeout_ms)) == []


def test_a_subscription_starts_at_the_earliest_message(connection: Connection, topic: str) -> None:
    send(connection.producer(topic), numbered(10))
    assert ids(receive(connection.consumer([topic], "s", Share.STANDBY, 100), 10)) == numbered(10)


def test_a_subscription_has_what_was_sent_while_nobody_was_there(connect: Connect, topic: str) -> None:
    first = connect()
    first.consumer([topic], "s", Share.STANDBY, 10).close()
    first.close()
    second = connect()
    send(second.producer(topic), numbered(10))
    second.close()
    assert ids(receive(connect().consumer([topic], "s", Share.STANDBY, 100), 10)) == numbered(10)


def test_two_subscriptions_both_have_everything(connection: Connection, topic: str) -> None:
    one = connection.consumer([topic], "one", Share.STANDBY, 100)
    other = connection.consumer([topic], "other", Share.MESSAGE, 100)
    send(connection.producer(topic), numbered(50))
    got = receive(one, 50)
    one.acknowledge(got)
    assert ids(got) == ids(receive(other, 50)) == numbered(50)


def test_what_one_subscription_has_not_acknowledged_is_kept_for_a_new_one(connection: Connection, topic: str) -> None:
    fast = connection.consumer([topic], "fast", Share.STANDBY, 100)
    slow = connection.consumer([topic], "slow", Share.STANDBY, 100)
    send(connection.producer(topic), numbered(20))
    fast.acknowledge(receive(fast, 20))
    slow.acknowledge(receive(slow, 20)[:10])
    for consumer in (fast, slow):
        consumer.close()
    # What nobody needs any more may still be there; what somebody needs must be.
    kept = ids(rest(connection.consumer([topic], "new", Share.STANDBY, 100)))
    assert kept == numbered(20)[-len(kept) :]
    assert len(kept) >= 10


@every_share
def test_several_topics_arrive_in_one_subscription(connection: Connection, topic: str, share: Share) -> None:
    topics = [f"{topic}-c", f"{topic}-a", f"{topic}-b"]
    consumer = connection.consumer(topics, "s", share, 100)
    for each in topics:
        send(connection.producer(each), [Message(f"{each}-{n}".encode(), key="k") for n in range(20)])
    got = receive(consumer, 60)
    consumer.acknowledge(got)
    consumer.close()
    for each in topics:
        assert [delivery.payload.decode() for delivery in got if delivery.topic == each] == [
            f"{each}-{n}" for n in range(20)
        ]
    assert rest(connection.consumer(topics, "s", share, 100)) == []


def test_a_consumer_does_not_fetch_more_than_it_may(connection: Connection, topic: str) -> None:
    idle = connection.consumer([topic], "s", Share.MESSAGE, 10)
    send(connection.producer(topic), numbered(100))
    assert len(rest(connection.consumer([topic], "s", Share.MESSAGE, 1000))) >= 90
    idle.close()


# Acknowledging


@every_share
def test_messages_are_acknowledged_in_any_order(connection: Connection, topic: str, share: Share) -> None:
    send(connection.producer(topic), numbered(100))
    consumer = connection.consumer([topic], "s", share, 100)
    got = receive(consumer, 100)
    consumer.acknowledge(got[90:])
    for delivery in reversed(got[:90:3]):
        consumer.acknowledge([delivery])
    consumer.close()
    left = sorted(set(numbered(100)[:90]) - set(numbered(100)[:90:3]))
    again = receive(connection.consumer([topic], "s", share, 100), len(left))
    assert ids(again) == left
    first_time = {delivery.payload: delivery.message_id for delivery in got}
    assert all(delivery.message_id == first_time[delivery.payload] for delivery in again)


@every_share
def test_what_was_acknowledged_does_not_come_again(connection: Connection, topic: str, share: Share) -> None:
    send(connection.producer(topic), numbered(200))
    consumer = connection.consumer([topic], "s", share, 100)
    consumer.acknowledge(receive(consumer, 200))
    consumer.close()
    assert rest(connection.consumer([topic], "s", share, 100)) == []


def test_an_acknowledgement_is_made_from_a_confirmation(connection: Connection, topic: str) -> None:
    source, sink = connection.producer(f"{topic}-in"), connection.producer(f"{topic}-out")
    send(source, numbered(100))
    consumer = connection.consumer([f"{topic}-in"], "s", Share.STANDBY, 100)
    done = threading.Semaphore(0)

    def pass_on(delivery: Delivery) -> None:
        def confirmed(error: BrokerError | None) -> None:
            assert error is None
            consumer.acknowledge([delivery])
            done.release()

        sink.send(Message(delivery.payload), confirmed)

    for delivery in receive(consumer, 100):
        pass_on(delivery)
    for _ in range(100):
        assert done.acquire(timeout=30)
    consumer.close()
    assert rest(connection.consumer([f"{topic}-in"], "s", Share.STANDBY, 100)) == []
    assert len(receive(connection.consumer([f"{topic}-out"], "s", Share.STANDBY, 100), 100)) == 100


@every_share
def test_closing_a_consumer_gives_back_what_it_holds(connection: Connection, topic: str, share: Share) -> None:
    send(connection.producer(topic), numbered(50))
    consumer = connection.consumer([topic], "s", share, 10)
    received = 0
    while received < 30:
        received += len(consumer.receive(20_000))
    consumer.close()
    successor, found = connection.consumer([topic], "s", share, 10), set[str]()
    while len(found) < 50:  # what the closed one had fetched and nobody had received may come twice
        found.update(ids(successor.receive(20_000)))
    assert sorted(found) == numbered(50)


@every_share
def test_what_a_killed_process_held_goes_to_the_next(
    connection: Connection, topic: str, share: Share, workers: Workers
) -> None:
    send(connection.producer(topic), keyed(numbered(100)))
    workers.start("victim", [topic], share, lag=40)
    until(lambda: len(workers.ids("got")) >= 60, "60 messages have come")
    workers.kill("victim")
    # Its last acknowledgements may have died with it: they come again, and nothing else that it acknowledged does.
    sure = set(numbered(100)) - set(workers.ids("acknowledges"))
    again = ids(rest(connection.consumer([topic], "shared", share, 100), quiet_ms=2000))
    assert sure <= set(again)
    assert len(again) == len(set(again))


# Sharing among processes


def test_message_by_message_each_goes_to_one_of_the_processes(
    connection: Connection, topic: str, workers: Workers
) -> None:
    for name in ("a", "b", "c"):
        workers.start(name, [topic], Share.MESSAGE, queue_size=10)
    send(connection.producer(topic), numbered(MANY))
    workers.all_acknowledged(numbered(MANY))
    assert Counter(workers.ids("got")) == Counter(numbered(MANY))
    assert {event.worker for event in workers.events if event.what == "got"} == {"a", "b", "c"}


def test_a_shared_subscription_loses_nothing_while_processes_join_and_are_killed(
    connection: Connection, topic: str, workers: Workers
) -> None:
    with Feed(connection, [topic]) as feed:
        _join_kill_and_leave([topic], Share.MESSAGE, workers)
    workers.all_acknowledged(feed.sent)


def test_by_key_a_key_stays_with_one_process_and_in_order(connection: Connection, topic: str, workers: Workers) -> None:
    topics = [f"{topic}-data", f"{topic}-signal"]
    for name in ("a", "b", "c"):
        workers.start(name, topics, Share.KEY)
    for each in topics:
        send(connection.producer(each), keyed(numbered(500, each)))
    sent = [*numbered(500, topics[0]), *numbered(500, topics[1])]
    workers.all_acknowledged(sent)
    got = [event for event in workers.events if event.what == "got"]
    assert Counter(event.id for event in got) == Counter(sent)
    assert len({(event.key, event.worker) for event in got}) == len(KEYS)
    assert len({event.worker for event in got}) > 1
    for key in KEYS:
        for each in topics:
            of_key = [event.id for event in got if (event.key, event.topic) == (key, each)]
            assert of_key == sorted(of_key, key=str)


def _join_kill_and_leave(topics: list[str], share: Share, workers: Workers) -> None:
    """Processes come, are killed and leave while they work."""
    workers.start("a", topics, share, lag=5, queue_size=10)
    until(lambda: len(workers.ids("got", "a")) > 50, "a is at work")
    workers.start("b", topics, share, lag=5, queue_size=10)
    until(lambda: len(workers.ids("got", "b")) > 50, "b is at work")
    workers.kill("a")
    workers.start("c", topics, share, lag=5, queue_size=10)
    until(lambda: len(workers.ids("got", "c")) > 50, "c is at work")
    workers.close("b")
    workers.start("d", topics, share, lag=5, queue_size=10)
    until(lambda: len(workers.ids("got", "d")) > 50, "d is at work")


def test_by_key_no_key_is_with_two_processes_while_they_join_and_are_killed(
    connection: Connection, topic: str, workers: Workers
) -> None:
    with Feed(connection, [topic]) as feed:
        _join_kill_and_leave([topic], Share.KEY, workers)
    workers.all_acknowledged(feed.sent)
    assert keys_with_two_holders(workers.events) == []


@pytest.mark.needs(Ability.KEEPS_A_KEY_TOGETHER_AT_A_HANDOVER)
def test_by_key_no_key_of_two_topics_is_with_two_processes_while_they_join_and_are_killed(
    connection: Connection, topic: str, workers: Workers
) -> None:
    topics = [f"{topic}-data", f"{topic}-signal"]
    with Feed(connection, topics) as feed:
        _join_kill_and_leave(topics, Share.KEY, workers)
    workers.all_acknowledged(feed.sent)
    assert keys_with_two_holders(workers.events) == []


def test_a_message_without_a_key_reaches_a_subscription_by_key(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "s", Share.KEY, 10)
    send(connection.producer(topic), ["none", Message(b"some", key="k")])
    assert ids(receive(consumer, 2)) == ["none", "some"]


def test_of_stand_bys_one_is_active_and_has_everything_in_order(
    connection: Connection, topic: str, workers: Workers
) -> None:
    for name in ("a", "b", "c"):
        workers.start(name, [topic], Share.STANDBY)
    send(connection.producer(topic), numbered(MANY))
    workers.all_acknowledged(numbered(MANY))
    assert workers.ids("got") == numbered(MANY)
    assert {event.worker for event in workers.events if event.what in ("got", "active")} == {"a"}


@pytest.mark.parametrize("end", [Workers.close, Workers.kill], ids=["close", "kill"])
@pytest.mark.parametrize("suffixes", [[""], ["-a", "-b"]], ids=["one topic", "two topics"])
def test_a_stand_by_takes_over_where_the_active_one_ended(
    connection: Connection, topic: str, workers: Workers, end: object, suffixes: list[str]
) -> None:
    topics = [topic + suffix for suffix in suffixes]
    workers.start("a", topics, Share.STANDBY, lag=5)
    workers.start("b", topics, Share.STANDBY, lag=5)
    sent = [numbered(100, each) for each in topics]
    for each, messages in zip(topics, sent, strict=True):
        send(connection.producer(each), messages[:50])
    until(lambda: len(workers.ids("got")) >= 40, "the first one is at work")
    assert callable(end)
    end(workers, "a")
    for each, messages in zip(topics, sent, strict=True):
        send(connection.producer(each), messages[50:])
    workers.all_acknowledged([each for messages in sent for each in messages])
    events = workers.events
    a_ends = max(n for n, event in enumerate(events) if event.worker == "a" and event.what in ("leaves", "is killed"))
    b_starts = min(n for n, event in enumerate(events) if event.worker == "b" and event.what in ("active", "got"))
    assert a_ends < b_starts
    for each in topics:
        by_b = [event.id for event in events if (event.worker, event.what, event.topic) == ("b", "got", each)]
        assert by_b == sorted(set(by_b), key=str)


def test_a_stand_by_is_there_at_once_and_gets_nothing(connect: Connect, topic: str) -> None:
    active = connect().consumer([topic], "s", Share.STANDBY, 10)
    connection = connect()
    standby = connection.consumer([topic], "s", Share.STANDBY, 10)
    send(connection.producer(topic), ["m"])
    assert (active.is_active, standby.is_active) == (True, False)
    assert list(standby.receive(150)) == []
    assert ids(receive(active, 1)) == ["m"]
    active.close()
    assert ids(receive(standby, 1)) == ["m"]
    assert standby.is_active


def test_of_stand_bys_over_topics_in_any_order_one_is_active(connect: Connect, topic: str) -> None:
    topics = [f"{topic}-{number}" for number in range(3)]
    consumers = [connect().consumer(order, "s", Share.STANDBY, 10) for order in permutations(topics)]
    for _ in consumers:
        until(lambda: sum(each.is_active for each in consumers) == 1, "one is active")
        (active,) = (each for each in consumers if each.is_active)
        active.close()
        consumers.remove(active)
        assert all(list(each.receive(0)) == [] for each in consumers)


@pytest.mark.parametrize(
    ("first", "second"), list(permutations(Share, 2)), ids=lambda share: share.value if share else None
)
def test_a_subscription_is_not_shared_in_two_ways(connect: Connect, topic: str, first: Share, second: Share) -> None:
    consumer = connect().consumer([topic], "mine", first, 10)
    with pytest.raises(UsageError, match="mine"):
        connect().consumer([topic], "mine", second, 10)
    consumer.close()


# Names, and the end


@pytest.mark.parametrize("name", ["", "a b//c", "persistent://x", "a\nb", "a/b"])
def test_a_topic_with_a_wrong_name_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        connection.producer(name)
    assert repr(name) in str(refused.value)
    with pytest.raises(UsageError) as refused:
        connection.consumer([name], "s", Share.MESSAGE, 10)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_subscription_with_a_wrong_name_is_refused(connection: Connection, topic: str, name: str) -> None:
    with pytest.raises(UsageError):
        connection.consumer([topic], name, Share.MESSAGE, 10)


def test_topics_are_listed_with_what_they_hold(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "reads", Share.STANDBY, 10)
    connection.consumer([topic], "does not", Share.STANDBY, 10).close()
    send(connection.producer(topic), [bytes(1000)] * 20)
    consumer.acknowledge(receive(consumer, 20)[:15])

    def backlogs() -> dict[str, tuple[int, int]]:
        (info,) = (each for each in connection.topics() if each.name == topic)
        return {each.name: (each.backlog_messages, each.consumers) for each in info.subscriptions}

    until(lambda: backlogs() == {"does not": (20, 0), "reads": (5, 1)}, "the acknowledgements are counted")
    (info,) = (each for each in connection.topics() if each.name == topic)
    assert info.size_bytes >= 20_000
    assert info.messages is None or info.messages >= 20


def test_a_topic_and_its_subscriptions_are_removed_when_nobody_uses_them(connection: Connection, topic: str) -> None:
    producer = connection.producer(topic)
    send(producer, numbered(5))
    consumer = connection.consumer([topic], "s", Share.STANDBY, 10)
    connection.consumer([topic], "left", Share.STANDBY, 10).close()
    for subscription in ("s", None):
        with pytest.raises(UsageError, match="in use"):
            connection.delete(topic, subscription)
    connection.delete(topic, "left")
    with pytest.raises(UsageError, match="'left'"):
        connection.delete(topic, "left")
    consumer.close()
    producer.close(1000)
    connection.delete(topic, None)
    assert topic not in {each.name for each in connection.topics()}
    with pytest.raises(UsageError, match=topic):
        connection.delete(topic, None)


def test_closing_twice_is_closing_once(connect: Connect, topic: str) -> None:
    connection = connect()
    producer = connection.producer(topic)
    consumer = connection.consumer([topic], "s", Share.MESSAGE, 10)
    for _ in range(2):
        producer.close(1000)
        consumer.close()
        connection.close()


def test_what_is_closed_is_not_used(connect: Connect, topic: str) -> None:
    connection = connect()
    producer = connection.producer(topic)
    consumer = connection.consumer([topic], "s", Share.MESSAGE, 10)
    send(producer, ["m"])
    got = receive(consumer, 1)
    producer.close(1000)
    consumer.close()
    with pytest.raises(BrokerError, match="closed"):
        producer.send(Message(b""), lambda error: None)
    with pytest.raises(BrokerError, match="closed"):
        consumer.receive(0)
    consumer.acknowledge(got)
    connection.close()
    with pytest.raises(BrokerError, match="closed"):
        connection.producer(topic)
    with pytest.raises(BrokerError, match="closed"):
        connection.consumer([topic], "s", Share.MESSAGE, 10)


@every_share
def test_closing_a_connection_closes_what_it_made(connect: Connect, topic: str, share: Share) -> None:
    connection = connect()
    producer, consumer = connection.producer(topic), connection.consumer([topic], "s", share, 10)
    confirmed: list[BrokerError | None] = []
    for each in numbered(100):
        producer.send(Message(each.encode()), confirmed.append)
    connection.close()
    assert confirmed == [None] * 100
    with pytest.raises(BrokerError, match="closed"):
        consumer.receive(0)
    assert ids(receive(connect().consumer([topic], "s", share, 100), 100)) == numbered(100)


def test_a_receive_ends_when_its_consumer_is_closed_meanwhile(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "s", Share.STANDBY, 10)
    closing = threading.Timer(0.2, consumer.close)
    closing.start()
    started_s = time.monotonic()
    with pytest.raises(BrokerError, match="closed"):
        consumer.receive(30_000)
    assert time.monotonic() - started_s < 10
    closing.join()
