"""Proof that a validator said two things where it may say one: kept, passed on and shown.

Agreement reports two signed messages of one validator for one place (height, round, kind). What is
new is sent to the peers, written to a file of its own, durably, and logged; what is known already,
be it from an earlier life, is not told again. `timed evidence` reads the files and checks their
signatures anew, `timed status` counts them by their names alone.

It owns the directory ``evidence``: ``h<height>-r<round>-v<validator>-<kind>.json``, and
``evidence.new`` while one is made. Of each validator it holds the first four cases of each kind:
enough to convict, nobody fills the disk by lying more, and nobody hides one kind behind many cases
of another. What kills it: a disk that fails.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from node.consensus.messages import Proposal, Vote
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.consensus.wire import WireError, decode, encode
from node.durable import Directory, Files
from node.sign_queue import kind_of

if TYPE_CHECKING:
    from node.consensus.effects import ReportMisbehaviour
    from node.datadir import Layout
    from pipeline.eventlog import Log

FORMAT: Final = 1
NEW_FILE: Final = "evidence.new"
MAX_PER_KIND: Final = 4
"""Cases of one validator and kind."""

MAX_CASES: Final = 1_200
"""All kinds of a hundred validators."""

_NAME: Final = re.compile(
    r"h(\d{1,19})-r(\d{1,10})-v(\d{1,4})-(proposal|prevote|precommit)\.json", re.ASCII
)


class Case(NamedTuple):
    """What somebody is accused of: two different messages of this kind in this round."""

    height: int
    round: int
    validator: int
    kind: str  # proposal, prevote or precommit

    @property
    def name(self) -> str:
        """The file's name."""
        return f"h{self.height}-r{self.round}-v{self.validator}-{self.kind}.json"


class Evidence(NamedTuple):
    """The two messages of a case."""

    first: Proposal | Vote
    second: Proposal | Vote


class EvidenceError(ValueError):
    """A file is no evidence; the message tells why."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file holds, as JSON; the messages as hexadecimal digits of their wire form."""

    format: int
    genesis: str
    height: int
    round: int
    validator: int
    kind: str
    first: str
    second: str


class EvidenceBook:
    """Takes what agreement reports; `say_all` sends a message to every peer.

    Raises what listing the directory raises.
    """

    def __init__(
        self,
        files: Files,
        genesis_id: bytes,
        say_all: Callable[[Proposal | Vote], None],
        log: Log,
    ) -> None:
        self._files = files
        self._genesis_id = genesis_id
        self._say_all = say_all
        self._log = log
        self._cases = set(cases_in(files))
        self._kept = Counter((case.validator, case.kind) for case in self._cases)
        self._full: set[tuple[int, str]] = set()  # of which the log has said that no more is kept

    def report(self, misbehaviour: ReportMisbehaviour) -> bool:
        """Keep, send and log a case; False if it was known, or enough of the kind are kept.

        Raises what writing raises.
        """
        first, second = misbehaviour.first, misbehaviour.second
        case = _case_of(first)
        if case in self._cases:
            return False
        kind = (case.validator, case.kind)
        if self._kept[kind] >= MAX_PER_KIND or len(self._cases) >= MAX_CASES:
            if kind not in self._full:
                self._full.add(kind)
                self._log.warning("evidence_full", **case._asdict())
            return False
        for message in (first, second):  # first: what is in the file is never told again
            self._say_all(message)
        self._write(case, first, second)
        self._cases.add(case)
        self._kept[kind] += 1
        evidence = [encode(each).hex() for each in (first, second)]
        self._log.error("misbehaviour", **case._asdict(), evidence=evidence)
        return True

    def _write(self, case: Case, first: Proposal | Vote, second: Proposal | Vote) -> None:
        files = self._files
        content = _File(
            format=FORMAT,
            genesis=self._genesis_id.hex(),
            **case._asdict(),
            first=encode(first).hex(),
            second=encode(second).hex(),
        )
        files.write(NEW_FILE, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        files.sync(NEW_FILE)
        files.rename(NEW_FILE, case.name)
        files.sync_directory()


def cases_in(files: Files) -> list[Case]:
    """The cases that a directory holds, by the names of its files, ascending by height."""
    names = set(files.names())  # of which some may be spelt as nobody here spells them
    found = (_NAME.fullmatch(name) for name in names)
    cases = (Case(int(each[1]), int(each[2]), int(each[3]), each[4]) for each in found if each)
    return sorted({case for case in cases if case.name in names})[:MAX_CASES]


def cases_of(where: Layout) -> list[Case]:
    """The cases in a data directory, which may be an older one without any."""
    return cases_in(Directory(where.evidence)) if where.evidence.is_dir() else []


def read_evidence(files: Files, case: Case, genesis_id: bytes) -> Evidence:
    """The messages in a case's file. Raises EvidenceError if it does not hold two of that case,
    FileNotFoundError if it is gone, and what reading raises.
    """
    try:
        found = msgspec.json.decode(files.read(case.name), type=_File)
        first, second = (decode(bytes.fromhex(each)) for each in (found.first, found.second))
    except (msgspec.MsgspecError, WireError, ValueError) as error:
        raise EvidenceError(f"the file is damaged ({error})") from None
    if found.format != FORMAT:
        raise EvidenceError(f"the file has format {found.format}, not {FORMAT}")
    if found.genesis != genesis_id.hex():
        raise EvidenceError("the file belongs to another chain")
    if not (isinstance(first, Proposal | Vote) and isinstance(second, Proposal | Vote)):
        raise EvidenceError("the file holds no votes or proposals")
    if not _case_of(first) == _case_of(second) == case:
        raise EvidenceError("the file holds messages of another case")
    return Evidence(first, second)


def doubt(
    evidence: Evidence,
    validators: ValidatorSet,
    salt: bytes,
    is_signed: Callable[[bytes, bytes, bytes], bool],
) -> str | None:
    """Why two messages of one place convict nobody; None if they do.

    `is_signed` judges key[32], signature[64] and message.
    """
    if evidence.first.validator >= validators.n:
        return f"there is no validator {evidence.first.validator}"
    contents = [signed_bytes(each, salt) for each in evidence]
    if contents[0] == contents[1]:
        return "both messages say the same"
    key = validators.keys[evidence.first.validator]
    for which, message, content in zip(("first", "second"), evidence, contents, strict=True):
        if not (message.signature and is_signed(key, message.signature, content)):
            return f"the signature of the {which} message is wrong"
    return None


def _case_of(message: Proposal | Vote) -> Case:
    return Case(message.height, message.round, message.validator, kind_of(message))
