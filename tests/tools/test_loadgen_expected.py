"""The ledger of truth believes an honest node in any order of events, and catches every lie."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.block import block_id, build_block
from node.verdict import Verdict
from tools.loadgen.expected import NO_VERDICT, SHED, Fault, Finding, Ledger
from tools.loadgen.workload import Kind, WorkloadOptions, prepare
from tools.loadgen.workload_file import Truth, Workload

COUNT = 120
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload") / "made"
    prepare(directory, WorkloadOptions(COUNT, Kind.CHAINED, 0, 0.1, 0.1))
    return Workload.open(directory)


class Node:
    """An honest node of few lines, which knows the truth from the workload's own columns.

    ``lie`` may replace the verdict of a transaction; ``twist`` the announcement of a block.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.columns = ledger.workload.columns
        self.salt = ledger.workload.genesis_id[:16]
        self.pool: dict[int, None] = {}
        self.orphans: set[int] = set()
        self.final: set[int] = set()
        self.height, self.tip, self.sequence = 0, ledger.workload.genesis_id, 0
        self.now = 1_000
        self.lie: Callable[[int, int], int] = lambda _index, code: code
        self.also_final: list[int] = []
        self.forget: set[int] = set()
        self.mute = False

    def tick(self) -> int:
        self.now += 10
        return self.now

    def judge(self, index: int) -> int:
        index += self.ledger.first
        if self.columns.kinds[index] == Truth.BAD_SIGNATURE:
            return Verdict.BAD_SIGNATURE
        if index in self.final:
            return Verdict.FINAL
        if index in self.pool:
            return Verdict.KNOWN
        partner, parent = int(self.columns.partner[index]), int(self.columns.parent[index])
        if partner in self.final:
            return Verdict.SPENT_INPUT
        if partner in self.pool:
            return Verdict.REPLACEMENT_FEE
        if parent >= 0 and parent not in self.final and parent not in self.pool:
            self.orphans.add(index)
            return Verdict.ORPHANED
        self.admit(index)
        return Verdict.ADMITTED

    def admit(self, index: int) -> None:
        self.pool[index] = None
        for orphan in sorted(self.orphans):
            if int(self.columns.parent[orphan]) == index:
                self.orphans.discard(orphan)
                self.admit(orphan)

    def answer(self, start: int, stop: int) -> None:
        codes = bytes(self.lie(i, self.judge(i)) for i in range(start, stop))
        self.ledger.answered(start, stop, codes, self.tick())

    def answer_again(self, indices: list[int], refuse: Verdict | None = None) -> None:
        codes = [self.judge(i) if refuse is None else refuse for i in indices]
        self.ledger.answered_again(np.array(indices), np.array(codes, np.uint8), self.tick())

    def block(self, size: int = COUNT, *, salt: bytes | None = None) -> tuple[bytes, bytes, bytes]:
        chosen = [i for i in self.pool if i not in self.forget][:size] + self.also_final
        self.also_final = []
        for index in chosen:
            self.pool.pop(index, None)
        self.final.update(chosen)
        txids = [bytes(self.columns.txids[i]) for i in chosen]
        block = build_block(
            height=self.height + 1,
            previous=self.tip,
            time_ms=0,
            proposer=bytes(32),
            transactions=[b""] * len(txids),
            txids=txids,
            fees=0,
            salt=self.salt,
        )
        header = block.header.encode()
        identity = block_id(header, self.salt if salt is None else salt)
        self.height, self.tip = self.height + 1, identity
        return identity, header, b"".join(txids)

    def announce(self, identity: bytes, header: bytes, txids: bytes) -> None:
        if not self.mute:
            self.ledger.announced(identity + header + txids, self.sequence, self.tick())
        self.sequence += 1


def faults(ledger: Ledger) -> dict[Fault, int]:
    return {finding.fault: finding.count for finding in ledger.conclude().findings}


@given(SEEDS, st.integers(0, 60), st.integers(1, COUNT))
@settings(max_examples=60, deadline=None)
def test_an_honest_node_is_believed(workload: Workload, seed: int, first: int, count: int) -> None:
    """Windows begin anywhere; requests have any size, answers come late and in any order."""
    rng = random.Random(seed)
    ledger = Ledger(workload, first, min(count, COUNT - first))
    node = Node(ledger)
    # What lies before the window was sent in an earlier run.
    node.final.update(range(first))
    at = 0
    waiting: list[tuple[int, int, bytes]] = []
    while at < ledger.count or waiting:
        match rng.randrange(3):
            case 0 if at < ledger.count:
                stop = min(ledger.count, at + rng.randint(1, 20))
                ledger.sent(at, stop, node.tick())
                codes = bytes(node.judge(i) for i in range(at, stop))
                waiting.append((at, stop, codes))
                at = stop
            case 1 if waiting:
                start, stop, codes = waiting.pop(rng.randrange(len(waiting)))
                ledger.answered(start, stop, codes, node.tick())
            case _:
                node.announce(*node.block(rng.randint(0, 30)))
    node.announce(*node.block())
    judgement = ledger.conclude()
    # A rival whose partner was final before it was sent is rejected, and nothing else is.
    assert judgement.findings == ()
    assert judgement.notes == ()
    assert sum(ledger.verdict_counts().values()) == ledger.count
    assert ledger.n_answered == ledger.count
    assert ledger.n_held == ledger.n_final == len(ledger.final_ns.nonzero()[0])
    assert not len(ledger.unconfirmed())
    assert not len(ledger.unanswered())


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_restarts_and_repeats_are_believed(workload: Workload, seed: int) -> None:
    """Answers are lost, the mempool is lost, notifications are lost; then all is asked again."""
    rng = random.Random(seed)
    ledger = Ledger(workload, 0, COUNT, resubmit=True)
    node = Node(ledger)
    at = 0
    while at < COUNT:
        stop = min(COUNT, at + rng.randint(1, 20))
        ledger.sent(at, stop, node.tick())
        match rng.randrange(6):
            case 0:
                pass  # the request is lost
            case 1:
                for index in range(at, stop):
                    node.judge(index)  # the answer is
            case 2:
                node.answer_again(list(range(at, stop)), rng.choice(sorted(SHED)))
            case _:
                node.answer(at, stop)
        at = stop
        if rng.randrange(4) == 0:
            node.mute = rng.randrange(2) == 0
            node.announce(*node.block(rng.randint(0, 30)))
            node.mute = False
        if rng.randrange(8) == 0:  # killed: mempool and sequence numbers are gone
            node.pool.clear()
            node.orphans.clear()
            node.sequence = 0
    for _ in range(50):
        shed = np.isin(ledger.verdicts, list(SHED))
        open_ = set(ledger.unconfirmed()) | set(ledger.unanswered()) | set(np.flatnonzero(shed))
        if not open_:
            break
        node.answer_again(sorted(int(i) for i in open_))
        node.mute = rng.randrange(2) == 0
        node.announce(*node.block())
        node.mute = False
    judgement = ledger.conclude()
    assert judgement.findings == ()
    good = workload.columns.kinds == Truth.GOOD
    assert (ledger.final_ns[good] != 0).all()
    assert ledger.n_final == np.count_nonzero(ledger.final_ns)
    assert set(np.flatnonzero(ledger.final_ns)) == node.final


def run(node: Node, *, blocks: bool = True, step: int = 10) -> None:
    """Send everything, in requests of ten, with a block after every third."""
    for start in range(0, COUNT, step):
        stop = min(COUNT, start + step)
        node.ledger.sent(start, stop, node.tick())
        node.answer(start, stop)
        if blocks and start // step % 3 == 2:
            node.announce(*node.block())
    if blocks:
        node.announce(*node.block())


def of(workload: Workload, kind: Truth, number: int = 3) -> int:
    return int(np.flatnonzero(workload.columns.kinds == kind)[number])


def ledger_of(workload: Workload, **more: bool) -> tuple[Ledger, Node]:
    ledger = Ledger(workload, 0, COUNT, **more)
    return ledger, Node(ledger)


def test_the_simulation_itself_is_honest(workload: Workload) -> None:
    ledger, node = ledger_of(workload)
    run(node)
    assert faults(ledger) == {}
    assert ledger.n_final == COUNT - 24  # 12 bad signatures, 12 losers


@pytest.mark.parametrize("code", [*sorted(set(Verdict) - {Verdict.ADMITTED}), 4, 15, 200, 254])
def test_a_good_one_may_only_be_admitted(workload: Workload, code: int) -> None:
    ledger, node = ledger_of(workload)
    good = np.flatnonzero((workload.columns.kinds == Truth.GOOD) & (workload.columns.parent < 0))
    node.lie = lambda index, said: code if index == good[2] else said
    run(node)
    found = faults(ledger)
    assert found.pop(Fault.SHED if code in SHED else Fault.WRONG_VERDICT) == 1
    # It was finalised: that contradicts a rejection, but not a verdict that means "held".
    assert found.pop(Fault.FINAL_REJECTED, 0) == (code >= 16 and code not in SHED)
    assert found == {}


@pytest.mark.parametrize("code", sorted(set(Verdict) - {Verdict.BAD_SIGNATURE}))
def test_a_bad_one_may_only_be_called_that(workload: Workload, code: int) -> None:
    ledger, node = ledger_of(workload)
    bad = of(workload, Truth.BAD_SIGNATURE)
    node.lie = lambda index, said: code if index == bad else said
    run(node)
    found = faults(ledger)
    assert found[Fault.SHED if code in SHED else Fault.WRONG_VERDICT] == 1
    assert (Fault.NOT_FINAL in found) == (code < 16 and code != Verdict.FINAL)
    assert (Fault.FINAL_BAD_SIGNATURE in found) == (code == Verdict.FINAL)


def test_a_finalised_bad_one_is_noticed(workload: Workload) -> None:
    ledger, node = ledger_of(workload)
    node.also_final = [of(workload, Truth.BAD_SIGNATURE)]
    run(node)
    assert faults(ledger) == {Fault.FINAL_BAD_SIGNATURE: 1}


def test_of_a_pair_one_and_only_one(workload: Workload) -> None:
    rivals = workload.columns.kinds == Truth.RIVAL
    partner = workload.columns.partner

    ledger, node = ledger_of(workload)
    node.lie = lambda index, said: Verdict.ADMITTED if rivals[index] else said
    run(node)
    assert faults(ledger) == {Fault.BOTH_ADMITTED: 12, Fault.NOT_FINAL: 12}

    ledger, node = ledger_of(workload)
    node.lie = lambda index, said: Verdict.ADMITTED if rivals[index] else said
    run(node)
    node.also_final = [int(i) for i in np.flatnonzero(rivals) if i not in node.final]
    node.announce(*node.block())
    found = faults(ledger)
    assert found.pop(Fault.BOTH_ADMITTED) == found.pop(Fault.FINAL_BOTH) == 12
    assert found == {}

    ledger, node = ledger_of(workload)
    node.lie = lambda index, said: Verdict.CONFLICT if rivals[index] else said
    node.forget = set(np.flatnonzero(rivals))
    run(node)
    found = faults(ledger)
    assert found.pop(Fault.NONE_ADMITTED) == 12
    assert found.pop(Fault.EARLY_CONFLICT) > 0  # those whose rival was not sent yet
    assert found == {}

    ledger, node = ledger_of(workload)
    one = int(np.flatnonzero(rivals & (partner > np.arange(COUNT) + 20))[0])
    lies = {one: Verdict.SPENT_INPUT, int(partner[one]): Verdict.ADMITTED}
    node.lie = lambda index, said: lies.get(index, said)
    node.forget = {one}
    node.also_final = [int(partner[one])]
    run(node)
    assert faults(ledger) == {Fault.EARLY_CONFLICT: 1}


def test_missing_and_double_verdicts(workload: Workload) -> None:
    ledger, node = ledger_of(workload)
    run(node)
    ledger.verdicts[7:9] = NO_VERDICT
    ledger.unasked(4, "request 17")
    found = {f.fault: f for f in ledger.conclude().findings}
    assert found[Fault.MISSING_VERDICT].count == 2
    assert found[Fault.DOUBLE_VERDICT] == Finding(Fault.DOUBLE_VERDICT, 4, ("request 17",))
    assert found[Fault.DOUBLE_VERDICT].line() == (
        "4 verdicts beyond the one for each transaction (request 17)"
    )


def test_admitted_must_be_final_once(workload: Workload) -> None:
    ledger, node = ledger_of(workload)
    run(node, blocks=False)
    assert faults(ledger) == {Fault.NOT_FINAL: COUNT - 24}

    ledger, node = ledger_of(workload)
    run(node)
    node.also_final = sorted(node.final)[:5]
    node.announce(*node.block())
    assert faults(ledger) == {Fault.FINAL_TWICE: 5}

    ledger, node = ledger_of(workload)
    node.also_final = [0, 0, 1]
    node.announce(*node.block())
    assert ledger.n_final == 2
    assert faults(ledger)[Fault.FINAL_TWICE] == 1


def test_rejected_must_never_be_final(workload: Workload) -> None:
    ledger, node = ledger_of(workload)
    run(node)
    loser = int(np.flatnonzero(np.isin(ledger.verdicts, (64, 97, 98)))[0])
    node.also_final = [loser]
    node.announce(*node.block())
    assert faults(ledger) == {Fault.FINAL_REJECTED: 1, Fault.FINAL_BOTH: 1}


def test_notifications_are_counted(workload: Workload) -> None:
    for resubmit in (False, True):
        ledger, node = ledger_of(workload, resubmit=resubmit)
        run(node)
        node.block(), node.block()
        node.sequence += 2
        node.announce(*(last := node.block()))
        node.announce(*last)
        judgement = ledger.conclude()
        seen = {f.fault: f.count for f in (judgement.notes if resubmit else judgement.findings)}
        assert seen == {
            Fault.LOST_NOTIFICATIONS: 2,
            Fault.LOST_BLOCKS: 2,
            Fault.REPEATED_BLOCKS: 1,
        }
        assert not (judgement.findings if resubmit else judgement.notes)


def test_a_sequence_that_begins_anew_is_legal_after_a_restart_only(workload: Workload) -> None:
    for resubmit in (False, True):
        ledger, node = ledger_of(workload, resubmit=resubmit)
        run(node)
        node.sequence = 0
        node.announce(*node.block())
        assert faults(ledger) == ({} if resubmit else {Fault.LOST_NOTIFICATIONS: 1})
    ledger, node = ledger_of(workload)
    node.sequence = 2**32 - 1
    node.announce(*node.block())
    node.sequence = 0
    node.announce(*node.block())
    assert faults(ledger) == {}


def test_blocks_must_form_one_chain(workload: Workload) -> None:
    def found(spoil: Callable[[Node], None]) -> dict[Fault, int]:
        ledger, node = ledger_of(workload)
        run(node)
        spoil(node)
        return faults(ledger)

    def other_block_of_a_height(node: Node) -> None:
        node.height -= 1
        node.tip = bytes(32)
        node.announce(*node.block())

    def not_on_top(node: Node) -> None:
        node.tip = bytes(32)
        node.announce(*node.block())

    def not_below(node: Node) -> None:
        node.block()
        node.announce(*node.block())
        node.height -= 2
        node.announce(*node.block())

    def wrong_id(node: Node) -> None:
        node.announce(*node.block(salt=bytes(16)))

    def wrong_count(node: Node) -> None:
        identity, header, _ = node.block()
        node.announce(identity, header, bytes(32))

    def cut(node: Node) -> None:
        identity, header, _ = node.block()
        node.announce(identity, header, bytes(31))

    for spoil in (other_block_of_a_height, not_on_top, not_below, wrong_id, wrong_count, cut):
        assert found(spoil) == {Fault.FORK: 1}, spoil.__name__


def test_shedding_is_a_fault_unless_it_is_allowed(workload: Workload) -> None:
    good = of(workload, Truth.GOOD)
    for allowed in (False, True):
        ledger, node = ledger_of(workload, allow_shedding=allowed)
        node.judge(good)  # the node knows it all the same: only the word counts here
        node.pool.pop(good, None)
        node.lie = lambda index, said: Verdict.MEMPOOL_FULL if index == good else said
        node.forget = {good}
        run(node)
        assert faults(ledger) == ({} if allowed else {Fault.SHED: 1})


def test_children_of_what_was_not_taken_are_excused(workload: Workload) -> None:
    parent = workload.columns.parent
    root = int(np.flatnonzero((parent < 0) & (workload.columns.kinds == Truth.GOOD))[0])
    family = {root}
    for index in range(COUNT):
        if int(parent[index]) in family:
            family.add(index)
    assert len(family) > 3
    for allowed, said_of_root in ((True, Verdict.MEMPOOL_FULL), (False, Verdict.ADMITTED)):
        ledger, node = ledger_of(workload, allow_shedding=allowed)
        said = dict.fromkeys(family, Verdict.ORPHANED) | {root: said_of_root}
        node.lie = lambda index, code, said=said: said.get(index, code)  # type: ignore[misc]
        node.forget = family
        run(node)
        assert faults(ledger) == ({} if allowed else {Fault.NOT_FINAL: len(family)})


def test_known_and_final_are_answers_to_repeats_only(workload: Workload) -> None:
    for resubmit in (False, True):
        node = ledger_of(workload, resubmit=resubmit)[1]
        run(node)
        again = Ledger(workload, 0, COUNT, resubmit=resubmit)
        node.ledger = again
        run(node)
        n_final = COUNT - 24
        assert faults(again) == ({} if resubmit else {Fault.WRONG_VERDICT: n_final})
        assert again.n_final == again.final_by_verdict.sum() == n_final


def test_a_final_verdict_and_its_announcement_are_one_event(workload: Workload) -> None:
    ledger, node = ledger_of(workload, resubmit=True)
    run(node, blocks=False)
    block = node.block()
    node.answer_again(list(range(COUNT)))
    assert ledger.final_by_verdict.sum() == COUNT - 24
    node.announce(*block)
    assert ledger.final_by_verdict.sum() == 0
    assert ledger.n_final == COUNT - 24
    assert faults(ledger) == {}


def test_what_others_send_is_none_of_ours(workload: Workload) -> None:
    ledger = Ledger(workload, 10, 50)
    node = Node(ledger)
    node.also_final = [2, 3, 70, 80]
    node.announce(*node.block())
    assert ledger.n_foreign == 4
    assert ledger.n_final == 0
    assert faults(ledger) == {}


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_finality_is_matched_in_any_order(workload: Workload, seed: int) -> None:
    """The shortcut for blocks in sending order and the search find the same."""
    rng = random.Random(seed)
    ledger, node = ledger_of(workload)
    run(node, blocks=False)
    held = np.flatnonzero(ledger.verdicts < 16).tolist()
    if rng.randrange(2):
        rng.shuffle(held)
    split = sorted(rng.choices(range(len(held) + 1), k=3))
    for part in np.split(np.array(held), split):
        node.also_final = part.tolist()
        node.pool.clear()
        identity, header, txids = node.block()
        before = ledger.final_ns.copy()
        node.announce(identity, header, txids)
        assert set(np.flatnonzero(before != ledger.final_ns)) == set(part.tolist())
    assert ledger.n_final == len(held)
    assert faults(ledger) == {}


def test_a_refusal_for_load_takes_nothing_back(workload: Workload) -> None:
    ledger, node = ledger_of(workload, resubmit=True)
    good = of(workload, Truth.GOOD)
    ledger.sent(0, COUNT, node.tick())
    for said, latest in (
        (Verdict.BUSY, Verdict.BUSY),
        (Verdict.ADMITTED, Verdict.ADMITTED),
        (Verdict.MEMPOOL_FULL, Verdict.ADMITTED),
        (Verdict.KNOWN, Verdict.KNOWN),
        (Verdict.SPENT_INPUT, Verdict.SPENT_INPUT),
    ):
        n_first = ledger.answered_again(np.array([good]), np.array([said], np.uint8), node.tick())
        assert n_first == (said == Verdict.BUSY)
        assert ledger.verdicts[good] == latest
    assert ledger.n_answered == ledger.n_held == 1


def test_what_was_admitted_once_may_be_final_whatever_is_said_later(workload: Workload) -> None:
    ledger, node = ledger_of(workload, resubmit=True)
    run(node)
    rivals = np.flatnonzero(workload.columns.kinds == Truth.RIVAL)
    winner = next(int(i) for i in rivals if ledger.final_ns[i])
    codes = np.array([Verdict.SPENT_INPUT], np.uint8)
    ledger.answered_again(np.array([winner]), codes, node.tick())
    assert Fault.FINAL_REJECTED not in faults(ledger)


def test_a_conflict_with_what_was_never_sent_is_noticed(workload: Workload) -> None:
    """The run ended before the second of a pair was sent."""
    partner = workload.columns.partner
    early = int(np.flatnonzero(partner > np.arange(COUNT))[0])
    ledger, node = ledger_of(workload)
    node.lie = lambda index, said: Verdict.CONFLICT if index == early else said
    node.forget = {early}
    ledger.sent(0, early + 1, node.tick())
    node.answer(0, early + 1)
    node.announce(*node.block())
    assert faults(ledger) == {Fault.EARLY_CONFLICT: 1}
