"""What the node tells the world: ZeroMQ PUB, three frames a message as Bitcoin Core's are.

Frames: topic, body, sequence number (u32 little-endian, counted per topic, so a subscriber sees
gaps). Called by the consensus stage when a block is durable, never before. A subscriber that does
not keep up loses messages; nobody waits for it.

============ =============================================================
topic        body
============ =============================================================
hashblock    block id[32]
finalised    block id[32], header[128], id[32] of each transaction in order
============ =============================================================
"""

from __future__ import annotations

import zmq

from node.block import Block
from node.errors import ListenError

HASHBLOCK = b"hashblock"
FINALISED = b"finalised"
QUEUE_MESSAGES = 1_000  # per subscriber, then its messages are dropped


class Publisher:
    """The publishing socket; raises `ListenError` when its port is in use."""

    def __init__(self, sockets: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket: zmq.Socket[bytes] = sockets.socket(zmq.PUB)
        self._socket.linger = 200
        self._socket.sndhwm = QUEUE_MESSAGES
        self._sequence = {HASHBLOCK: 0, FINALISED: 0}
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise ListenError(
                f"cannot publish notifications on {address} ({error.strerror})",
                "stop what uses the port, or set network.notify in config.toml",
            ) from error

    def finalised(self, block_id: bytes, block: Block) -> None:
        """Announce a committed block and its transactions."""
        self._send(HASHBLOCK, block_id)
        self._send(FINALISED, b"".join((block_id, block.header.encode(), *block.txids)))

    def close(self) -> None:
        """Close; what is queued is still delivered for a moment."""
        self._socket.close()

    def _send(self, topic: bytes, body: bytes) -> None:
        sequence = self._sequence[topic]
        self._sequence[topic] = (sequence + 1) & 0xFFFFFFFF
        self._socket.send_multipart((topic, body, sequence.to_bytes(4, "little")))
