"""Making a workload: a funded genesis and transactions that spend it, all signed in advance.

Options and a seed come in, a directory in the layout of ``workload_file`` comes out; the same
options and seed give the same bytes. Everything is drawn from SHAKE-128, so no library's generator
decides what a seed means. Work goes segment by segment, vectorised: positions, bodies and witnesses
are arrays, ids go through ``hashlib`` one by one, keys and signatures through
``node.verification.signing`` in bulk, on two threads (they leave the interpreter lock). Memory
holds the keys and a segment, never the outputs.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from node.genesis import (
    Allocations,
    Genesis,
    Validator,
    allocation_txid,
    genesis_id,
    genesis_to_json,
    salt_of,
)
from node.keys import KeyFileError, create_key_file
from node.params import (
    ALLOCATIONS_PER_ID,
    ID_BYTES,
    INPUT_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    OUTPUT_BYTES,
    SIGN_PREFIX_BYTES,
    SIGN_PREFIX_SPEND,
    SIGNATURE_BYTES,
    SIGNED_MESSAGE_BYTES,
    TX_HEADER_BYTES,
    TX_VERSION,
    UNITS_PER_TIME,
    WITNESS_BYTES,
)
from node.transaction import IdHasher
from node.verdict import Verdict
from node.verification.signing import derive_keys, sign_messages
from tools.loadgen.errors import LoadError
from tools.loadgen.workload_file import (
    ALLOCATIONS_NAME,
    DATA_NAME,
    GENESIS_NAME,
    INDEX_NAME,
    KEY_NAME,
    MAX_TRANSACTIONS,
    SUMMARY_NAME,
    Columns,
    Truth,
    columns,
    index_bytes,
    pack_header,
)

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

OUTPUTS_PER_TRANSACTION = 2  # the payment and the change
CHANGE_INDEX = 1
SEGMENT_TRANSACTIONS = 32_768  # built at once: about 60 MB of scratch with four inputs
OUTPUT_RECORDS = 131_072  # allocation records written at once
SIGNING_BATCH = (
    4_096  # signatures per call: long enough that two threads do not wait for each other
)

# Within the ancestor limit of 25 that nodes have by default, with room for a block that is late.
CHAIN_DEPTH = 20
CHAINS_AT_ONCE = 4_096  # a child is sent so many transactions after its parent

GENESIS_TIME_MS = 1_700_000_000_000  # fixed: the same seed is the same chain
MIN_FEE = 1_000
DUST_LIMIT = 1_000
FEE_PER_BYTE = 100  # one rate for all, so that none replaces or evicts another
LARGEST_VALUE = 10 * UNITS_PER_TIME
MAX_BLOCK_BYTES = 8 * 1024 * 1024
MAX_BLOCK_TRANSACTIONS = 32_768

# Ed25519's group order: S + L verifies where S < L is not checked.
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

_MAX_SEED_CHARACTERS = 200


class Kind(StrEnum):
    """Shape of the transactions."""

    ONE_INPUT = "1in"
    FOUR_INPUTS = "4in"
    MIXED = "mixed"
    CHAINED = "chained"


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """What to make.

    ``outputs`` is the size of the genesis set (0: as many as are spent). ``bad_signatures`` is the
    share of transactions that carry one; ``double_spends`` the share that spends again what another
    one of the workload spends (so twice that share is in such a pair). Raises LoadError for
    impossible values.
    """

    transactions: int
    kind: Kind = Kind.ONE_INPUT
    outputs: int = 0
    bad_signatures: float = 0.0
    double_spends: float = 0.0
    seed: str = "1"
    chain: str = "dev"
    max_block_bytes: int = MAX_BLOCK_BYTES
    max_block_transactions: int = MAX_BLOCK_TRANSACTIONS

    def __post_init__(self) -> None:
        if not 1 <= self.transactions <= MAX_TRANSACTIONS:
            raise LoadError(
                f"cannot make {self.transactions:,} transactions",
                f"ask for 1 to {MAX_TRANSACTIONS:,}",
            )
        for name in ("bad_signatures", "double_spends"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LoadError(
                    f"a share of {getattr(self, name)} for {name.replace('_', ' ')} is impossible",
                    "give a share from 0 to 1",
                )
        if self.n_bad + 2 * self.n_pairs > self.transactions:
            raise LoadError(
                f"{self.n_bad:,} bad signatures and {self.n_pairs:,} pairs of double spends do not "
                f"fit into {self.transactions:,} transactions",
                "lower the shares: bad signatures + 2 x double spends may be 1 at most",
            )
        if not 0 <= self.outputs <= 2**32:
            raise LoadError(f"{self.outputs} outputs are impossible", "give 0 to 2^32")
        if len(self.seed) > _MAX_SEED_CHARACTERS:
            raise LoadError("the seed is too long", f"use up to {_MAX_SEED_CHARACTERS} letters")

    @property
    def n_bad(self) -> int:
        """Transactions with a bad signature."""
        return round(self.transactions * self.bad_signatures)

    @property
    def n_pairs(self) -> int:
        """Pairs of transactions that spend the same outputs."""
        return round(self.transactions * self.double_spends)


class RandomStreams:
    """Bytes that depend on the seed, a purpose and a number, and on nothing else."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()

    def take(self, purpose: str, number: int, size: int) -> bytes:
        """Return ``size`` bytes."""
        name = b"time-load\0%s\0%d\0%s" % (purpose.encode(), number, self._seed)
        return hashlib.shake_128(name).digest(size)

    def rows(self, purpose: str, number: int, count: int, width: int = KEY_BYTES) -> Bytes:
        """Return u8[count, width], read-only."""
        return np.frombuffer(self.take(purpose, number, count * width), np.uint8).reshape(
            count, width
        )

    def words(self, purpose: str, number: int, count: int) -> npt.NDArray[np.uint64]:
        """Return u64[count], read-only."""
        return np.frombuffer(self.take(purpose, number, 8 * count), "<u8")

    def permutation(self, purpose: str, count: int) -> Indices:
        """Return the numbers 0 .. count - 1 in a random order."""
        return np.argsort(self.words(purpose, 0, count), kind="stable")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who spends what, before any byte is made; arrays have one entry per transaction.

    Keys 0 .. n_funded - 1 own genesis outputs, the rest own change that a later transaction spends.
    ``first_key`` is the key of the first input (its inputs have consecutive ones), ``level`` the
    place in a chain. ``segments`` are ranges that can be built one after another: no chain leaves
    its segment.
    """

    kinds: Bytes
    n_inputs: Bytes
    partner: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    level: Bytes
    first_key: Indices
    n_funded: int
    n_keys: int
    segments: tuple[tuple[int, int], ...]


def make_plan(options: WorkloadOptions, random: RandomStreams) -> Plan:
    """Decide the truth of each transaction, its partner, its parent and its keys."""
    count = options.transactions
    kinds = np.zeros(count, np.uint8)
    partner = np.full(count, -1, np.int32)
    parent = np.full(count, -1, np.int32)
    level = np.zeros(count, np.uint8)

    special = random.permutation("special", count)
    kinds[special[: options.n_bad]] = Truth.BAD_SIGNATURE
    first, second = _pairs(special[options.n_bad : options.n_bad + 2 * options.n_pairs])
    kinds[first] = kinds[second] = Truth.RIVAL
    partner[first], partner[second] = second, first

    n_inputs = np.ones(count, np.uint8)
    if options.kind is Kind.FOUR_INPUTS:
        n_inputs[:] = 4
    elif options.kind is Kind.MIXED:
        n_inputs[random.permutation("shape", count)[: count // 2]] = 4
        n_inputs[second] = n_inputs[first]

    if options.kind is Kind.CHAINED:
        segments = _chain(np.flatnonzero(kinds == Truth.GOOD), count, parent, level)
    else:
        segments = _spans(count, SEGMENT_TRANSACTIONS)

    spends_genesis = parent < 0
    spends_genesis[second] = False
    funded = np.where(spends_genesis, n_inputs, 0).astype(np.int64)
    first_key = np.cumsum(funded) - funded
    n_funded = int(funded.sum())
    first_key[second] = first_key[first]
    children = np.flatnonzero(parent >= 0)
    first_key[children] = n_funded + np.arange(len(children))
    return Plan(
        kinds,
        n_inputs,
        partner,
        parent,
        level,
        first_key,
        n_funded,
        n_funded + len(children),
        tuple(segments),
    )


def _pairs(places: Indices) -> tuple[Indices, Indices]:
    """Pair up places: half of them with a near one, half of them with one far away."""
    n_pairs = len(places) // 2
    n_near = n_pairs // 2
    near = np.sort(places[: 2 * n_near])
    far = np.sort(places[2 * n_near :])
    n_far = n_pairs - n_near
    return (
        np.concatenate((near[0::2], far[:n_far])),
        np.concatenate((near[1::2], far[n_far:])),
    )


def _chain(
    good: Indices, count: int, parent: npt.NDArray[np.int32], level: Bytes
) -> list[tuple[int, int]]:
    """Link the good transactions into chains, level after level; returns the segments."""
    # Scaled by their share, so that a segment's size does not depend on what lies between them.
    at_once = max(1, CHAINS_AT_ONCE * len(good) // count)
    bounds = [0]
    for start in range(0, len(good), at_once * CHAIN_DEPTH):
        members = good[start : start + at_once * CHAIN_DEPTH]
        chains = -(-len(members) // CHAIN_DEPTH)
        parent[members[chains:]] = members[: len(members) - chains]
        level[members] = np.arange(len(members)) // chains
        bounds.append(int(members[-1]) + 1)
    if len(bounds) == 1:
        return _spans(count, SEGMENT_TRANSACTIONS)
    bounds[-1] = count
    return list(pairwise(bounds))


class Keys:
    """The owners' keys of a plan: seeds and public keys, u8[n_keys, 32] each."""

    def __init__(self, count: int, random: RandomStreams, pool: Executor) -> None:
        self.seeds = np.empty((count, KEY_BYTES), np.uint8)
        self.publics = np.empty((count, KEY_BYTES), np.uint8)
        for number, start in enumerate(range(0, count, SEGMENT_TRANSACTIONS)):
            stop = min(start + SEGMENT_TRANSACTIONS, count)
            self.seeds[start:stop] = random.rows("keys", number, stop - start)

        def derive(span: tuple[int, int]) -> None:
            self.publics[span[0] : span[1]] = derive_keys(self.seeds[span[0] : span[1]])

        for _ in pool.map(derive, _spans(count, SIGNING_BATCH)):
            pass


def _spans(count: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, count)) for start in range(0, count, step)]


@dataclass(frozen=True, slots=True)
class Funding:
    """The genesis outputs that the workload spends, in the order of their keys.

    ``positions`` are records of the allocation file, ``values`` units.
    """

    positions: Indices
    values: npt.NDArray[np.uint64]
    allocations: Allocations


def write_allocations(
    path: Path, n_outputs: int, publics: Bytes, random: RandomStreams, progress: Progress
) -> Funding:
    """Write ``genesis.alloc``: outputs of our keys spread over others, which random keys own."""
    n_funded = len(publics)
    positions = random.permutation("places", n_outputs)[:n_funded]
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    funded_values = np.empty(n_funded, np.uint64)
    largest = np.uint64(min(LARGEST_VALUE, MAX_AMOUNT // n_outputs))
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    total = 0
    with path.open("wb") as file:
        for number, (start, stop) in enumerate(_spans(n_outputs, OUTPUT_RECORDS)):
            size = stop - start
            values = largest - random.words("values", number, size) % (largest // np.uint64(2))
            records = np.empty((size, OUTPUT_BYTES), np.uint8)
            records[:, :8] = values.reshape(-1, 1).view(np.uint8)
            records[:, 8:] = random.rows("others", number, size)
            low, high = np.searchsorted(ordered, (start, stop))
            ours = order[low:high]
            places = ordered[low:high] - start
            records[places, 8:] = publics[ours]
            funded_values[ours] = values[places]
            total += int(values.sum())
            chunk = records.data
            digest.update(chunk)
            file.write(chunk)
            progress("outputs", stop, n_outputs)
    allocations = Allocations(count=n_outputs, total=total, digest=digest.hexdigest())
    return Funding(positions, funded_values, allocations)


@dataclass(frozen=True, slots=True)
class Shape:
    """Places of the parts of a transaction with so many inputs, one owner each, and two outputs."""

    n_inputs: int
    dtype: np.dtype[np.void]
    body_bytes: int

    @staticmethod
    def of(n_inputs: int) -> Shape:
        dtype = np.dtype(
            [
                ("header", "u1", (TX_HEADER_BYTES,)),
                ("inputs", [("txid", "u1", (ID_BYTES,)), ("index", "u1"), ("witness", "u1")],
                 (n_inputs,)),
                ("outputs", [("value", "<u8"), ("owner", "u1", (KEY_BYTES,))],
                 (OUTPUTS_PER_TRANSACTION,)),
                ("witnesses",
                 [("key", "u1", (KEY_BYTES,)), ("signature", "u1", (SIGNATURE_BYTES,))],
                 (n_inputs,)),
            ]
        )  # fmt: skip
        body_bytes = (
            TX_HEADER_BYTES + n_inputs * INPUT_BYTES + OUTPUTS_PER_TRANSACTION * OUTPUT_BYTES
        )
        assert dtype.itemsize == body_bytes + n_inputs * WITNESS_BYTES
        return Shape(n_inputs, dtype, body_bytes)


SHAPES = {n: Shape.of(n) for n in (1, 4)}
SMALLEST_FUNDING = 64 * DUST_LIMIT + 2 * CHAIN_DEPTH * FEE_PER_BYTE * SHAPES[4].dtype.itemsize


class Builder:
    """Builds the transactions of a plan, segment by segment."""

    def __init__(
        self, plan: Plan, keys: Keys, funding: Funding, salt: bytes, random: RandomStreams,
        pool: Executor,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._keys = keys
        self._funding = funding
        self._hasher = IdHasher(salt)
        self._random = random
        self._pool = pool
        n_ids = -(-funding.allocations.count // ALLOCATIONS_PER_ID)
        ids = [allocation_txid(number, salt) for number in range(n_ids)]
        self._allocation_ids = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID_BYTES)
        self._allocation_ranks = np.empty(n_ids, np.int64)
        self._allocation_ranks[sorted(range(n_ids), key=ids.__getitem__)] = np.arange(n_ids)
        child = np.full(len(plan.kinds), -1, np.int64)
        children = np.flatnonzero(plan.parent >= 0)
        child[plan.parent[children]] = children
        self._child = child

    def segment(self, number: int, out: Columns) -> Bytes:
        """Build a segment: its rows of the columns are filled in, its transactions returned."""
        plan = self._plan
        start, stop = plan.segments[number]
        size = stop - start
        n_inputs = plan.n_inputs[start:stop]
        lengths = np.zeros(5, np.int64)
        for n, shape in SHAPES.items():
            lengths[n] = shape.dtype.itemsize
        lengths = lengths[n_inputs]
        ends = np.cumsum(lengths)
        data = np.empty(int(ends[-1]), np.uint8)
        txids = out.txids[start:stop]
        change = np.zeros(size, np.uint64)
        payments = self._random.words("payments", number, size)
        payees = self._random.rows("payees", number, size)
        change_owners = self._random.rows("change", number, size).copy()
        has_child = np.flatnonzero(self._child[start:stop] >= 0)
        child_keys = plan.first_key[self._child[start:stop][has_child]]
        change_owners[has_child] = self._keys.publics[child_keys]
        level = plan.level[start:stop]
        for depth in range(int(level.max()) + 1):
            for n, shape in SHAPES.items():
                which = np.flatnonzero((level == depth) & (n_inputs == n))
                if not len(which):
                    continue
                rows = np.zeros(len(which), shape.dtype)
                rows["header"] = (TX_VERSION, n, OUTPUTS_PER_TRANSACTION, n)
                owners = self._fill_inputs(rows, which, start, txids, change, payments)
                rows["outputs"]["owner"][:, 0] = payees[which]
                rows["outputs"]["owner"][:, CHANGE_INDEX] = change_owners[which]
                txids[which] = self._sign(rows, shape, owners, start + which)
                _scatter(rows, data, ends[which] - lengths[which])
        out.lengths[start:stop] = lengths
        out.kinds[start:stop] = plan.kinds[start:stop]
        out.partner[start:stop] = plan.partner[start:stop]
        out.parent[start:stop] = plan.parent[start:stop]
        out.expected[start:stop] = np.where(
            plan.kinds[start:stop] == Truth.BAD_SIGNATURE, Verdict.BAD_SIGNATURE, Verdict.ADMITTED
        )
        return data

    def _fill_inputs(
        self,
        rows: npt.NDArray[np.void],
        which: Indices,
        start: int,
        txids: Bytes,
        change: npt.NDArray[np.uint64],
        payments: npt.NDArray[np.uint64],
    ) -> Indices:
        """Fill inputs and values; returns the owners' keys in input order, i64[n, inputs]."""
        inputs = rows["inputs"]
        n_inputs = inputs.shape[1]
        parent = self._plan.parent[start + which]
        if int(parent[0]) < 0:  # one level of a chain has either parents throughout or none
            owners = self._plan.first_key[start + which, None] + np.arange(n_inputs)
            positions = self._funding.positions[owners]
            # Comparing (rank of the id, index) is comparing outpoints bytewise.
            ranks = self._allocation_ranks[positions // ALLOCATIONS_PER_ID]
            order = np.argsort(ranks * ALLOCATIONS_PER_ID + positions % ALLOCATIONS_PER_ID, axis=1)
            owners = np.take_along_axis(owners, order, axis=1)
            positions = self._funding.positions[owners]
            inputs["txid"] = self._allocation_ids[positions // ALLOCATIONS_PER_ID]
            inputs["index"] = positions % ALLOCATIONS_PER_ID
            value = self._funding.values[owners].sum(axis=1)
        else:
            owners = self._plan.first_key[start + which, None]
            inputs["txid"][:, 0] = txids[parent - start]
            inputs["index"] = CHANGE_INDEX
            value = change[parent - start]
        inputs["witness"] = np.arange(n_inputs)
        value = value - np.uint64(FEE_PER_BYTE * rows.dtype.itemsize)
        # A small part is paid, so that a chain does not run dry.
        paid = np.uint64(DUST_LIMIT) + payments[which] % (value // np.uint64(32))
        rows["outputs"]["value"][:, 0] = paid
        rows["outputs"]["value"][:, CHANGE_INDEX] = change[which] = value - paid
        return owners

    def _sign(
        self, rows: npt.NDArray[np.void], shape: Shape, owners: Indices, which: Indices
    ) -> Bytes:
        """Fill the witnesses, breaking one where the plan says so; returns the ids, u8[n, 32]."""
        count, n_inputs = owners.shape
        flat = rows.view(np.uint8).reshape(count, shape.dtype.itemsize)
        bodies = flat[:, : shape.body_bytes].tobytes()
        step = shape.body_bytes
        ids = self._hasher.body_ids([bodies[i : i + step] for i in range(0, len(bodies), step)])
        txids = np.frombuffer(ids, np.uint8).reshape(count, ID_BYTES)

        bad = np.flatnonzero(self._plan.kinds[which] == Truth.BAD_SIGNATURE)
        damage = which[bad] % 4
        witness = (which[bad] // 4) % n_inputs
        messages = np.empty((count, n_inputs, SIGNED_MESSAGE_BYTES), np.uint8)
        messages[:, :, :SIGN_PREFIX_BYTES] = np.frombuffer(SIGN_PREFIX_SPEND, np.uint8)
        messages[:, :, SIGN_PREFIX_BYTES:] = txids[:, None, :]
        messages[bad[damage == 0], witness[damage == 0], -1] ^= 1  # another transaction's

        keys = owners.reshape(-1)
        signatures = np.empty((len(keys), SIGNATURE_BYTES), np.uint8)
        publics = self._keys.publics[keys]
        seeds = self._keys.seeds[keys]
        flat_messages = messages.reshape(-1, SIGNED_MESSAGE_BYTES)

        def sign(span: tuple[int, int]) -> None:
            part = slice(*span)
            signatures[part] = sign_messages(seeds[part], publics[part], flat_messages[part])

        for _ in self._pool.map(sign, _spans(len(keys), SIGNING_BATCH)):
            pass
        shaped = signatures.reshape(count, n_inputs, SIGNATURE_BYTES)
        shaped[bad[damage == 1], witness[damage == 1], 0] ^= 1  # R
        shaped[bad[damage == 2], witness[damage == 2], 32] ^= 1  # S
        for row, column in zip(bad[damage == 3], witness[damage == 3], strict=True):
            scalar = int.from_bytes(shaped[row, column, 32:].tobytes(), "little") + GROUP_ORDER
            shaped[row, column, 32:] = np.frombuffer(scalar.to_bytes(32, "little"), np.uint8)
        rows["witnesses"]["key"] = publics.reshape(count, n_inputs, KEY_BYTES)
        rows["witnesses"]["signature"] = shaped
        return txids


def _scatter(rows: npt.NDArray[np.void], data: Bytes, places: Indices) -> None:
    """Copy rows of one size to their places in ``data``."""
    size = rows.dtype.itemsize
    flat = rows.view(np.uint8).reshape(len(rows), size)
    if len(data) == flat.size:
        data[:] = flat.reshape(-1)
        return
    for start, stop in _spans(len(rows), 4_096):
        data[places[start:stop, None] + np.arange(size)] = flat[start:stop]


def prepare(
    directory: Path, options: WorkloadOptions, progress: Progress = lambda _what, _done, _all: None
) -> None:
    """Make a workload in a directory, which is created and must not hold one yet.

    ``progress`` is called with (what, done, of how many). Raises LoadError: the directory is not
    empty, not writable or full, or the options cannot be met.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise LoadError(
                f"{directory} is not empty", "name a new directory, or delete that one first"
            )
        _prepare(directory, options, progress)
    except OSError as error:
        raise LoadError(
            f"cannot write {error.filename or directory}: {error.strerror}",
            "check permission and space there, or name another directory",
        ) from error
    except KeyFileError as error:
        raise LoadError(error.message, "name another directory") from error


def _prepare(directory: Path, options: WorkloadOptions, progress: Progress) -> None:
    random = RandomStreams(options.seed)
    plan = make_plan(options, random)
    n_outputs = options.outputs or plan.n_funded
    if n_outputs < plan.n_funded:
        raise LoadError(
            f"{options.transactions:,} transactions spend {plan.n_funded:,} outputs, "
            f"and the genesis is to have {n_outputs:,}",
            f"ask for at least --outputs {plan.n_funded}",
        )
    if min(LARGEST_VALUE, MAX_AMOUNT // n_outputs) // 2 < SMALLEST_FUNDING:
        raise LoadError(f"{n_outputs:,} outputs are worth too little each", "ask for fewer")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        progress("keys", 0, plan.n_keys)
        keys = Keys(plan.n_keys, random, pool)
        progress("keys", plan.n_keys, plan.n_keys)
        funding = write_allocations(
            directory / ALLOCATIONS_NAME, n_outputs, keys.publics[: plan.n_funded], random, progress
        )
        validator = create_key_file(directory / KEY_NAME, random.take("validator", 0, KEY_BYTES))
        try:
            genesis = Genesis(
                chain=options.chain,
                time_ms=GENESIS_TIME_MS,
                min_fee=MIN_FEE,
                dust_limit=DUST_LIMIT,
                reward=UNITS_PER_TIME,
                max_block_bytes=options.max_block_bytes,
                max_block_transactions=options.max_block_transactions,
                validators=(Validator(key=bytes(validator.verify_key).hex(), power=1),),
                allocations=funding.allocations,
            )
        except ValueError as error:
            raise LoadError(f"no such genesis: {error}", "correct the options") from None
        (directory / GENESIS_NAME).write_bytes(genesis_to_json(genesis))
        chain_id = genesis_id(genesis)
        builder = Builder(plan, keys, funding, salt_of(chain_id), random, pool)
        data_bytes = _write_transactions(directory, builder, plan, chain_id, progress)
    summary = {
        **asdict(options),
        "outputs": n_outputs,
        "genesis_id": chain_id.hex(),
        "transactions_bytes": data_bytes,
        "kinds": {kind.name: int((plan.kinds == kind).sum()) for kind in Truth},
        "signatures": int(plan.n_inputs.sum()),
    }
    (directory / SUMMARY_NAME).write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))


def _write_transactions(
    directory: Path, builder: Builder, plan: Plan, chain_id: bytes, progress: Progress
) -> int:
    count = len(plan.kinds)
    size = index_bytes(count)
    data_bytes = 0
    with (directory / INDEX_NAME).open("wb+") as index, (directory / DATA_NAME).open("wb") as file:
        os.posix_fallocate(index.fileno(), 0, size)  # a full disk is an error here, not a SIGBUS
        mapped = mmap.mmap(index.fileno(), size)
        out = columns(mapped, count)
        for number, (_, stop) in enumerate(plan.segments):
            data = builder.segment(number, out)
            file.write(data.data)
            data_bytes += len(data)
            progress("transactions", stop, count)
        header = pack_header(count, data_bytes, chain_id)
        mapped[: len(header)] = header
        mapped.flush()
    return data_bytes
