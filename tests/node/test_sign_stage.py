"""The stage that signs, in a process of its own: what it answers, what it needs, what it hides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sign_process
import zmq
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from signer_cuts import message_at

from node.commands.init import init
from node.commands.loading import load
from node.consensus.messages import Committed, Proposal, Vote
from node.consensus.signed_bytes import address_bytes, signed_bytes
from node.consensus.wire import encode
from node.datadir import Layout, layout
from node.keys import create_key_file, hold_key_file, read_key_file
from node.params import SIGN_PREFIX_SPEND
from node.sign_link import (
    Identity,
    Prove,
    Proven,
    Refused,
    Reply,
    Signed,
    decode_reply,
    encode_request,
)
from node.signer import STATE_NAME, Refusal
from pipeline.control import Channel, Info, PeerStarted, Ready, Stop
from pipeline.link import Outbox, link_named, open_inbox

ROOT = Path(sign_process.__file__).parents[2]
WAIT_MS = 30_000
BEGUN = PeerStarted("consensus", 0, 1)


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    found = layout(tmp_path / "d")
    init(found, "dev", None, None)
    monkeypatch.chdir(found.run)
    return found


class Asker:
    """The consensus stage's ends of the two links."""

    def __init__(self) -> None:
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._replies = open_inbox(self._sockets, link_named(sign_process.TOPOLOGY, "signed"))
        self._requests = Outbox(self._sockets, link_named(sign_process.TOPOLOGY, "sign"))

    def send(self, frame: bytes) -> None:
        self._requests.send(frame)

    def reply(self) -> Reply:
        assert self._replies.poll(WAIT_MS), "no answer"
        return decode_reply(self._replies.recv())

    def ask(self, message: Proposal | Vote) -> Reply:
        self.send(encode_request(message))
        return self.reply()

    def close(self) -> None:
        self._requests.close()
        self._replies.close()
        self._sockets.destroy(0)


@pytest.fixture
def asker(where: Layout) -> Iterator[Asker]:
    found = Asker()
    yield found
    found.close()


class Process:
    """The process, and the supervisor's end of its channel."""

    def __init__(self, where: Layout) -> None:
        self.channel, theirs = Channel.pair()
        with theirs:
            theirs.set_inheritable(True)
            self.popen = subprocess.Popen(
                [sys.executable, sign_process.__file__, str(where.root), str(theirs.fileno())],
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    def said(self) -> list[object]:
        """What it tells the supervisor until it is ready."""
        messages: list[object] = []
        deadline_s = time.monotonic() + WAIT_MS / 1000
        while not messages or not isinstance(messages[-1], Ready):
            assert time.monotonic() < deadline_s, messages
            received = self.channel.receive()
            if received is None:
                assert self.popen.poll() is None, self.popen.stdout
                time.sleep(0.005)
            else:
                messages.append(received[0])
        return messages

    def stop(self) -> dict[str, Any]:
        self.channel.send(Stop(deadline_ms=5_000))
        return self.outcome(0)

    def outcome(self, status: int) -> dict[str, Any]:
        out, _ = self.popen.communicate(timeout=WAIT_MS / 1000)
        assert self.popen.returncode == status, out
        found: dict[str, Any] = json.loads(out)
        return found


@contextmanager
def started(where: Layout) -> Iterator[Process]:
    process = Process(where)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()
        process.channel.close()


def refused(where: Layout) -> str:
    with started(where) as process:
        message = str(process.outcome(2)["refused"])
    assert message.count("\n") == 0
    assert "; " in message
    return message


def place(height: int, step: int, number: int = 1) -> Proposal | Vote:
    return message_at((height, 0, step), number, validator=0)


def test_it_signs_refuses_and_counts(where: Layout, asker: Asker) -> None:
    settings = load(where, terminal=False).settings
    key = VerifyKey(settings.genesis.validators[0].key_bytes)
    with started(where) as process:
        told = process.said()
        assert told[0] == Info("signs as validator 0; signs from height 1 on")
        process.channel.send(PeerStarted("net", 0, 1))
        process.channel.send(BEGUN)
        assert asker.reply() == Identity(0)
        for step in (0, 1, 2):
            message = place(1, step)
            reply = asker.ask(message)
            assert isinstance(reply, Signed)
            key.verify(signed_bytes(message, settings.salt), reply.message.signature)
            assert msgspec.structs.replace(reply.message, signature=b"") == message
        again = asker.ask(place(1, 2))
        assert again == reply
        conflict = asker.ask(place(1, 2, 0))
        assert isinstance(conflict, Refused)
        assert conflict.message == place(1, 2, 0)
        assert "something else" in conflict.reason
        other = message_at((2, 0, 0), 1, validator=1)
        assert isinstance(asker.ask(other), Refused)
        for frame in (
            b"",
            b"\1" + encode(Committed(1)),
            SIGN_PREFIX_SPEND + bytes(32),  # a payment that somebody would like to have signed
            encode_request(place(2, 1)) + b"\0",
            os.urandom(100),
        ):
            asker.send(frame)
        assert isinstance(asker.ask(place(2, 1)), Signed)  # nothing came of these
        process.channel.send(BEGUN)
        assert asker.reply() == Identity(0)
        found = process.stop()
    assert found["values"] == {"signatures": 5, "refused": 7, "items_in": 12}


def test_it_shows_peers_who_it_is_and_remembers_nothing_of_that(
    where: Layout, asker: Asker
) -> None:
    settings = load(where, terminal=False).settings
    key = VerifyKey(settings.genesis.validators[0].key_bytes)
    state = (where.signer / STATE_NAME).read_bytes()
    prove = Prove(bytes(range(32)), bytes(16))
    with started(where) as process:
        process.said()
        for _ in range(2):
            asker.send(encode_request(prove))
            reply = asker.reply()
            assert isinstance(reply, Proven)
            assert reply.prove == prove
            key.verify(address_bytes(*prove, settings.salt), reply.signature)
        assert (where.signer / STATE_NAME).read_bytes() == state
        # What is signed for others is a hash, under a prefix that nothing else has.
        for message in (place(1, 1), place(1, 2)):
            asker.send(encode_request(Prove(signed_bytes(message, settings.salt)[15:], bytes(16))))
            reply = asker.reply()
            assert isinstance(reply, Proven)
            with pytest.raises(BadSignatureError):
                key.verify(signed_bytes(message, settings.salt), reply.signature)
        assert isinstance(asker.ask(place(1, 0)), Signed)
        process.stop()


def test_it_is_small_and_keeps_its_memory_to_itself(where: Layout) -> None:
    with started(where) as process:
        process.said()
        found = process.stop()
    assert found["core_limit"] == [0, 0]
    assert found["dumpable"] == 0
    assert found["heavy"] == []
    assert found["modules"] < 300


def test_a_killed_one_goes_on_where_it_was(where: Layout, asker: Asker) -> None:
    with started(where) as process:
        process.said()
        process.channel.send(BEGUN)
        assert asker.reply() == Identity(0)
        signed = asker.ask(place(1, 1))
        process.popen.send_signal(signal.SIGKILL)
    with started(where) as process:
        assert process.said()[0] == Info(
            "signs as validator 0; last signed height 1, round 0, prevote"
        )
        process.channel.send(BEGUN)
        assert asker.reply() == Identity(0)
        assert isinstance(asker.ask(place(1, 1, 0)), Refused)
        assert asker.ask(place(1, 1)) == signed
        assert isinstance(asker.ask(place(1, 0)), Refused)


def test_a_backup_without_state_is_silent_for_two_heights(where: Layout, asker: Asker) -> None:
    (where.signer / STATE_NAME).unlink()
    where.signer.rmdir()
    with started(where) as process:
        assert process.said()[0] == Info("signs as validator 0; no record of what was signed")
        for height in (4, 5):
            reply = asker.ask(place(height, 1))
            assert isinstance(reply, Refused)
            assert "signs from height 6 on" in reply.reason
        assert isinstance(asker.ask(place(6, 1)), Signed)
        process.stop()
    assert where.signer.stat().st_mode & 0o777 == 0o700


def test_one_signer_at_a_time_whatever_the_name_of_the_key_file(
    where: Layout, tmp_path: Path
) -> None:
    other = layout(tmp_path / "other")
    init(other, "dev", where.genesis, where.validator_key)  # with a copy, which is another file
    other.validator_key.unlink()
    other.validator_key.hardlink_to(where.validator_key)
    with started(where) as process:
        process.said()
        message = refused(other)
        assert f"another process (process {process.popen.pid}) signs with" in message
        assert str(other.validator_key) in message
        assert "stop that node first" in message
        process.stop()
    with hold_key_file(other.validator_key, wait_s=0):
        pass  # a process that ended lets go


def test_what_an_operator_must_mend_is_one_line(where: Layout) -> None:
    path = where.validator_key
    text = path.read_bytes()
    seed = bytes(read_key_file(path))
    state = where.signer / STATE_NAME
    record = state.read_bytes()

    state.write_bytes(record[:-1])
    assert f"{state} is damaged; move it away" in refused(where)
    state.write_bytes(record)

    path.chmod(0o640)
    assert f"chmod 600 {path}" in refused(where)
    path.unlink()
    path.mkdir()  # missing altogether is said by the check of the directory
    path.rmdir()
    path.write_bytes(b"timed-validator-key 1 " + b"0" * 63)
    path.chmod(0o600)
    message = refused(where)
    assert "does not hold a validator key" in message
    assert seed.hex()[:8] not in message
    path.unlink()
    create_key_file(path, bytes(SigningKey.generate()))
    assert "is not a validator's of this chain; put the right key file there" in refused(where)
    path.write_bytes(text)


def test_refusals_have_names() -> None:
    assert [str(each) for each in Refusal] == [
        "malformed",
        "not ours",
        "back",
        "conflict",
        "silent",
    ]
