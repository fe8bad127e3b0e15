"""Who gets an inbound slot when all are taken: pure.

Asked at the door. Neighbourhoods (`address.group_of`) share the slots: a newcomer from one that has
few gets the slot of the youngest peer of the one that has most. So a crowd from one network keeps
nobody out, and where all are from one network, whoever is there stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from node.network.address import group_of


def loses_slot(newcomer: str, taken: Sequence[tuple[str, int]]) -> int | None:
    """Return whose slot a newcomer gets, or None: there is none for it.

    `newcomer` is an IP, `taken` has IP and number of those who may lose theirs; greater numbers are
    younger.
    """
    crowds = Counter(group_of(host) for host, _ in taken)
    if not crowds:
        return None
    largest = max(crowds.values())
    if largest <= crowds[group_of(newcomer)] + 1:
        return None  # nothing would be fairer afterwards
    return max(number for host, number in taken if crowds[group_of(host)] == largest)
