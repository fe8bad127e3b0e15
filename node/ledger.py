"""The ledger's rules, written to be read: what makes a block valid, and what a chain leads to.

This is the reference, one transaction at a time and signatures included. The fast paths (batch
verification, mempool, chain store) must come to the same results; tests and ``timed check
--replay`` compare them. Everything is judged against the chain alone: genesis, the block below,
and what is unspent; no clock, no configuration, no mempool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from node.block import MAX_HEIGHT, Block, TxPosition, encode_output, merkle_root, reward_txid
from node.genesis import (
    Genesis,
    allocation_outputs,
    check_allocations,
    genesis_id,
    reward_at,
    salt_of,
)
from node.params import BLOCK_VERSION, ID_BYTES, KEY_BYTES, OUTPUT_BYTES
from node.transaction import IdHasher, Transaction, TransactionError, decode, spend_message
from node.verdict import Verdict

VALUE_BYTES = OUTPUT_BYTES - KEY_BYTES


class Rule(StrEnum):
    """What a block as a whole can break; TRANSACTION stands for all verdicts on single ones."""

    VERSION = "version"
    HEIGHT = "height"
    PREVIOUS = "previous"
    TIME = "time"
    PROPOSER = "proposer"
    COUNT = "count"
    SIZE = "size"
    ROOT = "root"
    TRANSACTION = "transaction"
    FEES = "fees"


class BlockInvalid(Exception):
    """A block that no correct node commits.

    ``rule`` is what it breaks; for a transaction, ``position`` is its number in the block and
    ``verdict`` its verdict.
    """

    def __init__(
        self,
        rule: Rule,
        detail: str,
        *,
        position: int | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        where = "" if position is None else f" {position}"
        name = "" if verdict is None else f" {verdict.name}"
        super().__init__(f"{rule}{where}{name}: {detail}")
        self.rule = rule
        self.detail = detail
        self.position = position
        self.verdict = verdict


class BlockBelow(Protocol):
    """The last committed block, or the genesis (height 0), as validity needs it."""

    @property
    def height(self) -> int: ...
    @property
    def block_id(self) -> bytes: ...
    @property
    def time_ms(self) -> int: ...


class LedgerView(Protocol):
    """The chain's state below a block; the chain store is one, `Ledger` another."""

    def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]: ...
    def find_transaction(self, txid: bytes, /) -> TxPosition | None: ...


@dataclass(slots=True)
class Changes:
    """What a valid block does to the ledger; outpoints are 33 bytes, outputs 40.

    ``spent``: outputs of blocks below that it spends; ``created``: outputs that it makes and does
    not spend itself, the reward included; ``positions``: of all ids that became final; ``fees``:
    units.
    """

    spent: dict[bytes, bytes] = field(default_factory=dict)
    created: dict[bytes, bytes] = field(default_factory=dict)
    positions: dict[bytes, TxPosition] = field(default_factory=dict)
    fees: int = 0


def validate_block(block: Block, below: BlockBelow, view: LedgerView, genesis: Genesis) -> Changes:
    """Return what a block changes, or raise BlockInvalid with the first rule that it breaks.

    ``below`` and ``view`` are the state that the block claims to follow. The block's own list of
    ids is not believed: ids are hashed again.
    """
    salt = salt_of(genesis_id(genesis))
    _check_header(block, below, genesis)
    hasher = IdHasher(salt)
    changes = Changes()
    txids = []
    for position, raw in enumerate(block.transactions):
        try:
            transaction = decode(raw, genesis.dust_limit)
            txid = hasher.txid(raw)
            _check_signatures(transaction, txid)
            _spend(transaction, view, genesis, changes)
        except TransactionError as error:
            raise BlockInvalid(
                Rule.TRANSACTION, error.detail, position=position, verdict=error.verdict
            ) from error
        for index, output in enumerate(transaction.outputs):
            changes.created[txid + bytes((index,))] = output.pack()
        changes.positions[txid] = TxPosition(
            block.header.height, position, len(transaction.outputs)
        )
        txids.append(txid)
    if txids != block.txids or merkle_root(txids, salt) != block.header.transaction_root:
        raise BlockInvalid(Rule.ROOT, "the transactions are not those that the header names")
    if changes.fees != block.header.fees:
        raise BlockInvalid(
            Rule.FEES, f"the header says {block.header.fees}, the transactions {changes.fees}"
        )
    _reward(block, genesis, salt, changes)
    return changes


def _check_header(block: Block, below: BlockBelow, genesis: Genesis) -> None:
    header = block.header
    size = sum(map(len, block.transactions))
    proposers = {validator.key_bytes for validator in genesis.validators}
    for rule, holds, detail in (
        (Rule.VERSION, header.version == BLOCK_VERSION, f"version {header.version}"),
        (
            Rule.HEIGHT,
            header.height == below.height + 1 <= MAX_HEIGHT,
            f"height {header.height} above {below.height}",
        ),
        (Rule.PREVIOUS, header.previous == below.block_id, "it follows another block"),
        (
            Rule.TIME,
            header.time_ms > below.time_ms,
            f"time {header.time_ms} is not after {below.time_ms} ms",
        ),
        (Rule.PROPOSER, header.proposer in proposers, "the proposer is no validator"),
        (
            Rule.COUNT,
            header.n_transactions == len(block.transactions) <= genesis.max_block_transactions,
            f"the header says {header.n_transactions} of {len(block.transactions)} transactions,"
            f" at most {genesis.max_block_transactions} may be",
        ),
        (
            Rule.SIZE,
            size <= genesis.max_block_bytes,
            f"transactions of {size} bytes, at most {genesis.max_block_bytes} may be",
        ),
    ):
        if not holds:
            raise BlockInvalid(rule, detail)


def _check_signatures(transaction: Transaction, txid: bytes) -> None:
    message = spend_message(txid)
    for number, witness in enumerate(transaction.witnesses):
        try:
            VerifyKey(witness.key).verify(message, witness.signature)
        except BadSignatureError as error:
            raise TransactionError(
                Verdict.BAD_SIGNATURE, f"witness {number} did not sign this"
            ) from error


def _spend(transaction: Transaction, view: LedgerView, genesis: Genesis, changes: Changes) -> None:
    """Check a transaction's inputs against the ledger, take them out of it and add up the fee."""
    outpoints = [spent.outpoint for spent in transaction.inputs]
    below = view.get_outputs(outpoints)
    outputs = []
    for outpoint, output in zip(outpoints, below, strict=True):
        output = changes.created.get(outpoint, output)
        if output is None or outpoint in changes.spent:
            raise TransactionError(_why_missing(outpoint, view, changes), "no such unspent output")
        outputs.append(output)
    for spent, output in zip(transaction.inputs, outputs, strict=True):
        if output[VALUE_BYTES:] != transaction.witnesses[spent.witness].key:
            raise TransactionError(Verdict.WRONG_OWNER, "the witness does not own the output")
    total = sum(int.from_bytes(output[:VALUE_BYTES], "little") for output in outputs)
    fee = total - transaction.output_sum
    if fee < 0:
        raise TransactionError(
            Verdict.INPUTS_BELOW_OUTPUTS, f"inputs of {total}, outputs of {total - fee} units"
        )
    if fee < genesis.min_fee:
        raise TransactionError(
            Verdict.FEE_BELOW_MINIMUM, f"a fee of {fee}, at least {genesis.min_fee} units needed"
        )
    for outpoint, output in zip(outpoints, below, strict=True):
        if output is None:
            del changes.created[outpoint]
        else:
            changes.spent[outpoint] = output
    changes.fees += fee


def _why_missing(outpoint: bytes, view: LedgerView, changes: Changes) -> Verdict:
    parent = outpoint[:ID_BYTES]
    position = changes.positions.get(parent) or view.find_transaction(parent)
    if position is not None and outpoint[ID_BYTES] < position.n_outputs:
        return Verdict.SPENT_INPUT
    return Verdict.NO_SUCH_OUTPUT


def _reward(block: Block, genesis: Genesis, salt: bytes, changes: Changes) -> None:
    header = block.header
    value = changes.fees + reward_at(genesis, header.height)
    if value:
        txid = reward_txid(header.height, header.previous, salt)
        changes.created[txid + b"\0"] = encode_output(value, header.proposer)
        changes.positions[txid] = TxPosition(header.height, len(block.transactions), 1)


class Ledger:
    """The whole state of a chain in dictionaries: for replays and tests, not for a node at work.

    ``allocations`` is the content of the allocation file; raises GenesisError when it is not the
    one that the genesis names.
    """

    def __init__(self, genesis: Genesis, allocations: bytes) -> None:
        check_allocations(allocations, genesis)
        self.genesis = genesis
        self.block_id = genesis_id(genesis)
        self.height = 0
        self.time_ms = genesis.time_ms
        self.outputs: dict[bytes, bytes] = {}
        self._positions: dict[bytes, TxPosition] = {}
        groups = allocation_outputs(allocations, salt_of(self.block_id))
        for number, (txid, outputs) in enumerate(groups):
            self._positions[txid] = TxPosition(0, number, len(outputs))
            for index, output in enumerate(outputs):
                self.outputs[txid + bytes((index,))] = output

    def get_outputs(self, outpoints: list[bytes]) -> list[bytes | None]:
        """Return the unspent output at each outpoint, or None, in order."""
        return [self.outputs.get(outpoint) for outpoint in outpoints]

    def find_transaction(self, txid: bytes) -> TxPosition | None:
        """Return the position of a final transaction, allocation id or reward, or None."""
        return self._positions.get(txid)

    def apply(self, block: Block) -> Changes:
        """Validate a block and apply it; raises BlockInvalid, and then nothing has changed."""
        changes = validate_block(block, self, self, self.genesis)
        for outpoint in changes.spent:
            del self.outputs[outpoint]
        self.outputs.update(changes.created)
        self._positions.update(changes.positions)
        self.block_id = block.id(salt_of(genesis_id(self.genesis)))
        self.height = block.header.height
        self.time_ms = block.header.time_ms
        return changes

    def supply(self) -> int:
        """Return the sum of all unspent outputs, in units."""
        return sum(
            int.from_bytes(output[:VALUE_BYTES], "little") for output in self.outputs.values()
        )


def replay(genesis: Genesis, allocations: bytes, blocks: Iterable[Block]) -> dict[bytes, bytes]:
    """Return the unspent outputs (outpoint[33] -> output[40]) after these blocks, heights 1 and up.

    Every rule is checked on the way, signatures included. Raises BlockInvalid, GenesisError.
    """
    ledger = Ledger(genesis, allocations)
    for block in blocks:
        ledger.apply(block)
    return ledger.outputs
