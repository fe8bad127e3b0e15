"""A chain with several validators, funded for a load: one genesis, their keys, payments signed.

Made of the parts that ``time-load prepare`` is made of, with a genesis of its own: N validators of
power 1. What comes out is a workload directory as the load generator reads it, and beside it the
validators' key files, in the order in which the genesis names them. The keys come from the seed:
a network for trying things, never one that holds anything of value.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from nacl.signing import SigningKey

from node.errors import from_os_error
from node.genesis import Genesis, Validator, genesis_id, genesis_to_json, salt_of
from node.keys import create_key_file
from node.params import KEY_BYTES, UNITS_PER_TIME
from tools.devnet.errors import DevnetError
from tools.loadgen.errors import LoadError
from tools.loadgen.workload import (
    DUST_LIMIT,
    GENESIS_TIME_MS,
    MIN_FEE,
    Builder,
    Keys,
    RandomStreams,
    WorkloadOptions,
    _write_transactions,
    make_plan,
    write_allocations,
)
from tools.loadgen.workload_file import ALLOCATIONS_NAME, GENESIS_NAME, SUMMARY_NAME, Truth

THREADS: Final = 2

Progress = Callable[[str, int, int], None]


def key_path(directory: Path, number: int) -> Path:
    """Where the key of a validator lies."""
    return directory / f"validator-{number}.key"


def make_chain(
    directory: Path,
    validators: int,
    options: WorkloadOptions,
    progress: Progress = lambda _what, _done, _all: None,
) -> Genesis:
    """Make genesis, keys and payments in a new directory; returns the genesis.

    Raises DevnetError: the directory is not writable or full, or the options cannot be met.
    """
    try:
        directory.mkdir(parents=True)
        return _make(directory, validators, options, progress)
    except LoadError as error:
        raise DevnetError(*str(error).split("; ", 1)) from None
    except OSError as error:
        known = from_os_error(error, str(directory))
        if known is None:
            raise
        raise DevnetError(known.cause, known.remedy) from None


def _make(
    directory: Path, validators: int, options: WorkloadOptions, progress: Progress
) -> Genesis:
    random = RandomStreams(options.seed)
    plan = make_plan(options, random)
    publics = _make_validators(directory, validators, random)
    with ThreadPoolExecutor(THREADS) as pool:
        keys = Keys(plan.n_keys, random, pool)
        funding = write_allocations(
            directory / ALLOCATIONS_NAME,
            max(options.outputs, plan.n_funded),
            keys.publics[: plan.n_funded],
            random,
            progress,
        )
        genesis = Genesis(
            chain=options.chain,
            time_ms=GENESIS_TIME_MS,
            min_fee=MIN_FEE,
            dust_limit=DUST_LIMIT,
            reward=UNITS_PER_TIME,
            max_block_bytes=options.max_block_bytes,
            max_block_transactions=options.max_block_transactions,
            validators=tuple(Validator(key=public, power=1) for public in publics),
            allocations=funding.allocations,
        )
        (directory / GENESIS_NAME).write_bytes(genesis_to_json(genesis))
        identity = genesis_id(genesis)
        builder = Builder(plan, keys, funding, salt_of(identity), random, pool)
        size_bytes = _write_transactions(directory, builder, plan, identity, progress)
    summary = {
        **asdict(options),
        "outputs": funding.allocations.count,
        "validators": validators,
        "genesis_id": identity.hex(),
        "transactions_bytes": size_bytes,
        "kinds": {kind.name: int(np.count_nonzero(plan.kinds == kind)) for kind in Truth},
        "signatures": int(plan.n_inputs.sum()),
    }
    (directory / SUMMARY_NAME).write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return genesis


def _make_validators(directory: Path, count: int, random: RandomStreams) -> list[str]:
    """Write the key files; returns the public keys, in the ascending order of a genesis."""
    seeds = [random.take("validator", number, KEY_BYTES) for number in range(count)]
    seeds.sort(key=lambda seed: bytes(SigningKey(seed).verify_key))
    keys = [create_key_file(key_path(directory, n), seed) for n, seed in enumerate(seeds)]
    return [bytes(key.verify_key).hex() for key in keys]
