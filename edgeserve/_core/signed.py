"""Signed scripts: what travels of a script that may run on other nodes, and whether it is what its sender signed.

The payload of the example is `MAGIC` and one msgpack map, in this order and with each value in its shortest form:

    signed_ms   when it was signed, ms since the epoch
    sha256      SHA-256 of the script's bytes, 32 bytes
    signature   HMAC-SHA-256, 32 bytes
    script      the script's bytes; or, in its place, where they are:
    stored      the URL under which the source's store keeps them
    url         a URL that the source was given

The signature is over a label, the topic, the example's id, `signed_ms` (8 bytes, big-endian), `sha256`, the name of the
place (`script`, `stored` or `url`) and the URL (empty where there is none), each with its length before it (8 bytes,
big-endian), so that no byte can pass from one part into the next. So all but the script's bytes is proven by what
travels, before anything is fetched; and the bytes are those that were signed if their SHA-256 is the one that was.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

import msgpack

from edgeserve.errors import UsageError

MAGIC = b"edgeserve-code-1\n"
MIN_KEY_BYTES = 16

_LABEL = b"edgeserve code, version 1"
_SHA256_BYTES = 32
_SIGNATURE_BYTES = 32
_PLACES = ("script", "stored", "url")
HOW_TO_MAKE_A_KEY = (
    "make one with secrets.token_bytes(32), keep it in a file that nobody else can read, and give the same bytes to "
    "CodeSource(key=...) and Worker(key=...): whoever has the key can run code on the workers' nodes"
)


class ScriptRefused(Exception):
    """Something must not run; the message says why."""


@dataclass(frozen=True)
class Signed:
    """What travels of a script. Exactly one of `script`, `stored` and `url` is there.

    Attributes:
        signed_ms: When it was signed, ms since the epoch.
        sha256: SHA-256 of the script's bytes.
        signature: What `Signer.signed` made of the rest.
        script: The script's bytes.
        stored: The URL under which the source's store keeps them.
        url: A URL that the source was given.
    """

    signed_ms: int
    sha256: bytes
    signature: bytes
    script: bytes | None = None
    stored: str | None = None
    url: str | None = None

    def check_script(self, script: bytes) -> None:
        """Check that a script's bytes are those of which the SHA-256 was signed.

        Raises:
            ScriptRefused: They are not.
        """
        if not hmac.compare_digest(hashlib.sha256(script).digest(), self.sha256):
            raise ScriptRefused("its bytes are not those that were signed")

    def packed(self) -> bytes:
        """The payload of the example."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        packed: bytes = msgpack.packb(fields)
        return MAGIC + packed


def unpack_signed(payload: bytes) -> Signed:
    """Read the payload of an example. Nothing that it says is proven yet.

    Raises:
        ScriptRefused: It is no signed script.
    """
    if not payload.startswith(MAGIC):
        raise ScriptRefused("it is not signed")
    try:
        fields = msgpack.unpackb(payload[len(MAGIC) :], max_array_len=0, max_map_len=4, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ScriptRefused(f"it is cut off or damaged: {error}") from error
    if not isinstance(fields, dict):
        raise ScriptRefused("it is damaged: it has no fields")
    places = [name for name in _PLACES if name in fields]
    if len(places) != 1 or set(fields) != {"signed_ms", "sha256", "signature", places[0]}:
        raise ScriptRefused("it is damaged, or of a later version: its fields are others than expected")
    signed_ms, sha256, signature = fields["signed_ms"], fields["sha256"], fields["signature"]
    content = fields[places[0]]
    if type(signed_ms) is not int or not 0 < signed_ms < 1 << 63:
        raise ScriptRefused("it is damaged: the time at which it was signed is none")
    if not isinstance(sha256, bytes) or len(sha256) != _SHA256_BYTES:
        raise ScriptRefused("it is damaged: the SHA-256 of the script is none")
    if not isinstance(signature, bytes) or len(signature) != _SIGNATURE_BYTES:
        raise ScriptRefused("it is damaged: its signature is none")
    if not isinstance(content, bytes if places[0] == "script" else str):
        raise ScriptRefused(f"it is damaged: its {places[0]} is none")
    signed = Signed(**fields)
    if signed.packed() != payload:
        # The values may be those that were signed; but no byte may differ from what was sent.
        raise ScriptRefused("it is not written as a sender writes it: in another order, or with values in longer forms")
    return signed


class Signer:
    """Signs, and checks signatures, with one key, which it shows nowhere.

    Args:
        key: 16 bytes or more; 32 random ones are best.

    Raises:
        UsageError: It is none; the message has nothing of the key in it.
    """

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes):
            hint = ": bytes.fromhex(...) makes bytes of hexadecimal digits" if isinstance(key, str) else ""
            raise UsageError(f"the key is of type {type(key).__name__}: expected bytes{hint}; {HOW_TO_MAKE_A_KEY}")
        if len(key) < MIN_KEY_BYTES:
            raise UsageError(f"the key has {len(key)} bytes: expected {MIN_KEY_BYTES} or more; {HOW_TO_MAKE_A_KEY}")
        # The state from which each signature goes on, and not the key, which then is in no attribute.
        self._begun = hmac.new(key, _part(_LABEL), hashlib.sha256)

    def __repr__(self) -> str:
        return "Signer()"

    @property
    def fingerprint(self) -> bytes:
        """What tells one key from another, and says nothing else of it."""
        return self._begun.digest()

    def signed(
        self,
        topic: str,
        example_id: bytes,
        signed_ms: int,
        script: bytes,
        *,
        stored: str | None = None,
        url: str | None = None,
    ) -> Signed:
        """What travels of a script that is signed for one topic and one example; whole, unless it has a URL."""
        whole = script if stored is None and url is None else None
        unsigned = Signed(signed_ms, hashlib.sha256(script).digest(), b"", whole, stored, url)
        return replace(unsigned, signature=self._signature(unsigned, topic, example_id))

    def check(self, signed: Signed, topic: str, example_id: bytes) -> None:
        """Check that what travels is what its sender signed, for this topic and this example.

        The script's bytes are another matter: `Signed.check_script` checks them, when they are here.

        Raises:
            ScriptRefused: It is not.
        """
        if not hmac.compare_digest(self._signature(signed, topic, example_id), signed.signature):
            raise ScriptRefused(
                "its signature is not that of this key: it was altered, signed for another topic or as another "
                "example, or signed with another key"
            )

    def _signature(self, signed: Signed, topic: str, example_id: bytes) -> bytes:
        place = next(name for name in _PLACES if getattr(signed, name) is not None)
        url = signed.stored or signed.url or ""
        begun = self._begun.copy()
        where = (place.encode("utf-8"), url.encode("utf-8"))
        for part in (topic.encode("utf-8"), example_id, signed.signed_ms.to_bytes(8, "big"), signed.sha256, *where):
            begun.update(_part(part))
        return begun.digest()


def check_age(signed_ms: int, now_ms: int, max_age_ms: float) -> None:
    """Check that a script was signed no longer ago than `max_age_ms`, end included, nor so far in the future.

    Raises:
        ScriptRefused: It was not.
    """
    age_ms = now_ms - signed_ms
    if age_ms > max_age_ms:
        raise ScriptRefused(f"it was signed {age_ms:,} ms ago, and max_age_ms is {max_age_ms:,.0f}")
    if -age_ms > max_age_ms:
        raise ScriptRefused(
            f"it was signed {-age_ms:,} ms in the future, and max_age_ms is {max_age_ms:,.0f}: a clock is wrong, the "
            "sender's or this node's"
        )


def _part(content: bytes) -> bytes:
    return len(content).to_bytes(8, "big") + content
