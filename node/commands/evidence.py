"""``timed evidence``: what validators are proven to have said twice.

Reads the cases that the node has kept (`node.evidence`) and checks the signatures of both messages
against the keys in the genesis; the node may run or not.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import orjson

from node import datadir
from node.commands.loading import load_genesis
from node.consensus.wire import encode
from node.datadir import Layout
from node.durable import Directory
from node.evidence import Case, EvidenceError, cases_of, doubt, read_evidence
from node.genesis import Genesis, genesis_id, salt_of, validator_set
from node.verification.nacl import NaclBackend

PROVEN: Final = "proven"


def evidence(where: Layout, as_json: bool) -> None:
    """Print all cases. Raises what reading the data directory raises."""
    genesis = load_genesis(where, datadir.check(where))
    backend = NaclBackend()  # whose verdict is the network's rule
    cases = [_described(where, each, genesis, backend) for each in cases_of(where)]
    if as_json:
        sys.stdout.write(orjson.dumps(cases, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for case in cases:
        print(
            f"height {case['height']:,}  round {case['round']}  {case['kind']}  "
            f"validator {case['validator']} ({case['key'] or 'unknown'})  {case['verdict']}"
        )
        for which in ("first", "second"):
            if case[which] is not None:
                print(f"  {which}  {case[which]}")
    if not cases:
        print("no validator is known to have contradicted itself")


def _described(where: Layout, case: Case, genesis: Genesis, backend: NaclBackend) -> dict[str, Any]:
    validators = validator_set(genesis)
    known = case.validator < validators.n
    about = {
        **case._asdict(),
        "key": validators.keys[case.validator].hex() if known else None,
        "file": str(where.evidence / case.name),
        "first": None,
        "second": None,
    }
    identity = genesis_id(genesis)
    try:
        found = read_evidence(Directory(where.evidence), case, identity)
    except (EvidenceError, FileNotFoundError) as error:
        return about | {"verdict": f"not proven: {error}"}
    why = doubt(found, validators, salt_of(identity), backend.verify_alone)
    return about | {
        "first": encode(found.first).hex(),
        "second": encode(found.second).hex(),
        "verdict": PROVEN if why is None else f"not proven: {why}",
    }
