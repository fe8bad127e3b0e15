"""Questions of ``rpc`` to ``consensus`` and their answers, as frames: pure.

``rpc`` sends an `Ask` over the link ``ask``; `node.answering`, which the consensus stage calls,
sends a `Told` with the same number over ``told``, and a `NewBlock` under number 0 after every
commit. Both links drop what finds no room, so whoever asks must be able to ask again. MessagePack
arrays by msgspec; each list has a bound, so that no answer takes long.
"""

from __future__ import annotations

from typing import Final

import msgspec

from node.params import ID_BYTES, KEY_BYTES, MAX_TX_BYTES, OUTPOINT_BYTES

MAX_BLOCKS: Final = 256  # places of blocks in one answer: a millisecond of reads
MAX_OUTPOINTS: Final = 256
MAX_ENTRIES: Final = 64  # of the mempool, with their bytes
MAX_STATUSES: Final = 256
MAX_IDS: Final = 10_000  # of the mempool: 320 kB
MAX_UNSPENT: Final = 200  # of an owner, each with a look for its height: a millisecond, warm
NEWS: Final = 0  # the number of what nobody asked for


class QueryError(ValueError):
    """A frame that is no question, or no answer; the message tells why."""


class _Struct(msgspec.Struct, frozen=True, array_like=True, tag_field="is"):
    pass


# Questions


class Overview(_Struct, frozen=True, array_like=True, tag="overview"):
    """Where the chain, the mempool and agreement are: `OverviewIs`."""


class Blocks(_Struct, frozen=True, array_like=True, tag="blocks"):
    """Where blocks lie, from a height on: `BlocksAre`."""

    first: int
    count: int


class HeightOf(_Struct, frozen=True, array_like=True, tag="height_of"):
    """Which height a block has: `HeightIs`."""

    block_id: bytes


class Find(_Struct, frozen=True, array_like=True, tag="find"):
    """Where a transaction is: `Found`."""

    txid: bytes


class Statuses(_Struct, frozen=True, array_like=True, tag="statuses"):
    """How far transactions are: `StatusesAre`."""

    txids: tuple[bytes, ...]


class Outputs(_Struct, frozen=True, array_like=True, tag="outputs"):
    """What is unspent at outpoints[33]: `OutputsAre`."""

    outpoints: tuple[bytes, ...]


class PoolIds(_Struct, frozen=True, array_like=True, tag="pool_ids"):
    """Ids in the mempool, from a place in its order on: `PoolIdsAre`."""

    start: int


class PoolEntries(_Struct, frozen=True, array_like=True, tag="pool_entries"):
    """What the mempool knows of transactions: `PoolEntriesAre`."""

    txids: tuple[bytes, ...]


class Unspent(_Struct, frozen=True, array_like=True, tag="unspent"):
    """Outputs of an owner, behind an outpoint (b"" for the first): `UnspentIs`."""

    owner: bytes
    after: bytes


class CountOutputs(_Struct, frozen=True, array_like=True, tag="count_outputs"):
    """Go on with counting all outputs, or begin: `Counted`. The token is of the last answer."""

    token: int


class TryOut(_Struct, frozen=True, array_like=True, tag="try_out"):
    """What the mempool would say to a transaction whose encoding and signatures are good."""

    txid: bytes
    raw: bytes


class Decision(_Struct, frozen=True, array_like=True, tag="decision"):
    """The certificate of a height: `DecisionIs`."""

    height: int


Question = (
    Overview
    | Blocks
    | HeightOf
    | Find
    | Statuses
    | Outputs
    | PoolIds
    | PoolEntries
    | Unspent
    | CountOutputs
    | TryOut
    | Decision
)

# Answers


class OverviewIs(_Struct, frozen=True, array_like=True, tag="overview_is"):
    """Amounts in units; ``validator`` is this node's number or None before the signer spoke."""

    height: int
    block_id: bytes
    time_ms: int
    supply: int
    pool_items: int
    pool_bytes: int
    pool_fees: int
    orphans: int
    orphan_bytes: int
    behind: bool
    peers: int
    peer_height: int  # the highest that a peer has told, 0 without peers
    validator: int | None
    deciding: int  # the height that is being decided
    round: int
    step: str
    address_index: bool


class BlockRow(_Struct, frozen=True, array_like=True, tag="block_row"):
    """A committed block: file, offset and length as in `BodyLocation`."""

    height: int
    block_id: bytes
    file: int
    offset: int
    length: int


class BlocksAre(_Struct, frozen=True, array_like=True, tag="blocks_are"):
    """Those that there are, ascending; the tip's height beside them."""

    tip: int
    rows: tuple[BlockRow, ...]


class HeightIs(_Struct, frozen=True, array_like=True, tag="height_is"):
    """None: no block of this chain has that id; 0 is the genesis."""

    height: int | None


class Status(_Struct, frozen=True, array_like=True, tag="status"):
    """``height`` of the block that made it final, or None; ``held``: in the mempool, ``pinned``:
    in a proposed block.
    """

    height: int | None
    held: bool
    pinned: bool


class StatusesAre(_Struct, frozen=True, array_like=True, tag="statuses_are"):
    """In the order of the question, with the tip's height."""

    tip: int
    statuses: tuple[Status, ...]


class Found(_Struct, frozen=True, array_like=True, tag="found"):
    """``raw`` if it is in the mempool, ``block`` and ``position`` if it is in a committed one.

    ``height`` 0 with no block: an allocation of the genesis. A reward's position is the number of
    its block's transactions.
    """

    tip: int
    raw: bytes
    pinned: bool
    height: int | None
    position: int
    block: BlockRow | None


class OutputRow(_Struct, frozen=True, array_like=True, tag="output"):
    """An output[40]; ``height`` None: of a transaction in the mempool; ``spender``: the id of the
    one in the mempool that spends it, or b"".
    """

    output: bytes
    height: int | None
    reward: bool
    spender: bytes


class OutputsAre(_Struct, frozen=True, array_like=True, tag="outputs_are"):
    """None for each that is spent or unknown; ``height`` and ``block_id`` of the tip."""

    height: int
    block_id: bytes
    rows: tuple[OutputRow | None, ...]


class PoolIdsAre(_Struct, frozen=True, array_like=True, tag="pool_ids_are"):
    """Ids back to back, and how many the mempool has."""

    ids: bytes
    total: int


class PoolEntry(_Struct, frozen=True, array_like=True, tag="pool_entry"):
    """Units and ms since 1970; ``parents`` are those in the mempool, ``children`` likewise."""

    raw: bytes
    fee: int
    admitted_ms: int
    ancestors: int
    parents: tuple[bytes, ...]
    children: tuple[bytes, ...]
    pinned: bool


class PoolEntriesAre(_Struct, frozen=True, array_like=True, tag="pool_entries_are"):
    """In the order of the question, None for those that are not in the mempool."""

    height: int
    entries: tuple[PoolEntry | None, ...]


class UnspentRow(_Struct, frozen=True, array_like=True, tag="unspent_row"):
    """``spender``: the id of a transaction in the mempool that spends it, or b""."""

    outpoint: bytes
    value: int
    height: int
    reward: bool
    spender: bytes


class UnspentIs(_Struct, frozen=True, array_like=True, tag="unspent_is"):
    """``more``: ask on behind the last of these. ``on`` is False if there is no index."""

    on: bool
    tip: int
    rows: tuple[UnspentRow, ...]
    more: bool


class Counted(_Struct, frozen=True, array_like=True, tag="counted"):
    """As of one block, whatever is committed meanwhile; ``digest`` is empty until it is done.

    ``token`` 0: there is no such count (any more), begin again.
    """

    token: int
    height: int
    block_id: bytes
    outputs: int
    units: int
    digest: bytes


class Tried(_Struct, frozen=True, array_like=True, tag="tried"):
    """A `Verdict`, and the fee in units where it is known."""

    verdict: int
    fee: int


class DecisionIs(_Struct, frozen=True, array_like=True, tag="decision_is"):
    """The certificate as `node.consensus.wire` encodes it; empty if there is none."""

    certificate: bytes


class NewBlock(_Struct, frozen=True, array_like=True, tag="new_block"):
    """A block was committed."""

    height: int
    block_id: bytes


Answer = (
    OverviewIs
    | BlocksAre
    | HeightIs
    | StatusesAre
    | Found
    | OutputsAre
    | PoolIdsAre
    | PoolEntriesAre
    | UnspentIs
    | Counted
    | Tried
    | DecisionIs
    | NewBlock
)


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """A question under a number that the asking process has used for nothing else."""

    number: int
    question: Question


class Told(msgspec.Struct, frozen=True, array_like=True):
    """The answer to the question of that number."""

    number: int
    answer: Answer


_encode = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(Ask).decode
_decode_told = msgspec.msgpack.Decoder(Told).decode


def encode(frame: Ask | Told) -> bytes:
    """Return the bytes of a question or an answer."""
    return _encode(frame)


def decode_ask(data: bytes) -> Ask:
    """Read a question and check its sizes; raises `QueryError` and nothing else."""
    try:
        ask: Ask = _decode_ask(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise QueryError(f"no question: {error}") from None
    _check(ask.question)
    return ask


def decode_told(data: bytes) -> Told:
    """Read an answer; raises `QueryError` and nothing else."""
    try:
        told: Told = _decode_told(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise QueryError(f"no answer: {error}") from None
    return told


def _check(question: Question) -> None:
    match question:
        case Blocks(first, count):
            _expect(0 <= first < 2**63 and 1 <= count <= MAX_BLOCKS, "heights")
        case HeightOf(block_id):
            _expect(len(block_id) == ID_BYTES, "a block's id")
        case Find(txid):
            _expect(len(txid) == ID_BYTES, "a transaction's id")
        case Statuses(txids):
            _expect(len(txids) <= MAX_STATUSES, "so many ids")
            _expect(all(len(each) == ID_BYTES for each in txids), "ids")
        case PoolEntries(txids):
            _expect(len(txids) <= MAX_ENTRIES, "so many ids")
            _expect(all(len(each) == ID_BYTES for each in txids), "ids")
        case Outputs(outpoints):
            _expect(len(outpoints) <= MAX_OUTPOINTS, "so many outpoints")
            _expect(all(len(each) == OUTPOINT_BYTES for each in outpoints), "outpoints")
        case PoolIds(start):
            _expect(0 <= start < 2**31, "a place in the mempool")
        case Unspent(owner, after):
            _expect(len(owner) == KEY_BYTES, "an owner")
            _expect(len(after) in (0, OUTPOINT_BYTES), "an outpoint")
        case TryOut(txid, raw):
            _expect(len(txid) == ID_BYTES and len(raw) <= MAX_TX_BYTES, "a transaction")
        case Decision(height):
            _expect(0 <= height < 2**63, "a height")
        case Overview() | CountOutputs():
            pass


def _expect(right: bool, what: str) -> None:
    if not right:
        raise QueryError(f"a question without {what} in its bounds")
