"""What clients may send to a running node, and what they get for it."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from funded import DUST_LIMIT, MIN_FEE, VALUE, Funds, key
from running_node import IngestClient, RunningNode
from zmtp_client import MORE, ZmtpClient, frame_head

from node.params import INGEST_MAX_BYTES, INGEST_MAX_FRAME_BYTES, MAX_AMOUNT
from node.stages.net import MAX_UNANSWERED
from node.transaction import Input, Output, build, sign, txid
from node.verdict import Verdict


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("ingest") / "funds", 400)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, funds: Funds) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("node")
    node = RunningNode(
        root, funds.directory, verify={"workers": 1}, mempool={"relay_fee_per_kb": 2_000}
    ).start()
    yield node
    node.end()


@pytest.fixture
def client(node: RunningNode) -> Iterator[IngestClient]:
    client = IngestClient(node.ingest)
    yield client
    client.close()


def verdict(client: IngestClient, transaction: bytes) -> Verdict:
    codes = client.ask(transaction)
    assert len(codes) == 1
    return Verdict(codes[0])


def counts(node: RunningNode) -> Counter[Verdict]:
    """How often each verdict was given so far."""
    metrics = node.metrics("net")
    return Counter({each: metrics[f"verdict_{each.name.lower()}"] for each in Verdict})


@contextmanager
def accounted(node: RunningNode, expected: Mapping[Verdict, int]) -> Iterator[None]:
    """What is sent within gets these verdicts and no others, and no item is lost or doubled."""
    before, verdicts_before = node.metrics("net"), counts(node)
    yield

    def idle() -> bool:
        net = node.metrics("net")
        return bool(net["items_in"] == net["items_out"] and net["clients_waiting"] == 0)

    node.wait_until(idle)
    net, verdicts = node.metrics("net"), counts(node)
    assert verdicts - verdicts_before == Counter(expected)
    assert net["items_in"] - before["items_in"] == sum(expected.values())
    assert net["items_in"] == net["items_out"] == verdicts.total()


def test_no_cryptography_is_mapped_where_the_sockets_are(node: RunningNode) -> None:
    def libraries(process: str) -> str:
        return Path(f"/proc/{node.pid(process)}/maps").read_text()

    for file in ("_sodium", "nacl", "libcrypto_mb", "libintlc", "libimf", "libirng", "libsvml"):
        assert file not in libraries("net")
    assert "_sodium" in libraries("verify-0")


def test_a_payment_is_admitted_then_known_then_final(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    payment = funds.pay(0)
    assert verdict(client, payment) is Verdict.ADMITTED
    seen = {verdict(client, payment) for _ in range(2)}
    assert seen <= {Verdict.KNOWN, Verdict.FINAL}
    node.wait_until(lambda: verdict(client, payment) is Verdict.FINAL)


def test_every_rule_has_its_own_verdict(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    owner = bytes(key(99_999).verify_key)
    good = funds.pay(1, 2)
    body_end = 4 + 2 * 34 + 40
    forged = bytearray(good)
    forged[body_end + 32 + 40] ^= 1
    spent = funds.pay(3)
    assert verdict(client, spent) is Verdict.ADMITTED
    node.wait_until(lambda: verdict(client, spent) is Verdict.FINAL)

    def pay(fee: int, outputs: list[Output] | None = None, number: int = 4) -> bytes:
        out = outputs if outputs is not None else [Output(VALUE - fee, owner)]
        return build([(funds.outpoint(number), key(number))], out, funds.salt)

    def signed(inputs: list[Input], owners: list[int]) -> bytes:
        outputs = [Output(VALUE, owner)]
        return sign(inputs, outputs, [key(n) for n in owners], funds.salt)

    low, high = sorted((4, 5), key=funds.outpoint)
    cases = {
        Verdict.BAD_LENGTH: [good[:-1], good + b"\0", b"", b"\1", good[:50]],
        Verdict.BAD_VERSION: [b"\2" + good[1:]],
        Verdict.NO_INPUTS: [b"\1\0" + good[2:]],
        Verdict.NO_OUTPUTS: [b"\1\1\0" + good[3:]],
        Verdict.NO_WITNESSES: [b"\1\1\1\0" + good[4:]],
        Verdict.WITNESS_NUMBER: [signed([Input(funds.outpoint(4), 1)], [4, 5])],
        Verdict.WITNESS_UNUSED: [signed([Input(funds.outpoint(4), 0)], [4, 5])],
        Verdict.WITNESS_REPEATED: [
            signed([Input(funds.outpoint(low), 0), Input(funds.outpoint(high), 1)], [4, 4])
        ],
        Verdict.DUPLICATE_INPUT: [signed([Input(funds.outpoint(4), 0)] * 2, [4])],
        Verdict.INPUTS_UNSORTED: [
            signed([Input(funds.outpoint(high), 0), Input(funds.outpoint(low), 1)], [high, low])
        ],
        Verdict.DUST_OUTPUT: [pay(0, [Output(DUST_LIMIT - 1, owner)])],
        Verdict.AMOUNT_TOO_LARGE: [
            pay(0, [Output(MAX_AMOUNT + 1, owner)]),
            pay(0, [Output(MAX_AMOUNT, owner)] * 2),
        ],
        Verdict.BAD_SIGNATURE: [bytes(forged)],
        Verdict.SPENT_INPUT: [pay(1_000, number=3)],
        Verdict.NO_SUCH_OUTPUT: [
            build([(funds.outpoint(0)[:32] + b"\xff", key(0))], [Output(VALUE, owner)], funds.salt)
        ],
        Verdict.WRONG_OWNER: [
            build([(funds.outpoint(4), key(5))], [Output(VALUE - 1_000, owner)], funds.salt)
        ],
        Verdict.INPUTS_BELOW_OUTPUTS: [pay(-1)],
        Verdict.FEE_BELOW_MINIMUM: [pay(MIN_FEE - 1)],
        Verdict.FEE_BELOW_RELAY: [pay(MIN_FEE + 1)],
    }
    with accounted(node, {expected: len(sent) for expected, sent in cases.items()}):
        for expected, transactions in cases.items():
            for transaction in transactions:
                assert verdict(client, transaction) is expected
    assert verdict(client, good) is Verdict.ADMITTED


def test_double_spends_conflict_and_a_better_fee_replaces(tmp_path: Path, funds: Funds) -> None:
    node = RunningNode(
        tmp_path,
        funds.directory,
        block={"pace_ms": 60_000},
        mempool={"replacement_increment": 5_000, "max_ancestors": 3, "max_orphans": 1},
    ).start()
    client = IngestClient(node.ingest)
    try:
        assert verdict(client, funds.pay(10, fee=1_000)) is Verdict.ADMITTED
        rival = funds.pay(10, fee=900, to=7)
        assert verdict(client, rival) in (Verdict.CONFLICT, Verdict.REPLACEMENT_FEE)
        assert verdict(client, funds.pay(10, fee=5_999, to=7)) is Verdict.REPLACEMENT_FEE
        assert verdict(client, funds.pay(10, fee=6_000, to=7)) is Verdict.ADMITTED
        first = funds.pay(11, to=20)
        second = build(
            [(txid(first, funds.salt) + b"\0", key(20))],
            [Output(VALUE - 2_000, bytes(key(21).verify_key))],
            funds.salt,
        )
        third = build(
            [(txid(second, funds.salt) + b"\0", key(21))],
            [Output(VALUE - 3_000, bytes(key(22).verify_key))],
            funds.salt,
        )
        fourth = build(
            [(txid(third, funds.salt) + b"\0", key(22))],
            [Output(VALUE - 4_000, bytes(key(23).verify_key))],
            funds.salt,
        )
        assert verdict(client, second) is Verdict.ORPHANED
        assert verdict(client, first) is Verdict.ADMITTED
        assert verdict(client, second) is Verdict.KNOWN
        assert verdict(client, third) is Verdict.ADMITTED
        assert verdict(client, fourth) is Verdict.TOO_MANY_ANCESTORS
    finally:
        client.close()
        node.end()


def test_requests_that_are_no_requests_are_refused_as_a_whole(
    node: RunningNode, client: IngestClient
) -> None:
    def refused(*frames: bytes) -> Verdict:
        client.socket.send_multipart(frames)
        _, codes = client.receive()
        assert len(codes) == 1
        return Verdict(codes[0])

    id_ = b"12345678"
    with accounted(node, {Verdict.BAD_REQUEST: 8, Verdict.TOO_LARGE: 2}):
        assert refused(id_) is Verdict.BAD_REQUEST
        assert refused(id_, b"") is Verdict.BAD_REQUEST
        assert refused(id_, b"", b"") is Verdict.BAD_REQUEST
        assert refused(b"short", b"\1\0", b"x") is Verdict.BAD_REQUEST
        assert refused(id_, b"\2\0", b"x") is Verdict.BAD_REQUEST
        assert refused(id_, b"\2\0\2\0", b"x") is Verdict.BAD_REQUEST
        assert refused(id_, b"\1\0\0", b"x") is Verdict.BAD_REQUEST
        assert refused(id_, b"\1\0", b"x", b"y") is Verdict.BAD_REQUEST
        assert refused(id_, b"\1\0" * 1025, b"x" * 1025) is Verdict.TOO_LARGE
        assert refused(id_, b"\1\0", bytes(INGEST_MAX_BYTES + 1)) is Verdict.TOO_LARGE


def test_a_message_over_the_limit_is_told_so_and_its_client_is_served_on(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    for size in (INGEST_MAX_BYTES + 1, INGEST_MAX_FRAME_BYTES):
        client.socket.send_multipart([b"12345678", b"\1\0", bytes(size)])
        assert client.receive() == (b"12345678", bytes([Verdict.TOO_LARGE]))
    assert verdict(client, funds.pay(30)) is Verdict.ADMITTED


def test_a_frame_that_nobody_would_hold_ends_the_connection_not_the_node(
    node: RunningNode, funds: Funds
) -> None:
    before = node.pid("net")
    with ZmtpClient(node.ingest) as hostile:
        hostile.send_raw(frame_head(INGEST_MAX_FRAME_BYTES + 1, 0))
        hostile.read_to_the_end()
    other = IngestClient(node.ingest)
    try:
        assert verdict(other, funds.pay(31)) is Verdict.ADMITTED
    finally:
        other.close()
    assert node.pid("net") == before


def test_a_message_that_never_ends_costs_the_sockets_a_restart_and_no_more(
    tmp_path: Path, funds: Funds
) -> None:
    node = RunningNode(tmp_path, funds.directory, pipeline={"net_memory_mb": 100}).start()
    try:
        before = node.pid("net")
        with ZmtpClient(node.ingest) as hostile, suppress(OSError):
            part = frame_head(200_000, MORE) + bytes(200_000)
            for _ in range(5_000):  # a gigabyte, if it were let
                hostile.send_raw(part)
        node.wait_until(lambda: node.pid("net") not in (None, before))
        client = IngestClient(node.ingest)
        try:
            assert verdict(client, funds.pay(45)) is Verdict.ADMITTED
        finally:
            client.close()
    finally:
        node.end()


def test_random_bytes_are_all_answered_and_memory_stays_bounded(
    node: RunningNode, client: IngestClient
) -> None:
    def resident_mb() -> float:
        return (
            sum(
                psutil.Process(each["pid"]).memory_info().rss for each in node.status()["processes"]
            )
            / 2**20
        )

    choice = random.Random(5)
    before_mb = resident_mb()
    before = node.metrics("net")["items_out"]
    count = 0
    for _ in range(60):
        garbage = [choice.randbytes(choice.randrange(0, 700)) for _ in range(200)]
        for transaction in garbage[::3]:
            index = garbage.index(transaction)
            garbage[index] = b"\1\1\1\1" + transaction[4:]
        codes = client.ask(*garbage)
        assert len(codes) == len(garbage)
        assert not any(Verdict(code).held for code in codes)
        count += len(garbage)
    node.wait_until(lambda: node.metrics("net")["items_out"] - before == count)
    assert resident_mb() - before_mb < 40


def test_a_flood_of_bad_signatures_is_counted_and_the_good_ones_come_through(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    good = funds.pay(40)
    bad = []
    for byte in range(250):
        forged = bytearray(good)
        forged[-1 - byte % 32] ^= 1 + byte // 32
        bad.append(bytes(forged))
    before = counts(node)
    for _ in range(8):
        assert set(client.ask(*bad)) == {Verdict.BAD_SIGNATURE}
    assert verdict(client, good) is Verdict.ADMITTED
    expected = {Verdict.BAD_SIGNATURE: 8 * len(bad), Verdict.ADMITTED: 1}
    node.wait_until(lambda: counts(node) - before == expected)


def test_a_client_that_never_reads_does_not_hinder_others(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    deaf = IngestClient(node.ingest)
    deaf.socket.rcvhwm = 1
    try:
        for _ in range(500):
            deaf.send([b"\0" * 200] * 100)
        assert verdict(client, funds.pay(41)) is Verdict.ADMITTED
    finally:
        deaf.close()


def test_requests_over_the_limit_of_unanswered_ones_are_told_busy(
    node: RunningNode, client: IngestClient
) -> None:
    transactions = [bytes(200)] * 12
    over = 10
    verifier = node.pid("verify-0")
    assert verifier is not None
    expected = {Verdict.BAD_VERSION: MAX_UNANSWERED * 12, Verdict.BUSY: over * 12}
    with accounted(node, expected):
        os.kill(verifier, signal.SIGSTOP)  # nothing is answered meanwhile
        try:
            ids = [client.send(transactions) for _ in range(MAX_UNANSWERED + over)]
            for id_ in ids[MAX_UNANSWERED:]:
                assert client.receive() == (id_, bytes([Verdict.BUSY]))
        finally:
            os.kill(verifier, signal.SIGCONT)
        for id_ in ids[:MAX_UNANSWERED]:
            assert client.receive() == (id_, bytes([Verdict.BAD_VERSION]) * 12)
