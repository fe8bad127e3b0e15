"""What net and consensus say to each other past the trays: one frame each, over two links.

``net`` tells ``consensus`` who is connected, and passes on what carries no signature (`Heard`);
``consensus`` has frames sent, peers blamed, answers expected and messages checked (`Say`). Both
carry the epoch of ``net``'s life: what was meant for another one is dropped by whoever reads it,
for peers are numbered anew. A frame is MessagePack, written and read by msgspec; both ends are this
node, so what does not decode is a defect.
"""

from __future__ import annotations

import msgspec


class _Word(msgspec.Struct, frozen=True, tag_field="is", tag=True, array_like=True):
    """Base of all words; `epoch` is that of the net process concerned."""

    epoch: int


class Peers(_Word, frozen=True):
    """Who is connected: (number, height last told) of each, ascending. Replaces what was said."""

    peers: tuple[tuple[int, int], ...]


class Frame(_Word, frozen=True):
    """A frame from a peer."""

    peer: int
    type: int
    body: bytes


Heard = Peers | Frame


class Send(_Word, frozen=True):
    """Send a frame to a peer."""

    peer: int
    type: int
    body: bytes


class Broadcast(_Word, frozen=True):
    """Send a frame to every peer but one (0: to all)."""

    but: int
    type: int
    body: bytes


class Blame(_Word, frozen=True):
    """A peer misbehaved: points of 100, and what it did."""

    peer: int
    points: int
    reason: str


class Expect(_Word, frozen=True):
    """Of this request so many transactions may come from this peer; 0: no more."""

    peer: int
    request: int
    items: int


class Check(_Word, frozen=True):
    """Have the signatures of a message (`node.consensus.wire`) checked; the verdict comes in a tray
    with this tag.
    """

    tag: int
    message: bytes


class Height(_Word, frozen=True):
    """This height is committed."""

    height: int


Say = Send | Broadcast | Blame | Expect | Check | Height

encode = msgspec.msgpack.Encoder().encode
decode_heard = msgspec.msgpack.Decoder(Heard).decode
decode_say = msgspec.msgpack.Decoder(Say).decode
