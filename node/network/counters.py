"""What the hub counts; the names are fixed, so that the stage can declare them as metrics."""

from __future__ import annotations

from typing import Final

from node.network.handshake import Refusal

COUNTERS: Final = (
    "frames_in",
    "frames_out",
    "bytes_in",
    "bytes_out",
    "frames_unknown",  # of a type of a later version: ignored
    "frames_ignored",  # not asked for, or too often
    "relay_dropped",  # transactions for a peer that does not keep up
    "overflows",  # peers dropped because they do not keep up
    "pauses",  # lanes not read for a while because of their budget
    "accepted",  # connections
    "accept_failures",
    "dialled",  # connections
    "dial_failures",
    "opened",  # peers
    "closed",  # peers
    "malformed",  # connections that sent what is no frame
    "silent",  # peers given up because nothing was heard from them
    "crowded_out",  # handshakes given up for newer ones
    "evicted",  # peers that lost their slot
    "bans",
    *(f"refused_{each.name.lower()}" for each in Refusal),  # by this node
    *(f"turned_away_{each.name.lower()}" for each in Refusal),  # by others
)


def fresh() -> dict[str, int]:
    """All counters at zero."""
    return dict.fromkeys(COUNTERS, 0)
