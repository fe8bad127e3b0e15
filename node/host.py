"""What agreement asks for, done on this node: blocks, the signer, the ledger, peers, the world.

Between the pure parts (`node.agreement`, `node.exchange`) and those that act: candidate blocks and
the chain store, the signer's process, the peers behind ``net``, the publisher of what is final.
Requests to the signer are kept until they are answered and repeated when it was restarted; while
this node lags behind its peers, it is asked for nothing. What kills it: a disk that is full or
fails, and proof that more than a third of the voting power lies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from node.agreement import NS_PER_MS, Agreement
from node.announce_again import AnnounceAgain
from node.block import Block, reward_txid
from node.block_limit import BlockLimit
from node.candidates import Candidates
from node.confirmation import CONFIRMATION_METRICS, Confirmation
from node.consensus.core import Core, Step, Timeouts
from node.consensus.effects import Commit, Halt, ReportMisbehaviour
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certified,
    Committed,
    Proposal,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.wire import decode, encode
from node.datadir import ensure_directory
from node.durable import Directory
from node.errors import NodeError
from node.evidence import EvidenceBook
from node.genesis import validator_set
from node.mempool import Mempool
from node.notify import Publisher
from node.peer_host import PeerHost
from node.peer_link import PeerLink
from node.settings import NodeSettings
from node.sign_link import Identity, Proven, Refused, Signed, decode_reply
from node.sign_queue import SignQueue, kind_of
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
from node.wal import Wal
from pipeline.metrics import Kind, Metric, MetricWriter

SIGNING_NS = 5_000_000  # several times what a signature takes

MS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
FINAL_MS_BUCKETS = (
    *(10, 20, 30, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 30_000),
)
FINAL_SAMPLE = 16  # transactions of a block whose way to finality is measured

HEARD_PACES = 3  # a validator is heard of in so many paces of empty blocks, or counts as silent
HEARD_NS = 10_000_000_000  # and in so many nanoseconds at least

STEPS = ", ".join(f"{step.value} {step.name.lower().replace('_', ' ')}" for step in Step)

HOST_METRICS = (
    Metric("height", Kind.GAUGE, "blocks", "Height of the last committed block"),
    Metric("round", Kind.GAUGE, "", "Round of the height being decided"),
    Metric("step", Kind.GAUGE, "", f"Step of the round: {STEPS}"),
    Metric("validators", Kind.GAUGE, "validators", "Validators of the chain"),
    Metric("validators_voting", Kind.GAUGE, "validators", "Of them, heard of lately"),
    Metric("behind", Kind.GAUGE, "", "1 while blocks that others have are fetched"),
    Metric("peers_height", Kind.GAUGE, "blocks", "The highest height that a peer tells of"),
    Metric("blocks", Kind.COUNTER, "blocks", "Blocks committed"),
    Metric("rounds_failed", Kind.COUNTER, "rounds", "Rounds that ended without a decision"),
    Metric("announced_again", Kind.COUNTER, "items", "Pending for long, told to all peers again"),
    Metric("signatures_refused", Kind.COUNTER, "messages", "Own messages refused by the signer"),
    Metric("misbehaviour", Kind.COUNTER, "cases", "Double votes and proposals seen"),
    *CONFIRMATION_METRICS,
    Metric("body_ms", Kind.HISTOGRAM, "ms", "Making a block's body durable", MS_BUCKETS),
    Metric("sign_ms", Kind.HISTOGRAM, "ms", "From an own message to its signature", MS_BUCKETS),
    Metric("commit_ms", Kind.HISTOGRAM, "ms", "Committing a block", MS_BUCKETS),
    Metric("final_ms", Kind.HISTOGRAM, "ms", "From admission to final, a sample", FINAL_MS_BUCKETS),
)


class AgreementBroken(NodeError):
    """Validators with more than a third of the voting power lie; nobody can go on from here."""


class Standing(NamedTuple):
    """Where agreement is; ``validator`` is None until the signer has said who this is."""

    peers: int
    peer_height: int
    behind: bool
    validator: int | None
    height: int
    round: int
    step: str


class NodeHost:
    """Performs the effects of agreement, which begins when the signer has said who it is.

    `ask_signer` sends a frame to the signer. What it has not answered is bounded: a proposal and
    two votes a round, of one height.
    """

    def __init__(
        self,
        settings: NodeSettings,
        store: ChainStore,
        mempool: Mempool,
        publisher: Publisher,
        ask_signer: Callable[[bytes], None],
        peers: PeerLink,
        metrics: MetricWriter,
        log: Any,
    ) -> None:
        self._settings = settings
        self._store = store
        self._mempool = mempool
        self._publisher = publisher
        self._metrics = metrics
        self._log = log
        self._validators = settings.genesis.validators
        self._bodies = BlockFiles(Path(settings.blocks_path), settings.genesis_id)
        self._candidates = Candidates(
            store,
            self._bodies,
            mempool,
            settings.genesis,
            settings.salt,
        )
        ensure_directory(Path(settings.wal_path))
        self._wal = Wal(Directory(Path(settings.wal_path)), settings.genesis_id)
        self._body_ms = metrics["body_ms"]
        self._sign_ms = metrics["sign_ms"]
        self._commit_ms = metrics["commit_ms"]
        self._final_ms = metrics["final_ms"]
        self.on_commit: Callable[[int, bytes], None] = _nobody
        self._finish_what_was_announced()
        self._confirmation = Confirmation(
            validator_set(settings.genesis), settings.salt, metrics, log
        )
        self.peers = PeerHost(
            self,
            peers,
            settings.genesis,
            store,
            self._bodies,
            mempool,
            log,
            ask_signer,
            confirm=self._confirmation.holds,
        )
        self._again = AnnounceAgain(mempool, self.peers.announce)
        ensure_directory(Path(settings.evidence_path))
        evidence = Directory(Path(settings.evidence_path))
        self._evidence = EvidenceBook(evidence, settings.genesis_id, self.peers.say_all, log)
        self._agreement: Agreement | None = None
        self._lost_bodies: set[bytes] = set()  # to be made durable, and not here any more
        self._me = 0
        self._heard_ns: dict[int, int] = {}  # validator -> when it was heard last; bounded by them
        self._silent_ns = max(HEARD_NS, HEARD_PACES * settings.empty_pace_ms * NS_PER_MS)
        self._awaiting = 0  # the height for which transactions are awaited, 0 for none
        self._limit = BlockLimit(settings.genesis.max_block_transactions)
        self._unsigned = SignQueue(ask_signer, lambda: not self.peers.behind)

    # -- what others may know --------------------------------------------------------------------

    def standing(self) -> Standing:
        """Where agreement is, and the peers."""
        heights = self.peers.heights
        known = (len(heights), max(heights.values(), default=0), self.peers.behind)
        if self._agreement is None:
            return Standing(*known, None, self._store.tip.height + 1, 0, "starting")
        core = self._agreement.core
        return Standing(*known, self._me, core.height, max(0, core.round), core.step.name.lower())

    @property
    def genesis_id(self) -> bytes:
        """The id of the block that there was before the first."""
        return self._settings.genesis_id

    def reward_id(self, height: int) -> bytes:
        """The id whose output is the reward of a committed block."""
        below = self._store.block_id(height - 1) if height > 1 else self.genesis_id
        return reward_txid(height, below, self._settings.salt)

    # -- what the loop calls ---------------------------------------------------------------------

    def poll(self, now_ns: int) -> None:
        """Let elapsed timers and waiting transactions drive agreement."""
        if self._agreement is None:
            return
        self.peers.elapse(now_ns)
        self._agreement.elapse(now_ns)
        self._unsigned.ask(now_ns)
        if self._awaiting and len(self._mempool):
            height, self._awaiting = self._awaiting, 0
            self._agreement.tell(TransactionsWaiting(height), now_ns)

    def deadline_ns(self) -> int | None:
        """When `poll` is due next."""
        if self._agreement is None:
            return None
        deadlines = (self._agreement.deadline_ns(), self.peers.deadline_ns())
        return min((each for each in deadlines if each is not None), default=None)

    def signature_due_ns(self) -> int | None:
        """Until when the signer's answer is worth waiting for; None if it owes none."""
        asked_ns = self._unsigned.asked_ns
        return None if asked_ns is None else asked_ns + SIGNING_NS

    def housekeeping(self) -> None:
        """Announce what waits for long, publish where agreement is."""
        writer = self._metrics
        heard = bool(self.peers.heights) and not self.peers.behind
        announced = self._again.turn(time.monotonic_ns(), heard=heard)
        writer.add(writer["announced_again"], announced)
        writer.set(writer["height"], self._store.tip.height)
        writer.set(writer["validators"], len(self._validators))
        writer.set(writer["validators_voting"], self._heard_lately(time.monotonic_ns()))
        writer.set(writer["behind"], int(self.peers.behind))
        writer.set(writer["peers_height"], self.peers.best_height)
        if self._agreement is not None:
            writer.set(writer["round"], max(0, self._agreement.core.round))
            writer.set(writer["step"], self._agreement.core.step)

    def _heard_lately(self, now_ns: int) -> int:
        return sum(now_ns - heard_ns < self._silent_ns for heard_ns in self._heard_ns.values())

    def close(self) -> None:
        """Close the log and the block files."""
        self._wal.close()
        self._candidates.close()

    # -- the signer ------------------------------------------------------------------------------

    def signer_says(self, frame: bytes) -> None:
        """Take a word of the signer."""
        match decode_reply(frame):
            case Identity(validator):
                self.peers.prover.signer_started(validator)
                if self._agreement is None:
                    self._begin(validator)
                else:  # it was restarted
                    self._unsigned.restart(time.monotonic_ns())
            case Signed(message):
                since_ns = self._unsigned.answered(msgspec.structs.replace(message, signature=b""))
                if since_ns is not None and self._agreement is not None:
                    now_ns = time.monotonic_ns()
                    self._metrics.observe(self._sign_ms, (now_ns - since_ns) // NS_PER_MS)
                    self._heard_ns[self._me] = now_ns
                    self._agreement.signed(message, now_ns)
            case Proven() as proven:
                self.peers.prover.signed(proven)
            case Refused(message, reason):
                if self._unsigned.answered(message) is not None:
                    self._metrics.add(self._metrics["signatures_refused"], 1)
                    self._log.warning(
                        "signature_refused",
                        height=message.height,
                        round=message.round,
                        kind=kind_of(message),
                        reason=reason,
                    )
        self._unsigned.ask(time.monotonic_ns())

    def _begin(self, validator: int) -> None:
        settings = self._settings
        self._me = validator
        core = Core(
            validator_set(settings.genesis),
            validator,
            Timeouts(pace_ms=settings.pace_ms, empty_pace_ms=settings.empty_pace_ms),
        )
        now_ns = time.monotonic_ns()
        self._heard_ns[validator] = now_ns
        self.peers.start(now_ns)
        for value, block in self._candidates.durable():  # others may lack what this node voted for
            self.peers.hold(value, block)
        self._agreement = Agreement(core, self._wal, self)
        self._agreement.start(self._store.tip.height, now_ns)
        self._log.info(
            "agreement_started",
            height=self._store.tip.height + 1,
            validator=validator,
            validators=len(self._validators),
        )

    # -- peers -----------------------------------------------------------------------------------

    def message(self, data: bytes) -> None:
        """Take a message of agreement whose signatures a verifier has found good."""
        if not self._confirmation.holds(data):
            return
        message = decode(data)
        assert isinstance(message, Proposal | Vote | Certified), "verifiers let nothing else pass"
        now_ns = time.monotonic_ns()
        if isinstance(message, Proposal | Vote):
            self._heard_ns[message.validator] = now_ns
        if self._agreement is not None:
            self._agreement.tell(message, now_ns)

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        """Take the block that was wanted; None: it is invalid."""
        if block is not None:
            self._candidates.add(value, block)
        if value in self._lost_bodies:
            self._lost_bodies.discard(value)
            if block is not None:
                self.persist_body(height, value)
        else:
            self._tell(BlockJudged(height, value, valid=block is not None))

    def decided(self, certified: Certified, block: Block | None) -> None:
        """Take the next block that others have decided, with its certificate."""
        if block is not None:
            self._candidates.add(certified.certificate.value, block)
        self.proven(certified)

    def proven(self, certified: Certified) -> None:
        """Take the certificate of a block that others have decided."""
        assert self._agreement is not None
        self._agreement.tell(certified, time.monotonic_ns())

    # -- effects ---------------------------------------------------------------------------------

    def await_transactions(self, height: int) -> None:
        """Remember that agreement waits for work; `poll` looks."""
        self._awaiting = height

    def build(self, height: int, round_: int) -> None:
        """Build a block out of the mempool."""
        proposer = self._validators[self._me].key_bytes
        most = self._limit.transactions
        value = self._candidates.build(time.time_ns() // NS_PER_MS, proposer, most)
        block = self._candidates.get(value)
        assert block is not None
        self._log.debug("block_built", height=height, round=round_, transactions=len(block.txids))
        self.peers.proposed(value, block)
        self._tell(BlockBuilt(height, round_, value))

    def request_block(self, height: int, value: bytes) -> None:
        """Have block exchange find and judge a block, unless it is here."""
        if self._candidates.get(value) is not None:
            self._tell(BlockJudged(height, value, valid=True))
            return
        self.peers.want(height, value)

    def persist_body(self, height: int, value: bytes) -> None:
        """Make a body durable."""
        began = time.monotonic_ns()
        if self._candidates.persist(value):
            self._metrics.observe(self._body_ms, (time.monotonic_ns() - began) // NS_PER_MS)
            self._tell(BodyDurable(height, value))
            return
        # It was judged in an earlier life that ended before the body was on disk.
        self._log.info("body_lost", height=height, block=value.hex())
        self._lost_bodies.add(value)
        self.peers.want(height, value)

    def sign(self, message: Proposal | Vote) -> None:
        """Ask the signer, in its turn."""
        self._unsigned.add(message, time.monotonic_ns())

    def broadcast(self, message: Proposal | Vote | Certified) -> None:
        """Send a message to every peer."""
        self.peers.say_all(message)

    def send_decisions(self, validator: int, height: int) -> None:
        """Nothing: peers are told heights, and whoever is behind asks for blocks."""

    def commit(self, decision: Commit) -> None:
        """Finish the height and go on."""
        transactions = self._finish(decision)
        self._lost_bodies.clear()
        self._learn_pace(transactions)
        self.peers.committed(decision.height)
        self._tell(Committed(decision.height))

    def _finish(self, decision: Commit) -> int:
        """Tell the world of a block, then apply it; returns how many transactions it has.

        It is final and durable already. Whoever asks about it now is answered after it is applied,
        by this process or, if that dies before, by the next one.
        """
        block = self._candidates.decided(decision.value)
        writer = self._metrics
        writer.set(writer["height"], decision.height)  # before anybody hears of the block
        self._publisher.finalised(decision.value, block)
        self.on_commit(decision.height, decision.value)
        began = time.monotonic_ns()
        now_ms = time.time_ns() // NS_PER_MS
        for each_ms in self._sample_arrivals(block):
            writer.observe(self._final_ms, max(0, now_ms - each_ms))
        certificate = encode(Certified(decision.certificate))
        self._candidates.commit(decision.value, block, certificate)
        writer.observe(self._commit_ms, (time.monotonic_ns() - began) // NS_PER_MS)
        writer.add(writer["blocks"], 1)
        writer.add(writer["rounds_failed"], decision.round)
        writer.add(writer["items_out"], len(block.txids))
        self._log.debug(
            "block_committed",
            height=decision.height,
            round=decision.round,
            transactions=len(block.txids),
            block=decision.value.hex(),
        )
        return len(block.txids)

    def _finish_what_was_announced(self) -> None:
        """Apply the block that an earlier life decided, if it ended before the store had it."""
        height = self._store.tip.height + 1
        for message in self._wal.recover(height):
            if not isinstance(message, Certified):
                continue
            certificate = message.certificate
            value = certificate.value
            if certificate.type is VoteType.PRECOMMIT and self._candidates.is_durable(value):
                self._log.info("block_finished", height=height, block=value.hex())
                self._finish(Commit(height, certificate.round, value, certificate))
                return

    def _sample_arrivals(self, block: Block) -> list[int]:
        """When some of a block's transactions were admitted here (Unix ms), before they leave."""
        if not block.txids:
            return []
        return self._mempool.arrivals_ms(block.txids[:: -(-len(block.txids) // FINAL_SAMPLE)])

    def _learn_pace(self, transactions: int) -> None:
        """What others can keep up with; a validator alone goes as fast as it can."""
        assert self._agreement is not None
        if len(self._validators) > 1 and not self.peers.behind:
            took_ns = time.monotonic_ns() - self._agreement.begun_ns
            self._limit.decided(transactions, took_ns / NS_PER_MS)

    def report(self, misbehaviour: ReportMisbehaviour) -> None:
        """Keep the evidence, and let everybody see it."""
        self._metrics.add(self._metrics["misbehaviour"], 1)
        self._evidence.report(misbehaviour)

    def halt(self, reason: Halt) -> None:
        """Stop the node with the evidence in the log."""
        self._log.critical(
            "agreement_broken",
            reason=reason.reason,
            evidence=_hex(encode(Certified(each)) for each in reason.evidence),
        )
        raise AgreementBroken(
            f"the validators contradict themselves: {reason.reason}",
            "keep the log, it holds the proof, and talk to the other operators",
        )

    def _tell(self, answer: BlockBuilt | BlockJudged | BodyDurable | Committed) -> None:
        assert self._agreement is not None, "effects come from it"
        self._agreement.tell(answer, time.monotonic_ns())


def _nobody(height: int, block_id: bytes) -> None:
    """Nobody wants to know of blocks."""


def _hex(frames: Iterable[bytes]) -> list[str]:
    return [frame.hex() for frame in frames]
