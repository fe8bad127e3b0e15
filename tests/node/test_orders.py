"""Orders about peers: what is one, and that nothing else is."""

from __future__ import annotations

import msgspec
import pytest
from damage import damaged
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.orders import Drop, Forget, Keep, Order, TryOnce, decode_order, encode_order

ORDERS = [Keep("192.0.2.1:5"), Forget("[2001:db8::1]:5"), TryOnce("a.example:5"), Drop(7)]


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_arrives_as_it_was_given(order: Order) -> None:
    assert decode_order(encode_order(order)) == order


@settings(max_examples=200)
@given(
    st.sampled_from(ORDERS).flatmap(lambda order: damaged(encode_order(order)))
    | st.binary(max_size=40)
)
@example(b"\x92\xa4keep\xa1\xff")
@example(b"\x93\xa4keep\xa1x" + b"\x91" * 10_000)
@example(msgspec.msgpack.encode(["drop", 2**63]))
def test_any_bytes_are_an_order_or_are_refused(data: bytes) -> None:
    try:
        order = decode_order(data)
    except ValueError:
        return
    assert decode_order(encode_order(order)) == order
