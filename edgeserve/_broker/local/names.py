"""Names of topics and subscriptions, and the names of their files."""

from __future__ import annotations

import hashlib
import re

from edgeserve.errors import UsageError

MAX_NAME_BYTES = 1000

_PREFIX = "persistent://"
_DEFAULT = "public/default/"


def topic_name(given: str) -> str:
    """The one name of a topic that Pulsar knows under several: `src` is `persistent://public/default/src`.

    Raises:
        UsageError: It is no topic's name; the message says what was expected.
    """
    name = _checked("topic", given)
    scheme, separator, rest = name.partition("://")
    slashes = rest.count("/") if separator else name.count("/")
    is_one = scheme == "persistent" and slashes >= 2 if separator else slashes in (0, 2)
    if not separator:
        rest = name if slashes else _DEFAULT + name
    if not is_one or not all(part.strip() for part in rest.split("/")):
        raise UsageError(
            f"{given!r} is no topic's name: expected NAME, TENANT/NAMESPACE/NAME or {_PREFIX}TENANT/NAMESPACE/NAME"
        )
    short = rest.removeprefix(_DEFAULT)
    # A short name with slashes would be read as TENANT/NAMESPACE/NAME.
    return _PREFIX + rest if "/" in short else short


def subscription_name(given: str) -> str:
    """The name of a subscription, as given.

    Raises:
        UsageError: It is none; the message says what was expected.
    """
    return _checked("subscription", given)


def file_name(name: str) -> str:
    """A file's name for any name: legible, and different even where the file system folds case or accents."""
    legible = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60]
    return f"{legible}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.db"


def _checked(kind: str, name: str) -> str:
    if not isinstance(name, str):
        raise UsageError(f"a {kind}'s name is a {type(name).__name__}: expected a str")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{kind} {name!r} is no valid Unicode: expected text that UTF-8 can carry") from error
    if not name.strip():
        raise UsageError(f"a {kind}'s name is {name!r}: expected at least one character that is not a space")
    if size > MAX_NAME_BYTES:
        raise UsageError(f"a {kind}'s name is {size:,} bytes long in UTF-8: expected at most {MAX_NAME_BYTES:,}")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise UsageError(f"{kind} {name!r} has a control character: expected none")
    return name
