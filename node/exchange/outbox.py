"""What block exchange asks of its host, and the queue that it asks through.

Calls are queued while an input is handled and made when its state is whole again, in order; a host
that answers from within one of them queues behind it. Request numbers come from here as well, since
each goes to the host with whom it is for. Owns the numbers that are open, which the bounds of their
owners bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ParamSpec, Protocol

from node.block import Block
from node.consensus.messages import Certified
from node.exchange.verified import Arrived
from node.network.frames import FrameType

LIE = 100  # points for what no honest peer does

_REQUESTS = 2**32
_P = ParamSpec("_P")


class ExchangeHost(Protocol):
    """Who performs what block exchange decides; no call may block."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        """Send a frame to one peer; it may get lost."""

    def broadcast(self, frame_type: FrameType, body: bytes) -> None:
        """Send a frame to every peer."""

    def expect(self, tag: int, peer: int, items: int) -> None:
        """Let PARTs of this request, with so many items at most, in from this peer; 0: no more."""

    def blame(self, peer: int, points: int, reason: str) -> None:
        """Hold something against a peer; 100 points are a lie."""

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        """A wanted block is here and valid, or None: invalid."""

    def decided(self, certified: Certified, block: Block | None) -> None:
        """The next block above the tip with its verified certificate, for one who has missed it.

        None: it is invalid, which agreement is to halt on. `want` will say the same of it.
        """

    def proven(self, certified: Certified) -> None:
        """The next height above the tip is decided, and its block does not come: agreement may find
        it where it was voted for.
        """

    def verify_certificate(self, peer: int, certified: Certified) -> None:
        """Have the signatures of a well-formed commit certificate verified; `certificate_verified`
        answers.
        """


class Requester(Protocol):
    """Who made a request and takes what comes of it."""

    def fetched(
        self, tag: int, first: int, items: Sequence[Arrived | None], now_ns: int
    ) -> None: ...
    def not_found(self, tag: int, first: int, now_ns: int) -> None: ...


class Outbox:
    """The queue to the host, and the requests that are open."""

    def __init__(self, host: ExchangeHost, first_request: int) -> None:
        self.host = host
        self._queue: deque[Callable[[], None]] = deque()
        self._flushing = False
        self._next = first_request % _REQUESTS
        self._open: dict[int, tuple[int, Requester]] = {}

    def tell(self, call: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Queue a call of the host."""
        self._queue.append(lambda: call(*args, **kwargs))

    def flush(self) -> None:
        """Make the queued calls, and those that are queued meanwhile."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._queue:
                self._queue.popleft()()
        finally:
            self._flushing = False

    def blame(self, peer: int, points: int, reason: str) -> None:
        """Queue a complaint."""
        self.tell(self.host.blame, peer, points, reason)

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        """Queue a frame."""
        self.tell(self.host.send, peer, frame_type, body)

    def open_request(self, peer: int, items: int, requester: Requester) -> int:
        """Return a new number for a request to a peer, whose answer has so many items at most."""
        tag = self._next
        self._next = (tag + 1) % _REQUESTS
        self._open[tag] = (peer, requester)
        self.tell(self.host.expect, tag, peer, items)
        return tag

    def close_request(self, tag: int) -> None:
        """Forget a request; what still comes of it is ignored."""
        peer, _ = self._open.pop(tag)
        self.tell(self.host.expect, tag, peer, 0)

    def requester(self, tag: int, peer: int | None = None) -> Requester | None:
        """Return who made an open request (to this peer), or None."""
        asked, requester = self._open.get(tag, (0, None))
        return requester if peer is None or peer == asked else None
