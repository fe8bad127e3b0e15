"""What an operator sees and does of peers, bans and liars: a real node, called by peers by hand.

The node is one of four validators, of which the others do not run; their keys are the callers'.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from caller import Caller, Refused
from devnet import Devnet, wait_until
from nacl.signing import SigningKey, VerifyKey

from node.consensus.messages import Vote, VoteType
from node.consensus.signed_bytes import address_bytes, signed_bytes
from node.consensus.wire import encode
from node.genesis import genesis_id, salt_of
from node.keys import read_key_file
from node.network.frames import FrameType
from node.network.handshake import Proof, Refusal, decode_proof, encode_proof
from node.peer_frames import pack_messages

pytestmark = pytest.mark.timeout(180)


class World:
    """The node, and whoever calls it."""

    def __init__(self, net: Devnet) -> None:
        self.net = net
        self.genesis_id = genesis_id(net.genesis)
        self.salt = salt_of(self.genesis_id)
        keys = [read_key_file(place.datadir / "validator.key") for place in net.places]
        self.index = {each.key_bytes: n for n, each in enumerate(net.genesis.validators)}
        self.own = self.index[bytes(keys[0].verify_key)]
        self.keys: dict[int, SigningKey] = {
            self.index[bytes(key.verify_key)]: key for key in keys[1:]
        }
        self.datadir = net.places[0].datadir

    def call(self, number: int, host: str = "127.0.0.9") -> Caller:
        address = self.net.places[0].peer
        return Caller(address, host, self.genesis_id, number.to_bytes(16, "big"))

    def timed(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "node", command, "--datadir", str(self.datadir), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    def peer(self, caller: Caller) -> dict[str, Any] | None:
        """How the node lists a caller."""
        rows = self.timed("peers")
        return next((each for each in rows if each["node_id"] == caller.node_id.hex()), None)

    def votes(self, validator: int) -> list[bytes]:
        """Two that no honest validator says."""
        votes = []
        for value in (bytes(32), None):
            vote = Vote(VoteType.PREVOTE, 1, 0, value, validator)
            signature = self.keys[validator].sign(signed_bytes(vote, self.salt)).signature
            votes.append(encode(msgspec.structs.replace(vote, signature=signature)))
        return votes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root: Path = tmp_path_factory.mktemp("net")
    with Devnet(root, 4, transactions=100, network={"max_outbound": 0}) as net:
        net.start(0)
        yield World(net)


def test_validators_prove_themselves_to_each_other(world: World) -> None:
    validator, key = next(iter(world.keys.items()))
    with world.call(1) as caller:
        shown = decode_proof(caller.wait_for(FrameType.PROOF))
        assert shown.validator == world.own
        public = world.net.genesis.validators[world.own].key_bytes
        content = address_bytes(caller.challenge, caller.welcome.node_id, world.salt)
        VerifyKey(public).verify(content, shown.signature)
        before = wait_until(lambda: world.peer(caller))
        assert (before["protected"], before["validator"]) == (False, None)
        assert (before["direction"], before["agent"]) == ("in", "caller")
        content = address_bytes(caller.welcome.challenge, caller.node_id, world.salt)
        signature = key.sign(content).signature
        caller.say(FrameType.PROOF, encode_proof(Proof(validator, signature)))
        wait_until(lambda: (world.peer(caller) or {}).get("protected"), what="it is protected")
        row = world.peer(caller)
        assert row is not None
        assert (row["validator"], row["score"]) == (validator, 0)
    wait_until(lambda: world.timed("peers") == [], what="it is gone from the list")


def test_a_wrong_proof_is_a_ban_that_the_operator_lifts(world: World) -> None:
    validator, key = next(iter(world.keys.items()))
    with world.call(2, "127.0.0.8") as caller:
        content = address_bytes(caller.welcome.challenge, bytes(16), world.salt)
        signature = key.sign(content).signature
        caller.say(FrameType.PROOF, encode_proof(Proof(validator, signature)))
        caller.wait_end()
    (ban,) = wait_until(lambda: world.timed("bans"), what="the ban is in the file")
    assert ban["address"] == "127.0.0.8"
    assert ban["reason"] == f"is not run by validator {validator}"
    with pytest.raises(Refused) as refused:
        world.call(2, "127.0.0.8")
    assert refused.value.reason is Refusal.BANNED
    assert world.run("bans", "--lift", "127.0.0.7").returncode == 2
    told = world.run("bans", "--lift", "127.0.0.8")
    assert told.returncode == 0
    assert "follows within 5 seconds" in told.stdout

    def welcome() -> bool:
        try:
            world.call(2, "127.0.0.8").__exit__()
        except Refused:
            return False
        return True

    wait_until(welcome, 10, "it is let in again")
    assert world.timed("bans") == []


def test_a_validator_that_contradicts_itself_is_held_to_it(world: World) -> None:
    validator = next(iter(world.keys))
    votes = world.votes(validator)
    with world.call(3) as caller:
        caller.wait_for(FrameType.PROOF)  # so agreement has begun: what comes before it is lost
        caller.say(FrameType.AGREEMENT, pack_messages(votes))
        (case,) = wait_until(lambda: world.timed("evidence"), what="the case is kept")
    assert case["verdict"] == "proven"
    assert (case["validator"], case["height"], case["round"]) == (validator, 1, 0)
    assert {case["first"], case["second"]} == {each.hex() for each in votes}
    assert world.timed("status")["evidence"] == {"cases": 1, "validators": [validator]}
    assert f"contradicted themselves: {validator} " in world.run("status").stdout
    world.net.stop(0)
    assert world.run("peers").returncode == 2
    world.net.start(0)
    with world.call(3) as caller:
        caller.wait_for(FrameType.PROOF)
        caller.say(FrameType.AGREEMENT, pack_messages(votes))
        other = world.votes([*world.keys][1])
        caller.say(FrameType.AGREEMENT, pack_messages(other))
        wait_until(lambda: len(world.timed("evidence")) == 2, what="a second case")
    log = world.net.places[0].log.read_text()
    assert log.count(votes[1].hex()) == 1


def test_the_list_of_peers_outlives_the_process_that_makes_it(world: World) -> None:
    with world.call(4) as caller:
        wait_until(lambda: world.peer(caller))
        status = world.timed("status")
        (pid,) = [each["pid"] for each in status["processes"] if each["name"] == "net"]
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        caller.wait_end()
    wait_until(lambda: world.timed("peers") == [], what="its successor has no peers")
