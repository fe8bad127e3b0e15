"""``timed check``: what is right and what is wrong with a data directory, one line each.

Reads everything that a node would read at its start and every committed block with the certificate
of its decision, changes nothing (but a store of an older format, which opening brings up to date),
and goes on after a failure with whatever does not depend on it.
Blocks are found by the store's locations: among the bodies lie those of blocks that were never
decided, and they concern nobody. With ``--replay`` the chain is judged again from its first block
by the plain reference (``node.ledger``), and its outputs are compared with the store's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from node import datadir
from node.block import block_id
from node.commands import preflight
from node.commands.addresses import check_addresses
from node.commands.loading import load_config, load_genesis, resolve
from node.commands.resume import decides_without
from node.config import Config
from node.consensus.certificate import CertificateError, check_certificate, check_signatures
from node.consensus.messages import Certificate, Certified, VoteType
from node.consensus.wire import WireError, decode
from node.datadir import Layout
from node.durable import Directory
from node.errors import CheckFailed, DatadirError
from node.genesis import Genesis, genesis_id, read_allocations, salt_of, validator_set
from node.ledger import BlockInvalid, replay
from node.settings import NodeSettings
from node.signer import SignerState, read_state
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore, output_set_digest
from node.storage.errors import DAMAGED_REMEDY, StoreDamaged
from node.verification.nacl import NaclBackend
from node.wiring import wire
from pipeline.errors import OperatorError

T = TypeVar("T")


def check(where: Layout, replaying: bool) -> None:
    """Print one line per check; raises ``CheckFailed`` at the end if one of them failed."""
    report = _Report()
    marked_id = report.line(
        "data directory", lambda: datadir.check(where), lambda _: str(where.root)
    )
    if marked_id is None:
        report.conclude()
        return
    with datadir.locked(where):
        report.line("space", lambda: datadir.check_writable(where), lambda _: "writable, with room")
        genesis = report.line(
            "genesis",
            lambda: load_genesis(where, marked_id),
            lambda found: f"{found.chain} {marked_id.hex()}",
        )
        if genesis is not None:
            _check_chain(where, genesis, report, replaying)
    report.conclude()


class _Report:
    """Prints the lines and remembers what failed."""

    def __init__(self) -> None:
        self._failed: list[OperatorError] = []

    def line(self, name: str, examine: Callable[[], T], tell: Callable[[T], str]) -> T | None:
        """One check; None if it failed."""
        try:
            found = examine()
            told = tell(found)
        except OperatorError as error:
            print(f"bad  {name:<15} {error.message}", flush=True)
            self._failed.append(error)
            return None
        print(f"ok   {name:<15} {told}", flush=True)
        return found

    def conclude(self) -> None:
        if len(self._failed) == 1:
            raise self._failed[0]
        if self._failed:
            raise CheckFailed(
                f"{len(self._failed)} checks failed, the first of them: {self._failed[0].message}",
                "put right what the lines above say",
            )


def _check_chain(where: Layout, genesis: Genesis, report: _Report, replaying: bool) -> None:
    report.line(
        "allocations",
        lambda: read_allocations(where.allocations, genesis),
        lambda data: f"{genesis.allocations.count:,} outputs, {len(data) // 1000:,} kB",
    )
    config = report.line(
        "configuration", lambda: load_config(where, genesis), lambda _: str(where.config)
    )
    if config is not None:
        settings = resolve(config, genesis, where, terminal=False)
        _check_parts(config, settings, report)
    _check_store(where, genesis, report, replaying)


def _check_parts(config: Config, settings: NodeSettings, report: _Report) -> None:
    key = report.line(
        "validator key", lambda: preflight.check_key(settings), lambda found: found[1].hex()
    )
    if key is not None:
        report.line(
            "signer",
            lambda: _signer_state(settings, *key),
            lambda found: (
                "no record of what was signed: silent until two heights were decided by the others"
                if found is None
                else found.describe()
            ),
        )
    backend = report.line(
        "verification",
        lambda: preflight.examine(settings),
        lambda found: (
            f"{found.backend}, {found.per_second:,} signatures a second and core"
            + (f" ({found.advice})" if found.advice else "")
        ),
    )
    if backend is not None:
        cores = sorted(os.sched_getaffinity(0))
        report.line(
            "pipeline",
            lambda: wire(config, backend.backend, cores),
            lambda found: (
                ", ".join(
                    f"{stage.name} x{stage.count}" if stage.count > 1 else stage.name
                    for stage in found.stages
                )
                + f" on {len(cores)} cores"
            ),
        )
    report.line("addresses", lambda: check_addresses(config), " ".join)


def _signer_state(settings: NodeSettings, validator: int, public_key: bytes) -> SignerState | None:
    """What the validator signed last; to have no record of it is wrong only if all wait for it."""
    path = Path(settings.signer_path)
    state = read_state(Directory(path), settings.salt, public_key)
    if state is None and not decides_without(settings.genesis, validator):
        raise DatadirError(
            f"there is no record in {path} of what this validator signed, and the others cannot "
            "decide without it",
            "see timed resume-signing",
        )
    return state


def _check_store(where: Layout, genesis: Genesis, report: _Report, replaying: bool) -> None:
    store = report.line(
        "store",
        lambda: ChainStore(where.store, genesis_id(genesis), cache_mb=64, write_buffer_mb=8),
        lambda found: (
            f"height {found.tip.height:,}, block {found.tip.block_id.hex()}"
            + (f", upgraded from format {found.upgraded_from}" if found.upgraded_from else "")
        ),
    )
    if store is None:
        return
    with closing(store):
        blocks = report.line(
            "block files",
            lambda: check_blocks(where, genesis, store),
            lambda found: f"{found:,} blocks, checksums and order are right",
        )
        report.line(
            "certificates",
            lambda: check_certificates(where, genesis, store),
            lambda found: f"{found:,} signatures, a quorum's for every block",
        )
        if replaying and blocks is not None:
            report.line(
                "replay",
                lambda: _replay(where, genesis, store),
                lambda found: f"{found:,} outputs, the same as in the store",
            )


def check_blocks(where: Layout, genesis: Genesis, store: ChainStore) -> int:
    """Read every committed body; each must be the block that the store names at its height.

    Returns how many there are. Raises StoreDamaged.
    """
    previous = identity = genesis_id(genesis)
    salt = salt_of(identity)
    with closing(BlockFiles(where.blocks, identity)) as files:
        for height in range(1, store.tip.height + 1):
            location = store.block_location(height)
            header = files.read_header(location)
            found = block_id(header.encode(), salt)
            named = (height, previous, store.block_id(height))
            if (header.height, header.previous, found) != named:
                raise StoreDamaged(
                    f"{files.path(location.file)} holds another block at {location.offset} than "
                    f"{where.store} names for height {height}",
                    DAMAGED_REMEDY,
                )
            previous = found
    return store.tip.height


def check_certificates(where: Layout, genesis: Genesis, store: ChainStore) -> int:
    """Verify that a quorum precommitted every committed block; returns the signatures seen.

    By the powers of the genesis, with the backend whose verdict is the network's rule. Raises
    StoreDamaged for the first block whose certificate is missing or proves nothing.
    """
    salt = salt_of(genesis_id(genesis))
    validators = validator_set(genesis)
    backend = NaclBackend()

    def verify(key: bytes, message: bytes, signature: bytes) -> bool:
        return backend.verify_alone(key, signature, message)

    n_signatures = 0
    for height in range(1, store.tip.height + 1):
        try:
            certificate = _certificate(store.certificate(height), height, store.block_id(height))
            check_certificate(certificate, validators)
            check_signatures(certificate, validators, salt, verify)
        except (CertificateError, WireError) as error:
            raise StoreDamaged(
                f"the commit certificate of block {height} in {where.store} does not prove that it "
                f"was decided ({error})",
                DAMAGED_REMEDY,
            ) from None
        n_signatures += len(certificate.signatures)
    return n_signatures


def _certificate(encoded: bytes | None, height: int, value: bytes) -> Certificate:
    """The certificate in these bytes if it is one of precommits for this block."""
    if encoded is None:
        raise CertificateError("it is missing")
    message = decode(encoded)
    if not isinstance(message, Certified):
        raise CertificateError("it is a message of another kind")
    certificate = message.certificate
    if certificate.type is not VoteType.PRECOMMIT:
        raise CertificateError("it holds no precommits")
    if (certificate.height, certificate.value) != (height, value):
        raise CertificateError(
            f"it is for block {certificate.value.hex()} at height {certificate.height}"
        )
    return certificate


def _replay(where: Layout, genesis: Genesis, store: ChainStore) -> int:
    allocations = read_allocations(where.allocations, genesis)
    with closing(BlockFiles(where.blocks, genesis_id(genesis))) as files:
        heights = range(1, store.tip.height + 1)
        try:
            outputs = replay(
                genesis, allocations, (files.read(store.block_location(h)) for h in heights)
            )
        except BlockInvalid as error:
            raise StoreDamaged(
                f"a block in {where.blocks} is not valid ({error})", DAMAGED_REMEDY
            ) from None
    if output_set_digest(sorted(outputs.items())) != store.output_set_digest():
        raise StoreDamaged(
            f"the outputs in {where.store} are not those that the blocks lead to", DAMAGED_REMEDY
        )
    return len(outputs)
