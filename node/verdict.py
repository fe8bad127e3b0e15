"""Verdicts: the one byte that a client gets for each transaction that it sends.

Verifiers write the codes of encoding and signature into their verdict slots, the mempool the codes
of ledger and policy into the admission slot, ``net`` the codes of transport. Every transaction
carries exactly one code and increments exactly one counter, so the counters of a stage sum to its
input. A request that ``net`` refuses as a whole gets one code, which counts for each of its
transactions; BAD_REQUEST and TOO_LARGE, where their number is unknown or means nothing, count once.
"""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """Outcome for one transaction, as the wire carries it (u8).

    Codes below 16 mean that the node holds the transaction or its result; the rest are rejections,
    grouped by the rule book that they come from (16 encoding, 48 signature, 64 ledger, 96 policy,
    128 transport). The groups leave room; a code never changes its meaning.
    """

    ADMITTED = 0  # in the mempool, will be proposed; promises nothing
    KNOWN = 1  # already in the mempool
    FINAL = 2  # already in a committed block
    ORPHANED = 3  # held in the orphan pool until its parent arrives

    # encoding: judged from the bytes alone, in this order (the first that applies is the verdict)
    BAD_LENGTH = 16  # no header, or (after NO_WITNESSES) not the length that the counts demand
    BAD_VERSION = 17
    NO_INPUTS = 18
    NO_OUTPUTS = 19
    NO_WITNESSES = 20
    WITNESS_NUMBER = 21  # witness numbers not in order of first use, or out of range
    WITNESS_UNUSED = 22
    WITNESS_REPEATED = 23  # one owner key in two witnesses
    DUPLICATE_INPUT = 24
    INPUTS_UNSORTED = 25
    DUST_OUTPUT = 26
    AMOUNT_TOO_LARGE = 27

    BAD_SIGNATURE = 48

    # ledger: judged against the chain, the same on every node for ever
    SPENT_INPUT = 64  # spent by a committed transaction
    NO_SUCH_OUTPUT = 65  # the parent is known and has no output of that index
    WRONG_OWNER = 66
    INPUTS_BELOW_OUTPUTS = 67
    FEE_BELOW_MINIMUM = 68

    # policy: this node's choice, never part of block validity
    FEE_BELOW_RELAY = 96
    CONFLICT = 97  # spends what another mempool transaction spends, and may not replace it
    REPLACEMENT_FEE = 98  # may replace, but its fee is not higher by the set increment
    TOO_MANY_ANCESTORS = 99
    MEMPOOL_FULL = 100  # and its fee rate is not above the lowest one held
    ORPHANS_FULL = 101

    # transport: judged by ``net`` without reading the transaction
    BAD_REQUEST = 128  # the message is not in the ingest format
    TOO_LARGE = 129  # the message is over its limit
    BUSY = 130  # too much is unanswered, of this client or of all
    QUARANTINED = 131  # verifying this very item killed verifiers

    @property
    def held(self) -> bool:
        """Whether the node holds the transaction (or its final result)."""
        return self < 16
