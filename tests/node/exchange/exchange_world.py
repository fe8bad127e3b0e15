"""A network of nodes that exchange blocks: real stores, mempools, verifiers and signatures, joined
by a wire that loses, repeats and reorders, on a clock of its own. Everything comes from one seed.

A node here commits whatever `decided` or `commit_wanted` give it, as agreement would.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from certificates import certificate_of, encoded
from chains import OWNER_OF, SmallChain

from node.block import Block
from node.consensus.certificate import CertificateError, check_signatures
from node.consensus.messages import Certified
from node.exchange.exchange import Exchange
from node.exchange.messages import decode_part, encode_height
from node.exchange.verified import Arrived, from_columns
from node.genesis import validator_set
from node.mempool import Counters, Mempool, PolicyLimits
from node.network.frames import MAX_BODY_BYTES, FrameType
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
from node.verification.batch import BatchVerifier
from node.verification.columns import VerdictColumns
from node.verification.nacl import NaclBackend

MS = 1_000_000
STATUS_NS = 500 * MS
MAX_ITEMS = 1024
TRAY_BYTES = 256 * 1024
NACL = NaclBackend()

Frame = tuple[FrameType, bytes]


class Wire:
    """How bad the network is: shares of frames that are lost or come twice, and delays."""

    def __init__(self, loss: float = 0.0, twice: float = 0.0, most_ms: int = 40) -> None:
        self.loss = loss
        self.twice = twice
        self.most_ms = most_ms


class World:
    """The clock, the wire and the nodes."""

    def __init__(self, seed: int, chain: SmallChain, tmp_path: Path, wire: Wire) -> None:
        self.random = random.Random(seed)
        self.chain = chain
        self.wire = wire
        self.now_ns = 1_000_000_000
        self.nodes: list[Node] = []
        self._tmp_path = tmp_path
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0

    def unix_ms(self) -> int:
        return self.chain.genesis.time_ms + 10_000_000 + self.now_ns // MS

    def at(self, delay_ns: int, event: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now_ns + delay_ns, self._serial, event))

    def add(self, kind: type[Node] | None = None) -> Node:
        path = self._tmp_path / f"node-{len(self.nodes)}"
        path.mkdir()
        node = (kind or Node)(len(self.nodes) + 1, self, path)
        self.nodes.append(node)
        return node

    def join(self, *pairs: tuple[int, int]) -> None:
        """Connect nodes by their numbers (from 1); without pairs everybody with everybody."""
        numbers = [node.number for node in self.nodes]
        for one, other in pairs or [(a, b) for a in numbers for b in numbers if a < b]:
            for here, there in ((one, other), (other, one)):
                node = self.nodes[here - 1]
                node.peers.append(there)
                height = self.nodes[there - 1].told_height()
                node.exchange.peer_connected(there, height, self.now_ns)
        for node in self.nodes:
            self.at(STATUS_NS, node.tell_height)
            node.wake()

    def transmit(self, sender: int, receiver: int, frame_type: FrameType, body: bytes) -> None:
        assert len(body) <= MAX_BODY_BYTES[frame_type]
        wire = self.wire
        if self.random.random() < wire.loss:
            return
        for _ in range(2 if self.random.random() < wire.twice else 1):
            delay_ns = self.random.randrange(1, wire.most_ms) * MS
            self.at(delay_ns, partial(self.nodes[receiver - 1].receive, sender, frame_type, body))

    def run(self, until: Callable[[], bool], most_s: int) -> None:
        """Let things happen until something holds; it must within so many simulated seconds."""
        end_ns = self.now_ns + most_s * 1_000_000_000
        while not until():
            assert self._events, "nothing will ever happen again"
            self.now_ns, _, event = heapq.heappop(self._events)
            assert self.now_ns <= end_ns, "it takes too long"
            event()

    def close(self) -> None:
        for node in self.nodes:
            node.store.close()
            node.bodies.close()


class Node:
    """A node as block exchange sees it; it is its own host."""

    def __init__(self, number: int, world: World, path: Path) -> None:
        chain = world.chain
        genesis = chain.genesis
        self.number = number
        self.world = world
        self.chain = chain
        (path / "allocations").write_bytes(chain.allocations)
        ChainStore.create(path / "store", genesis, path / "allocations")
        self.store = ChainStore(path / "store", chain.id)
        self.bodies = BlockFiles(path / "blocks", chain.id)
        self.mempool = Mempool(self.store, PolicyLimits(), genesis.min_fee)
        self.peers: list[int] = []
        self.blamed: dict[int, int] = {}
        self.verdicts: dict[bytes, Block | None] = {}
        self.expected: dict[int, tuple[int, int]] = {}
        self.was_behind = False
        self.proofs: list[Certified] = []
        self.frames: dict[FrameType, int] = {}
        self._wake_ns = -1
        self._verifier = BatchVerifier(NACL, chain.salt, genesis.dust_limit, MAX_ITEMS, TRAY_BYTES)
        slot = bytearray(VerdictColumns.layout_bytes(MAX_ITEMS, TRAY_BYTES))
        self._columns = VerdictColumns(memoryview(slot), MAX_ITEMS, TRAY_BYTES)
        self.exchange = Exchange(
            self, self.store, self.bodies, self.mempool, genesis, world.random.getrandbits(32)
        )

    # -- what the tests do -----------------------------------------------------------------------

    def know(self, raws: list[bytes]) -> None:
        """Have these transactions in the mempool."""
        records = [(self.chain.hasher.txid(raw), raw, 1) for raw in raws]
        self.mempool.reload(records, Counters(), 2)

    def want(self, block: Block) -> None:
        value = block.id(self.chain.salt)
        world = self.world
        self.exchange.want(block.header.height, value, world.now_ns, world.unix_ms())
        self.wake()

    def propose(self, block: Block) -> None:
        self.exchange.proposed(block.id(self.chain.salt), block)
        self.wake()

    def commit(self, block: Block, certified: Certified) -> None:
        location = self.bodies.append(block.header.encode(), block.transactions)
        self.store.commit(block, location, encoded(certified.certificate))
        self.mempool.committed(block.txids, block.transactions)
        self.exchange.committed(block.header.height, self.world.now_ns)
        for peer in self.peers:
            self.say_height(peer)
        self.wake()

    def told_height(self) -> int:
        """What this node says of its height."""
        return self.store.tip.height

    # -- what happens to it ----------------------------------------------------------------------

    def receive(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        now_ns = self.world.now_ns
        self.frames[frame_type] = self.frames.get(frame_type, 0) + 1
        if frame_type is FrameType.PART:
            self._verify_part(peer, body)
        else:
            self.exchange.heard(peer, frame_type, body, now_ns)
        self.wake()

    def _verify_part(self, peer: int, body: bytes) -> None:
        """What the sockets' process and a verifier do."""
        part = decode_part(body)
        expected_peer, items = self.expected.get(part.request, (0, 0))
        if expected_peer != peer or part.first + len(part.lengths) > items:
            return
        offsets = np.array([0, *accumulate(part.lengths)], np.uint32)
        self._verifier.verify(part.payload, offsets, self._columns)
        arrived: list[Arrived | None]
        arrived = from_columns(self._columns, len(part.lengths), part.payload, offsets)

        def deliver() -> None:
            self.exchange.fetched(part.request, part.first, arrived, self.world.now_ns)
            self.wake()

        self.world.at(self.world.random.randrange(1, 10) * MS, deliver)

    def tell_height(self) -> None:
        """Tell peers the height, again and again: frames get lost."""
        for peer in self.peers:
            self.say_height(peer)
        self.world.at(STATUS_NS, self.tell_height)

    def say_height(self, peer: int) -> None:
        self.world.transmit(self.number, peer, FrameType.STATUS, encode_height(self.told_height()))

    def wake(self) -> None:
        """Have time pass for it when it wants that."""
        self.was_behind |= self.exchange.behind
        due_ns = self.exchange.deadline_ns()
        if due_ns is None:
            return
        due_ns = max(due_ns, self.world.now_ns + MS)
        if self._wake_ns <= self.world.now_ns or due_ns < self._wake_ns:
            self._wake_ns = due_ns
            self.world.at(due_ns - self.world.now_ns, self._elapse)

    def _elapse(self) -> None:
        self.exchange.elapse(self.world.now_ns)
        self.wake()

    # -- what it does for its exchange -----------------------------------------------------------

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        self.world.transmit(self.number, peer, frame_type, body)

    def broadcast(self, frame_type: FrameType, body: bytes) -> None:
        for peer in self.peers:
            self.send(peer, frame_type, body)

    def expect(self, tag: int, peer: int, items: int) -> None:
        if items:
            assert tag not in self.expected
            self.expected[tag] = (peer, items)
        else:
            del self.expected[tag]

    def blame(self, peer: int, points: int, reason: str) -> None:
        assert points > 0
        assert reason
        self.blamed[peer] = self.blamed.get(peer, 0) + points

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        assert height == self.store.tip.height + 1
        assert value not in self.verdicts
        self.verdicts[value] = block

    def decided(self, certified: Certified, block: Block | None) -> None:
        assert block is not None
        assert block.id(self.chain.salt) == certified.certificate.value
        self.commit(block, certified)

    def proven(self, certified: Certified) -> None:
        assert certified.certificate.height == self.store.tip.height + 1
        self.proofs.append(certified)

    def verify_certificate(self, peer: int, certified: Certified) -> None:
        def deliver() -> None:
            keys = validator_set(self.chain.genesis)
            try:
                check_signatures(
                    certified.certificate,
                    keys,
                    self.chain.salt,
                    lambda key, message, signature: NACL.verify_alone(key, signature, message),
                )
                good = True
            except CertificateError:
                good = False
            self.exchange.certificate_verified(certified, good, self.world.now_ns)
            self.wake()

        self.world.at(self.world.random.randrange(1, 20) * MS, deliver)


def decide(chain: SmallChain, block: Block) -> Certified:
    """The certificate of three of the four validators."""
    keys = [OWNER_OF[each.key_bytes] for each in chain.genesis.validators]
    value = block.id(chain.salt)
    return Certified(
        certificate_of(block.header.height, value, chain.salt, dict(enumerate(keys[:3])))
    )


def grow(chain: SmallChain, random_: random.Random, blocks: int) -> list[tuple[Block, Certified]]:
    """Let a chain grow, and return its new blocks with their certificates."""
    made = []
    for _ in range(blocks):
        block = chain.random_block(random_, random_.randint(0, 12))
        chain.ledger.apply(block)
        made.append((block, decide(chain, block)))
    return made


def payments(chain: SmallChain, numbers: range, fee: int = 10) -> list[bytes]:
    """Payments of these allocations."""
    made = []
    for number in numbers:
        outpoint = chain.allotted(number)
        output = chain.ledger.outputs[outpoint]
        value = int.from_bytes(output[:8], "little")
        made.append(chain.spend([(outpoint, output)], [value - fee - 5, 5]))
    return made


def make_world(
    worlds: list[World], chain: SmallChain, tmp_path: Path, seed: int, wire: Wire
) -> World:
    """A world that the fixture closes."""
    world = World(seed, chain, tmp_path, wire)
    worlds.append(world)
    return world


def block_of_payments(chain: SmallChain, count: int) -> Block:
    """A block above the tip."""
    return chain.block(payments(chain, range(count)), 10 * count)


BAD = Wire(loss=0.15, twice=0.1)
POOR = Wire(loss=0.01, twice=0.1)
