"""The one door to block exchange: what agreement wants is fetched and judged, what peers want is
given, and a node that has missed blocks is brought up to the others.

The host (`ExchangeHost`, in the consensus process) hands in frames of peers, transactions that
verifiers have found good, what agreement wants and what was committed; calls of the host go out at
the end of each input. The network is believed in nothing: frames get lost, repeated, late, or lie.
What is wanted is asked for until it is judged or its height is committed. A block is judged a slice
at a time, one slice a turn, so that votes are heard in between.

Pure: no clock, no sockets; times are CLOCK_MONOTONIC nanoseconds. It owns blocks that are under way
or may be asked for, all of them bounded. What kills it: a store that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from node.block import Block, BlockFormatError, BlockHeader, block_id
from node.consensus.messages import Certified
from node.exchange.announcements import Announcements
from node.exchange.assembly import NS_PER_MS, Assembly, Pending
from node.exchange.catchup import CatchUp
from node.exchange.judging import MAX_AHEAD_MS, Rules, Trial, is_timely
from node.exchange.messages import (
    ExchangeError,
    compact_header,
    decode_height,
    decode_not_found,
    encode_compact,
)
from node.exchange.outbox import LIE, ExchangeHost, Outbox
from node.exchange.supplier import BodyReader, ChainReader, Supplier
from node.exchange.verified import Arrived
from node.genesis import Genesis, validator_set
from node.ledger import BlockBelow, BlockInvalid, LedgerView
from node.network.frames import MAX_BODY_BYTES, FrameType

MAX_WANTED = 16  # blocks of one height that are put together at once
MAX_INVALID = 256  # ids of invalid blocks of one height
REPEAT_NS = 1_000 * NS_PER_MS  # `decided` is said again, since who is told may not listen yet
EARLY_HEIGHTS = 2  # above the tip, for which a COMPACT is kept

_QUESTIONS = (
    FrameType.GET_COMPACT,
    FrameType.GET_TRANSACTIONS,
    FrameType.GET_BLOCK,
)


class Chain(ChainReader, LedgerView, Protocol):
    """The chain store."""

    @property
    def tip(self) -> BlockBelow: ...


class Exchange:
    """Block exchange of one node. `pending` is the mempool.

    `first_request` is any number, a different one each time that the process starts: answers to
    requests of an earlier life may still come.
    """

    def __init__(
        self,
        host: ExchangeHost,
        store: Chain,
        bodies: BodyReader,
        pending: Pending,
        genesis: Genesis,
        first_request: int,
    ) -> None:
        self._host = host
        self._store = store
        self._pending = pending
        self._rules = Rules(genesis)
        self._out = Outbox(host, first_request)
        self._supplier = Supplier(store, bodies, self._out, genesis.max_block_transactions)
        self._catchup = CatchUp(self._rules, validator_set(genesis), self._out, store.tip.height)
        self._peers: dict[int, None] = {}
        self._announced = Announcements()
        self._wants: dict[bytes, Assembly] = {}
        self._invalid: dict[bytes, None] = {}
        self._trials: dict[bytes, Trial] = {}
        self._decided = b""  # the value that `decided` was last told of, and when
        self._decided_ns = 0
        self._unix_offset_ms = 0  # of Unix time from CLOCK_MONOTONIC
        self._now_ns = 0

    # -- what agreement says ---------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether this node has missed blocks that others have: it then signs nothing."""
        return self._catchup.behind

    def proposed(self, value: bytes, block: Block) -> None:
        """This node proposes a block of its own: keep it for peers, and announce it."""
        self.hold(value, block)
        compact = encode_compact(block.header.encode(), block.txids)
        if len(compact) <= MAX_BODY_BYTES[FrameType.COMPACT]:
            self._out.tell(self._host.broadcast, FrameType.COMPACT, compact)
        self._out.flush()

    def hold(self, value: bytes, block: Block) -> None:
        """Keep a valid block of the height being decided for peers, without announcing it."""
        self._supplier.hold(value, block)
        self._out.flush()

    def want(self, height: int, value: bytes, now_ns: int, now_ms: int) -> None:
        """Agreement needs this block; `judged` answers. `now_ms` is Unix time.

        Nothing follows for any height but the one above the tip.
        """
        self._unix_offset_ms = now_ms - now_ns // NS_PER_MS
        block = self._supplier.candidate(value)
        if height != self._store.tip.height + 1 or value in self._wants:
            return
        if block is not None or value in self._invalid:
            self._out.tell(self._host.judged, height, value, block)
        else:
            self._assemble(height, value, now_ns)
        self._go_on(now_ns)

    def committed(self, height: int, now_ns: int) -> None:
        """The store's tip is this height now; nothing at it or below is wanted any more."""
        self._supplier.committed(self._store.tip.block_id)
        for assembly in self._wants.values():
            assembly.close()
        self._wants.clear()
        self._trials.clear()
        self._invalid.clear()
        self._announced.forget(height)
        self._catchup.committed(height, now_ns)
        self._go_on(now_ns)

    def certificate_verified(self, certified: Certified, good: bool, now_ns: int) -> None:
        """The answer to `verify_certificate`."""
        self._catchup.certificate_verified(certified, good, now_ns)
        self._go_on(now_ns)

    # -- what peers say --------------------------------------------------------------------------

    def peer_connected(self, peer: int, height: int, now_ns: int) -> None:
        """A peer is there, and says how high its chain is."""
        self._peers[peer] = None
        self._catchup.told(peer, height)
        self._go_on(now_ns)

    def peer_gone(self, peer: int, now_ns: int) -> None:
        """A peer is no longer there."""
        if self._peers.pop(peer, True) is None:
            for assembly in self._wants.values():
                assembly.gone(peer, now_ns)
            self._announced.gone(peer)
            self._supplier.gone(peer)
            self._catchup.gone(peer)
            self._go_on(now_ns)

    def heard(self, peer: int, frame_type: int, body: bytes, now_ns: int) -> None:
        """Take a frame of a peer; types that are none of block exchange are ignored."""
        if peer not in self._peers:
            return
        try:
            self._take(peer, frame_type, body, now_ns)
        except ExchangeError as error:
            self._out.blame(peer, LIE, str(error))
        self._go_on(now_ns)

    def fetched(self, tag: int, first: int, items: Sequence[Arrived | None], now_ns: int) -> None:
        """Take verified transactions that came in PARTs of a request, from item `first` on.

        None stands for those that the verifier rejected.
        """
        requester = self._out.requester(tag)
        if requester is not None:
            requester.fetched(tag, first, items, now_ns)
            self._go_on(now_ns)

    def _take(self, peer: int, frame_type: int, body: bytes, now_ns: int) -> None:
        if frame_type in _QUESTIONS:
            self._supplier.answer(peer, frame_type, body, self._store.tip.height, now_ns)
        elif frame_type == FrameType.COMPACT:
            self._take_compact(peer, body, now_ns)
        elif frame_type == FrameType.BLOCK:
            self._catchup.heard_block(peer, body, now_ns)
        elif frame_type == FrameType.NOT_FOUND:
            request, first = decode_not_found(body)
            requester = self._out.requester(request, peer)
            if requester is not None:
                requester.not_found(request, first, now_ns)
        elif frame_type == FrameType.STATUS:
            self._catchup.told(peer, decode_height(body))

    def _take_compact(self, peer: int, body: bytes, now_ns: int) -> None:
        head = compact_header(body)
        try:
            header = BlockHeader.decode(head)
        except BlockFormatError as error:
            raise ExchangeError(str(error)) from error
        value = block_id(head, self._rules.salt)
        assembly = self._wants.get(value)
        tip = self._store.tip
        if assembly is not None:
            assembly.hold(peer)
            self._fill(assembly, peer, header, body, now_ns)
        elif 0 < header.height - tip.height <= EARLY_HEIGHTS and not self._knows(value):
            self._announced.add(peer, value, header, body)

    def _knows(self, value: bytes) -> bool:
        """Whether a block was judged, or is being judged."""
        judged = value in self._invalid or self._supplier.candidate(value) is not None
        return judged or value in self._trials

    # -- time ------------------------------------------------------------------------------------

    def elapse(self, now_ns: int) -> None:
        """Let time pass, and do a slice of what is to be judged."""
        self._judge_on()
        self._go_on(now_ns)

    def deadline_ns(self) -> int | None:
        """When `elapse` is due; a time that is past when there is something to judge."""
        if self._trials:
            return self._now_ns
        times = [self._catchup.deadline_ns()]
        times += [
            self._timely_ns(each) if each.is_complete else each.due_ns
            for each in self._wants.values()
        ]
        return min((each for each in times if each is not None), default=None)

    # -- inside ----------------------------------------------------------------------------------

    def _go_on(self, now_ns: int) -> None:
        """What every input ends with: ask, begin to judge, tell the host."""
        self._now_ns = now_ns
        for assembly in self._wants.values():
            assembly.elapse(now_ns)
        self._catchup.elapse(now_ns)
        self._begin_trials(now_ns)
        self._out.flush()

    def _assemble(self, height: int, value: bytes, now_ns: int) -> None:
        if len(self._wants) >= MAX_WANTED:
            self._wants.pop(next(iter(self._wants))).close()
        assembly = Assembly(
            height, value, self._rules, self._pending, self._peers, self._out, now_ns
        )
        self._wants[value] = assembly
        announced = self._announced.take(value)
        if announced is not None:
            for peer in announced.holders:
                assembly.hold(peer)
            self._fill(assembly, announced.giver, announced.header, announced.body, now_ns)

    def _fill(
        self, assembly: Assembly, peer: int, header: BlockHeader, body: bytes, now_ns: int
    ) -> None:
        """Give a wanted block its ids, unless its header alone shows that it is invalid."""
        try:
            self._rules.check_header(header, self._store.tip)
        except BlockInvalid:
            self._conclude(assembly.value, None)
        else:
            assembly.take_compact(peer, header, body, now_ns)

    def _timely_ns(self, assembly: Assembly) -> int:
        """From when on a proposal's time is not in the future any more."""
        assert assembly.header is not None
        timely_ms = assembly.header.time_ms - MAX_AHEAD_MS - self._unix_offset_ms
        return timely_ms * NS_PER_MS

    def _begin_trials(self, now_ns: int) -> None:
        """Judge what is complete; a block that a quorum decided whatever its time is."""
        for value, assembly in list(self._wants.items()):
            header = assembly.header
            if header is None or not assembly.is_complete or value in self._trials:
                continue
            if is_timely(header, now_ns // NS_PER_MS + self._unix_offset_ms):
                self._begin_trial(value, header, assembly.txids, assembly.raws)
        next_ = self._catchup.ready()
        if next_ is None or next_.value in self._trials:
            return
        if next_.value == self._decided and now_ns < self._decided_ns + REPEAT_NS:
            return
        assert next_.header is not None
        block = self._supplier.candidate(next_.value)
        if block is not None or next_.value in self._invalid:
            self._conclude(next_.value, block)
        else:
            self._begin_trial(next_.value, next_.header, next_.txids, next_.raws())

    def _begin_trial(
        self, value: bytes, header: BlockHeader, txids: Sequence[bytes], raws: Sequence[bytes]
    ) -> None:
        """Begin to judge a block; one that is a single slice is judged at once."""
        store = self._store
        try:
            trial = Trial(self._rules, header, txids, raws, store.tip, store)
        except BlockInvalid:
            self._conclude(value, None)
            return
        self._trials[value] = trial
        if trial.is_small and len(self._trials) == 1:
            self._judge_on()

    def _judge_on(self) -> None:
        """Judge the next slice of the block that was first."""
        if not self._trials:
            return
        value, trial = next(iter(self._trials.items()))
        try:
            block = trial.advance()
        except BlockInvalid:
            self._conclude(value, None)
        else:
            if block is not None:
                self._supplier.hold(value, block)
                self._conclude(value, block)

    def _conclude(self, value: bytes, block: Block | None) -> None:
        """Tell what a block is worth to who waits for it."""
        self._trials.pop(value, None)
        if block is None and len(self._invalid) < MAX_INVALID:
            self._invalid[value] = None
        assembly = self._wants.pop(value, None)
        if assembly is not None:
            assembly.close()
            self._out.tell(self._host.judged, assembly.height, value, block)
        next_ = self._catchup.ready()
        if next_ is not None and next_.value == value and next_.certified is not None:
            self._decided = value
            self._decided_ns = self._now_ns
            self._out.tell(self._host.decided, next_.certified, block)
