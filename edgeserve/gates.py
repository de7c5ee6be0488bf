"""Ready-made gates: text, CSV rows, msgpack and numpy arrays.

Those that end in `_out` turn a value into the bytes that leave (for a source's `gate` and for `gate_out`);
those that end in `_in` read such bytes (for `gate_in`, a sink's `gate`, and `decode=`). They trust nothing
that arrives: what is not of their format is a `MalformedMessage`, and reading takes memory in proportion to
the bytes that are there, never to what they promise.
"""

from __future__ import annotations

import csv
import io
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgpack

from edgeserve._npy import read_array, write_array
from edgeserve.errors import MalformedMessage, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Buffer

__all__ = [
    "array_in",
    "array_out",
    "csv_row_in",
    "csv_row_out",
    "msgpack_in",
    "msgpack_out",
    "text_in",
    "text_out",
]


def text_in(payload: Buffer | str) -> str:
    """Read UTF-8 text; a str is text already.

    Raises:
        MalformedMessage: The bytes are not UTF-8.
    """
    if isinstance(payload, str):
        return payload
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"{memoryview(payload).nbytes} bytes are not UTF-8 text: {error}") from error


def text_out(text: str | Buffer) -> bytes:
    """Turn text into UTF-8; bytes pass if they are UTF-8 already.

    Raises:
        UsageError: It is not text (`str()` makes text of numbers), or has no UTF-8 form.
    """
    try:
        return (text if isinstance(text, str) else str(text, "utf-8")).encode("utf-8")
    except TypeError as error:
        raise UsageError(f"text_out takes str, not {type(text).__name__}: {reprlib.repr(text)}") from error
    except UnicodeError as error:
        raise UsageError(f"text_out was given what is not text: {error}") from error


def csv_row_in(payload: Buffer | str) -> list[str]:
    """Read the values of one CSV row in UTF-8; no bytes are a row without values.

    Raises:
        MalformedMessage: It is not UTF-8, not CSV, or more than one row.
    """
    text = text_in(payload)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise MalformedMessage(f"{len(text)} characters are not a CSV row: {error}") from error
    if len(rows) > 1:
        raise MalformedMessage(f"{len(text)} characters are {len(rows)} CSV rows and must be one")
    return rows[0] if rows else []


def csv_row_out(values: Iterable[object]) -> bytes:
    """Turn values into one CSV row in UTF-8, without a line end: `["0.1", "0.2"]` leaves as `0.1,0.2`.

    Values that hold commas, quotes or line ends are quoted; None is an empty value.

    Raises:
        UsageError: The values are one str instead of several, are not iterable, have no UTF-8 form, or (before
            Python 3.11) contain NUL.
    """
    if isinstance(values, (str, bytes)):
        raise UsageError(f"csv_row_out takes the values of a row, not {type(values).__name__}: {reprlib.repr(values)}")
    line = io.StringIO(newline="")
    try:
        # Only characters of the line's end are quoted, so it has one, which is then taken off.
        csv.writer(line, lineterminator="\r\n").writerow(values)
        return line.getvalue()[:-2].encode("utf-8")
    except (csv.Error, UnicodeError) as error:
        raise UsageError(f"csv_row_out cannot write {reprlib.repr(values)}: {error}") from error


def msgpack_in(payload: Buffer) -> Any:
    """Read one msgpack value: None, bool, int, float, str, bytes, list, dict with str or bytes keys, datetime.

    Returns:
        The value. Tuples arrive as lists, msgpack's timestamps as datetimes in UTC, to the µs.

    Raises:
        MalformedMessage: The bytes are not exactly one such value: cut off, followed by others, nested over
            500 deep or so, with keys of other types or extension types other than the timestamp.
    """
    size_bytes = memoryview(payload).nbytes
    # Nested arrays may each promise as many items as there are bytes, and the reader makes room for them all
    # at once. Skipping makes no room; only a value that is whole is read.
    reader = msgpack.Unpacker(None, max_buffer_size=max(size_bytes, 1))
    try:
        reader.feed(payload)
        reader.skip()
        if reader.tell() == size_bytes:
            return _unpack(payload)
    except _UNPACK_ERRORS as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise MalformedMessage(f"{size_bytes} bytes are not one msgpack value ({reason})") from error
    raise MalformedMessage(f"{size_bytes} bytes are not one msgpack value: it ends after {reader.tell()}")


def msgpack_out(value: Any) -> bytes:
    """Turn a value into msgpack. What leaves can be read by `msgpack_in`: this is tried first.

    Raises:
        UsageError: The value holds a type that `msgpack_in` would not return (numpy's numbers: use
            `array_out`, or `.item()`), an int over 64 bits, a datetime without time zone, or is nested too deep.
    """
    try:
        packed: bytes = msgpack.packb(value, datetime=True)
        _unpack(packed)
    except _UNPACK_ERRORS as error:
        raise UsageError(f"msgpack_out cannot send {type(value).__name__} {reprlib.repr(value)}: {error}") from error
    return packed


# msgpack says ValueError for most, TypeError for keys that cannot be keys, OverflowError for datetimes out of
# their range. Its Python form, used where there are no wheels, nests by recursion.
_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException, msgpack.BufferFull)


def _unpack(packed: Buffer) -> Any:
    return msgpack.unpackb(packed, timestamp=3, ext_hook=_refuse_extension)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


def array_in(payload: Buffer) -> NDArray[Any]:
    """Read the array that `array_out` wrote, without copying: the result is a read-only view of the payload.

    Returns:
        The dtype and shape that were sent, rows being samples: `(200, 6)` float32 is 4 s of a 6-axis sensor
        at 50 Hz, 3 columns in m/s², 3 in rad/s.

    Raises:
        MalformedMessage: The header is not one that NumPy writes, or promises other than the bytes there
            are (both in the message).
        MissingExtra: numpy is not installed.

    Source: the .npy layout, version 1.0, as NumPy documents it; object arrays are refused.
    """
    return read_array(payload)


def array_out(array: ArrayLike) -> bytes:
    """Turn an array into .npy bytes, version 1.0, which `numpy.load` reads too. The data is copied once.

    Any shape and memory order; Fortran order is kept. Numbers and lists become arrays first.

    Raises:
        UsageError: The array holds Python objects, is masked, or has a dtype that the layout cannot name.
        MissingExtra: numpy is not installed.

    Source: the .npy layout, version 1.0, as NumPy documents it.
    """
    return write_array(array)
