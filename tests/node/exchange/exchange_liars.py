"""Peers that do what peers should not, for the simulated network: they lie, stall, forget."""

from __future__ import annotations

from pathlib import Path

from exchange_world import Node, World, payments

from node.block import Block
from node.consensus.messages import Certified
from node.exchange import messages
from node.exchange.messages import decode_block, encode_block
from node.network.frames import FrameType


class Stalling(Node):
    """Says that it has everything and gives nothing."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        pass


class HeadsOnly(Stalling):
    """Gives a block's header and certificate, and none of its transactions."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.BLOCK:
            self.world.transmit(self.number, peer, frame_type, body)


class BadSignatures(Node):
    """Gives transactions whose signatures are broken."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.PART:
            body = body[:-1] + bytes((body[-1] ^ 1,))
        super().send(peer, frame_type, body)


class BadCertificates(Node):
    """Gives certificates that nobody signed."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.BLOCK:
            body = body[:-1] + bytes((body[-1] ^ 1,))
        super().send(peer, frame_type, body)


class WrongBlocks(Node):
    """Gives the header and the certificate of another height."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.BLOCK:
            head = decode_block(body)
            first = self.bodies.read(self.store.block_location(1))
            certificate = self.store.certificate(1)
            assert certificate is not None
            body = encode_block(head.request, first.header.encode(), certificate)
        super().send(peer, frame_type, body)


class OtherTransactions(Node):
    """Gives good transactions, but not those of the block."""

    def __init__(self, number: int, world: World, path: Path) -> None:
        super().__init__(number, world, path)
        (self.other,) = payments(self.chain, range(500, 501), fee=77)

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.PART:
            part = messages.decode_part(body)
            body = messages.encode_part(part.request, part.first, [self.other] * len(part.lengths))
        super().send(peer, frame_type, body)


class Boasting(Node):
    """Says that its chain is very high."""

    def told_height(self) -> int:
        return 2**63


class Forgetful(Node):
    """Loses every part once."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        lost: set[bytes] = self.__dict__.setdefault("lost", set())
        if frame_type is FrameType.PART and body not in lost:
            lost.add(body)
        else:
            super().send(peer, frame_type, body)


class Deaf(Node):
    """Counts what it is told of decisions, and does nothing."""

    def decided(self, certified: Certified, block: Block | None) -> None:
        self.__dict__.setdefault("told", []).append((certified, block))


class Voting(Node):
    """Has agreement: a certificate makes it look for the block where it was voted for."""

    def proven(self, certified: Certified) -> None:
        super().proven(certified)
        certificate = certified.certificate
        now_ns, unix_ms = self.world.now_ns, self.world.unix_ms()
        assert certificate.value is not None
        self.exchange.want(certificate.height, certificate.value, now_ns, unix_ms)

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        super().judged(height, value, block)
        assert block is not None
        self.commit(block, self.proofs[-1])
