"""Evidence: kept once, durably and bounded, sent before it is written, and checked when shown."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from damage import damaged, damaged_json
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from node.consensus.effects import ReportMisbehaviour
from node.consensus.messages import Proposal, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.consensus.wire import encode
from node.durable import Directory
from node.evidence import (
    MAX_CASES,
    MAX_PER_KIND,
    NEW_FILE,
    Case,
    Evidence,
    EvidenceBook,
    EvidenceError,
    cases_in,
    doubt,
    read_evidence,
)
from node.verification.nacl import NaclBackend

GENESIS = bytes(range(32))
SALT = GENESIS[:16]
A, B = bytes([1]) * 32, bytes([2]) * 32
KEYS = [SigningKey(hashlib.blake2b(b"%d" % n, digest_size=32).digest()) for n in range(4)]
VALIDATORS = ValidatorSet([1] * 4, [bytes(key.verify_key) for key in KEYS])


def signed(message: Proposal | Vote, key: int | None = None) -> Any:
    signer = KEYS[message.validator if key is None else key]
    signature = signer.sign(signed_bytes(message, SALT)).signature
    return msgspec.structs.replace(message, signature=signature)


def vote(
    value: bytes | None, height: int = 7, validator: int = 1, kind: VoteType = VoteType.PREVOTE
) -> Vote:
    made: Vote = signed(Vote(kind, height, 2, value, validator))
    return made


def two(
    height: int = 7, validator: int = 1, kind: VoteType = VoteType.PREVOTE
) -> ReportMisbehaviour:
    a, nil = (vote(value, height, validator, kind) for value in (A, None))
    return ReportMisbehaviour(a, nil)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))

    warning = error = info

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class World:
    """A directory, and the node's lives over it."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.files = Directory(path)
        self.said: list[Proposal | Vote] = []
        self.log = Log()

    def book(self) -> EvidenceBook:
        return EvidenceBook(self.files, GENESIS, self.said.append, self.log)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "evidence")


def test_a_case_is_sent_to_everybody_kept_and_logged_whole(world: World) -> None:
    report = two()
    assert world.book().report(report)
    assert world.said == [report.first, report.second]
    case = Case(7, 2, 1, "prevote")
    assert cases_in(world.files) == [case]
    assert read_evidence(world.files, case, GENESIS) == Evidence(report.first, report.second)
    ((event, facts),) = world.log.lines
    assert event == "misbehaviour"
    assert facts["evidence"] == [encode(report.first).hex(), encode(report.second).hex()]
    assert world.files.names() == [case.name]


def test_the_same_place_is_no_second_case_in_this_life_or_the_next(world: World) -> None:
    book = world.book()
    assert book.report(two())
    again = [two(), ReportMisbehaviour(two().second, two().first)]
    again.append(ReportMisbehaviour(vote(A), vote(B)))
    assert [book.report(each) for each in again] == [False] * 3
    assert [world.book().report(each) for each in again] == [False] * 3
    assert len(world.said) == 2
    assert world.log.events == ["misbehaviour"]
    assert world.book().report(two(height=8))
    assert len(cases_in(world.files)) == 2


def test_it_is_sent_before_it_is_on_disk_so_that_a_crash_between_repeats_it(world: World) -> None:
    broken = World(Path(world.files.path("x")).parent / "other")
    broken.files.rename = lambda old, new: (_ for _ in ()).throw(OSError("power"))  # type: ignore
    with pytest.raises(OSError, match="power"):
        broken.book().report(two())
    assert len(broken.said) == 2
    del broken.files.rename
    assert broken.files.names() == [NEW_FILE]
    assert cases_in(broken.files) == []
    assert broken.book().report(two())
    assert cases_in(broken.files) == [Case(7, 2, 1, "prevote")]
    assert broken.files.names() == [Case(7, 2, 1, "prevote").name]


def test_a_file_is_durable_before_it_has_its_name(world: World) -> None:
    done: list[str] = []
    for name in ("sync", "rename", "sync_directory"):
        real = getattr(world.files, name)

        def noted(*names: str, name: str = name, real: Any = real) -> None:
            done.append(name)
            real(*names)

        setattr(world.files, name, noted)
    world.book().report(two())
    assert done == ["sync", "rename", "sync_directory"]


def test_a_few_cases_of_a_kind_are_kept_and_hide_no_others(world: World) -> None:
    book = world.book()
    kept = [book.report(two(height)) for height in range(1, 2 * MAX_PER_KIND)]
    assert kept == [True] * MAX_PER_KIND + [False] * (MAX_PER_KIND - 1)
    assert world.log.events.count("evidence_full") == 1
    assert not world.book().report(two(100))
    assert world.book().report(two(100, validator=2))
    assert world.book().report(two(100, kind=VoteType.PRECOMMIT))


def test_all_cases_together_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.evidence.MAX_CASES", 3)
    book = world.book()
    assert [book.report(two(5, validator)) for validator in range(4)] == [True] * 3 + [False]
    assert MAX_CASES >= 100 * 3 * MAX_PER_KIND


@pytest.mark.parametrize(
    "name", ["h07-r2-v1-prevote.json", "h7-r2-v1-vote.json", "h7-r2-v1-prevote.json~", "notes"]
)
def test_files_of_others_are_no_cases(world: World, name: str) -> None:
    world.files.write(name, b"x")
    assert cases_in(world.files) == []
    assert world.book().report(two())


def test_honest_signatures_convict(world: World) -> None:
    nacl = NaclBackend().verify_alone
    first = signed(Proposal(7, 2, A, -1, 3))
    assert doubt(Evidence(first, signed(Proposal(7, 2, B, -1, 3))), VALIDATORS, SALT, nacl) is None
    found = [
        doubt(each, VALIDATORS, SALT, nacl)
        for each in (
            Evidence(vote(A), vote(A)),
            Evidence(vote(A), signed(Vote(VoteType.PREVOTE, 7, 2, B, 1), key=2)),
            Evidence(Vote(VoteType.PREVOTE, 7, 2, B, 1), vote(A)),
            Evidence(Vote(VoteType.PREVOTE, 7, 2, B, 4), Vote(VoteType.PREVOTE, 7, 2, A, 4)),
        )
    ]
    assert found == [
        "both messages say the same",
        "the signature of the second message is wrong",
        "the signature of the first message is wrong",
        "there is no validator 4",
    ]
    assert doubt(Evidence(vote(A), vote(B)), VALIDATORS, bytes(16), nacl) is not None


def test_what_is_no_evidence_of_this_case_is_not_read_as_one(world: World) -> None:
    world.book().report(two())
    case = Case(7, 2, 1, "prevote")
    good = json.loads(world.files.read(case.name))

    def why(**changes: Any) -> str:
        world.files.write(case.name, json.dumps(good | changes).encode())
        with pytest.raises(EvidenceError) as caught:
            read_evidence(world.files, case, GENESIS)
        return str(caught.value)

    assert "format 2" in why(format=2)
    assert "another chain" in why(genesis="00" * 32)
    assert "another case" in why(first=encode(vote(A, height=8)).hex())
    assert "damaged" in why(first="zz")
    assert "damaged" in why(first="c0")
    assert "damaged" in why(more=1)
    world.files.write(case.name, b"")
    with pytest.raises(EvidenceError, match="damaged"):
        read_evidence(world.files, case, GENESIS)


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_file_is_evidence_of_its_case_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files = Directory(tmp_path_factory.getbasetemp())
    case = Case(7, 2, 1, "prevote")
    report = two()
    first, second = (encode(each) for each in (report.first, report.second))
    content = {"format": 1, "genesis": GENESIS.hex(), **case._asdict()}
    content |= {"first": data.draw(damaged(first)).hex(), "second": second.hex()}
    text = json.dumps(content).encode()
    files.write(case.name, data.draw(st.just(text) | damaged_json(text)))
    try:
        found = read_evidence(files, case, GENESIS)
    except EvidenceError:
        return
    for each in found:
        assert (each.height, each.round, each.validator) == (7, 2, 1)
