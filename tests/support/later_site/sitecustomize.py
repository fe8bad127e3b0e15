"""Makes a node one protocol version newer: its directory goes first on PYTHONPATH of that node.

Python imports it in every process of the node. Such a node offers the next version too, and appends
to the messages of the handshake a field that today's nodes have never heard of.
"""

from __future__ import annotations

import msgspec

from node.network import handshake

handshake.VERSION_MAX += 1  # type: ignore[misc]
_append = msgspec.msgpack.Encoder()
_today = handshake.encode


def _encode(message: handshake.Hello | handshake.Welcome | handshake.Refuse) -> bytes:
    fields = msgspec.msgpack.decode(_today(message))
    return _append.encode([*fields, "of a later version"])


handshake.encode = _encode
