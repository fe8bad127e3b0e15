"""What the items of a tray can be: the kinds of `pipeline.tray.Label`.

`net` labels the trays, verifiers and `consensus` go by it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ItemKind(IntEnum):
    """One kind of item, all of a tray."""

    TRANSACTION = 0  # of clients and relayed by peers; for the mempool
    FETCHED = 1  # transactions that consensus asked peers for; the tag is its request
    MESSAGE = 2  # of agreement: votes, proposals, certificates; a tag says who asked for the check
    PROOF = 3  # that a validator runs a peer (`node.proofs.Claim`)


URGENT: Final = 0  # priorities of trays
REQUESTED: Final = 1
BULK: Final = 2
