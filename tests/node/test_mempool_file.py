"""mempool.dat: what is saved comes back, what is no longer valid does not, damage never hurts."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from mempool_model import check
from payments import ALICE, BOB, Chain, Payment, admit, commit, pay, pending, submit

from node.errors import DatadirError
from node.mempool import Counters, Mempool, PolicyLimits, Reloaded
from node.mempool_file import load, save

GENESIS = bytes(range(32))
LIMITS = PolicyLimits(expiry_ms=10_000)


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def coins(chain: Chain) -> Payment:
    return chain.fund(*[(100_000, ALICE)] * 40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mempool.dat"


def spend(source: Payment, index: int, fee: int = 1_000) -> Payment:
    return pay([(source.out(index), ALICE)], [(90_000, BOB), (10_000 - fee, ALICE)])


def filled(chain: Chain, coins: Payment) -> Mempool:
    pool = Mempool(chain, LIMITS, 0)
    parents = [spend(coins, index) for index in range(30)]
    admit(pool, *parents, now_ms=100)
    admit(pool, *(pay([(p.out(1), ALICE)], [(8_000, BOB)]) for p in parents[:10]), now_ms=200)
    commit(pool, chain, *parents[20:])
    submit(pool, pay([(bytes(33), ALICE)], [(1, BOB)]))
    return pool


def test_everything_comes_back_in_order(chain: Chain, coins: Payment, path: Path) -> None:
    pool = filled(chain, coins)
    assert save(pool, path, GENESIS) == 30
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["mempool.dat"]
    fresh = Mempool(chain, LIMITS, 0)
    report = load(fresh, path, GENESIS, 300)
    assert report.ignored is None
    assert report.reloaded == Reloaded(admitted_count=30)
    assert list(fresh.records()) == list(pool.records())
    assert fresh.counters == Counters(admitted=40, finalised=10)
    check(fresh, chain)
    assert save(fresh, path, GENESIS) == 30  # replaces the earlier file


def test_an_empty_pool_and_an_absent_file(chain: Chain, path: Path) -> None:
    pool = Mempool(chain, LIMITS, 0)
    assert load(pool, path, GENESIS, 0).ignored is None
    assert save(pool, path, GENESIS) == 0
    assert load(pool, path, GENESIS, 0).reloaded == Reloaded()


def test_what_is_no_longer_valid_stays_out_and_the_books_balance(
    chain: Chain, coins: Payment, path: Path
) -> None:
    pool = filled(chain, coins)
    save(pool, path, GENESIS)
    ids = pending(pool)
    final = Payment(ids[0], held_bytes(pool, ids[0]))
    rival = spend(coins, 1, fee=2_000)  # of ids[1], which has a child too
    chain.apply([final, rival])
    fresh = Mempool(chain, LIMITS, 0)
    report = load(fresh, path, GENESIS, 300)
    assert report.reloaded == Reloaded(admitted_count=27, final_count=1, rejected_count=2)
    assert fresh.counters == Counters(admitted=40, finalised=11, lost_at_restart=2)
    check(fresh, chain)


def held_bytes(pool: Mempool, txid: bytes) -> bytes:
    raw = pool.transactions([txid])[0]
    assert raw is not None
    return raw


def test_what_expired_meanwhile_stays_out(chain: Chain, coins: Payment, path: Path) -> None:
    save(filled(chain, coins), path, GENESIS)
    fresh = Mempool(chain, LIMITS, 0)
    report = load(fresh, path, GENESIS, 10_100)
    # Ten children are younger, but cannot be had without their parents.
    assert report.reloaded == Reloaded(expired_count=20, rejected_count=10)
    assert fresh.counters == Counters(admitted=40, finalised=10, expired=20, lost_at_restart=10)


def test_lower_limits_evict_while_loading(chain: Chain, coins: Payment, path: Path) -> None:
    save(filled(chain, coins), path, GENESIS)
    fresh = Mempool(chain, replace(LIMITS, max_count=20), 0)
    load(fresh, path, GENESIS, 300)
    assert len(fresh) == 20
    check(fresh, chain)


def test_after_resumed_totals_the_records_count_as_new(
    chain: Chain, coins: Payment, path: Path
) -> None:
    save(filled(chain, coins), path, GENESIS)
    fresh = Mempool(chain, LIMITS, 0)
    fresh.resume(Counters(admitted=50, finalised=10))
    load(fresh, path, GENESIS, 300)
    assert fresh.counters == Counters(admitted=80, finalised=10, lost_at_restart=40)
    check(fresh, chain)


def test_damage_anywhere_is_noticed(chain: Chain, coins: Payment, path: Path) -> None:
    pool = Mempool(chain, LIMITS, 0)
    admit(pool, spend(coins, 0))
    save(pool, path, GENESIS)
    whole = path.read_bytes()
    for at in range(0, len(whole), 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        fresh = Mempool(chain, LIMITS, 0)
        report = load(fresh, path, GENESIS, 0)
        assert report.ignored is not None
        assert str(path) in report.ignored
        assert len(fresh) == 0
        assert fresh.counters == Counters()


def test_truncation_anywhere_and_an_appendix_are_noticed(
    chain: Chain, coins: Payment, path: Path
) -> None:
    pool = Mempool(chain, LIMITS, 0)
    admit(pool, spend(coins, 0))
    save(pool, path, GENESIS)
    whole = path.read_bytes()
    for content in [whole[:at] for at in range(0, len(whole), 3)] + [whole + b"x"]:
        path.write_bytes(content)
        assert load(Mempool(chain, LIMITS, 0), path, GENESIS, 0).ignored is not None


def test_reasons_are_told_apart(chain: Chain, coins: Payment, path: Path) -> None:
    pool = filled(chain, coins)
    save(pool, path, GENESIS)

    def reason(genesis_id: bytes = GENESIS, limits: PolicyLimits = LIMITS) -> str:
        ignored = load(Mempool(chain, limits, 0), path, genesis_id, 0).ignored
        assert ignored is not None
        return ignored

    assert f"another chain (genesis {GENESIS.hex()})" in reason(genesis_id=bytes(32))
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\x02" + whole[9:])
    assert "format version 2" in reason()
    path.write_bytes(b"x" * len(whole))
    assert "not a mempool file" in reason()
    path.write_bytes(whole[:-1])
    assert "are announced" in reason()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "checksum" in reason()
    path.write_bytes(bytes(10**6))
    assert "more than the" in reason(limits=replace(LIMITS, max_count=1, max_bytes=50_000))
    path.unlink()
    path.mkdir()
    assert "cannot be read" in reason()


def test_a_failed_save_leaves_the_earlier_file(chain: Chain, coins: Payment, path: Path) -> None:
    pool = filled(chain, coins)
    save(pool, path, GENESIS)
    before = path.read_bytes()
    path.with_name("mempool.dat.new").mkdir()  # where the new file would be written
    with pytest.raises(DatadirError, match=r"cannot save 30 pending transactions to .*mempool.dat"):
        save(pool, path, GENESIS)
    assert path.read_bytes() == before
    path.with_name("mempool.dat.new").rmdir()
    path.with_name("mempool.dat.new").write_bytes(b"left over from a crash")
    save(pool, path, GENESIS)
    assert os.listdir(path.parent) == ["mempool.dat"]


class Saved(NamedTuple):
    """A chain, and a file of a few transactions on it: its bytes, and the records in them."""

    chain: Chain
    path: Path
    whole: bytes
    records: list[tuple[bytes, bytes, int]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    chain = Chain()
    pool = Mempool(chain, LIMITS, 0)
    coins = chain.fund(*[(100_000, ALICE)] * 4)
    admit(pool, *(spend(coins, index) for index in range(4)), now_ms=100)
    path = tmp_path_factory.mktemp("any-bytes") / "mempool.dat"
    save(pool, path, GENESIS)
    return Saved(chain, path, path.read_bytes(), list(pool.records()))


@st.composite
def damaged_file(draw: DrawFn, saved: Saved) -> bytes:
    """The file damaged anywhere, or within its checksum, which is right then."""
    if draw(st.booleans()):
        return draw(damaged(saved.whole))
    body = b""
    wrong = draw(st.integers(0, len(saved.records)))  # the last number: none
    for number, (txid, raw, admitted_ms) in enumerate(saved.records):
        if number == wrong:
            raw = draw(damaged(raw))
        at = draw(
            st.just(admitted_ms) | st.sampled_from([2**63 - 1, 2**63]) | st.integers(0, 2**64 - 1)
        )
        body += struct.pack("<32sQI", txid, at, len(raw)) + raw
    totals = [draw(st.integers(0, 9) | st.integers(0, 2**64 - 1)) for _ in range(7)]
    head = struct.pack(
        "<8sII32s7Q", b"TIMEPOOL", 1, draw(st.sampled_from([4, 4, 4, 3, 5])), GENESIS, *totals
    )
    content = head + struct.pack("<Q", len(body)) + body
    return content + hashlib.blake2b(content, digest_size=32).digest()


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_file_is_loaded_or_told(saved: Saved, data: st.DataObject) -> None:
    saved.path.write_bytes(data.draw(damaged_file(saved)))
    pool = Mempool(saved.chain, LIMITS, 0)
    report = load(pool, saved.path, GENESIS, 300)
    if report.ignored is None:
        assert report.reloaded.admitted_count == len(pool)
    else:
        assert (len(pool), pool.counters) == (0, Counters())
