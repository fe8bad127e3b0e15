"""What ``net`` makes of a client's message, whatever its frames are."""

from __future__ import annotations

import struct
from itertools import accumulate

from damage import damaged
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS
from node.stages.net import transaction_ends
from node.verdict import Verdict

LENGTHS = struct.pack("<4H", 100, 0, 65, 300)
MESSAGE = [b"client", b"8 bytes.", LENGTHS, bytes(465)]
MANY = struct.pack("<H", 1) * (INGEST_MAX_TRANSACTIONS + 1)


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=6)
    | st.tuples(*(damaged(each) for each in MESSAGE)).map(list)
    | st.tuples(
        st.just(b"client"), st.just(b"8 bytes."), damaged(LENGTHS), damaged(bytes(465))
    ).map(list)
)
@example(MESSAGE)
@example([b"", b"8 bytes.", MANY, bytes(INGEST_MAX_TRANSACTIONS + 1)])
@example([b"", b"8 bytes.", b"\xff\xff" * 5, bytes(INGEST_MAX_BYTES + 1)])
@example([b"", b"8 bytes.", b"\xff\xff" * INGEST_MAX_TRANSACTIONS, b""])
@example([b"", b"8 bytes.", b"", b""])
@example([b"", b"8 bytes.", b"\x01\x00\x00", b"x"])
def test_any_frames_hold_whole_transactions_or_are_refused(frames: list[bytes]) -> None:
    expected: Verdict | list[int] = Verdict.BAD_REQUEST
    if len(frames) == 4 and len(frames[1]) == 8:
        if len(frames[2]) // 2 > INGEST_MAX_TRANSACTIONS or len(frames[3]) > INGEST_MAX_BYTES:
            expected = Verdict.TOO_LARGE
        elif len(frames[2]) % 2 == 0 < len(frames[2]):
            lengths = (each[0] for each in struct.iter_unpack("<H", frames[2]))
            ends = list(accumulate(lengths))
            if ends[-1] == len(frames[3]):
                expected = ends
    found = transaction_ends(frames)
    assert (found if isinstance(found, Verdict) else found.tolist()) == expected
