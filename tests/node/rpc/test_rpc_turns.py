"""The event loop in the stage's turns, and what waits in it: questions, transactions, finality."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import pytest

from node import query
from node.query import Ask, HeightIs, HeightOf, Told
from node.rpc import asking, submitting
from node.rpc.asking import Asking
from node.rpc.jsonrpc import Code, RpcError
from node.rpc.submitting import MAX_MESSAGES, Submitter
from node.rpc.turns import MAX_ROUNDS, Turns
from node.rpc.waiting import Finalities
from node.verdict import Verdict


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns()
    yield made
    made.close()


def done(turns: Turns, work: Coroutine[Any, Any, Any]) -> Any:
    """Run turns until some work is done; fails after ten seconds."""
    task = turns.loop.create_task(work)
    until_s = time.monotonic() + 10
    while not task.done():
        turns.run()
        assert time.monotonic() < until_s
    return task.result()


def test_a_turn_never_waits_and_says_when_the_next_is_due(turns: Turns) -> None:
    fired: list[str] = []
    turns.loop.call_soon(fired.append, "now")
    turns.loop.call_later(3_600, fired.append, "later")
    began_ns = time.monotonic_ns()
    turns.run()
    assert fired == ["now"]
    due_ns = turns.deadline_ns()
    assert due_ns is not None
    assert due_ns - began_ns > 3_000 * 10**9


def test_nothing_is_due_without_timers(turns: Turns) -> None:
    turns.run()
    assert turns.deadline_ns() is None


def test_work_without_end_leaves_the_turn(turns: Turns) -> None:
    count = 0

    async def busy() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = turns.loop.create_task(busy())
    assert turns.run() <= MAX_ROUNDS
    before = count
    assert before > 1
    assert turns.deadline_ns() is not None
    turns.run()
    assert count > before
    task.cancel()
    turns.run()


def test_its_descriptor_wakes_the_stage(turns: Turns) -> None:
    import select

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    heard: list[bytes] = []
    turns.loop.add_reader(ours, lambda: heard.append(ours.recv(10)))
    turns.run()
    poll = select.poll()
    poll.register(turns.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    theirs.send(b"x")
    assert poll.poll(1_000)
    turns.run()
    assert heard == [b"x"]
    turns.loop.remove_reader(ours)
    ours.close()
    theirs.close()


def test_an_answer_finds_its_question(turns: Turns) -> None:
    sent: list[bytes] = []
    asks = Asking(sent.append, 3)

    async def both() -> tuple[Any, Any]:
        one = asyncio.ensure_future(asks.ask(HeightOf(bytes(32)), HeightIs))
        two = asyncio.ensure_future(asks.ask(HeightOf(b"\1" * 32), HeightIs))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for frame in reversed(sent):
            ask = query.decode_ask(frame)
            assert isinstance(ask, Ask)
            assert isinstance(ask.question, HeightOf)
            answer = Told(ask.number, HeightIs(ask.question.block_id[0]))
            asks.take(query.encode(answer))
            asks.take(query.encode(answer))  # once more does no harm
        asks.take(b"nonsense")
        asks.take(query.encode(Told(1, HeightIs(9))))  # of an earlier life
        return await one, await two

    assert done(turns, both()) == (HeightIs(0), HeightIs(1))
    assert asks._waiting == {}


def test_a_question_is_asked_again_and_given_up_in_the_end(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_S", 0.05)
    sent: list[bytes] = []
    asks = Asking(sent.append, 0)

    async def ask() -> None:
        task = asyncio.ensure_future(asks.ask(HeightOf(bytes(32)), HeightIs))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asks.ask_again()
        await task

    with pytest.raises(RpcError) as caught:
        done(turns, ask())
    assert caught.value.code == Code.IN_WARMUP
    assert len(sent) == 2
    assert sent[0] == sent[1]


class Ingest:
    """What net would do with messages."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.open = True

    def send(self, frames: list[bytes]) -> bool:
        if self.open:
            self.sent.append(frames)
        return self.open


def test_what_is_submitted_in_one_turn_leaves_as_one_message(turns: Turns) -> None:
    ingest = Ingest()
    submitter = Submitter(ingest.send)

    async def submit() -> Sequence[Verdict]:
        together = asyncio.gather(*(submitter.submit(bytes([n])) for n in range(200)))
        while not ingest.sent:
            await asyncio.sleep(0)
        (frames,) = ingest.sent
        assert frames[2] == bytes(range(200))
        submitter.send_again()  # a new net
        submitter.take([frames[0], bytes([0, 1] * 100)])
        submitter.take([frames[0], bytes(200)])  # its second answer is nobody's
        return await together

    verdicts = done(turns, submit())
    assert list(verdicts) == [Verdict.ADMITTED, Verdict.KNOWN] * 100
    assert len(ingest.sent) == 2


def test_what_became_final_while_net_started_anew_is_no_error(turns: Turns) -> None:
    ingest = Ingest()
    submitter = Submitter(ingest.send)

    async def submit(*, again: bool) -> Sequence[Verdict]:
        together = asyncio.gather(*(submitter.submit(bytes([n])) for n in range(3)))
        before = len(ingest.sent)
        while len(ingest.sent) == before:
            await asyncio.sleep(0)
        if again:  # the last net had admitted them, and nobody knows
            submitter.send_again()
        codes = bytes([Verdict.FINAL, Verdict.KNOWN, Verdict.BAD_SIGNATURE])
        submitter.take([ingest.sent[-1][0], codes])
        return await together

    assert done(turns, submit(again=True)) == [Verdict.KNOWN, Verdict.KNOWN, Verdict.BAD_SIGNATURE]
    assert done(turns, submit(again=False))[0] == Verdict.FINAL


def test_a_socket_without_room_is_tried_by_one_timer(turns: Turns) -> None:
    ingest = Ingest()
    ingest.open = False
    submitter = Submitter(ingest.send)

    async def submit() -> Sequence[Verdict]:
        tasks = []
        for n in range(50):  # each in a turn of its own
            tasks.append(asyncio.ensure_future(submitter.submit(bytes([n]))))
            for _ in range(3):
                await asyncio.sleep(0)
        timers = [each for each in turns.loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
        assert len(timers) <= 1  # 0 while it fires
        ingest.open = True
        while not ingest.sent:
            await asyncio.sleep(0.001)
        submitter.take([ingest.sent[0][0], bytes(50)])
        return await asyncio.gather(*tasks)

    assert done(turns, submit()) == [Verdict.ADMITTED] * 50
    assert ingest.sent[0][2] == bytes(range(50))


def test_a_message_refused_as_a_whole_refuses_each(turns: Turns) -> None:
    ingest = Ingest()
    submitter = Submitter(ingest.send)

    async def submit() -> Sequence[Verdict]:
        together = asyncio.gather(*(submitter.submit(b"x") for _ in range(3)))
        while not ingest.sent:
            await asyncio.sleep(0)
        submitter.take([ingest.sent[0][0], bytes([Verdict.BUSY])])
        return await together

    assert list(done(turns, submit())) == [Verdict.BUSY] * 3


def test_messages_and_bytes_that_wait_are_bounded(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "INGEST_MAX_TRANSACTIONS", 1)
    monkeypatch.setattr(submitting, "MAX_WAITING_BYTES", 100)
    monkeypatch.setattr(submitting, "ANSWER_S", 0.2)
    ingest = Ingest()
    submitter = Submitter(ingest.send)

    async def submit() -> list[Any]:
        tasks = [asyncio.ensure_future(submitter.submit(b"x")) for _ in range(MAX_MESSAGES + 20)]
        while len(ingest.sent) < MAX_MESSAGES:
            await asyncio.sleep(0)
        with pytest.raises(RpcError, match="Too many"):
            await submitter.submit(bytes(100))
        assert len(ingest.sent) == MAX_MESSAGES  # the others wait until some are answered
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = done(turns, submit())
    assert {each.code for each in results} == {Code.IN_WARMUP}
    assert submitter._under_way == {}


def test_what_a_new_net_has_no_room_for_yet_is_sent_to_it_later(turns: Turns) -> None:
    ingest = Ingest()
    submitter = Submitter(ingest.send)

    async def submit() -> Sequence[Verdict]:
        tasks = []
        for n in range(3):  # a message each
            tasks.append(asyncio.ensure_future(submitter.submit(bytes([n]))))
            while len(ingest.sent) == n:
                await asyncio.sleep(0)
        ingest.open = False
        submitter.send_again()
        submitter.take([ingest.sent[1][0], bytes([Verdict.ADMITTED])])  # its last word came late
        tasks.append(asyncio.ensure_future(submitter.submit(b"\3")))
        await asyncio.sleep(0)
        ingest.open = True
        while len(ingest.sent) < 6:
            await asyncio.sleep(0.001)
        for frames in ingest.sent[3:]:
            submitter.take([frames[0], bytes([Verdict.ADMITTED])])
        return await asyncio.gather(*tasks)

    assert done(turns, submit()) == [Verdict.ADMITTED] * 4
    assert [frames[2] for frames in ingest.sent[3:]] == [b"\0", b"\2", b"\3"]


def test_a_look_that_fails_is_not_the_last(turns: Turns) -> None:
    looks = 0

    async def statuses(txids: Sequence[bytes]) -> Sequence[query.Status]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("ours")
        return [query.Status(1, False, False) for _ in txids]

    finalities = Finalities(statuses, 2)

    async def wait() -> None:
        one = asyncio.ensure_future(finalities.wait(b"a", 60))
        while not looks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await finalities.wait(b"b", 60)
        await one

    done(turns, wait())
    assert looks == 2


def test_whoever_waits_for_finality_is_let_go_by_a_block(turns: Turns) -> None:
    final: set[bytes] = set()

    async def statuses(txids: Sequence[bytes]) -> Sequence[query.Status]:
        return [query.Status(1 if txid in final else None, False, False) for txid in txids]

    finalities = Finalities(statuses, 2)

    async def wait() -> None:
        one = asyncio.ensure_future(finalities.wait(b"a", 60))
        two = asyncio.ensure_future(finalities.wait(b"b", 0.05))
        await asyncio.sleep(0)
        with pytest.raises(RpcError, match="Too many"):
            await finalities.wait(b"c", 1)
        await two  # its time is over
        assert not one.done()
        final.add(b"a")
        finalities.new_block(query.NewBlock(1, bytes(32)))
        await one

    done(turns, wait())
    assert finalities._waiting == {}
