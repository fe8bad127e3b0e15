"""What clients may send to a running node, and what they get for it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from funded import DUST_LIMIT, MIN_FEE, VALUE, Funds, key
from running_node import IngestClient, RunningNode
from zmtp_client import MORE, ZmtpClient, frame_head

from node.params import (
    INGEST_MAX_BYTES,
    INGEST_MAX_FRAME_BYTES,
    INGEST_MAX_TRANSACTIONS,
    MAX_AMOUNT,
)
from node.stages.net import MAX_UNANSWERED
from node.transaction import Input, Output, TransactionError, build, decode, sign, txid
from node.verdict import Verdict
from node.verification.mb8 import library_directories, load_library
from node.verification.signatures import BackendUnavailable

INTELS_LIBRARIES = ("libcrypto_mb", "libintlc", "libimf", "libirng", "libsvml")
MIB = 2**20
GROWTH_MB = 40  # of the node's memory, that a flood may leave behind
FLOODERS = 4
WINDOW = 8  # requests of one flooder under way
DEAF_WINDOW_BYTES = 4_096


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

    for file in ("_sodium", "nacl", *INTELS_LIBRARIES):
        assert file not in libraries("net")
    assert "_sodium" in libraries("verify-0")
    try:
        load_library(library_directories())
    except BackendUnavailable:
        assert node.status()["extra"]["backend"] == "nacl"
        return
    assert node.status()["extra"]["backend"] == "avx512"
    for file in INTELS_LIBRARIES:
        assert file in libraries("verify-0")


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


def memory_mb(node: RunningNode) -> float:
    """Of all processes of the node, what they share counted once."""
    processes = [psutil.Process(each["pid"]) for each in node.status()["processes"]]
    return sum(process.memory_full_info().pss for process in processes) / MIB


Asked = tuple[list[bytes], bytes]  # the transactions of a request, and what each of them is told


def flood(address: str, requests: Sequence[Asked], goes_on: Callable[[int], bool]) -> int:
    """Keep WINDOW requests under way, in turn, while it `goes_on` after so many.

    Returns how many that were; each was answered as it should be.
    """
    client = IngestClient(address)
    under_way: deque[tuple[bytes, bytes]] = deque()
    sent = 0
    try:
        while True:
            while len(under_way) < WINDOW and goes_on(sent):
                transactions, codes = requests[sent % len(requests)]
                under_way.append((client.send(transactions), codes))
                sent += 1
            if not under_way:
                return sent
            assert client.receive() == under_way.popleft()
    finally:
        client.close()


def garbage(choice: random.Random) -> bytes:
    """Random bytes, now and then with a header, with the length that it demands, or with both."""
    counts = [choice.randrange(4) for _ in range(3)]
    demanded = 34 * counts[0] + 40 * counts[1] + 96 * counts[2]
    header = choice.choice([b"", choice.randbytes(4), bytes([1, *counts])])
    return header + choice.randbytes(choice.choice([demanded, choice.randrange(4_000)]))


def told(transaction: bytes) -> Verdict:
    with pytest.raises(TransactionError) as caught:
        decode(transaction, DUST_LIMIT)
    return caught.value.verdict


def rounds_to_send(requests: Sequence[Asked]) -> int:
    """How often each flooder sends them all, so that half of it kept would be too much memory."""
    size = sum(len(transaction) for transactions, _ in requests for transaction in transactions)
    return 2 * GROWTH_MB * MIB // (FLOODERS * size) + 1


def test_random_bytes_are_all_answered_and_memory_stays_bounded(node: RunningNode) -> None:
    choice = random.Random(5)
    requests: list[Asked] = []
    for _ in range(10):
        transactions = [garbage(choice) for _ in range(200)]
        requests.append((transactions, bytes(map(told, transactions))))
    rounds = rounds_to_send(requests)
    causes = Counter(map(Verdict, b"".join(codes for _, codes in requests)))
    assert len(causes) >= 6, causes
    expected = {cause: FLOODERS * rounds * count for cause, count in causes.items()}
    each_sends = rounds * len(requests)
    before_mb = memory_mb(node)
    with accounted(node, expected), ThreadPoolExecutor(FLOODERS) as pool:
        floods = [
            pool.submit(flood, node.ingest, requests, lambda sent: sent < each_sends)
            for _ in range(FLOODERS)
        ]
        assert [each.result() for each in floods] == [each_sends] * FLOODERS
    assert memory_mb(node) - before_mb < GROWTH_MB


def test_a_flood_of_bad_signatures_is_counted_and_the_good_ones_come_through_it(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    outputs = [Output(VALUE // 250, bytes(key(n).verify_key)) for n in range(200)]
    good = build([(funds.outpoint(40), key(40))], outputs, funds.salt)
    requests: list[Asked] = []
    for flip in range(1, 9):  # of a bit in each byte of the signature's scalar
        forged = [bytearray(good) for _ in range(30)]
        for position, each in enumerate(forged):
            each[-1 - position] ^= flip
        requests.append(([bytes(each) for each in forged], bytes([Verdict.BAD_SIGNATURE]) * 30))
    least = rounds_to_send(requests) * len(requests)
    calm = threading.Event()

    def goes_on(sent: int) -> bool:
        return sent < least or not calm.is_set()

    before = counts(node)[Verdict.BAD_SIGNATURE]
    before_mb = memory_mb(node)
    expected = {Verdict.ADMITTED: 6}
    with accounted(node, expected), ThreadPoolExecutor(FLOODERS) as pool:
        floods = [pool.submit(flood, node.ingest, requests, goes_on) for _ in range(FLOODERS)]
        try:
            node.wait_until(lambda: counts(node)[Verdict.BAD_SIGNATURE] > before)
            for payment in (good, *(funds.pay(number) for number in range(41, 46))):
                assert verdict(client, payment) is Verdict.ADMITTED
        finally:
            calm.set()
        expected[Verdict.BAD_SIGNATURE] = sum(each.result() for each in floods) * 30
    assert memory_mb(node) - before_mb < GROWTH_MB


def test_a_client_that_never_reads_is_dropped_and_others_are_served(
    node: RunningNode, client: IngestClient, funds: Funds
) -> None:
    request = (b"12345678", bytes(2 * INGEST_MAX_TRANSACTIONS), b"")  # only its answer is long
    before = node.metrics("net")
    sent = 0

    def added(name: str) -> int:
        return int(node.metrics("net")[name] - before[name])

    with ZmtpClient(node.ingest, window_bytes=DEAF_WINDOW_BYTES) as deaf:

        def counted(name: str) -> bool:
            nonlocal sent
            for _ in range(MAX_UNANSWERED):
                deaf.send(*request)
            sent += MAX_UNANSWERED
            return added(name) >= 1

        assert not counted("clients_dropped")
        assert verdict(client, funds.pay(46)) is Verdict.ADMITTED
        node.wait_until(lambda: counted("clients_dropped"))
        assert verdict(client, funds.pay(47)) is Verdict.ADMITTED
        node.wait_until(lambda: counted("requests_unheard"))
        assert verdict(client, funds.pay(48)) is Verdict.ADMITTED
        node.wait_until(lambda: added("requests") == sent + 3)
        node.wait_until(lambda: node.metrics("net")["clients_waiting"] == 0)
    answered = sent - added("requests_unheard")
    assert added("items_in") == added("items_out") == answered * INGEST_MAX_TRANSACTIONS + 3
    assert counts(node).total() == node.metrics("net")["items_out"]
    assert 1 <= added("answers_lost") <= answered


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
