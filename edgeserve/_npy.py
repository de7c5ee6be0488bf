"""The .npy layout, version 1.0: a magic string, version, length of the header, header, data.

The header is the text of a Python dict with the keys descr, fortran_order and shape. It is the part that can
be hostile, so only what NumPy itself writes into it reaches a parser. Headers of a stream are all the same,
so that both ways are remembered.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import io
import math
import re
import sys
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve.errors import MalformedMessage, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Buffer

MAGIC = b"\x93NUMPY\x01\x00"
HEADER_AT = len(MAGIC) + 2
# As in NumPy; room for records of some 300 fields.
MAX_HEADER_SIZE = 10_000
MAX_DIMENSIONS = 64

# Strings with the escapes that repr() writes, True, False, whole numbers and brackets: nothing here makes a
# parser work hard. No text matches in two ways, a number not as several either: else what does not match would be
# tried in all of them, which are 2 ** 18 for each number.
_ESCAPE = r"\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_NUMBER = r"[0-9]{1,19}(?![0-9])"
_HEADER = re.compile(
    rf"""(?:'(?:[^'\\\r\n]|{_ESCAPE})*'|"(?:[^"\\\r\n]|{_ESCAPE})*"|True|False|{_NUMBER}|[][(){{}},:]|[ \n])*"""
)
# Sizes of 9 digits and more would overflow in some versions of NumPy.
_SCALAR = re.compile(r"[<>|=]?(?:[biufc][0-9]{1,2}|[SUV][0-9]{1,8}|[mM]8(?:\[[0-9]*(?:[YMWDhms]|[munpfa]s)\])?)")


def read_array(payload: Buffer) -> NDArray[Any]:
    """A read-only view of the payload as an array."""
    np = _numpy("array_in")
    view = memoryview(payload)
    if not view.c_contiguous:
        raise UsageError("array_in reads bytes that follow each other, not a view with gaps")
    data = view.cast("B")
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER_AT:
        raise MalformedMessage(
            f"{len(data)} bytes do not begin like a .npy of version 1.0: {bytes(data[:HEADER_AT])!r}"
        )
    header_size = int.from_bytes(data[len(MAGIC) : HEADER_AT], "little")
    data_at = HEADER_AT + header_size
    if data_at > len(data):
        raise MalformedMessage(f"the .npy header promises {header_size} bytes; {len(data) - HEADER_AT} follow")
    if header_size > MAX_HEADER_SIZE:
        raise MalformedMessage(f"the .npy header is {header_size} bytes; at most {MAX_HEADER_SIZE} are read")
    dtype, shape, order, size = _parsed_header(bytes(data[HEADER_AT:data_at]))
    if size != len(data) - data_at:
        raise MalformedMessage(
            f"the .npy header promises {size} bytes of data, {shape} of {dtype!s:.200}; there are {len(data) - data_at}"
        )
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, data, data_at, None, order)
    except (ValueError, TypeError) as error:  # more dimensions than NumPy has, or an empty array too wide for it
        raise MalformedMessage(f"NumPy cannot hold an array of {shape} of {dtype!s:.200}: {error}") from error
    if dtype.kind in "UV" and _highest_character(array) > sys.maxunicode:
        raise MalformedMessage(
            f"{len(data)} bytes promise text of {dtype!s:.200} and hold characters that there are not"
        )
    array.flags.writeable = False
    return array


def write_array(array: ArrayLike) -> bytes:
    """Header and data, the data copied once whatever its memory order."""
    np = _numpy("array_out")
    if isinstance(array, np.ma.MaskedArray):
        raise UsageError("array_out cannot send a mask: send `.filled(...)`, or data and mask in two fields")
    try:
        whole: NDArray[Any] = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise UsageError(f"array_out was given what is no array: {error}") from error
    fortran = whole.flags.f_contiguous and not whole.flags.c_contiguous
    header = _header_for(whole.dtype, whole.shape, fortran)
    if fortran or whole.flags.c_contiguous:
        # Items as plain bytes, because Python's buffers know no dates and times.
        plain: Any = (whole.T if fortran else whole).view(f"V{whole.itemsize}")
        return b"".join((header, plain))
    # A BytesIO hands out its memory for writing and then the same memory as bytes, so that NumPy puts an array
    # with gaps right where it leaves from.
    out = io.BytesIO()
    out.write(header)
    out.seek(len(header) + whole.nbytes - 1)
    out.write(b"\0")
    with out.getbuffer() as room:
        np.ndarray(whole.shape, whole.dtype, room, len(header))[...] = whole
    return out.getvalue()


def _highest_character(array: NDArray[Any]) -> int:
    """The highest code point in the text that an array or its fields hold; NumPy itself looks only when it is read."""
    if array.dtype.names is not None:
        return max(_highest_character(array[name]) for name in array.dtype.names)
    if array.dtype.kind != "U" or array.size == 0:
        return 0
    # The new axis of length 1 lets items with gaps between them be seen as their characters.
    return int(array[..., None].view(f"{array.dtype.str[0]}u4").max())


def _numpy(purpose: str) -> ModuleType:
    return require("numpy", "arrays", purpose)


@lru_cache(maxsize=256)
def _parsed_header(header: bytes) -> tuple[Any, tuple[int, ...], str, int]:
    """The dtype, shape, order ("C" or "F") and data size in bytes that a header promises."""
    text = header.decode("latin1")
    if not _HEADER.fullmatch(text):
        raise MalformedMessage(f"the .npy header has what NumPy does not write: {text!r:.200}")
    try:
        fields = ast.literal_eval(text)
        if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("it is not a dict of descr, fortran_order and shape")
        shape, fortran = fields["shape"], fields["fortran_order"]
        if not _is_shape(shape) or not isinstance(fortran, bool):
            raise ValueError(
                f"shape {shape!r:.80} is not a tuple of sizes, at most {MAX_DIMENSIONS}, "
                f"or fortran_order {fortran!r:.80} not a bool"
            )
        _check_descr(fields["descr"])
        dtype = require("numpy.lib.format", "arrays", "array_in").descr_to_dtype(fields["descr"])
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
        raise MalformedMessage(f"the .npy header is not one: {error} in {text!r:.200}") from error
    if dtype.hasobject or dtype.itemsize == 0:
        raise MalformedMessage(f"the .npy header promises items of {dtype!s:.200}, which have no bytes of their own")
    return dtype, shape, "F" if fortran else "C", math.prod(shape) * dtype.itemsize


def _check_descr(descr: Any) -> None:
    """Refuse descriptions of dtypes other than those that NumPy writes; its own reading of them is lenient."""
    if isinstance(descr, str):
        if not _SCALAR.fullmatch(descr):
            raise ValueError(f"{descr!r} is no dtype of fixed size without Python objects")
        return
    if not isinstance(descr, list):
        raise ValueError(f"descr {descr!r:.80} is neither a str nor a list of fields")
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3) or not _is_name(field[0]):
            raise ValueError(f"{field!r:.80} is not a field: (name, descr) or (name, descr, shape)")
        if len(field) == 3 and not _is_shape(field[2]):
            raise ValueError(f"{field[2]!r:.80} is not the shape of a field")
        _check_descr(field[1])


def _is_name(name: Any) -> bool:
    """A field's name, or its title and name."""
    parts = name if isinstance(name, tuple) and len(name) == 2 else (name,)
    return all(isinstance(part, str) for part in parts)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS and all(type(size) is int for size in shape)


@lru_cache(maxsize=256)
def _header_for(dtype: Any, shape: tuple[int, ...], fortran: bool) -> bytes:  # noqa: FBT001 - a key of the cache
    """Magic, version, length and header, tried on the reader before it is used."""
    if dtype.hasobject:
        raise UsageError(f"array_out cannot send {dtype!s:.200}: Python objects have no bytes of their own")
    npy = require("numpy.lib.format", "arrays", "array_out")
    out = io.BytesIO()
    try:
        # dtype_to_descr would warn about metadata, which is the sender's own and is not sent.
        descr = dtype.str if dtype.names is None else dtype.descr
        npy.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
        written = out.getvalue()
        read_dtype = _parsed_header(written[HEADER_AT:])[0]
    except ValueError as error:
        raise UsageError(f"array_out cannot send {dtype!s:.200}: .npy 1.0 has no name for it ({error})") from error
    if read_dtype != dtype or len(written) - HEADER_AT > MAX_HEADER_SIZE:
        raise UsageError(
            f"array_out cannot send {dtype!s:.200}: .npy 1.0 has no name for it, or one of over 10,000 bytes"
        )
    return written
