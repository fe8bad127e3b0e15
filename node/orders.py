"""Orders of the operator to ``net`` about peers, as frames: pure.

``rpc`` sends them over the link ``order`` when it is called with addnode or disconnectnode;
`node.peering` obeys. An order that is lost is given again by whoever sees that nothing came of it.
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_ADDRESS_CHARACTERS: Final = 300


class _Order(msgspec.Struct, frozen=True, array_like=True, tag_field="is"):
    pass


class Keep(_Order, frozen=True, array_like=True, tag="keep"):
    """Stay connected with the node at host:port until the next start."""

    address: str


class Forget(_Order, frozen=True, array_like=True, tag="forget"):
    """Dial the node at host:port no more."""

    address: str


class TryOnce(_Order, frozen=True, array_like=True, tag="try"):
    """Dial the node at IP:port once."""

    address: str


class Drop(_Order, frozen=True, array_like=True, tag="drop"):
    """Disconnect a peer, given by its number."""

    peer: int


Order = Keep | Forget | TryOnce | Drop

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order).decode


def encode_order(order: Order) -> bytes:
    """Return an order's bytes."""
    return _encode(order)


def decode_order(data: bytes) -> Order:
    """Read an order; raises ValueError and nothing else."""
    try:
        order: Order = _decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"no order: {error}") from None
    return order
