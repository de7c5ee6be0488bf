from __future__ import annotations

import ftplib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve import PayloadUnavailable
from edgeserve.routing.urls import PayloadUrl, parse_payload_url, redacted, written

CHECKSUM = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ftp://node-1/frames/1.jpg", PayloadUrl("ftp", "node-1", ("frames", "1.jpg"))),
        (b"ftp://node-1/1.jpg", PayloadUrl("ftp", "node-1", ("1.jpg",))),
        ("ftps://me:p%40ss@10.0.0.1:2121/1", PayloadUrl("ftps", "10.0.0.1", ("1",), 2121, "me", "p@ss")),
        ("ftp://[::1]:2121/1", PayloadUrl("ftp", "::1", ("1",), 2121)),
        ("file:///dev/shm/x", PayloadUrl("file", "", ("dev", "shm", "x"))),
        ("ftp://node-1/a%20b/%C3%A9", PayloadUrl("ftp", "node-1", ("a b", "é"))),
        ("ftp://node-1/a b/é", PayloadUrl("ftp", "node-1", ("a b", "é"))),
        ("ftp://node-1/100%25", PayloadUrl("ftp", "node-1", ("100%",))),
        ("ftp://node-1/%252e%252e", PayloadUrl("ftp", "node-1", ("%2e%2e",))),
        (f"ftp://n/x#size=5&xxh3={CHECKSUM}", PayloadUrl("ftp", "n", ("x",), size_bytes=5, checksum=CHECKSUM)),
        ("ftp://n/x#else=1", PayloadUrl("ftp", "n", ("x",))),
        ("ftp://Camera-Node.local/x", PayloadUrl("ftp", "camera-node.local", ("x",))),
    ],
)
def test_a_url_is_taken_apart(text: str | bytes, url: PayloadUrl) -> None:
    assert parse_payload_url(text) == url


HOSTILE = [
    "ftp://h/../etc/passwd",
    "ftp://h/a/../../etc/passwd",
    "ftp://h/./x",
    "ftp://h//etc/passwd",
    "ftp://h/%2e%2e/etc/passwd",
    "ftp://h/%2E%2e/x",
    "ftp://h/..%2fetc%2fpasswd",
    "ftp://h/%2fetc/passwd",
    "ftp://h/a%5c..%5cb",
    "ftp://h/a\\..\\b",
    "ftp://h/x\r\nDELE y",
    "ftp://h/x%0d%0aDELE%20y",
    "ftp://h/x%0aDELE",
    "ftp://h/x\0y",
    "ftp://h/x%00y",
    "ftp://h/x%7f",
    "ftp://h/\u202egpj.exe",
    "ftp://h/%E2%80%AEgpj.exe",
    "ftp://h/%ff%fe",
    "ftp://h/%c0%ae%c0%ae/x",
    "ftp://h",
    "ftp://h/",
    "ftp://h/a/",
    "ftp:///etc/passwd",
    "ftp://:21/x",
    "ftp://user@/x",
    "ftp://u:p@h@evil/x",
    "ftp://u%0d%0aQUIT:p@h/x",
    "ftp://u:p%0d%0aQUIT@h/x",
    "ftp://h:99999/x",
    "ftp://h:port/x",
    "ftp://h:-1/x",
    "ftp://ho st/x",
    "ftp://h%0d%0a/x",
    "ftp://[::1/x",
    "ftp://h;rm -rf/x",
    "ftp://../x",
    "ftp://./x",
    "ftp://a..b/x",
    "ftp://-/x",
    "ftp://.h/x",
    "ftp://h/x?y=1",
    "file://host/etc/passwd",
    "file:///",
    "http:/h/x",
    "//h/x",
    "javascript:alert(1)",
    "",
    "ftp",
    "ftp://h/" + "a" * 3000,
    "ftp://h/" + "a" * 256,
    "ftp://h/" + "a/" * 40 + "x",
    "ftp://h/x#size=-1",
    "ftp://h/x#size=1e9",
    "ftp://h/x#size=99999999999999999999",
    "ftp://h/x#size=٣",
    "ftp://h/x#xxh3=zz",
    "ftp://h/x#" + "&".join(f"a{n}=1" for n in range(100)),
    b"ftp://h/\xff",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_url_is_refused_with_a_reason(text: str | bytes) -> None:
    with pytest.raises(PayloadUnavailable) as refused:
        parse_payload_url(text)
    assert refused.value.reason
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "ftp://me:secret@h/..",
        "ftp://me:secret@@h/x",
        "ftp://me:secret@h:x/y",
        "ftp://me:se/cret@h/\0",
        "ftp://cam:secret/x@node/f",
        "ftp://cam:secr\u2100et@n/f",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(PayloadUnavailable) as refused:
        parse_payload_url(text)
    for told in (str(refused.value), repr(refused.value.__cause__)):
        assert not any(part in told for part in ("secret", "cret", "secr"))


def test_what_is_shown_of_a_url_has_no_credentials() -> None:
    url = parse_payload_url("ftp://me:secret@[::1]:21/a%20b#size=1")
    assert (url.public, "secret" in repr(url)) == ("ftp://[::1]:21/a%20b", False)
    assert len(redacted("x" * 9999)) <= 200


names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(st.lists(names, min_size=1, max_size=4), st.integers(0, 10**12))
def test_what_is_written_is_read_again_or_refused(path: list[str], size_bytes: int) -> None:
    text = written("ftp://h:2121/", path, size_bytes, CHECKSUM)
    try:
        url = parse_payload_url(text)
    except PayloadUnavailable:
        return
    assert url == PayloadUrl("ftp", "h", tuple(path), 2121, size_bytes=size_bytes, checksum=CHECKSUM)


@given(st.text(st.sampled_from(string.printable + "é\0%#@:/?[]\\"), max_size=60))
def test_whatever_is_accepted_can_be_no_command_and_leaves_no_folder(text: str) -> None:
    try:
        url = parse_payload_url(f"ftp://{text}")
    except PayloadUnavailable:
        return
    assert not {"", ".", ".."} & set(url.path)
    ftplib.FTP().sanitize("/".join((url.user or "", url.password or "", *url.path)))
    assert not any(ord(char) < 32 for char in "".join((url.user or "", url.password or "", *url.path)))
