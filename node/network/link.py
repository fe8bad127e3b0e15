"""What net and consensus say to each other past the trays: one frame each, over two links.

``net`` tells ``consensus`` who is connected, has their challenges signed, and passes on what
carries no signature (`Heard`); ``consensus`` has frames sent, peers blamed, answers expected and
messages checked (`Say`). Both carry the epoch of ``net``'s life: what was meant for another one is
dropped by whoever reads it, for peers are numbered anew. A frame is MessagePack, written and read
by msgspec; both ends are this node, so what does not decode is a defect.
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


class Challenge(_Word, frozen=True):
    """A peer is to be shown that a validator runs this node: by a signature over its challenge[32]
    and the own node id[16].
    """

    peer: int
    challenge: bytes
    node_id: bytes


Heard = Peers | Frame | Challenge


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
    """This height is committed; `behind` if peers have blocks that are yet to be caught up on."""

    height: int
    behind: bool


class Proof(_Word, frozen=True):
    """The answer to a `Challenge`: as which validator, and the signature[64]."""

    peer: int
    validator: int
    signature: bytes


Say = Send | Broadcast | Blame | Expect | Check | Height | Proof

encode = msgspec.msgpack.Encoder().encode
decode_heard = msgspec.msgpack.Decoder(Heard).decode
decode_say = msgspec.msgpack.Decoder(Say).decode
