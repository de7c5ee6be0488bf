"""The properties with which our messages are marked, beside their payload."""

from __future__ import annotations

HEADER_SIZE = "edgeserve-header"
"""How many bytes of header its examples have."""

PACK = "edgeserve-pack"
"""Its payload is a pack of examples; the value says in which form."""

PACK_FORM = "1"
"""Each entry is an example's bytes and its capture time."""

MARKED_PACK_FORM = "2"
"""The same, and for an example whose payload is a URL a third thing, `packs.URL`."""

URL = "edgeserve-url"
"""Its example's payload is the URL of the payload, which waits in a store."""

ERROR = "edgeserve-error"
"""On a dead letter: what went wrong."""

OPERATOR = "edgeserve-operator"
"""On a dead letter: who gave it up."""

TOPIC = "edgeserve-topic"
"""On a dead letter: the topic it came from."""

MESSAGE_ID = "edgeserve-message-id"
"""On a dead letter: the broker's id of the message it came in."""

UNREADABLE = "edgeserve-unreadable"
"""Put there on arrival, where a message's key or marks are no text and so can't be had; the value says why."""
