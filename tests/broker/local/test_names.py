from __future__ import annotations

import pytest

from edgeserve._broker.base import Connection, Share
from edgeserve._broker.local.names import file_name, topic_name
from edgeserve.errors import UsageError
from tests.broker.helpers import ids, receive, send


def test_a_topic_has_one_name_on_the_broker_whatever_it_is_called(connection: Connection) -> None:
    consumer = connection.consumer(["persistent://public/default/src", "src"], "s", Share.STANDBY, 10)
    send(connection.producer("public/default/src"), ["one"])
    (delivery,) = receive(consumer, 1)
    assert delivery.topic == "persistent://public/default/src"
    assert [info.name for info in connection.topics()] == ["src"]


@pytest.mark.parametrize("name", ["src", "persistent://public/default/src", "public/default/src"])
def test_the_default_namespace_need_not_be_named(name: str) -> None:
    assert topic_name(name) == "src"


@pytest.mark.parametrize("name", ["persistent://factory/hall-2/src", "factory/hall-2/src"])
def test_another_namespace_stays_in_the_name(name: str) -> None:
    assert topic_name(name) == "persistent://factory/hall-2/src"


@pytest.mark.parametrize(
    "name",
    [
        *["", " ", "a/b", "a/b/", "/", "a/b/c/d", "persistent://a/b", "non-persistent://a/b/c", "http://a/b/c"],
        *["a\0b", "tab\t", "\x9f", "\ud800", "é" * 501],
    ],
)
def test_what_is_no_name_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        connection.producer(name)


@pytest.mark.parametrize("name", ["", "\n", "é" * 501])
def test_what_is_no_subscriptions_name_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        connection.consumer(["src"], name, Share.MESSAGE, 10)


@pytest.mark.parametrize(
    "name",
    ["Kamera 1", "камера", "🎥", "..", "con", "a.b:c*d?", "~", "%2f", "x" * 1000, "-", "'; DROP TABLE topic; --"],
)
def test_any_other_text_is_a_name_of_a_topic_and_of_a_subscription(connection: Connection, name: str) -> None:
    send(connection.producer(name), ["one"])
    consumer = connection.consumer([name], name, Share.STANDBY, 10)
    assert ids(receive(consumer, 1)) == ["one"]
    (info,) = connection.topics()
    assert (info.name, [subscription.name for subscription in info.subscriptions]) == (name, [name])


def test_names_that_a_file_system_may_mix_up_have_different_files() -> None:
    names = ["src", "Src", "src ", "s/r", "s_r", "s r", "é", "e\u0301"]
    files = {file_name(name).casefold() for name in names}
    assert len(files) == len(names)
    assert all(file.isascii() and "/" not in file for file in files)


@pytest.mark.parametrize("given", ["persistent://public/default/a/b", "persistent://public/default/tenant/space/src"])
def test_a_name_that_is_shown_means_the_same_topic_when_it_is_given(given: str) -> None:
    assert topic_name(topic_name(given)) == topic_name(given) == given
