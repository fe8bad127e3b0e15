"""Hostile peers: what they are held to, what they send, and a real node among them."""

from __future__ import annotations

import asyncio
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from node.network.frames import ACCEPTING, HEAD_BYTES, ON_LANE, FrameError, FrameReader, Lane
from node.network.frames import FrameType as F
from node.network.handshake import NO_SESSION, decode_hello, judge_hello
from node.peer_frames import unpack_transactions
from node.transaction import TransactionError, decode, spend_message, txid
from node.verification.nacl import NaclBackend
from tools.bench.ammunition import BATCH, PINGS, Ammunition, huge
from tools.bench.devnet import DevnetBench, flood
from tools.bench.devnet_plan import FLOOD_TURNS, DevnetScale
from tools.bench.errors import BenchFailed
from tools.bench.hostile import (
    CREDIT_S,
    EACH,
    RECONNECTS_PER_S,
    Crowd,
    Gate,
    Hostile,
    Kind,
    Share,
)
from tools.loadgen.workload_file import Workload

OLD = 10
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> DevnetBench:
    scale = DevnetScale(2, 1, 0.5, least=500, settle_s=0.1, quick=True)
    bench = DevnetBench(tmp_path_factory.mktemp("hostile"), scale, "nacl", keep=False)
    bench.prepare(2, lambda line: None)
    return bench


@pytest.fixture(scope="module")
def workload(bench: DevnetBench) -> Workload:
    return Workload.open(bench.chain(2))


@pytest.fixture(scope="module")
def ammunition(workload: Workload) -> Ammunition:
    return Ammunition.of(workload, OLD)


def items(frame: bytes) -> list[bytes]:
    """The transactions of a frame that a peer may send."""
    reader = FrameReader(ON_LANE[Lane.BULK])
    reader.feed(memoryview(frame))
    found = reader.next()
    assert found is not None
    assert not reader.has_more
    kind, body = found
    assert kind == F.TRANSACTIONS
    payload, ends = unpack_transactions(body)
    return [bytes(payload[begin:end]) for begin, end in pairwise([0, *ends.tolist()])]


def test_no_more_than_the_share_is_used() -> None:
    share = Share(0.25, 100.0, 7.0)
    now_s, cpu_s = 100.0, 7.0
    for _ in range(1_000):
        cpu_s += 0.002
        now_s += 0.002 + share.pause_s(now_s + 0.002, cpu_s)
    assert cpu_s - 7.0 == pytest.approx(0.25 * (now_s - 100.0), rel=0.02)


def test_a_rest_is_not_made_up_for() -> None:
    share = Share(0.5, 0.0, 0.0)
    assert share.pause_s(1_000.0, 0.0) == 0
    assert share.pause_s(1_000.0, CREDIT_S * 0.4) == 0
    assert share.pause_s(1_000.0, CREDIT_S * 1.5) == pytest.approx(2 * CREDIT_S)


def test_those_who_come_again_are_let_in_one_by_one() -> None:
    gate = Gate(10.0)
    assert [gate.wait_s(5.0) for _ in range(4)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert gate.wait_s(60.0) == 0


def test_old_payments_and_garbage_are_batches_in_order(
    workload: Workload, ammunition: Ammunition
) -> None:
    assert items(ammunition.old) == [workload.transaction(number) for number in range(OLD)]
    garbage = items(ammunition.garbage)
    assert len(garbage) == BATCH
    for each in garbage:
        with pytest.raises(TransactionError):
            decode(each, 0)


def test_phantoms_are_signed_and_all_different(workload: Workload, ammunition: Ammunition) -> None:
    salt, backend = workload.genesis_id[:16], NaclBackend()
    assert len({item for frame in ammunition.phantoms for item in items(frame)}) == BATCH * len(
        ammunition.phantoms
    )
    for each in items(ammunition.phantoms[0]):
        transaction = decode(each, workload.genesis.dust_limit)
        (witness,) = transaction.witnesses
        message = spend_message(txid(each, salt))
        assert backend.verify_alone(witness.key, witness.signature, message)


def test_greetings_are_valid(ammunition: Ammunition, workload: Workload) -> None:
    frame = ammunition.hello(Lane.AGREEMENT, bytes(16), NO_SESSION)
    hello = decode_hello(frame[HEAD_BYTES:])
    assert judge_hello(hello, workload.genesis_id, b"n" * 16) is None


def test_huge_lengths_are_no_frames_and_pings_are() -> None:
    for limits, kind in ((ACCEPTING, F.HELLO), (ON_LANE[Lane.BULK], F.TRANSACTIONS)):
        reader = FrameReader(limits)
        reader.feed(memoryview(huge(kind)))
        with pytest.raises(FrameError, match="length of 4294967295"):
            reader.next()
    for limits in ON_LANE.values():
        reader = FrameReader(limits)
        reader.feed(memoryview(PINGS))
        assert reader.next() is not None


def test_where_nobody_listens_they_come_again_and_not_too_often(
    bench: DevnetBench, tmp_path: Path
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Hostile(target, bench.chain(2), OLD, tmp_path / "log") as hostile:
            hostile.wait_ready()
            counted = hostile.stop()
    assert all(counted["dialled"][kind] >= EACH for kind in Kind)
    assert not counted["greeted"]
    again = sum(counted["dialled"].values()) - EACH * len(Kind)
    assert again <= RECONNECTS_PER_S * counted["elapsed_s"] + 1


def test_a_peer_ends_though_it_is_thrown_out_just_then(
    ammunition: Ammunition, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def thrown_out(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionResetError

    async def end_it() -> None:
        crowd = Crowd("127.0.0.1", 1, ammunition)
        monkeypatch.setattr(crowd, "_meet", thrown_out)
        attack = asyncio.create_task(crowd.attack(Kind.FLOOD, 0, lambda: None))
        await asyncio.sleep(0)
        crowd.over = True
        attack.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([attack])

    asyncio.run(end_it())


def test_peers_that_cannot_begin_are_quoted(tmp_path: Path) -> None:
    with (
        Hostile("127.0.0.1:1", tmp_path, OLD, tmp_path / "log") as hostile,
        pytest.raises(BenchFailed, match="holds no complete workload"),
    ):
        hostile.wait_ready()


def test_a_node_lives_among_them(bench: DevnetBench) -> None:
    (ratio,), detail = flood(bench, 1_000.0)
    assert ratio > 0
    assert len(detail["turns"]) == FLOOD_TURNS
    for turn in detail["turns"]:
        counted = turn["hostile"]
        assert all(counted["dialled"][kind] >= EACH for kind in Kind)
        assert counted["greeted"].keys() >= set(Kind) - {Kind.LENGTHS}  # there may be no room
        assert counted["greeted"][Kind.DRIBBLE] < counted["dialled"][Kind.DRIBBLE]
        assert counted["sent_bytes"].keys() == set(Kind)
    assert all(load["finalised"] for load in detail["loads"])
    assert list((bench.work / "runs").iterdir()) == []
