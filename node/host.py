"""What agreement asks for, done on this node: blocks, the signer, the ledger, the world.

Between the pure driver (`node.agreement`) and the parts that act: candidate blocks and the chain
store, the signer's process over two links, the publisher of what is final. Requests to the signer
are kept until they are answered and repeated when it was restarted. What kills it: a disk that is
full or fails, and proof that more than a third of the voting power lies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from node.agreement import NS_PER_MS, Agreement
from node.candidates import Candidates
from node.consensus.core import Core, Timeouts
from node.consensus.effects import Commit, Halt, ReportMisbehaviour
from node.consensus.messages import (
    BlockBuilt,
    BodyDurable,
    Certified,
    Committed,
    Proposal,
    TransactionsWaiting,
    Vote,
)
from node.consensus.wire import encode
from node.datadir import ensure_directory
from node.durable import Directory
from node.errors import NodeError
from node.genesis import validator_set
from node.mempool import Mempool
from node.notify import Publisher
from node.settings import NodeSettings
from node.sign_link import Identity, Refused, Signed, decode_reply
from node.sign_queue import SignQueue, kind_of
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
from node.wal import Wal
from pipeline.metrics import Kind, Metric, MetricWriter

SIGNING_NS = 5_000_000  # several times what a signature takes

MS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)

HOST_METRICS = (
    Metric("height", Kind.GAUGE, "blocks", "Height of the last committed block"),
    Metric("round", Kind.GAUGE, "", "Round of the height being decided"),
    Metric("blocks", Kind.COUNTER, "blocks", "Blocks committed"),
    Metric("rounds_failed", Kind.COUNTER, "rounds", "Rounds that ended without a decision"),
    Metric("signatures_refused", Kind.COUNTER, "messages", "Own messages refused by the signer"),
    Metric("misbehaviour", Kind.COUNTER, "cases", "Double votes and proposals seen"),
    Metric("body_ms", Kind.HISTOGRAM, "ms", "Making a block's body durable", MS_BUCKETS),
    Metric("sign_ms", Kind.HISTOGRAM, "ms", "From an own message to its signature", MS_BUCKETS),
    Metric("commit_ms", Kind.HISTOGRAM, "ms", "Committing a block", MS_BUCKETS),
)


class AgreementBroken(NodeError):
    """Validators with more than a third of the voting power lie; nobody can go on from here."""


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
        self._candidates = Candidates(
            store,
            BlockFiles(Path(settings.blocks_path), settings.genesis_id),
            mempool,
            settings.genesis,
            settings.salt,
        )
        ensure_directory(Path(settings.wal_path))
        self._wal = Wal(Directory(Path(settings.wal_path)), settings.genesis_id)
        self._agreement: Agreement | None = None
        self._me = 0
        self._awaiting = 0  # the height for which transactions are awaited, 0 for none
        self._unsigned = SignQueue(ask_signer)
        self._body_ms = metrics["body_ms"]
        self._sign_ms = metrics["sign_ms"]
        self._commit_ms = metrics["commit_ms"]

    # -- what the loop calls ---------------------------------------------------------------------

    def poll(self, now_ns: int) -> None:
        """Let elapsed timers and waiting transactions drive agreement."""
        if self._agreement is None:
            return
        self._agreement.elapse(now_ns)
        if self._awaiting and len(self._mempool):
            height, self._awaiting = self._awaiting, 0
            self._agreement.tell(TransactionsWaiting(height), now_ns)

    def deadline_ns(self) -> int | None:
        """When `poll` is due next."""
        return None if self._agreement is None else self._agreement.deadline_ns()

    def signature_due_ns(self) -> int | None:
        """Until when the signer's answer is worth waiting for; None if it owes none."""
        asked_ns = self._unsigned.asked_ns
        return None if asked_ns is None else asked_ns + SIGNING_NS

    def housekeeping(self) -> None:
        """Publish where agreement is."""
        writer = self._metrics
        writer.set(writer["height"], self._store.tip.height)
        if self._agreement is not None:
            writer.set(writer["round"], max(0, self._agreement.core.round))

    def close(self) -> None:
        """Close the log and the block files."""
        self._wal.close()
        self._candidates.close()

    # -- the signer ------------------------------------------------------------------------------

    def signer_says(self, frame: bytes) -> None:
        """Take a word of the signer."""
        match decode_reply(frame):
            case Identity(validator):
                if self._agreement is None:
                    self._begin(validator)
                else:  # it was restarted
                    self._unsigned.restart(time.monotonic_ns())
            case Signed(message):
                since_ns = self._unsigned.answered(msgspec.structs.replace(message, signature=b""))
                if since_ns is not None and self._agreement is not None:
                    now_ns = time.monotonic_ns()
                    self._metrics.observe(self._sign_ms, (now_ns - since_ns) // NS_PER_MS)
                    self._agreement.signed(message, now_ns)
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
        self._agreement = Agreement(core, self._wal, self)
        self._agreement.start(self._store.tip.height, time.monotonic_ns())
        self._log.info(
            "agreement_started",
            height=self._store.tip.height + 1,
            validator=validator,
            validators=len(self._validators),
        )

    # -- effects ---------------------------------------------------------------------------------

    def await_transactions(self, height: int) -> None:
        """Remember that agreement waits for work; `poll` looks."""
        self._awaiting = height

    def build(self, height: int, round_: int) -> None:
        """Build a block out of the mempool."""
        proposer = self._validators[self._me].key_bytes
        value = self._candidates.build(time.time_ns() // NS_PER_MS, proposer)
        self._tell(BlockBuilt(height, round_, value))

    def request_block(self, height: int, value: bytes) -> None:
        """Bodies of others come over the network, which no message can have come without."""
        raise RuntimeError(f"block {value.hex()} of height {height} was proposed by nobody")

    def persist_body(self, height: int, value: bytes) -> None:
        """Make a body durable."""
        began = time.monotonic_ns()
        if self._candidates.persist(value):
            self._metrics.observe(self._body_ms, (time.monotonic_ns() - began) // NS_PER_MS)
            self._tell(BodyDurable(height, value))
        else:
            self._log.warning("body_lost", height=height, block=value.hex())

    def sign(self, message: Proposal | Vote) -> None:
        """Ask the signer, in its turn."""
        self._unsigned.add(message, time.monotonic_ns())

    def broadcast(self, message: Proposal | Vote | Certified) -> None:
        """There are no peers yet."""

    def send_decisions(self, validator: int, height: int) -> None:
        """There are no peers yet."""

    def commit(self, decision: Commit) -> None:
        """Apply the block, tell the world, go on."""
        began = time.monotonic_ns()
        certificate = encode(Certified(decision.certificate))
        block = self._candidates.commit(decision.value, certificate)
        self._publisher.finalised(decision.value, block)
        writer = self._metrics
        writer.observe(self._commit_ms, (time.monotonic_ns() - began) // NS_PER_MS)
        writer.add(writer["blocks"], 1)
        writer.add(writer["rounds_failed"], decision.round)
        writer.add(writer["items_out"], len(block.txids))
        writer.set(writer["height"], decision.height)
        self._tell(Committed(decision.height))

    def report(self, misbehaviour: ReportMisbehaviour) -> None:
        """Log the evidence, whole."""
        self._metrics.add(self._metrics["misbehaviour"], 1)
        self._log.error(
            "misbehaviour",
            validator=misbehaviour.first.validator,
            height=misbehaviour.first.height,
            evidence=_hex(map(encode, (misbehaviour.first, misbehaviour.second))),
        )

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

    def _tell(self, answer: BlockBuilt | BodyDurable | Committed) -> None:
        assert self._agreement is not None, "effects come from it"
        self._agreement.tell(answer, time.monotonic_ns())


def _hex(frames: Iterable[bytes]) -> list[str]:
    return [frame.hex() for frame in frames]
