"""`timed evidence`, and what `timed status` counts of it: over a real data directory."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from node.commands.evidence import evidence
from node.commands.init import init
from node.commands.status import accused
from node.consensus.effects import ReportMisbehaviour
from node.consensus.messages import Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.wire import encode
from node.datadir import Layout, check, layout
from node.durable import Directory
from node.evidence import Case, EvidenceBook
from node.keys import read_key_file

CASE = Case(9, 0, 0, "precommit")


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    found = layout(tmp_path / "d")
    init(found, "dev", None, None)
    return found


def lie(where: Layout, *, well_signed: bool = True) -> list[str]:
    """Two precommits of the only validator, in the book; returns them as digits."""
    key = read_key_file(where.validator_key)
    identity = check(where)
    votes = []
    for value in (bytes(32), None):
        vote = Vote(VoteType.PRECOMMIT, CASE.height, CASE.round, value, CASE.validator)
        content = signed_bytes(vote, identity[:16] if well_signed else bytes(16))
        votes.append(msgspec.structs.replace(vote, signature=key.sign(content).signature))
    book = EvidenceBook(Directory(where.evidence), identity, lambda message: None, Mock())
    assert book.report(ReportMisbehaviour(*votes))
    return [encode(each).hex() for each in votes]


def listed(where: Layout, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    evidence(where, as_json=True)
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_a_case_is_shown_with_both_messages_and_proven(
    where: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = lie(where)
    (case,) = listed(where, capsys)
    assert [case["first"], case["second"]] == messages
    assert (case["height"], case["round"], case["validator"], case["kind"]) == CASE
    assert case["verdict"] == "proven"
    assert case["key"] == bytes(read_key_file(where.validator_key).verify_key).hex()
    assert accused(where) == {"cases": 1, "validators": [0]}
    evidence(where, as_json=False)
    text = capsys.readouterr().out
    assert "height 9  round 0  precommit  validator 0" in text
    assert all(each in text for each in messages)


def test_signatures_are_checked_anew(where: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    lie(where, well_signed=False)
    (case,) = listed(where, capsys)
    assert case["verdict"] == "not proven: the signature of the first message is wrong"


def test_a_damaged_file_is_told_and_hides_no_other(
    where: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    lie(where)
    other = where.evidence / CASE._replace(height=3).name
    other.write_bytes(b"{")
    damaged, good = listed(where, capsys)
    assert "damaged" in str(damaged["verdict"])
    assert damaged["first"] is None
    assert good["verdict"] == "proven"


def test_there_is_none_in_a_new_directory_or_an_older_one(
    where: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(where, capsys) == []
    where.evidence.rmdir()
    assert listed(where, capsys) == []
    assert accused(where) == {"cases": 0, "validators": []}
    evidence(where, as_json=False)
    assert "no validator" in capsys.readouterr().out
