"""The stage that signs: the only process of the node that holds the validator's key.

Requests for signatures of own messages come from ``consensus``; each is answered once, signed or
refused (`node.signer` decides), and both ends learn who this is whenever one of them has started.
Everything else stays out: no sockets to the outside, no arrays, no log, no more than three kinds of
message under their own prefixes, and under a fourth one the proof of who this is for a peer.

It owns the key file, locked for its life, and the directory of the signer's state. It may be killed
at any moment: what it has not answered is asked again, and the same request gets the same
signature. What stops the node: a key that is missing, damaged, open to others, in use elsewhere or
no validator's of this chain; a state that is damaged; a disk that is full or fails.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import zmq

from node.consensus.wire import WireError
from node.datadir import ensure_directory
from node.durable import Directory
from node.keys import forbid_dumps, hold_key_file, validator_index
from node.settings import NodeSettings
from node.sign_link import (
    Identity,
    Prove,
    Proven,
    Refused,
    Signed,
    decode_request,
    encode_reply,
)
from node.signer import Signer, SigningRefused
from pipeline.child import StageContext
from pipeline.control import Info, PeerStarted
from pipeline.link import Outbox, drain, link_named, open_inbox
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.stage import Input, Stage

BURST = 8  # requests in a turn; consensus has fewer under way
US_BUCKETS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000)
NS_PER_US = 1_000

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "sign",
        (
            Metric("signatures", Kind.COUNTER, "signatures", "Signatures given, repeated ones too"),
            Metric("refused", Kind.COUNTER, "requests", "Requests refused"),
            Metric("sign_us", Kind.HISTOGRAM, "us", "Signing, state on disk", US_BUCKETS),
        ),
    ),
)


def build(context: StageContext) -> Stage:
    """Make the stage; called once in its process. Raises `NodeError` for what an operator must
    mend.
    """
    return SignStage(context)


class SignStage(Stage):
    """Answers one request after the other."""

    def __init__(self, context: StageContext) -> None:
        forbid_dumps()  # before there is anything to hide
        settings = context.settings
        assert isinstance(settings, NodeSettings)
        self.metrics = MetricWriter(context.metrics.view, METRICS, incarnation=context.incarnation)
        self._held = ExitStack()
        path = Path(settings.validator_key_path)
        key = self._held.enter_context(hold_key_file(path))
        public_key = bytes(key.verify_key)
        self._validator = validator_index(public_key, settings.genesis, path)
        directory = Path(settings.signer_path)
        ensure_directory(directory)
        self._signer = Signer(
            Directory(directory),
            lambda content: key.sign(content).signature,
            settings.salt,
            public_key,
            self._validator,
        )
        state = self._signer.state
        told = "no record of what was signed" if state is None else state.describe()
        context.channel.send(Info(f"signs as validator {self._validator}; {told}"))
        signed = link_named(context.topology, "signed")
        self._asker = signed.target
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._requests = open_inbox(self._sockets, link_named(context.topology, "sign"))
        self._replies = Outbox(self._sockets, signed)
        self.inputs = (Input(self._requests, self._handle_requests),)
        writer = self.metrics
        self._signatures = writer["signatures"]
        self._refused = writer["refused"]
        self._sign_us = writer["sign_us"]
        self._items_in = writer["items_in"]
        self._items_out = writer["items_out"]

    def peer_started(self, message: PeerStarted) -> None:
        """Say who this is to whoever asks for signatures; it asks again what was not answered."""
        if message.stage == self._asker:
            self._replies.send(encode_reply(Identity(self._validator)))

    def close(self) -> None:
        """Close the sockets, answers are delivered; let go of the key."""
        self._requests.close()
        self._replies.close()
        self._sockets.term()
        self._signer.close()
        self._held.close()

    def _handle_requests(self) -> int:
        frames = drain(self._requests, BURST)
        for frame in frames:
            self._answer(frame)
        self.metrics.add(self._items_in, len(frames))
        return len(frames)

    def _answer(self, frame: bytes) -> None:
        writer = self.metrics
        try:
            message = decode_request(frame)
        except WireError:  # nothing that could be answered
            writer.add(self._refused, 1)
            return
        if isinstance(message, Prove):
            signature = self._signer.prove(*message)
            self._replies.send(encode_reply(Proven(message, signature)))
            return
        began_ns = time.monotonic_ns()
        try:
            signed = self._signer.sign(message)
        except SigningRefused as refusal:
            writer.add(self._refused, 1)
            self._replies.send(encode_reply(Refused(message, refusal.text)))
            return
        writer.observe(self._sign_us, (time.monotonic_ns() - began_ns) // NS_PER_US)
        writer.add(self._signatures, 1)
        writer.add(self._items_out, 1)
        self._replies.send(encode_reply(Signed(msgspec.structs.replace(message, signature=signed))))
