"""A process that answers like a node on real sockets, and lies in one way if it is told to.

Started by the tests of the load generator: ``loadgen_peer.py WORKLOAD [STATE INGEST NOTIFY]``. It
prints its endpoints, then obeys lines on standard input: ``begin FAULT`` starts over (answered by
``ready``), and the end of the input ends it. Admits what spends unspent outputs, in order of
arrival; knows bad signatures from the workload. With STATE (a file) its chain survives kill -9, its
mempool does not.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

import zmq

from node.block import block_id, build_block
from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS
from node.transaction import IdHasher, body_bytes
from node.verdict import Verdict
from tools.loadgen.workload_file import Truth, Workload

PACE_S = 0.02
PROPOSER = bytes(32)


def outpoints(raw: bytes) -> list[bytes]:
    return [raw[4 + 34 * i : 37 + 34 * i] for i in range(raw[1])]


class Peer:
    def __init__(self, workload: Workload, state: Path | None) -> None:
        self.salt = workload.genesis_id[:16]
        self.hasher = IdHasher(self.salt)
        self.truth = dict(
            zip(map(bytes, workload.columns.txids), workload.columns.kinds.tolist(), strict=True)
        )
        self.raw = dict(zip(self.truth, workload.transactions(), strict=True))
        self.genesis_id = workload.genesis_id
        self.state = state
        self.begin("none")

    def begin(self, fault: str) -> None:
        self.fault, _, number = fault.partition(":")
        self.number = int(number or 0)
        self.pool: dict[bytes, bytes] = {}
        self.spent: dict[bytes, bytes] = {}
        self.final: set[bytes] = set()
        self.height, self.tip, self.sequence = 0, self.genesis_id, 0
        self.n_requests = self.n_seen = 0
        self.held_back: list[bytes] = []
        self.kept: tuple[bytes, tuple[bytes, ...]] | None = None
        if self.state is not None and self.state.exists():
            for line in self.state.read_text().splitlines():
                tip, *ids = (bytes.fromhex(word) for word in line.split())
                self.height, self.tip = self.height + 1, tip
                self.final.update(ids)
                for txid in ids:
                    self.spent.update(dict.fromkeys(outpoints(self.raw[txid]), txid))

    def verdict(self, raw: bytes) -> int:
        txid = self.hasher.txid(raw)
        index, self.n_seen = self.n_seen, self.n_seen + 1
        here = index == self.number
        kind = self.truth[txid]
        spends = outpoints(raw)
        if self.fault == "die" and here:
            os.kill(os.getpid(), signal.SIGKILL)
        if txid in self.final:
            return Verdict.FINAL
        if txid in self.pool:
            return Verdict.KNOWN
        if self.fault == "shed" and index % 7 == 3:
            return Verdict.MEMPOOL_FULL
        if self.fault == "bogus-code" and here:
            return 15
        if self.fault == "refuse-good" and kind == Truth.GOOD and index >= self.number:
            self.number = 1 << 60
            return Verdict.WRONG_OWNER
        if kind == Truth.BAD_SIGNATURE and self.fault != "accept-bad":
            if self.fault == "finalise-rejected":
                self.pool[txid] = raw
            return Verdict.BAD_SIGNATURE
        if kind == Truth.RIVAL and self.fault == "reject-both":
            return Verdict.CONFLICT
        rivals = [self.spent[o] for o in spends if o in self.spent]
        if rivals and self.fault != "accept-both":
            return Verdict.SPENT_INPUT if rivals[0] in self.final else Verdict.REPLACEMENT_FEE
        self.spent.update(dict.fromkeys(spends, txid))
        if self.fault == "forget" and here:
            return Verdict.ADMITTED
        self.pool[txid] = raw
        return Verdict.ADMITTED

    def reply(self, router: zmq.Socket[bytes], frames: list[bytes]) -> None:
        client, request_id, lengths, payload = frames
        self.n_requests += 1
        here = self.n_requests == 3
        if len(payload) > INGEST_MAX_BYTES or len(lengths) > 2 * INGEST_MAX_TRANSACTIONS:
            router.send_multipart((client, request_id, bytes((Verdict.TOO_LARGE,))))
            return
        if self.fault == "busy" and here:
            router.send_multipart((client, request_id, bytes((Verdict.BUSY,))))
            return
        codes, at = [], 0
        for (length,) in struct.iter_unpack("<H", lengths):
            raw = payload[at : at + length]
            assert body_bytes(raw) < length
            codes.append(self.verdict(raw))
            at += length
        assert at == len(payload)
        answer = bytes(codes)
        if self.fault == "silent" and here:
            return
        if self.fault == "late-reply":
            if here:
                self.kept = (payload, (client, request_id, answer))
                return
            if self.kept is not None and self.kept[0] == payload:
                router.send_multipart(self.kept[1])  # after the same was asked once more
                self.kept = None
        if self.fault == "short-reply" and here:
            answer = answer[:-1]
        if self.fault == "long-reply" and here:
            answer += b"\0"
        router.send_multipart((client, request_id, answer))
        if self.fault == "double-reply" and here:
            router.send_multipart((client, request_id, answer))

    def block(self, publisher: zmq.Socket[bytes]) -> None:
        transactions, txids = list(self.pool.values()), list(self.pool)
        if not txids:
            return
        self.pool.clear()
        if self.fault == "finalise-twice" and self.held_back:
            txids.append(self.held_back.pop())
            transactions.append(b"")
        self.held_back = txids[:1]
        if self.fault == "twice-in-a-block":
            txids.append(txids[0])
            transactions.append(b"")
        block = build_block(
            height=self.height + 1, previous=self.tip, time_ms=0, proposer=PROPOSER,
            transactions=transactions, txids=txids, fees=0, salt=self.salt,
        )  # fmt: skip
        header = block.header.encode()
        identity = block_id(header, self.salt)
        self.height, self.tip = self.height + 1, identity
        self.final.update(txids)
        if self.state is not None:
            with self.state.open("a") as file:
                file.write(" ".join(word.hex() for word in (identity, *txids)) + "\n")
                os.fsync(file.fileno())
        if self.fault == "wrong-id":
            identity = bytes(32)
        if self.fault == "wrong-count":
            txids.pop()
        body = identity + header + b"".join(txids)
        if self.fault == "cut-notification" and self.height == 2:
            body = body[:100]
        for _ in range(2 if self.fault == "repeat-notification" and self.height == 2 else 1):
            if not (self.fault == "drop-notification" and self.height == 2):
                frames = (b"finalised", body, self.sequence.to_bytes(4, "little"))
                publisher.send_multipart(frames)
            self.sequence += 1
        if self.fault == "fork" and self.height == 2:
            self.height, self.tip = 1, block.header.previous


def main() -> None:
    workload = Workload.open(Path(sys.argv[1]))
    state, ingest, notify = (None, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    if len(sys.argv) > 2:
        state, ingest, notify = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    context = zmq.Context()
    router, publisher = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    for sock, endpoint in ((router, ingest), (publisher, notify)):
        sock.setsockopt(zmq.LINGER, 0)
        sock.bind(endpoint)
    ends = [sock.getsockopt(zmq.LAST_ENDPOINT) for sock in (router, publisher)]
    print(*(bytes(end).rstrip(b"\0").decode() for end in ends), flush=True)
    peer = Peer(workload, state)
    block_at = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= block_at:
            block_at = now + PACE_S
            peer.block(publisher)
        try:
            peer.reply(router, router.recv_multipart(zmq.NOBLOCK))
            continue
        except zmq.Again:
            pass
        ready, _, _ = select.select([0, router.fileno()], (), (), max(0.0, block_at - now))
        if 0 in ready:
            command = sys.stdin.readline().split()
            if not command:
                break
            peer.begin(command[1])
            print("ready", flush=True)
    context.destroy(0)


if __name__ == "__main__":
    main()
