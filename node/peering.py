"""Joins the peers to the pipeline, in the process that owns the sockets.

Frames of peers come from the hub (`node.network.hub`): what carries signatures goes into trays,
which bring back verdicts; what does not goes to ``consensus`` over the link ``heard``. Over ``say``
``consensus`` has frames sent and peers blamed. Transactions that were admitted and messages of
agreement whose signatures are good are passed on, once, to everybody but who sent them;
transactions not to those either whom the sender says it is connected to, who have them from it.

It owns the hub and the queues between it and the rest. No cryptography: copies are known by
Python's keyed hash of their exact bytes. What kills it: nothing that a peer sends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import SystemRandom
from typing import Any, Final, assert_never

import numpy as np

from node.consensus.wire import WireError, decode
from node.exchange.messages import ExchangeError, decode_part
from node.genesis import validator_set
from node.items import REQUESTED, URGENT, ItemKind
from node.network import link
from node.network.hub import FrameType, Hub, HubSettings, PeerInfo
from node.network.relay_budget import RelayBudget
from node.network.votes_filter import VotesFilter, Worth
from node.orders import Drop, Forget, Keep, TryOnce, decode_order
from node.peer_frames import (
    Batch,
    Ends,
    message_bodies,
    unpack_ids,
    unpack_messages,
    unpack_transactions,
)
from node.peers_file import PeersFile
from node.proofs import Claim, Proofs
from node.settings import NodeSettings
from node.verdict import Verdict
from pipeline.intake import Intake
from pipeline.link import Outbox
from pipeline.metrics import Kind, Metric, MetricWriter
from pipeline.stage import NS_PER_MS
from pipeline.tray import Label

LIE: Final = 100  # points for what no honest peer sends
CHORES_NS: Final = (
    5_000_000  # between what peers are owed by the clock, while the loop does not wait
)
FORGET_NS: Final = 2_000_000_000  # after which votes may be said again
MAX_KNOWN: Final = 100_000  # fingerprints of transactions in each of two generations
BATCH_BYTES: Final = 64 * 1024  # of relayed transactions, after which a batch goes out at once
MAX_ANNOUNCED: Final = 4  # blocks that a stranger announces within FORGET_NS
MAX_QUESTIONS: Final = 400  # of all strangers within FORGET_NS
ALL_STRANGERS: Final = 0  # no peer has this number
ANSWERS: Final = frozenset({FrameType.BLOCK, FrameType.NOT_FOUND})
LIMITED: Final = {
    FrameType.COMPACT: MAX_ANNOUNCED,
    FrameType.GET_COMPACT: MAX_QUESTIONS,
    FrameType.GET_TRANSACTIONS: MAX_QUESTIONS,
    FrameType.GET_BLOCK: MAX_QUESTIONS,
}
MAX_EXPECTED: Final = 4_096  # requests of consensus that are under way; the oldest make room
SETTLED: Final = (Verdict.ADMITTED, Verdict.KNOWN, Verdict.FINAL, Verdict.QUARANTINED)
VERDICTS_OF_LIARS: Final = frozenset(
    {int(each) for each in Verdict if Verdict.BAD_LENGTH <= each <= Verdict.BAD_SIGNATURE}
)

PEERING_METRICS = (
    Metric("peers", Kind.GAUGE, "peers", "Peers connected"),
    Metric("peer_frames", Kind.COUNTER, "frames", "Frames of peers"),
    Metric("peer_messages", Kind.COUNTER, "messages", "Votes and the like, sent to be verified"),
    Metric("peer_messages_old", Kind.COUNTER, "messages", "Of no use any more, or known"),
    Metric("peer_transactions", Kind.COUNTER, "items", "Relayed to this node, to be verified"),
    Metric("peer_transactions_known", Kind.COUNTER, "items", "Relayed to this node again"),
    Metric("relayed", Kind.COUNTER, "items", "Transactions passed on"),
    Metric("peers_blamed", Kind.COUNTER, "offences", "Held against peers"),
    Metric("peers_dropped", Kind.COUNTER, "peers", "Peers lost, whatever for"),
    Metric("frames_unwanted", Kind.COUNTER, "frames", "Unasked for, too many, or too early"),
    Metric("heard_lost", Kind.COUNTER, "frames", "Frames that consensus had no room for"),
)


class _Transactions:
    """A batch that a peer relayed, until all its verdicts are there."""

    __slots__ = ("_codes", "_missing", "_owner", "ends", "payload", "peer", "stranger")

    def __init__(
        self, owner: Peering, peer: int, stranger: str, payload: memoryview, ends: Ends
    ) -> None:
        self._owner = owner
        self.peer = peer
        self.stranger = stranger  # whose allowance was spent, "" for none
        self.payload = payload
        self.ends = ends
        self._codes = bytearray(len(ends))
        self._missing = len(ends)

    def answer(self, first: int, codes: bytes) -> None:
        self._codes[first : first + len(codes)] = codes
        self._missing -= len(codes)
        if not self._missing:
            self._owner.judged_transactions(self, bytes(self._codes))


class _Messages:
    """Messages of a peer that are being verified, with their fingerprints."""

    __slots__ = ("_owner", "fingerprints", "messages", "peer")

    def __init__(self, owner: Peering, peer: int) -> None:
        self._owner = owner
        self.peer = peer
        self.messages: list[bytes] = []
        self.fingerprints: list[int] = []

    def answer(self, first: int, codes: bytes) -> None:
        self._owner.judged_messages(self, first, codes)


class _Unasked:
    """Items that nobody waits for here: consensus has read them."""

    def answer(self, first: int, codes: bytes) -> None:
        pass


class Peering:
    """The peers of this node, as the stage ``net`` runs them.

    `epoch` is this process' life. Raises ListenError if the address for peers cannot be had.
    """

    def __init__(
        self,
        settings: NodeSettings,
        hub_settings: HubSettings,
        intake: Intake,
        heard: Outbox,
        metrics: MetricWriter,
        log: Any,
        epoch: int,
    ) -> None:
        self._intake = intake
        self._heard = heard
        self._metrics = metrics
        self._epoch = epoch
        now_ns = time.monotonic_ns()
        self._hub = Hub(
            hub_settings, self, SystemRandom(), log, now_ns, time.time_ns() // NS_PER_MS
        )
        self._proofs = Proofs(
            self._hub,
            intake,
            lambda peer, reason: self._blame(peer, LIE, reason),
            log,
            hub_settings.node_id,
            epoch,
        )
        self._peers_file = PeersFile(settings.run_path, log)
        self._filter = VotesFilter(validator_set(settings.genesis).n)
        self._forget_ns = now_ns + FORGET_NS
        self._due_ns = now_ns
        self._behind = False  # as consensus said last
        self._heights: dict[int, int] = {}
        self._ids: dict[int, bytes] = {}  # peer -> node id
        self._neighbours: dict[int, frozenset[bytes]] = {}  # peer -> whom it is connected to
        self._table_told = True
        self._ids_told = True
        self._known: set[int] = set()
        self._known_before: set[int] = set()
        self._expected: dict[int, tuple[int, int]] = {}  # request -> peer, items
        self._unasked = _Unasked()
        self._taken: dict[int, int] = {}  # peer -> frames, since what was said was forgotten
        self._budget = RelayBudget(now_ns)
        self._batches: dict[int, Batch] = {}  # by whom the transactions came from
        self._messages: dict[int, list[bytes]] = {}

    # -- the loop --------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor to poll for `poll`."""
        return self._hub.fileno()

    def poll(self) -> int:
        """Take what peers have sent; how many frames that was."""
        handled = self._hub.poll(time.monotonic_ns(), chores=False)
        if handled:
            self._metrics.add(self._metrics["peer_frames"], handled)
        return handled

    def deadline_ns(self) -> int | None:
        """When `after_inputs` has something to do whatever comes; asked before the loop waits."""
        deadline = self._hub.deadline_ns()
        if deadline is not None:
            self._due_ns = min(self._due_ns, deadline)
        return deadline

    @property
    def count(self) -> int:
        """How many peers there are."""
        return len(self._heights)

    def ordered(self, frame: bytes) -> None:
        """Do what the operator wants to be done about peers; what makes no sense is dropped."""
        try:
            match decode_order(frame):
                case Keep(address=address):
                    self._hub.keep(address)
                case Forget(address=address):
                    self._hub.forget(address)
                case TryOnce(address=address):
                    self._hub.try_once(address)
                case Drop(peer=peer):
                    self._hub.disconnect(peer, "the operator wants it")
        except ValueError:  # no order, or no address
            return

    def after_inputs(self, now_ns: int, *, bulk_open: bool) -> None:
        """Send what has gathered."""
        if now_ns >= self._forget_ns:
            self._forget_ns = now_ns + FORGET_NS
            self._filter.forget()
            self._taken.clear()
        if now_ns >= self._due_ns:
            self._hub.poll(now_ns)
            self._due_ns = now_ns + CHORES_NS
        self._hub.open_bulk(bulk_open)
        if not self._table_told:
            self._tell_table()
        self._proofs.ask(self._tell, now_ns)
        if not self._ids_told:
            self._ids_told = True
            self._hub.broadcast(FrameType.NEIGHBOURS, b"".join(self._ids.values()))
        for but, messages in self._messages.items():
            for body in message_bodies(messages):
                self._hub.broadcast(FrameType.AGREEMENT, body, but)
        self._messages.clear()
        for but, batch in self._batches.items():
            self._relay(but, batch)
        self._batches.clear()
        self._hub.flush()

    def housekeeping(self) -> None:
        """Publish the gauges."""
        self._metrics.set(self._metrics["peers"], len(self._heights))
        self._metrics.set(self._metrics["heard_lost"], self._heard.dropped)
        self._peers_file.publish(self._hub.peers, self._hub.points, time.monotonic_ns())

    def consensus_started(self) -> None:
        """It knows nothing: tell it who is here, and let everything be said again."""
        self._filter.forget()
        self._behind = False
        self._expected.clear()
        self._proofs.consensus_started()
        self._table_told = False

    def close(self) -> None:
        """Close all connections."""
        self._hub.close()
        self._peers_file.close()

    # -- what the hub tells ----------------------------------------------------------------------

    def connected(self, peer: PeerInfo) -> None:
        """See `HubEvents`."""
        self._heights[peer.number] = peer.height
        self._ids[peer.number] = peer.node_id
        self._proofs.connected(peer.number)
        self._table_told = self._ids_told = False

    def disconnected(self, peer: PeerInfo, reason: str) -> None:
        """See `HubEvents`."""
        for table in (self._heights, self._ids, self._neighbours):
            table.pop(peer.number, None)
        self._expected = {
            request: expected
            for request, expected in self._expected.items()
            if expected[0] != peer.number
        }
        self._filter.gone(peer.number)
        self._proofs.disconnected(peer.number)
        self._metrics.add(self._metrics["peers_dropped"], 1)
        self._table_told = self._ids_told = False

    def proof(self, peer: PeerInfo, validator: int, signature: bytes, challenge: bytes) -> None:
        """See `HubEvents`."""
        self._proofs.claimed(peer, Claim(validator, signature, challenge, peer.node_id))

    def frame(self, peer: PeerInfo, kind: FrameType, body: memoryview) -> None:
        """See `HubEvents`."""
        try:
            if kind is FrameType.TRANSACTIONS:
                self._take_transactions(peer, body)
            elif kind is FrameType.AGREEMENT:
                self._take_messages(peer.number, unpack_messages(body))
            elif kind is FrameType.PART:
                self._take_part(peer.number, body)
            elif not self._is_wanted(peer, kind, body):
                self._metrics.add(self._metrics["frames_unwanted"], 1)
            elif kind is FrameType.NEIGHBOURS:
                self._neighbours[peer.number] = unpack_ids(body)
            elif kind is FrameType.STATUS:
                self._heights[peer.number] = peer.height
                self._table_told = False
            else:
                self._tell(link.Frame(self._epoch, peer.number, kind, bytes(body)))
        except (ExchangeError, WireError, ValueError) as error:
            self._blame(peer.number, LIE, f"{kind.name}: {error}")

    def _is_wanted(self, peer: PeerInfo, kind: FrameType, body: memoryview) -> bool:
        """Whether a frame may wait for consensus: answers if they were asked for, announcements and
        questions of strangers if there are few.
        """
        if kind in ANSWERS:
            request = int.from_bytes(body[:4], "little")
            return self._expected.get(request, (0, 0))[0] == peer.number
        if kind not in LIMITED or peer.protected:
            return True
        whose = peer.number if kind is FrameType.COMPACT else ALL_STRANGERS
        count = self._taken.get(whose, 0) + 1
        self._taken[whose] = count
        return count <= LIMITED[kind]

    # -- transactions ----------------------------------------------------------------------------

    def relay(self, lengths: bytes, payload: memoryview, codes: bytes) -> None:
        """Pass on what a client sent and consensus admitted; `lengths` u16[n]."""
        if self._heights:
            ends = np.frombuffer(lengths, "<u2").cumsum(dtype=np.uint32)
            self._gather(0, payload, ends, codes)

    def _take_transactions(self, peer: PeerInfo, body: memoryview) -> None:
        payload, ends = unpack_transactions(body)
        if self._behind:  # what is new by then is not for this node, and the rest comes in blocks
            self._metrics.add(self._metrics["frames_unwanted"], 1)
            return
        stranger = "" if peer.protected else _host(peer)
        if stranger and not self._budget.is_open(stranger, time.monotonic_ns()):
            self._metrics.add(self._metrics["frames_unwanted"], 1)
            return
        payload, ends = self._unknown(payload, ends)
        if not len(ends):
            return
        if stranger:
            self._budget.spend(stranger, len(ends))
        request = _Transactions(self, peer.number, stranger, payload, ends)
        if self._intake.offer(_source(peer.number), request, payload, ends):
            self._metrics.add(self._metrics["peer_transactions"], len(ends))
        else:
            self._forget(payload, ends)

    def _unknown(self, payload: memoryview, ends: Ends) -> tuple[memoryview, Ends]:
        """Those that did not come before, copied out of the frame, and remember them."""
        whole = bytes(payload)
        new = []
        begin = 0
        known, before = self._known, self._known_before
        for end in ends.tolist():
            item = whole[begin:end]
            begin = end
            fingerprint = hash(item)
            if fingerprint not in known and fingerprint not in before:
                known.add(fingerprint)
                new.append(item)
        if len(known) >= MAX_KNOWN:
            self._known, self._known_before = set(), known
        if len(new) == len(ends):
            return memoryview(whole), ends
        self._metrics.add(self._metrics["peer_transactions_known"], len(ends) - len(new))
        lengths = np.fromiter(map(len, new), np.uint32, len(new))
        return memoryview(b"".join(new)), lengths.cumsum(dtype=np.uint32)

    def _forget(self, payload: memoryview, ends: Ends) -> None:
        """They were not accepted, so they may come again."""
        begin = 0
        for end in ends.tolist():
            fingerprint = hash(bytes(payload[begin:end]))
            self._known.discard(fingerprint)
            self._known_before.discard(fingerprint)
            begin = end

    def judged_transactions(self, batch: _Transactions, codes: bytes) -> None:
        """All verdicts of a relayed batch are there."""
        if batch.stranger:
            self._budget.refund(batch.stranger, codes.count(Verdict.ADMITTED))
        if codes.count(Verdict.ADMITTED) == len(codes):
            self._gather(batch.peer, batch.payload, batch.ends, codes)
            return
        liar = VERDICTS_OF_LIARS.intersection(codes)
        if liar:
            self._blame(batch.peer, LIE, f"relayed a transaction: {Verdict(min(liar)).name}")
        self._gather(batch.peer, batch.payload, batch.ends, codes)
        begin = 0
        for end, code in zip(batch.ends.tolist(), codes, strict=True):
            if code not in SETTLED:
                item = batch.payload[begin:end]
                self._forget(item, np.array([len(item)], np.uint32))
            begin = end

    def _gather(self, source: int, payload: memoryview, ends: Ends, codes: bytes) -> None:
        """Put what was admitted into the batch for everybody but its source."""
        batch = self._batches.setdefault(source, Batch())
        if codes.count(Verdict.ADMITTED) == len(codes):
            batch.add(payload, np.diff(ends, prepend=np.uint32(0)))
        else:
            begin = 0
            for end, code in zip(ends.tolist(), codes, strict=True):
                if code == Verdict.ADMITTED:
                    batch.add(payload[begin:end], np.array([end - begin], np.uint32))
                begin = end
        if batch.size_bytes >= BATCH_BYTES:
            self._relay(source, self._batches.pop(source))

    def _relay(self, source: int, batch: Batch) -> None:
        there = self._neighbours.get(source, frozenset())
        peers = [each for each, its in self._ids.items() if each != source and its not in there]
        if not peers:
            return
        for body, count in batch.bodies():
            self._metrics.add(self._metrics["relayed"], count)
            for peer in peers:
                self._hub.send(peer, FrameType.TRANSACTIONS, body)

    # -- messages of agreement -------------------------------------------------------------------

    def _take_messages(self, peer: int, messages: Sequence[bytes]) -> None:
        request = _Messages(self, peer)
        for data in messages:
            fingerprint = hash(data)
            worth = self._filter.judge(peer, decode(data), fingerprint)
            if worth is Worth.NONSENSE:
                raise ValueError("no validator says that")
            if worth is Worth.NEW:
                request.messages.append(data)
                request.fingerprints.append(fingerprint)
        count = len(request.messages)
        self._metrics.add(self._metrics["peer_messages"], count)
        self._metrics.add(self._metrics["peer_messages_old"], len(messages) - count)
        if count:
            payload = memoryview(b"".join(request.messages))
            lengths = np.fromiter(map(len, request.messages), np.uint32, count)
            self._intake.offer(
                _source(peer),
                request,
                payload,
                lengths.cumsum(dtype=np.uint32),
                priority=URGENT,
                label=Label(ItemKind.MESSAGE),
            )

    def judged_messages(self, request: _Messages, first: int, codes: bytes) -> None:
        """Pass on the good ones, if they are new."""
        for number, code in enumerate(codes, first):
            if code == Verdict.ADMITTED:
                if self._filter.accepted(request.fingerprints[number]):
                    self._messages.setdefault(request.peer, []).append(request.messages[number])
            elif code != Verdict.QUARANTINED:
                self._blame(request.peer, LIE, "a message that nobody signed")

    # -- what consensus asked for ----------------------------------------------------------------

    def _take_part(self, peer: int, body: memoryview) -> None:
        part = decode_part(body)
        whom, items = self._expected.get(part.request, (0, 0))
        if whom != peer or part.first + len(part.lengths) > items:
            return  # late: nobody waits for it any more
        lengths = np.array(part.lengths, np.uint32)
        self._intake.offer(
            _source(peer),
            self._unasked,
            memoryview(bytes(part.payload)),
            lengths.cumsum(dtype=np.uint32),
            priority=REQUESTED,
            label=Label(ItemKind.FETCHED, part.request + 1, part.first),
        )

    # -- consensus -------------------------------------------------------------------------------

    def told(self, frame: bytes) -> None:
        """Do what consensus says."""
        word: link.Say = link.decode_say(frame)
        if word.epoch != self._epoch:
            return
        match word:
            case link.Send(peer=peer, type=kind, body=body):
                self._hub.send(peer, FrameType(kind), body)
            case link.Broadcast(but=but, type=kind, body=body):
                self._hub.broadcast(FrameType(kind), body, but)
            case link.Blame(peer=peer, points=points, reason=reason):
                self._blame(peer, points, reason)
            case link.Expect(peer=peer, request=request, items=items):
                self._expect(request, peer, items)
            case link.Check(tag=tag, message=message):
                ends = np.array([len(message)], np.uint32)
                self._intake.offer(
                    b"check",
                    self._unasked,
                    memoryview(message),
                    ends,
                    priority=REQUESTED,
                    label=Label(ItemKind.MESSAGE, tag + 1),
                )
            case link.Height(height=height, behind=behind):
                self._behind = behind
                self._filter.committed(height)
                self._hub.set_height(height)
            case link.Proof(peer=peer, validator=validator, signature=signature):
                self._proofs.signed(peer, validator, signature)
            case _:
                assert_never(word)

    def _expect(self, request: int, peer: int, items: int) -> None:
        self._expected.pop(request, None)
        if items:
            if len(self._expected) >= MAX_EXPECTED:  # words that end them get lost
                del self._expected[next(iter(self._expected))]
            self._expected[request] = (peer, items)

    def _blame(self, peer: int, points: int, reason: str) -> None:
        self._metrics.add(self._metrics["peers_blamed"], 1)
        self._hub.blame(peer, points, reason)

    def _tell(self, word: link.Heard) -> bool:
        """Say something to consensus; whether there was room for it."""
        lost = self._heard.dropped
        self._heard.send(link.encode(word))
        return self._heard.dropped == lost

    def _tell_table(self) -> None:
        table = tuple(sorted(self._heights.items()))
        self._table_told = self._tell(link.Peers(self._epoch, table))


def _host(peer: PeerInfo) -> str:
    return peer.address.rpartition(":")[0]


def _source(peer: int) -> bytes:
    return b"peer" + peer.to_bytes(4, "little")
