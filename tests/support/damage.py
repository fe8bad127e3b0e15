"""What disks, peers and editors make of valid bytes, as hypothesis strategies.

Random bytes end at a decoder's first check; these are nearly right, and get behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

EXTREME = [b"\0" * 8, b"\xff" * 8, b"\xff" * 4, b"\x80", b"\x7f\xff\xff\xff", b"\1\0\0\0"]
MARK = "\0here"
DEEP = 3_000  # more than any stack that a decoder may use

ODD_JSON = [
    *(b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    *(b"9" * 5_000, b"-" + b"9" * 30, b"18446744073709551616", b"1e999", b"1e-999", b"0.1"),
    *(b"NaN", b"-Infinity", b"", b"null", b"{}", b"[]", b"-0", b"true"),
    *(rb'"\ud800"', b'"\xff"', rb'"\u0000"', '"é"'.encode(), b'"' + b"x" * 5_000 + b'"'),
]

json_values: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def damaged(draw: DrawFn, data: bytes) -> bytes:
    """`data` after up to four flips, cuts, insertions, extreme numbers and splices of its parts."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "splice", "end"])):
            case "flip":
                if at < len(data):
                    mask = draw(st.integers(1, 255))
                    data = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            case "number":
                number = draw(st.sampled_from(EXTREME))
                data = data[:at] + number + data[at + len(number) :]
            case "cut":
                data = data[:at] + data[at + draw(st.integers(1, 64)) :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]
            case "splice":
                start, size = draw(st.integers(0, len(data))), draw(st.integers(1, 128))
                data = data[:at] + data[start : start + size] + data[at:]
            case "end":
                data = data[:at]
    return data


def damaged_json(data: bytes) -> SearchStrategy[bytes]:
    """A JSON text whose bytes are damaged, or in which a value is replaced, added or missing."""
    return damaged(data) | _changed_json(data)


@st.composite
def _changed_json(draw: DrawFn, data: bytes) -> bytes:
    whole = [json.loads(data)]
    holder, key = draw(st.sampled_from(list(_places(whole))))
    act = draw(st.sampled_from(["replace", "replace", "add", "remove"]))
    if act == "remove" and holder is not whole:
        del holder[key]
    elif act == "add" and isinstance(holder, dict):
        holder["more"] = MARK
    else:
        holder[key] = MARK
    odd = st.sampled_from(ODD_JSON) | json_values.map(lambda value: json.dumps(value).encode())
    return json.dumps(whole[0]).encode().replace(json.dumps(MARK).encode(), draw(odd))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where a value stands in another: the container, and its key or index."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
