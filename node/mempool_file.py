"""mempool.dat: pending transactions across an orderly restart.

Written by the consensus stage when it stops, read when it starts; nothing else touches it. A
convenience, never a source of truth: whatever is wrong with the file, the node starts without it
and says why. It is replaced atomically (written beside, fsynced, renamed, directory fsynced),
readable by its owner alone, and carries the chain's genesis id, because transactions in it are not
verified again.

Layout, little-endian: header (magic[8], version u32, records u32, genesis id[32], the seven totals
of ``node.mempool.TOTALS`` u64 each, body length u64), body (per record txid[32], arrival ms u64,
length u32, transaction), BLAKE2b-256 of all before.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node.errors import DatadirError
from node.mempool import TOTALS, Counters, Mempool, Reloaded
from node.params import ID_BYTES, INPUT_BYTES, MIN_TX_BYTES, OUTPUT_BYTES, WITNESS_BYTES

_MAGIC = b"TIMEPOOL"
_VERSION = 1
_HEADER = struct.Struct(f"<8sII{ID_BYTES}s{len(TOTALS)}QQ")
_RECORD = struct.Struct(f"<{ID_BYTES}sQI")
_CHECKSUM_BYTES = 32
_LATEST_MS = 2**63 - 1  # the mempool keeps times as signed numbers of 64 bits


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What came of ``load``: ``ignored`` says why the file was not used, None if it was or is
    absent.
    """

    reloaded: Reloaded
    ignored: str | None = None


class _Unusable(Exception):
    """The file cannot be used; the message says why."""


def save(mempool: Mempool, path: Path, genesis_id: bytes) -> int:
    """Write all pending transactions and the totals to ``path``; return how many transactions.

    Raises ``DatadirError`` when the file cannot be written; an earlier file is then still whole.
    """
    body: list[bytes] = []
    count = 0
    for txid, raw, admitted_ms in mempool.records():
        body.append(_RECORD.pack(txid, admitted_ms, len(raw)))
        body.append(raw)
        count += 1
    totals = [getattr(mempool.counters, name) for name in TOTALS]
    header = _HEADER.pack(_MAGIC, _VERSION, count, genesis_id, *totals, sum(map(len, body)))
    checksum = hashlib.blake2b(header, digest_size=_CHECKSUM_BYTES)
    for part in body:
        checksum.update(part)
    scratch = path.with_name(path.name + ".new")
    try:
        with suppress(FileNotFoundError):
            scratch.unlink()
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            file.writelines(body)
            file.write(checksum.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise DatadirError(
            f"cannot save {count} pending transactions to {path}: {error.strerror}",
            "make room and permissions right before the next stop; clients can send them again",
        ) from error
    return count


def load(mempool: Mempool, path: Path, genesis_id: bytes, now_ms: int) -> LoadReport:
    """Take back what ``save`` wrote, skipping what is no longer valid; never fails because of the
    file.
    """
    try:
        records, totals = _read(path, genesis_id, mempool)
    except FileNotFoundError:
        return LoadReport(Reloaded())
    except OSError as error:
        return LoadReport(Reloaded(), f"{path} cannot be read: {error.strerror}")
    except _Unusable as error:
        return LoadReport(Reloaded(), f"{path} {error}")
    return LoadReport(mempool.reload(records, totals, now_ms))


def _read(
    path: Path, genesis_id: bytes, mempool: Mempool
) -> tuple[list[tuple[bytes, bytes, int]], Counters]:
    limits = mempool.limits
    # Limits may have been lowered since; twice today's is still a bound on what is read into
    # memory.
    most_bytes = (
        2 * (limits.max_bytes + limits.max_count * _RECORD.size) + _HEADER.size + _CHECKSUM_BYTES
    )
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > most_bytes:
            raise _Unusable(f"has {size_bytes} bytes, more than the {most_bytes} that limits allow")
        content = file.read(most_bytes + 1)
    if len(content) < _HEADER.size + _CHECKSUM_BYTES:
        raise _Unusable(f"is cut short at {len(content)} bytes")
    magic, version, count, chain, *totals, body_bytes = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise _Unusable("is not a mempool file")
    if version != _VERSION:
        raise _Unusable(f"has format version {version}, this program reads {_VERSION}")
    end = _HEADER.size + body_bytes
    if len(content) != end + _CHECKSUM_BYTES:
        raise _Unusable(f"has {len(content)} bytes where {end + _CHECKSUM_BYTES} are announced")
    checksum = hashlib.blake2b(memoryview(content)[:end], digest_size=_CHECKSUM_BYTES).digest()
    if checksum != content[end:]:
        raise _Unusable("is damaged: its checksum does not match")
    if chain != genesis_id:
        raise _Unusable(f"belongs to another chain (genesis {chain.hex()})")
    records = []
    at = _HEADER.size
    for _ in range(count):
        if at + _RECORD.size > end:
            raise _Unusable("announces more records than it holds")
        txid, admitted_ms, length = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        raw = content[at : at + length]
        at += length
        if at > end or not _has_length_of_counts(raw):
            raise _Unusable(f"holds a record of {length} bytes that is no transaction")
        if admitted_ms > _LATEST_MS:
            raise _Unusable(f"holds a transaction that came at {admitted_ms} ms, which is no time")
        records.append((txid, raw, admitted_ms))
    if at != end:
        raise _Unusable("holds more bytes than records")
    return records, Counters(*totals)


def _has_length_of_counts(raw: bytes) -> bool:
    if len(raw) < MIN_TX_BYTES:
        return False
    _, n_inputs, n_outputs, n_witnesses = raw[:4]
    expected = 4 + INPUT_BYTES * n_inputs + OUTPUT_BYTES * n_outputs + WITNESS_BYTES * n_witnesses
    witnesses_used = raw[4 + INPUT_BYTES - 1 : 4 + INPUT_BYTES * n_inputs : INPUT_BYTES]
    return len(raw) == expected and max(witnesses_used, default=n_witnesses) < n_witnesses
