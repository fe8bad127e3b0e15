"""What the node tells the world: ZeroMQ publications, three frames a message as Bitcoin Core's are.

Frames: topic, body, number (u32 little-endian, counted per topic). Called by the consensus stage:
with a block when it is durable, never before; with what the mempool's journal noted, every turn.

============ =======================================================================
topic        body
============ =======================================================================
hashblock    block id[32]
rawblock     header[128], then the block's transactions back to back
hashtx       transaction id[32]: when the mempool takes it in, and again in its block
rawtx        the transaction's bytes, at the same two moments
sequence     block id[32], "C": a block was added; blocks are never taken back ("D")
sequence     transaction id[32], "A" or "R", number u64: the mempool took it in, or
             let it go without a block; the number is that of the mempool's journal
finalised    block id[32], header[128], id[32] of each transaction in order
============ =======================================================================

A message that nobody has subscribed to is not made, only counted, so whoever comes back sees in the
numbers what it missed, and what is not listened to costs the node an addition. The socket is an
XPUB, which tells who subscribes. A subscriber that does not keep up loses messages; nobody waits
for it. Two bounds hold what waits for slow ones: QUEUE_MESSAGES each, and QUEUE_LARGE_BYTES of
large bodies for all together; a subscriber that stands still is cut off after STANDSTILL_MS, and
what waited for it is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import zmq

from node.block import Block
from node.errors import ListenError
from node.mempool_journal import ADDED, REMOVED, Change, Journal

HASHBLOCK: Final = b"hashblock"
RAWBLOCK: Final = b"rawblock"
HASHTX: Final = b"hashtx"
RAWTX: Final = b"rawtx"
SEQUENCE: Final = b"sequence"
FINALISED: Final = b"finalised"
TOPICS: Final = (HASHBLOCK, RAWBLOCK, HASHTX, RAWTX, SEQUENCE, FINALISED)
OF_THE_MEMPOOL: Final = frozenset((HASHTX, RAWTX, SEQUENCE))

CONNECTED: Final = b"C"
MAX_NUMBER: Final = 2**32 - 1  # then they begin at 0 again

QUEUE_MESSAGES: Final = 20_000
"""Per subscriber, then its messages are dropped: two of each transaction of a block that holds a
second of full load at a fifth of a second's pace, since those are sent in one go.
"""

LARGE_BYTES: Final = 4 * 1024
"""Bodies from this size on are sent without a copy and count against QUEUE_LARGE_BYTES; what is
smaller takes 80 MiB in a full queue.
"""

QUEUE_LARGE_BYTES: Final = 64 * 1024 * 1024
"""Of large bodies that wait for subscribers, all together: eight of the largest blocks that the
load generator's chains allow. A body above it is sent only when nothing else waits.
"""

STANDSTILL_MS: Final = 30_000
"""After which a subscriber whose system takes no more bytes is disconnected (tcp(7),
TCP_USER_TIMEOUT: closed windows count). Pings of ZeroMQ would tell as much, but not every client
library that can subscribe knows them.
"""

BURST_SUBSCRIPTIONS: Final = 64  # taken in one turn
MAX_SUBSCRIPTION_BYTES: Final = 256  # of what subscribers send us; the longest topic has 9

assert max(map(len, TOPICS)) < MAX_SUBSCRIPTION_BYTES


class Publisher:
    """The publishing socket; raises `ListenError` when its port is in use.

    `socket` is to be polled, and `take_subscriptions` called when something has arrived.
    """

    def __init__(
        self, sockets: zmq.Context[zmq.Socket[bytes]], address: str, journal: Journal
    ) -> None:
        self.socket: zmq.Socket[bytes] = sockets.socket(zmq.XPUB)
        self.socket.linger = 200
        self.socket.sndhwm = QUEUE_MESSAGES
        self.socket.maxmsgsize = MAX_SUBSCRIPTION_BYTES
        self.socket.setsockopt(zmq.TCP_MAXRT, STANDSTILL_MS)
        self.socket.copy_threshold = LARGE_BYTES
        self._journal = journal
        self._numbers = dict.fromkeys(TOPICS, 0)
        self._prefixes: set[bytes] = set()
        self._wanted: frozenset[bytes] = frozenset()
        self._unheard = (0, 0)  # since when the journal was not listened to: its `came`, `went`
        self._large: deque[tuple[zmq.MessageTracker, int]] = deque()  # sent, oldest first
        self._large_bytes = 0
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.socket.close()
            raise ListenError(
                f"cannot publish notifications on {address} ({error.strerror})",
                "stop what uses the port, or set network.notify in config.toml",
            ) from error

    def take_subscriptions(self) -> int:
        """Take note of who listens to what; returns how many messages that were."""
        for count in range(BURST_SUBSCRIPTIONS):
            try:
                message = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return count
            self._subscription(message[:1], message[1:])
        return BURST_SUBSCRIPTIONS

    def mempool_changed(self) -> None:
        """Announce what the mempool's journal has noted since the last call."""
        for change in self._journal.take():
            if change.label == ADDED:
                self._send_each(HASHTX, change.txids)
                self._send_each(RAWTX, change.raws)
            if SEQUENCE in self._wanted:
                self._send_each(SEQUENCE, _numbered(change))
            else:
                self._count(SEQUENCE, len(change.txids))

    def finalised(self, block_id: bytes, block: Block) -> None:
        """Announce a committed block and its transactions, after what the mempool knew before."""
        self.mempool_changed()
        self._send(HASHBLOCK, block_id)
        if FINALISED in self._wanted:
            self._send(FINALISED, b"".join((block_id, block.header.encode(), *block.txids)))
        else:
            self._count(FINALISED, 1)
        if RAWBLOCK in self._wanted:
            self._send(RAWBLOCK, b"".join((block.header.encode(), *block.transactions)))
        else:
            self._count(RAWBLOCK, 1)
        self._send(SEQUENCE, block_id + CONNECTED)
        self._send_each(HASHTX, block.txids)
        self._send_each(RAWTX, block.transactions)

    def close(self) -> None:
        """Close; what is queued is still delivered for a moment."""
        self.socket.close()

    # -- inside ----------------------------------------------------------------------------------

    def _subscription(self, kind: bytes, prefix: bytes) -> None:
        """ZeroMQ tells of the first subscription to a prefix and of the end of the last one."""
        if not any(topic.startswith(prefix) for topic in TOPICS):
            return  # a topic that there is not, or no subscription at all: nothing to remember
        if kind == b"\x01":
            self._prefixes.add(prefix)
        elif kind == b"\x00":
            self._prefixes.discard(prefix)
        self.mempool_changed()
        self._wanted = frozenset(
            topic for topic in TOPICS if any(topic.startswith(each) for each in self._prefixes)
        )
        self._listen(not self._wanted.isdisjoint(OF_THE_MEMPOOL))

    def _listen(self, wanted: bool) -> None:
        """Have the mempool's changes noted or not; count those that were not when it begins."""
        journal = self._journal
        if wanted and not journal.listening:
            came, went = journal.came - self._unheard[0], journal.went - self._unheard[1]
            self._count(HASHTX, came)
            self._count(RAWTX, came)
            self._count(SEQUENCE, came + went)
        elif journal.listening and not wanted:
            self._unheard = (journal.came, journal.went)
        journal.listen(wanted)

    def _send_each(self, topic: bytes, bodies: Sequence[bytes]) -> None:
        """Send many messages of one topic, or only count them."""
        number = self._count(topic, len(bodies))
        if topic in self._wanted:
            for body in bodies:
                self._frames(topic, body, number)
                number += 1

    def _send(self, topic: bytes, body: bytes) -> None:
        number = self._count(topic, 1)
        if topic in self._wanted:
            self._frames(topic, body, number)

    def _frames(self, topic: bytes, body: bytes, number: int) -> None:
        # Three calls cost a third of one send_multipart (2.1 and 7.3 us on a busy machine).
        send = self.socket.send
        if len(body) < LARGE_BYTES:
            send(topic, zmq.SNDMORE)
            send(body, zmq.SNDMORE)
            send((number & MAX_NUMBER).to_bytes(4, "little"))
        elif self._has_room(len(body)):
            send(topic, zmq.SNDMORE)
            sent = send(body, zmq.SNDMORE, copy=False, track=True)
            assert sent is not None
            send((number & MAX_NUMBER).to_bytes(4, "little"))
            self._large.append((sent, len(body)))
            self._large_bytes += len(body)

    def _has_room(self, size_bytes: int) -> bool:
        while self._large and self._large[0][0].done:
            self._large_bytes -= self._large.popleft()[1]
        return not self._large or self._large_bytes + size_bytes <= QUEUE_LARGE_BYTES

    def _count(self, topic: bytes, messages: int) -> int:
        """Return the number of the first of so many messages."""
        number = self._numbers[topic]
        self._numbers[topic] = (number + messages) & MAX_NUMBER
        return number


def _numbered(change: Change) -> list[bytes]:
    """The bodies of topic `sequence` for a change of the mempool."""
    assert change.label in (ADDED, REMOVED)
    return [
        txid + change.label + number.to_bytes(8, "little")
        for number, txid in enumerate(change.txids, change.sequence)
    ]
