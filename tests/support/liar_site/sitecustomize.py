"""Makes a validator lie: its directory goes first on PYTHONPATH of that one node.

Python imports it in every process of the node; what TIMED_LIES names (`Lie`, separated by commas)
is then patched into `node.host` as soon as the process that decides has imported that. The liar
signs with the validator's key itself, past the signer, which refuses to contradict itself. Nothing
of this is in the shipped packages.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from itertools import count
from types import ModuleType
from typing import Any


class Lie(StrEnum):
    """What a node does wrong."""

    DOUBLE = "double"  # prevotes, precommits and proposals: one to some peers, another to others
    SILENT = "silent"  # says nothing and answers nothing; its connections live
    GARBAGE = "garbage"  # what it sends of blocks is damaged, each time in another way
    INVALID = "invalid"  # it proposes blocks that break a rule, and votes for them


LIES = frozenset(Lie(each) for each in os.environ.get("TIMED_LIES", "").split(",") if each)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls `then` with a module right after its import."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def corrupt(host: ModuleType) -> None:
    """Patch the lies into `node.host`, and say so in the node's log."""
    print("this node lies:", *sorted(LIES), file=sys.stderr, flush=True)
    if Lie.DOUBLE in LIES:
        contradict(host.NodeHost)
    if Lie.INVALID in LIES:
        build_invalid(host.NodeHost)
    if Lie.GARBAGE in LIES:
        send_garbage(host.PeerLink)
    if Lie.SILENT in LIES:
        host.PeerLink.send = host.PeerLink.broadcast = lambda *_: None


# -- contradictions --------------------------------------------------------------------------------


def contradict(node_host: Any) -> None:
    """What this validator signs, it signs again with another content, for every second peer."""
    honest = node_host.broadcast

    def broadcast(self: Any, message: Any) -> None:
        from node.consensus.wire import encode
        from node.network.frames import FrameType
        from node.peer_frames import pack_messages

        other = _contrary(self, message)
        if other is None:
            honest(self, message)
            return
        for number, peer in enumerate(sorted(self.peers._link.heights)):
            said = encode(other if number % 2 else message)
            self.peers._link.send(peer, FrameType.AGREEMENT, pack_messages([said]))

    node_host.broadcast = broadcast


def _contrary(host: Any, message: Any) -> Any:
    """Another message for the same place, signed; None if there is none."""
    import msgspec

    from node.consensus.messages import Proposal, Vote

    if isinstance(message, Vote):
        seed = f"{message.type} {message.height} {message.round}".encode()
        nowhere = blake2b(seed, digest_size=32).digest()  # a block that nobody has
        value = nowhere if message.value is None else None
    elif isinstance(message, Proposal) and message.valid_round == -1:
        value = _second_block(host, message.value)
    else:
        return None
    if value is None and isinstance(message, Proposal):
        return None
    return _signed(host, msgspec.structs.replace(message, value=value, signature=b""))


def _signed(host: Any, message: Any) -> Any:
    from pathlib import Path

    import msgspec

    from node.consensus.signed_bytes import signed_bytes
    from node.keys import read_key_file

    settings = host._settings
    key = read_key_file(Path(settings.validator_key_path))
    signature = key.sign(signed_bytes(message, settings.salt)).signature
    return msgspec.structs.replace(message, signature=signature)


def _second_block(host: Any, value: bytes) -> bytes | None:
    """Make a block that differs in its time only, and have it ready for who asks for it."""
    block = host._candidates.get(value)
    return None if block is None else _variant(host, block, time_ms=block.header.time_ms + 1)


def _variant(host: Any, block: Any, **changed: Any) -> bytes:
    """The id of a block with another header, which is announced and handed out."""
    from dataclasses import replace

    other = replace(block, header=replace(block.header, **changed))
    value: bytes = other.id(host._settings.salt)
    host._candidates.add(value, other)
    host.peers.proposed(value, other)
    return value


# -- blocks ----------------------------------------------------------------------------------------


def build_invalid(node_host: Any) -> None:
    """Propose blocks whose header is wrong, or claims what their transactions do not hold."""
    ways = count()

    def build(self: Any, height: int, round_: int) -> None:
        import time

        from node.consensus.messages import BlockBuilt

        proposer = self._validators[self._me].key_bytes
        most = self._limit.transactions
        honest = self._candidates.build(time.time_ns() // 1_000_000, proposer, most)
        block = self._candidates.get(honest)
        header = block.header
        wrong: dict[str, Any] = (
            {"fees": header.fees + 1},
            {"n_transactions": header.n_transactions + 1},
            {"transaction_root": bytes(32)},
            {"previous": bytes(32)},
            {"proposer": bytes(32)},
        )[next(ways) % 5]
        self._tell(BlockBuilt(height, round_, _variant(self, block, **wrong)))

    node_host.build = build


def send_garbage(peer_link: Any) -> None:
    """Damage what is sent of blocks."""
    send, broadcast = peer_link.send, peer_link.broadcast
    ways = count()

    def damaged(frame_type: int, body: bytes) -> bytes:
        from node.network.frames import FrameType

        kinds = (FrameType.COMPACT, FrameType.BLOCK, FrameType.PART, FrameType.NOT_FOUND)
        if frame_type not in kinds:
            return body
        way = next(ways) % 4
        middle = len(body) // 2
        if way == 0:  # what is asked for by a number keeps that, and nothing else
            return body[:4] + blake2b(body).digest() * 4
        if way == 1:
            return body[:-7]
        if way == 2:
            return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return body[:4] + b"\xff" * (len(body) - 4)

    def lying_send(self: Any, peer: int, frame_type: Any, body: bytes) -> None:
        send(self, peer, frame_type, damaged(frame_type, body))

    def lying_broadcast(self: Any, frame_type: Any, body: bytes) -> None:
        broadcast(self, frame_type, damaged(frame_type, body))

    peer_link.send, peer_link.broadcast = lying_send, lying_broadcast


if LIES:
    sys.meta_path.insert(0, AfterImport("node.host", corrupt))
