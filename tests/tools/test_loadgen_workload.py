"""A workload is what it says: every transaction is judged with the node's own scalar rules."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from node.genesis import allocation_outpoint, read_allocations, read_genesis, salt_of
from node.keys import read_key_file
from node.params import OUTPUT_BYTES
from node.transaction import Transaction, decode, spend_message, txid
from node.verdict import Verdict
from tools.loadgen.errors import LoadError
from tools.loadgen.workload import (
    CHAIN_DEPTH,
    FEE_PER_BYTE,
    Kind,
    RandomStreams,
    WorkloadOptions,
    make_plan,
    prepare,
)
from tools.loadgen.workload_file import (
    DATA_NAME,
    GENESIS_NAME,
    INDEX_NAME,
    KEY_NAME,
    SUMMARY_NAME,
    Truth,
    Workload,
)

COUNT = 400
FILES = (GENESIS_NAME, "genesis.alloc", KEY_NAME, DATA_NAME, INDEX_NAME, SUMMARY_NAME)


def make(directory: Path, kind: Kind, **more: object) -> Workload:
    options = WorkloadOptions(
        **{
            "transactions": COUNT,
            "kind": kind,
            "bad_signatures": 0.05,
            "double_spends": 0.05,
            **more,
        }  # type: ignore[arg-type]
    )
    prepare(directory, options)
    return Workload.open(directory)


@pytest.fixture(scope="module", params=list(Kind))
def workload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload") / "made"
    return make(directory, request.param, outputs=3_000)


def invalid_signatures(transaction: Transaction, transaction_id: bytes) -> int:
    invalid = 0
    for witness in transaction.witnesses:
        try:
            VerifyKey(witness.key).verify(spend_message(transaction_id), witness.signature)
        except BadSignatureError:
            invalid += 1
    return invalid


def test_every_transaction_is_valid_but_for_what_it_claims(workload: Workload) -> None:
    genesis = read_genesis(workload.directory / GENESIS_NAME)
    salt = salt_of(workload.genesis_id)
    records = read_allocations(workload.directory / "genesis.alloc", genesis)
    outputs = {
        allocation_outpoint(i, salt): records[i * OUTPUT_BYTES : (i + 1) * OUTPUT_BYTES]
        for i in range(genesis.allocations.count)
    }
    spent: dict[bytes, int] = {}
    for index, raw in enumerate(workload.transactions()):
        kind = workload.columns.kinds[index]
        transaction = decode(raw, genesis.dust_limit)
        identity = txid(raw, salt)
        assert identity == bytes(workload.columns.txids[index])
        assert invalid_signatures(transaction, identity) == (kind == Truth.BAD_SIGNATURE)
        total = 0
        for put in transaction.inputs:
            value, owner = (
                int.from_bytes(outputs[put.outpoint][:8], "little"),
                outputs[put.outpoint][8:],
            )
            assert transaction.witnesses[put.witness].key == owner
            total += value
            partner = int(workload.columns.partner[index])
            assert spent.setdefault(put.outpoint, index) in (index, partner)
        assert len({witness.key for witness in transaction.witnesses}) == len(transaction.inputs)
        assert total - transaction.output_sum == FEE_PER_BYTE * len(raw) > genesis.min_fee
        for number, output in enumerate(transaction.outputs):
            outputs[identity + bytes((number,))] = output.pack()


def test_kinds_shares_and_expectations(workload: Workload) -> None:
    kinds = Counter(workload.columns.kinds.tolist())
    assert kinds == {Truth.GOOD: 340, Truth.BAD_SIGNATURE: 20, Truth.RIVAL: 40}
    bad = workload.columns.kinds == Truth.BAD_SIGNATURE
    assert (workload.columns.expected == np.where(bad, Verdict.BAD_SIGNATURE, 0)).all()
    assert workload.summary["kinds"]["RIVAL"] == 40
    inputs = Counter(raw[1] for raw in workload.transactions())
    match Kind(workload.summary["kind"]):
        case Kind.ONE_INPUT | Kind.CHAINED:
            assert inputs == {1: COUNT}
        case Kind.FOUR_INPUTS:
            assert inputs == {4: COUNT}
        case Kind.MIXED:
            assert abs(inputs[1] - inputs[4]) <= 2 * 20


def test_pairs_spend_the_same_for_the_same_fee(workload: Workload) -> None:
    partner = workload.columns.partner
    rivals = np.flatnonzero(partner >= 0)
    assert (workload.columns.kinds[rivals] == Truth.RIVAL).all()
    assert (partner[partner[rivals]] == rivals).all()
    for index in rivals.tolist():
        raw, other = workload.transaction(index), workload.transaction(int(partner[index]))
        end = 4 + 34 * raw[1]
        assert raw[:end] == other[:end]
        assert len(raw) == len(other)
        assert raw != other
    distances = np.abs(partner[rivals] - rivals)
    assert distances.min() < COUNT / 4 < distances.max()


def test_chains_are_long_and_parents_come_first(tmp_path: Path) -> None:
    workload = make(tmp_path / "chained", Kind.CHAINED)
    parent = workload.columns.parent
    depth = np.zeros(COUNT, int)
    for index in np.flatnonzero(parent >= 0).tolist():
        assert parent[index] < index
        depth[index] = depth[parent[index]] + 1
        raw = workload.transaction(index)
        assert raw[4:36] == bytes(workload.columns.txids[parent[index]])
    assert depth.max() == CHAIN_DEPTH - 1
    assert len(set(parent[parent >= 0])) == (parent >= 0).sum()  # chains, not trees


def test_chains_never_leave_their_segment() -> None:
    options = WorkloadOptions(300_000, Kind.CHAINED, bad_signatures=0.3, double_spends=0.1)
    plan = make_plan(options, RandomStreams("1"))
    assert plan.segments[0][0] == 0
    assert plan.segments[-1][1] == 300_000
    assert len(plan.segments) > 1
    starts = np.array([start for start, _ in plan.segments])
    children = np.flatnonzero(plan.parent >= 0)
    own = np.searchsorted(starts, children, "right")
    assert (own == np.searchsorted(starts, plan.parent[children], "right")).all()
    assert plan.level.max() == CHAIN_DEPTH - 1
    assert (children - plan.parent[children]).min() > 1_000


@pytest.mark.parametrize("kind", list(Kind))
def test_the_seed_decides_every_byte(tmp_path: Path, kind: Kind) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        make(tmp_path / name, kind, seed=seed)
    for name in FILES:
        first, second, other = ((tmp_path / d / name).read_bytes() for d in "abc")
        assert first == second
        assert first != other


def test_the_validator_key_is_private_and_in_the_genesis(workload: Workload) -> None:
    path = workload.directory / KEY_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = bytes(read_key_file(path).verify_key)
    assert [v.key for v in workload.genesis.validators] == [key.hex()]


def test_the_genesis_has_as_many_outputs_as_asked_for(tmp_path: Path) -> None:
    exact = make(tmp_path / "exact", Kind.FOUR_INPUTS)
    assert exact.genesis.allocations.count == 4 * (COUNT - 20)  # both of a pair spend the same
    padded = make(tmp_path / "padded", Kind.FOUR_INPUTS, outputs=5_000)
    assert padded.genesis.allocations.count == 5_000
    # What is spent lies all over the genesis, not in one place.
    salt = salt_of(padded.genesis_id)
    place = {allocation_outpoint(i, salt): i for i in range(5_000)}
    used = [place[decode(raw, 1).inputs[0].outpoint] for raw in padded.transactions()]
    assert min(used) < 500
    assert max(used) > 4_500


@pytest.mark.parametrize(
    "wrong",
    [
        {"transactions": 0},
        {"bad_signatures": 1.5},
        {"double_spends": -0.1},
        {"bad_signatures": 0.5, "double_spends": 0.3},
        {"outputs": -1},
        {"seed": "x" * 1_000},
    ],
)
def test_impossible_options_are_named(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(LoadError) as caught:
        make(tmp_path / "w", Kind.ONE_INPUT, **wrong)
    assert caught.value.remedy


def test_too_few_outputs_and_impossible_chains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"spend 1,520 outputs.*--outputs 1520"):
        make(tmp_path / "w", Kind.FOUR_INPUTS, outputs=1_519)
    with pytest.raises(LoadError, match="chain's name"):
        make(tmp_path / "v", Kind.ONE_INPUT, chain="No Such Name")


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(LoadError, match="is not empty"):
        make(tmp_path, Kind.ONE_INPUT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(LoadError, match="cannot write"):
        make(tmp_path / "mine" / "below", Kind.ONE_INPUT)


def test_an_interrupted_or_damaged_workload_is_not_opened(tmp_path: Path) -> None:
    directory = tmp_path / "w"
    make(directory, Kind.ONE_INPUT)
    other = make(tmp_path / "v", Kind.ONE_INPUT, seed="2").directory

    def opened_after(name: str, content: bytes) -> str:
        path = directory / name
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            with pytest.raises(LoadError) as caught:
                Workload.open(directory)
        finally:
            path.write_bytes(before)
        return caught.value.cause

    data, index = (directory / DATA_NAME).read_bytes(), (directory / INDEX_NAME).read_bytes()
    assert "was cut" in opened_after(DATA_NAME, data[:-1])
    assert "was cut" in opened_after(INDEX_NAME, index[:-64])
    assert "no index" in opened_after(INDEX_NAME, b"something else")
    assert "damaged" in opened_after(INDEX_NAME, b"")
    assert "format 2" in opened_after(INDEX_NAME, index[:8] + b"\2\0\0\0" + index[12:])
    assert "does not fit" in opened_after(
        INDEX_NAME, index.replace(b"\xd6\0" * 9, b"\xd7\0" * 9, 1)
    )
    assert "damaged" in opened_after(SUMMARY_NAME, b"{")
    assert "damaged" in opened_after(GENESIS_NAME, b"{}")
    assert "not the workload's" in opened_after(GENESIS_NAME, (other / GENESIS_NAME).read_bytes())
    Workload.open(directory)
    (directory / SUMMARY_NAME).unlink()
    with pytest.raises(LoadError, match="no complete workload"):
        Workload.open(directory)
