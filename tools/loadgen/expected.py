"""The ledger of truth: what a node may say about each transaction, and what it did say.

The sender reports what it sent, each verdict and each announced block; ``conclude`` judges
everything together and returns findings, one for each way in which the node (or the way to it) was
wrong. Pure: no socket, no clock; times are arguments (nanoseconds of one monotonic clock). Arrays
have one entry per transaction of the window that is being sent, whose indices start at 0.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from node.block import BlockHeader
from node.params import BLOCK_HEADER_BYTES, ID_BYTES, PERSON_BLOCK, SALT_BYTES
from node.verdict import Verdict
from tools.loadgen.workload_file import Truth, Workload

NO_VERDICT = 255
HELD_BELOW = 16  # verdicts below this mean that the node has the transaction (``Verdict.held``)
ID_WORDS = ID_BYTES // 8
MAX_EXAMPLES = 5  # named in a finding
MAX_BLOCKS = 1_000_000  # announced in one run: 27 hours at a pace of 100 ms
SEQUENCE_RANGE = 2**32

SHED = frozenset((Verdict.MEMPOOL_FULL, Verdict.ORPHANS_FULL, Verdict.BUSY))
"""True answers of a node that has too much to do or is leaving: not wrong; ask again later."""

RIVAL_LOST = frozenset((Verdict.CONFLICT, Verdict.REPLACEMENT_FEE, Verdict.SPENT_INPUT))
"""What the loser of a pair may be told: both pay the same fee, so none can replace the other."""

AGAIN = frozenset((Verdict.KNOWN, Verdict.FINAL))
"""What is said of a transaction that the node had before: legal where requests are repeated."""

_NEWS_HEAD_BYTES = ID_BYTES + BLOCK_HEADER_BYTES

assert NO_VERDICT not in set(Verdict)
assert all(verdict.held == (verdict < HELD_BELOW) for verdict in Verdict)


class Fault(StrEnum):
    """A way of being wrong; the value is the sentence that reports show."""

    MISSING_VERDICT = "sent, and never got a verdict"
    DOUBLE_VERDICT = "verdicts beyond the one for each transaction"
    WRONG_VERDICT = "got a verdict that cannot be true"
    SHED = "were refused because the node had too much to do"
    BOTH_ADMITTED = "pairs of which both were admitted"
    NONE_ADMITTED = "pairs of which none was admitted"
    EARLY_CONFLICT = "rejected for a conflict with what had not been sent yet"
    FINAL_BAD_SIGNATURE = "finalised with a bad signature"
    FINAL_BOTH = "pairs of which both were finalised"
    FINAL_REJECTED = "rejected, and finalised all the same"
    FINAL_TWICE = "finalised more than once"
    NOT_FINAL = "admitted, and never finalised"
    LOST_NOTIFICATIONS = "notifications lost (gap in the sequence)"
    LOST_BLOCKS = "blocks never announced (gap in the heights)"
    REPEATED_BLOCKS = "blocks announced more than once"
    FORK = "announced blocks that contradict others or themselves"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, how often it was seen, and a few examples ("transaction 17: …")."""

    fault: Fault
    count: int
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the finding as one line."""
        shown = "; ".join(self.examples)
        return f"{self.count:,} {self.fault.value}" + (f" ({shown})" if shown else "")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was wrong, and what would have been in a run without restarts and repeats."""

    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]


@dataclass(slots=True)
class Ledger:
    """What was sent, answered and finalised, for transactions ``first`` .. ``first + count`` - 1.

    ``resubmit``: requests may have been repeated and the node restarted, so a transaction may be
    answered again and notifications may be missed. ``allow_shedding``: refusals for load are no
    fault.
    """

    workload: Workload
    first: int
    count: int
    resubmit: bool = False
    allow_shedding: bool = False

    verdicts: npt.NDArray[np.uint8] = field(init=False)  # the latest one
    held: npt.NDArray[np.bool_] = field(init=False)  # ever one of those that mean "the node has it"
    sent_ns: npt.NDArray[np.int64] = field(init=False)  # first time; 0: never
    verdict_ns: npt.NDArray[np.int64] = field(init=False)  # of the first verdict; 0: none
    final_ns: npt.NDArray[np.int64] = field(init=False)  # 0: not final
    final_by_verdict: npt.NDArray[np.bool_] = field(init=False)  # learnt by asking, not announced

    n_answered: int = field(init=False, default=0)
    n_held: int = field(init=False, default=0)
    n_final: int = field(init=False, default=0)
    n_foreign: int = field(init=False, default=0)  # finalised, and not of this window
    n_unexpected: int = field(init=False, default=0)  # verdicts unlike the expected ones, so far

    blocks: dict[int, bytes] = field(init=False, default_factory=dict)  # height: id
    _previous: dict[int, bytes] = field(init=False, default_factory=dict)  # height: id below
    _expected: bytes = field(init=False)
    _prefixes: npt.NDArray[np.uint64] = field(init=False)
    _by_prefix: npt.NDArray[np.int64] = field(init=False)
    _words: npt.NDArray[np.uint64] = field(init=False)  # the ids, as four numbers each
    _sequence: int | None = field(init=False, default=None)
    _salt: bytes = field(init=False)
    _counts: Counter[Fault] = field(init=False, default_factory=Counter)
    _examples: dict[Fault, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        window = slice(self.first, self.first + self.count)
        self._expected = self.workload.expected_codes[window]
        self._words = self.workload.columns.txids[window].view("<u8")
        self._salt = self.workload.genesis_id[:SALT_BYTES]
        self.verdicts = np.full(self.count, NO_VERDICT, np.uint8)
        self.held = np.zeros(self.count, np.bool_)
        self.sent_ns = np.zeros(self.count, np.int64)
        self.verdict_ns = np.zeros(self.count, np.int64)
        self.final_ns = np.zeros(self.count, np.int64)
        self.final_by_verdict = np.zeros(self.count, np.bool_)
        # The first words of 5 million ids do not collide; whole ids are compared all the same.
        self._by_prefix = np.argsort(self._words[:, 0], kind="stable")
        self._prefixes = self._words[self._by_prefix, 0]

    # What happens, as the sender sees it.

    def sent(self, start: int, stop: int, now_ns: int) -> None:
        """Note that a range was sent for the first time."""
        self.sent_ns[start:stop] = now_ns

    def answered(self, start: int, stop: int, codes: bytes, now_ns: int) -> None:
        """Note the first verdicts for a range that was asked about once; one byte each."""
        if codes == self._expected[start:stop]:
            n_held = codes.count(0)
        else:
            got = np.frombuffer(codes, np.uint8)
            n_held = int((got < HELD_BELOW).sum())
            want = np.frombuffer(self._expected[start:stop], np.uint8)
            self.n_unexpected += int((got != want).sum())
            self._note_final(np.flatnonzero(got == Verdict.FINAL) + start, now_ns)
        self.verdicts[start:stop] = np.frombuffer(codes, np.uint8)
        self.verdict_ns[start:stop] = now_ns
        self.n_answered += stop - start
        self.n_held += n_held

    def answered_again(
        self, indices: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8], now_ns: int
    ) -> int:
        """Note verdicts for transactions that may have one already; returns how many had none."""
        before = self.verdicts[indices]
        held_before = self.held[indices] | (before < HELD_BELOW)
        first = before == NO_VERDICT
        n_first = int(first.sum())
        self.held[indices] = held_before
        # A refusal for load says nothing about a transaction that the node has.
        takes = first | ~held_before | ~np.isin(codes, list(SHED))
        self.verdicts[indices[takes]] = codes[takes]
        self.verdict_ns[indices[first]] = now_ns
        self.n_answered += n_first
        self.n_held += int(((codes < HELD_BELOW) & ~held_before).sum())
        self._note_final(indices[codes == Verdict.FINAL], now_ns)
        return n_first

    def unasked(self, n_verdicts: int, what: str) -> None:
        """Note verdicts that nothing asked for (any more)."""
        self._fault(Fault.DOUBLE_VERDICT, n_verdicts, what)

    def announced(self, body: bytes, sequence: int, now_ns: int) -> int:
        """Note a "finalised" notification; returns how many transactions of ours became final.

        ``body`` is the block's id, its header and the ids of its transactions.
        """
        self._check_sequence(sequence)
        if len(body) < _NEWS_HEAD_BYTES or (len(body) - _NEWS_HEAD_BYTES) % ID_BYTES:
            self.malformed(f"a notification of {len(body)} bytes")
            return 0
        txids = body[_NEWS_HEAD_BYTES:]
        if not self._check_block(body[:ID_BYTES], body[ID_BYTES:_NEWS_HEAD_BYTES], txids):
            return 0
        return self._finalised(txids, now_ns)

    def malformed(self, what: str) -> None:
        """Note a notification that cannot be read."""
        self._fault(Fault.FORK, 1, what)

    # What can be asked while the run goes on.

    @property
    def n_unconfirmed(self) -> int:
        """How many transactions the node has and did not finalise, as far as is known."""
        return max(0, self.n_held - self.n_final)

    def unconfirmed(self) -> npt.NDArray[np.int64]:
        """Return the indices of what the node said that it has, and that is not final.

        What it had, and rejected when it was asked again, is settled.
        """
        return np.flatnonzero((self.verdicts < HELD_BELOW) & (self.final_ns == 0))

    def unanswered(self) -> npt.NDArray[np.int64]:
        """Return the indices of what was sent and has no verdict."""
        return np.flatnonzero((self.sent_ns != 0) & (self.verdicts == NO_VERDICT))

    def verdict_counts(self) -> dict[str, int]:
        """Return how many of the sent transactions have which latest verdict, by name."""
        counts = np.bincount(self.verdicts[self.sent_ns != 0], minlength=256)
        return {_name(int(code)): int(counts[code]) for code in np.flatnonzero(counts)}

    # Announcements.

    def _check_sequence(self, sequence: int) -> None:
        if self._sequence is not None:
            expected = (self._sequence + 1) % SEQUENCE_RANGE
            ahead = (sequence - expected) % SEQUENCE_RANGE
            if ahead >= SEQUENCE_RANGE // 2:
                # Backwards: the publisher began anew, or repeats itself.
                if not self.resubmit:
                    self._fault(
                        Fault.LOST_NOTIFICATIONS, 1, f"sequence {self._sequence} then {sequence}"
                    )
            elif ahead:
                self._fault(
                    Fault.LOST_NOTIFICATIONS, ahead, f"sequence {self._sequence} then {sequence}"
                )
        self._sequence = sequence

    def _check_block(self, block_id: bytes, header_bytes: bytes, txids: bytes) -> bool:
        """Judge a block against itself and the ones before; returns whether its ids are news."""
        header = BlockHeader.decode(header_bytes)
        height = header.height
        known = self.blocks.get(height)
        if known == block_id:
            self._fault(Fault.REPEATED_BLOCKS, 1, f"height {height}")
            return False
        if known is not None:
            self._fault(Fault.FORK, 1, f"height {height} is {known.hex()} and {block_id.hex()}")
            return True
        digest = hashlib.blake2b(
            header_bytes, digest_size=ID_BYTES, person=PERSON_BLOCK, salt=self._salt
        ).digest()
        if digest != block_id:
            self._fault(Fault.FORK, 1, f"height {height}: the id is not that of the header")
        if header.n_transactions != len(txids) // ID_BYTES:
            self._fault(
                Fault.FORK,
                1,
                f"height {height}: {header.n_transactions} transactions, "
                f"{len(txids) // ID_BYTES} announced",
            )
        below = self.workload.genesis_id if height == 1 else self.blocks.get(height - 1)
        above = self._previous.get(height + 1)
        if header.previous != (below or header.previous) or block_id != (above or block_id):
            self._fault(
                Fault.FORK, 1, f"height {height} does not extend the chain announced before"
            )
        if len(self.blocks) < MAX_BLOCKS:
            self.blocks[height] = block_id
            self._previous[height] = header.previous
        return True

    def _finalised(self, txids: bytes, now_ns: int) -> int:
        if not txids:
            return 0
        announced = np.frombuffer(txids, "<u8").reshape(-1, ID_WORDS)
        indices = self._in_sending_order(announced)
        if indices is None:
            indices = self._find(announced)
            self.n_foreign += len(announced) - len(indices)
        repeated = indices[1:][indices[1:] == indices[:-1]]  # equal ids are neighbours here
        again = indices[(self.final_ns[indices] != 0) & ~self.final_by_verdict[indices]]
        if len(repeated) or len(again):
            self._fault_at(Fault.FINAL_TWICE, np.concatenate((repeated, again)))
            indices = np.setdiff1d(indices, again)
        by_verdict = int(np.count_nonzero(self.final_ns[indices]))
        self.final_ns[indices] = now_ns
        if by_verdict:
            self.final_by_verdict[indices] = False
        fresh = len(indices) - by_verdict
        self.n_final += fresh
        return fresh

    def _in_sending_order(self, announced: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64] | None:
        """Return the indices of these ids if they follow each other as they were sent, else None.

        Nodes that have room build blocks in order of arrival, and looking is far cheaper than
        searching: what was rejected in between is left out.
        """
        first = self._find(announced[:1])
        if not len(first):
            return None
        start = int(first[0])
        after = self.verdicts[start : start + 2 * len(announced)]
        candidates = start + np.flatnonzero(after < HELD_BELOW)[: len(announced)]
        if len(candidates) == len(announced) and (self._words[candidates] == announced).all():
            return candidates
        return None

    def _find(self, announced: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the indices of those ids that are ours, equal ones as neighbours."""
        announced = announced[np.argsort(announced[:, 0])]  # ascending needles are found in cache
        places = np.searchsorted(self._prefixes, announced[:, 0])
        np.minimum(places, self.count - 1, out=places)
        indices = self._by_prefix[places]
        same = self._words[indices] == announced
        return indices if same.all() else indices[same.all(axis=1)]

    def _note_final(self, indices: npt.NDArray[np.int64], now_ns: int) -> None:
        fresh = indices[self.final_ns[indices] == 0]
        self.final_ns[fresh] = now_ns
        self.final_by_verdict[fresh] = True
        self.n_final += len(fresh)

    # Judgement.

    def conclude(self) -> Judgement:
        """Judge everything seen; call it once, at the end."""
        self._judge()
        findings: list[Finding] = []
        notes: list[Finding] = []
        for fault in Fault:
            if self._counts[fault]:
                examples = tuple(self._examples.get(fault, ()))
                kept = notes if self._tolerated(fault) else findings
                kept.append(Finding(fault, self._counts[fault], examples))
        return Judgement(tuple(findings), tuple(notes))

    def _tolerated(self, fault: Fault) -> bool:
        """Whether a restart of the node explains this; what was lost is asked about again."""
        return self.resubmit and fault in (
            Fault.LOST_NOTIFICATIONS,
            Fault.LOST_BLOCKS,
            Fault.REPEATED_BLOCKS,
        )

    def _judge(self) -> None:
        window = slice(self.first, self.first + self.count)
        kinds = self.workload.columns.kinds[window]
        sent = self.sent_ns != 0
        answered = self.verdicts != NO_VERDICT
        final = self.final_ns != 0
        held = self.held | (self.verdicts < HELD_BELOW)
        shed = np.isin(self.verdicts, list(SHED))
        parent = self._related(self.workload.columns.parent[window])
        has_parent = self.workload.columns.parent[window] >= 0
        # A child of what the node does not have stays an orphan, and nobody is to blame; its own
        # children neither. Of a parent outside of the window nothing is known.
        waits = (self.verdicts == Verdict.ORPHANED) & ~final & has_parent
        while (excused := waits & held & ~((parent >= 0) & (held | final)[parent])).any():
            held &= ~excused

        self._fault_at(Fault.MISSING_VERDICT, np.flatnonzero(sent & ~answered))
        legal = self._legal(kinds, has_parent)
        self._fault_at(
            Fault.WRONG_VERDICT, np.flatnonzero(sent & answered & ~shed & ~legal), verdict=True
        )
        if not self.allow_shedding:
            self._fault_at(Fault.SHED, np.flatnonzero(sent & shed), verdict=True)
        self._judge_pairs(window, sent, answered, held, shed, final)
        bad = kinds == Truth.BAD_SIGNATURE
        self._fault_at(Fault.FINAL_BAD_SIGNATURE, np.flatnonzero(final & bad))
        self._fault_at(
            Fault.FINAL_REJECTED,
            np.flatnonzero(final & answered & ~held & ~shed & ~bad),
            verdict=True,
        )
        # After a restart the rival of what was admitted may have won: then the last word is a
        # loser's.
        lost_later = np.isin(self.verdicts, list(RIVAL_LOST)) & (kinds == Truth.RIVAL)
        self._fault_at(Fault.NOT_FINAL, np.flatnonzero(held & ~final & ~lost_later), verdict=True)
        heights = sorted(self.blocks)
        if heights and (n_lost := heights[-1] - heights[0] + 1 - len(heights)):
            self._fault(Fault.LOST_BLOCKS, n_lost, f"heights {heights[0]} to {heights[-1]}")

    def _legal(
        self, kinds: npt.NDArray[np.uint8], has_parent: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Return which verdicts could be true, whatever became of the others."""
        again = AGAIN if self.resubmit else frozenset()
        good = np.isin(self.verdicts, [Verdict.ADMITTED, *again])
        good |= (self.verdicts == Verdict.ORPHANED) & has_parent
        bad = self.verdicts == Verdict.BAD_SIGNATURE
        rival = np.isin(self.verdicts, [Verdict.ADMITTED, *RIVAL_LOST, *again])
        return np.select(
            [kinds == Truth.GOOD, kinds == Truth.BAD_SIGNATURE, kinds == Truth.RIVAL],
            [good, bad, rival],
            False,
        )

    def _related(self, column: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Return a column of indices as indices into the window, -1 where they lie outside."""
        related = column.astype(np.int64) - self.first
        related[(column < 0) | (related < 0) | (related >= self.count)] = -1
        return related

    def _judge_pairs(
        self,
        window: slice,
        sent: npt.NDArray[np.bool_],
        answered: npt.NDArray[np.bool_],
        held: npt.NDArray[np.bool_],
        shed: npt.NDArray[np.bool_],
        final: npt.NDArray[np.bool_],
    ) -> None:
        partner = self._related(self.workload.columns.partner[window])
        one = np.flatnonzero(partner >= 0)
        self._fault_at(Fault.EARLY_CONFLICT, self._early(one, partner[one]), verdict=True)
        # A partner outside of the window may have been sent in another run: nothing is known of it.
        one = one[one < partner[one]]
        other = partner[one]
        if not self.resubmit:  # with repeats and restarts both may have been admitted in turn
            self._fault_at(Fault.BOTH_ADMITTED, one[held[one] & held[other]])
        rejected = answered & ~held & ~shed & ~final
        self._fault_at(Fault.NONE_ADMITTED, one[rejected[one] & rejected[other]], verdict=True)
        self._fault_at(Fault.FINAL_BOTH, one[final[one] & final[other]])

    def _early(
        self, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        lost = np.isin(self.verdicts[one], list(RIVAL_LOST))
        before = (self.sent_ns[other] == 0) | (self.verdict_ns[one] < self.sent_ns[other])
        # Repeats blur which verdict came when.
        return one[lost & before] if not self.resubmit else one[:0]

    def _fault_at(
        self, fault: Fault, indices: npt.NDArray[np.int64], *, verdict: bool = False
    ) -> None:
        for index in indices[: MAX_EXAMPLES - len(self._examples.get(fault, ()))]:
            code = int(self.verdicts[index])
            self._fault(
                fault,
                0,
                f"transaction {self.first + int(index)}" + (f": {_name(code)}" if verdict else ""),
            )
        self._counts[fault] += len(indices)

    def _fault(self, fault: Fault, n: int, example: str) -> None:
        self._counts[fault] += n
        kept = self._examples.setdefault(fault, [])
        if len(kept) < MAX_EXAMPLES:
            kept.append(example)


def _name(code: int) -> str:
    if code == NO_VERDICT:
        return "NO_VERDICT"
    try:
        return Verdict(code).name
    except ValueError:
        return f"CODE_{code}"
