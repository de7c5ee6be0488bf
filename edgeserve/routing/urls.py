"""The URL of a payload: what may stand in it, and what it says of the payload.

    ftp://user:password@host:2121/cam-1/0191f3c2.bin#size=240113&xxh3=8ac7f0f1d2e3b4a5

The part after `#` is ours, and plain FTP clients ignore it: the payload's size in bytes and its XXH3 checksum (64 bits,
hexadecimal), against cuts and changes, not against forgery. Whatever comes off a topic is hostile until it was parsed
here: a path can't leave its store, and nothing in it can be read as a command of a protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

from edgeserve.errors import PayloadUnavailable

MAX_URL_CHARACTERS = 2048
_MAX_SEGMENTS = 32
_MAX_SEGMENT_BYTES = 255  # what file systems take

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")
# Names and addresses; a host's name becomes that of a folder, too.
_LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*|(?=.*:)[0-9a-f:.]+")
_CHECKSUM = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class PayloadUrl:
    """The parts of a payload's URL.

    Attributes:
        scheme: Which kind of store it is in.
        host: The store's host; "" where the scheme has none.
        port: Its port; None for the scheme's own.
        user: Who fetches it; None for nobody in particular.
        password: Their password.
        path: Where in the store it is: names of folders and then its own, decoded.
        size_bytes: How large it is; None if the URL does not say.
        checksum: Its XXH3 checksum, 16 hexadecimal digits; None if the URL does not say.
    """

    scheme: str
    host: str
    path: tuple[str, ...]
    port: int | None = None
    user: str | None = None
    password: str | None = None
    size_bytes: int | None = None
    checksum: str | None = None

    def __repr__(self) -> str:
        return f"PayloadUrl({self.public!r})"

    @property
    def public(self) -> str:
        """The URL without credentials and without what it says of the payload, for messages and logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{host}{port}/{quote('/'.join(self.path))}"

    @property
    def origin(self) -> str:
        """Where it is kept: scheme, host and port."""
        return self.public[: -len(quote("/".join(self.path))) - 1]

    @property
    def store(self) -> tuple[str, str, int | None, str | None, str | None]:
        """What tells one store from another."""
        return (self.scheme, self.host, self.port, self.user, self.password)


def scheme_of(value: object) -> str | None:
    """The scheme of what looks like a URL, text or bytes; None for anything else."""
    if isinstance(value, bytes):
        value = value[:40].decode("ascii", "replace")
    found = _SCHEME.match(value) if isinstance(value, str) else None
    return found[1] if found else None


def parse_payload_url(text: str | bytes) -> PayloadUrl:
    """Take a URL apart.

    Raises:
        PayloadUnavailable: It is no URL of a payload; the reason says what is wrong with it.
    """
    if isinstance(text, bytes):
        try:
            text = text[: MAX_URL_CHARACTERS + 1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise PayloadUnavailable(redacted(repr(text[:100])), "it is not UTF-8") from error
    try:
        return _parsed(text)
    except UnicodeDecodeError:
        raise PayloadUnavailable(redacted(text), "a part of it is not UTF-8") from None
    except ValueError as error:
        raise PayloadUnavailable(redacted(text), str(error)) from None


def redacted(text: str) -> str:
    """What may be shown of a URL that could not be parsed: nothing that could be a password."""
    shown = re.sub(r"//.*@", "//", text, flags=re.DOTALL).partition("#")[0]
    return ascii(shown[:120])[1:-1]


def written(base: str, path: Sequence[str], size_bytes: int | None = None, checksum: str | None = None) -> str:
    """The URL of what is kept under `path` in the store at `base`, a URL that ends in `/`."""
    url = base + "/".join(quote(name, safe="") for name in path)
    return url if size_bytes is None else f"{url}#size={size_bytes}&xxh3={checksum}"


def _parsed(text: str) -> PayloadUrl:
    if len(text) > MAX_URL_CHARACTERS:
        raise ValueError(f"it is over {MAX_URL_CHARACTERS} characters")
    if not text.isprintable() or "\\" in text:
        raise ValueError("it has control characters or backslashes")
    scheme = scheme_of(text)
    if scheme is None:
        raise ValueError("it has no scheme")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("its host or its port is none") from None  # what it says may quote a password
    if "?" in text.partition("#")[0]:
        raise ValueError("it has a query; a question mark in a name is written %3F")
    if parts.netloc.count("@") > 1:
        raise ValueError("its host has more than one @; those of a password are written %40")
    if host and not _HOST.fullmatch(host):
        raise ValueError("its host is no name or address")
    if bool(host) is (scheme == "file") or (parts.netloc and not host):
        raise ValueError("it names no host" if scheme != "file" else "a file of this machine has no host")
    user, password = (_decoded(part) if part is not None else None for part in (parts.username, parts.password))
    size_bytes, checksum = _said(parts.fragment)
    return PayloadUrl(scheme, host, _path(parts.path), port, user, password, size_bytes, checksum)


def _path(text: str) -> tuple[str, ...]:
    path = tuple(_decoded(name) for name in text[1:].split("/"))
    if len(path) > _MAX_SEGMENTS:
        raise ValueError(f"its path has more than {_MAX_SEGMENTS} parts")
    for name in path:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError("a part of its path leaves the store, or is none")
        if len(name.encode("utf-8")) > _MAX_SEGMENT_BYTES:
            raise ValueError(f"a name in its path is over {_MAX_SEGMENT_BYTES} bytes")
    return path


def _decoded(text: str) -> str:
    decoded = unquote_to_bytes(text).decode("utf-8")
    if not decoded.isprintable():
        raise ValueError("it has control characters")
    return decoded


def _said(fragment: str) -> tuple[int | None, str | None]:
    said = dict(parse_qsl(fragment, max_num_fields=8))
    size, checksum = said.get("size"), said.get("xxh3")
    if size is not None and not (size.isascii() and size.isdigit() and len(size) <= 15):
        raise ValueError("the size that it says is no number of bytes")
    if checksum is not None and not _CHECKSUM.fullmatch(checksum):
        raise ValueError("the checksum that it says is not 16 hexadecimal digits")
    return (int(size) if size is not None else None), checksum
