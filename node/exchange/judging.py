"""Judges a block of verified transactions: the ledger's rules again, fast and a slice at a time.

`node.ledger` is the reference; this comes to the same result for every block whose transactions are
canonical and rightly signed, which the verifiers know of each before it comes here. Outputs come
from the chain store, a multi-get a slice; a `Block` or `BlockInvalid` goes out. A `Judgement` goes
on where it stopped, so that the process that judges 50,000 transactions hears votes in between; the
store must not move meanwhile, which whoever owns it sees to. Pure, no clock: `is_timely` is for
proposals alone, and its time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from node.block import MAX_HEIGHT, Block, BlockHeader, merkle_root
from node.exchange.verified import VerifiedTx, read_verified
from node.genesis import Genesis, genesis_id, salt_of
from node.ledger import BlockBelow, BlockInvalid, LedgerView, Rule
from node.params import (
    BLOCK_VERSION,
    ID_BYTES,
    INPUT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
)
from node.verdict import Verdict

MAX_AHEAD_MS = 15_000  # how far a proposer's clock may be ahead of ours

SLICE_BYTES = 256 * 1024  # of transactions judged at once: 10 ms, 20 ms if all of it is inputs

_VALUE_BYTES = 8
_outpoints = attrgetter("outpoints")


class Rules:
    """What a genesis says about blocks, worked out once."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.salt = salt_of(genesis_id(genesis))
        self.proposers = frozenset(validator.key_bytes for validator in genesis.validators)

    def check_header(self, header: BlockHeader, below: BlockBelow) -> None:
        """Check what a header breaks by itself. Raises BlockInvalid with the first such rule."""
        most = self.genesis.max_block_transactions
        for rule, holds in (
            (Rule.VERSION, header.version == BLOCK_VERSION),
            (Rule.HEIGHT, header.height == below.height + 1 <= MAX_HEIGHT),
            (Rule.PREVIOUS, header.previous == below.block_id),
            (Rule.TIME, header.time_ms > below.time_ms),
            (Rule.PROPOSER, header.proposer in self.proposers),
            (Rule.COUNT, header.n_transactions <= most),
        ):
            if not holds:
                raise BlockInvalid(rule, f"header {header} above {below.block_id.hex()}")


class Judgement:
    """One block being judged; `add` its transactions in order, in slices, then `finish`.

    `below` and `view` are the state that it claims to follow; `n_transactions` and `size_bytes`
    what its transactions are and weigh together. Everything raises BlockInvalid, with the rule that
    `node.ledger.validate_block` names, and is over then.
    """

    def __init__(
        self,
        rules: Rules,
        header: BlockHeader,
        n_transactions: int,
        size_bytes: int,
        below: BlockBelow,
        view: LedgerView,
    ) -> None:
        rules.check_header(header, below)
        if header.n_transactions != n_transactions:
            raise BlockInvalid(Rule.COUNT, f"{header.n_transactions} of {n_transactions}")
        if size_bytes > rules.genesis.max_block_bytes:
            raise BlockInvalid(Rule.SIZE, f"transactions of {size_bytes} bytes")
        self._rules = rules
        self._header = header
        self._view = view
        self._fees = 0
        self._spent: set[bytes] = set()
        self._raws: dict[bytes, bytes] = {}  # by id, in order

    def add(self, transactions: Sequence[VerifiedTx]) -> None:
        """Judge the next transactions."""
        wanted = list(chain.from_iterable(map(_outpoints, transactions)))
        outputs = self._view.get_outputs(wanted)
        spent, raws, min_fee = self._spent, self._raws, self._rules.genesis.min_fee
        fees = at = 0
        for transaction in transactions:
            raw, txid, outpoints, owners, output_sum = transaction
            good = spent.isdisjoint(outpoints)
            fee = -output_sum
            for outpoint, owner in zip(outpoints, owners, strict=True):
                output = outputs[at] or self._made(outpoint)
                at += 1
                if output is None or output[_VALUE_BYTES:] != owner:
                    good = False
                else:
                    fee += int.from_bytes(output[:_VALUE_BYTES], "little")
            if not good or fee < min_fee:
                self._reject(transaction, outputs[at - len(outpoints) : at])
            spent.update(outpoints)
            raws[txid] = raw
            fees += fee
        self._fees += fees

    def finish(self) -> Block:
        """Return the block, once everything was added."""
        header, txids = self._header, list(self._raws)
        if merkle_root(txids, self._rules.salt) != header.transaction_root:
            raise BlockInvalid(Rule.ROOT, "the header names other transactions")
        if self._fees != header.fees:
            raise BlockInvalid(
                Rule.FEES, f"the header says {header.fees}, the transactions {self._fees}"
            )
        return Block(header, list(self._raws.values()), txids)

    def _made(self, outpoint: bytes) -> bytes | None:
        """An output that an earlier transaction of this block makes."""
        raw = self._raws.get(outpoint[:ID_BYTES])
        index = outpoint[ID_BYTES]
        if raw is None or index >= raw[2]:
            return None
        start = TX_HEADER_BYTES + INPUT_BYTES * raw[1] + OUTPUT_BYTES * index
        return raw[start : start + OUTPUT_BYTES]

    def _reject(self, transaction: VerifiedTx, below: Sequence[bytes | None]) -> None:
        """Raise the first rule that a transaction breaks, in the ledger's order."""
        outpoints, owners = transaction.outpoints, transaction.owners
        found = []
        for outpoint, output in zip(outpoints, below, strict=True):
            output = output or self._made(outpoint)
            if output is None or outpoint in self._spent:
                raise self._broken(self._why_missing(outpoint), "no such unspent output")
            found.append(output)
        for output, owner in zip(found, owners, strict=True):
            if output[_VALUE_BYTES:] != owner:
                raise self._broken(Verdict.WRONG_OWNER, "the witness does not own the output")
        total = sum(int.from_bytes(output[:_VALUE_BYTES], "little") for output in found)
        verdict = Verdict.FEE_BELOW_MINIMUM
        if total < transaction.output_sum:
            verdict = Verdict.INPUTS_BELOW_OUTPUTS
        raise self._broken(verdict, f"inputs of {total}, outputs of {transaction.output_sum} units")

    def _why_missing(self, outpoint: bytes) -> Verdict:
        parent = outpoint[:ID_BYTES]
        raw = self._raws.get(parent)
        if raw is not None:
            n_outputs = raw[2]
        else:
            position = self._view.find_transaction(parent)
            n_outputs = 0 if position is None else position.n_outputs
        return Verdict.SPENT_INPUT if outpoint[ID_BYTES] < n_outputs else Verdict.NO_SUCH_OUTPUT

    def _broken(self, verdict: Verdict, detail: str) -> BlockInvalid:
        return BlockInvalid(Rule.TRANSACTION, detail, position=len(self._raws), verdict=verdict)


class Trial:
    """A block whose transactions are all here, judged a slice at a time.

    `txids` and `raws` are ids and bytes of good transactions in order; the rest as in `Judgement`.
    """

    def __init__(
        self,
        rules: Rules,
        header: BlockHeader,
        txids: Sequence[bytes],
        raws: Sequence[bytes],
        below: BlockBelow,
        view: LedgerView,
    ) -> None:
        self._size_bytes = sum(map(len, raws))
        self._judgement = Judgement(rules, header, len(raws), self._size_bytes, below, view)
        self._txids = txids
        self._raws = raws
        self._at = 0

    @property
    def is_small(self) -> bool:
        """Whether all of it is one slice."""
        return self._size_bytes <= SLICE_BYTES

    def advance(self) -> Block | None:
        """Do the next slice; returns the block when it is through. Raises BlockInvalid."""
        raws = self._raws
        start = end = self._at
        slice_bytes = 0
        while end < len(raws) and slice_bytes < SLICE_BYTES:
            slice_bytes += len(raws[end])
            end += 1
        if start < end:
            self._at = end
            self._judgement.add(read_verified(self._txids[start:end], raws[start:end]))
            if not self.is_small:  # then the end of it is a slice of its own
                return None
        return self._judgement.finish()


def judge(
    header: BlockHeader,
    transactions: Sequence[VerifiedTx],
    below: BlockBelow,
    view: LedgerView,
    genesis: Genesis,
) -> Block:
    """Return the block of a header and its transactions, or raise BlockInvalid: all at once."""
    size_bytes = sum(len(transaction.raw) for transaction in transactions)
    judgement = Judgement(Rules(genesis), header, len(transactions), size_bytes, below, view)
    judgement.add(transactions)
    return judgement.finish()


def is_timely(header: BlockHeader, now_ms: int) -> bool:
    """Whether a proposal's time is not too far in the future. Never part of validity."""
    return header.time_ms <= now_ms + MAX_AHEAD_MS
