"""Peers as ``consensus`` sees them: numbers, heights, and words to ``net`` that has the sockets.

Frames come in over the link ``heard`` (`node.network.link`), words go out over ``say``. It knows in
which life ``net`` is and who is connected; what belongs to an earlier life it drops. Owns nothing
but that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from node.consensus.messages import Certified, Proposal, Vote
from node.consensus.wire import encode
from node.network import link
from node.network.frames import FrameType
from node.peer_frames import pack_messages

_TAGS: Final = 2**31


class PeerLink:
    """Speaks to ``net``; `say` sends a frame without waiting, and may lose it.

    `first_check` is any number, a different one each time that the process starts: verdicts that an
    earlier life asked for may still come.
    """

    def __init__(self, say: Callable[[bytes], None], first_check: int) -> None:
        self._send_word = say
        self._epoch = 0
        self._checks = first_check % _TAGS
        self.heights: Mapping[int, int] = {}  # of those connected

    def attached(self, epoch: int) -> None:
        """A new ``net``, connected to nobody yet."""
        self._epoch = epoch
        self.heights = {}

    def read(self, frame: bytes) -> link.Heard | None:
        """What ``net`` says, None if it was said in another life."""
        word = link.decode_heard(frame)
        return word if word.epoch == self._epoch else None

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        """Send a frame to one peer."""
        self._say(link.Send(self._epoch, peer, frame_type, body))

    def broadcast(self, frame_type: FrameType, body: bytes) -> None:
        """Send a frame to every peer."""
        if self.heights:
            self._say(link.Broadcast(self._epoch, 0, frame_type, body))

    def say_all(self, message: Proposal | Vote | Certified) -> None:
        """Send a message of agreement to every peer."""
        self.broadcast(FrameType.AGREEMENT, pack_messages([encode(message)]))

    def expect(self, request: int, peer: int, items: int) -> None:
        """Let transactions of this request in from a peer."""
        self._say(link.Expect(self._epoch, peer, request, items))

    def blame(self, peer: int, points: int, reason: str) -> None:
        """Hold something against a peer."""
        self._say(link.Blame(self._epoch, peer, points, reason))

    def check(self, message: Certified) -> int:
        """Have a certificate's signatures verified; the verdict comes in a tray with this tag."""
        self._checks = (self._checks + 1) % _TAGS
        self._say(link.Check(self._epoch, self._checks, encode(message)))
        return self._checks

    def proof(self, peer: int, validator: int, signature: bytes) -> None:
        """Show a peer which validator this is."""
        self._say(link.Proof(self._epoch, peer, validator, signature))

    def height(self, height: int, *, behind: bool) -> None:
        """Tell everybody how high this node is, and ``net`` whether others are higher."""
        self._say(link.Height(self._epoch, height, behind))

    def _say(self, word: link.Say) -> None:
        self._send_word(link.encode(word))
