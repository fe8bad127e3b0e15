"""Blocks that only look like blocks, for storage that judges nothing; and programs run apart."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import random
import struct
import subprocess
import sys
from pathlib import Path

from node.block import Block, build_block
from node.transaction import IdHasher


def payment(inputs: list[bytes], n_outputs: int, random_: random.Random) -> bytes:
    """A transaction in the right layout that spends these outpoints; its signature is noise."""
    return (
        bytes((1, len(inputs), n_outputs, 1))
        + b"".join(outpoint + b"\0" for outpoint in inputs)
        + b"".join(
            random_.randrange(1, 2**40).to_bytes(8, "little") + random_.randbytes(32)
            for _ in range(n_outputs)
        )
        + random_.randbytes(96)
    )


def block_of(
    transactions: list[bytes], salt: bytes, *, height: int, previous: bytes, fees: int = 0
) -> Block:
    hasher = IdHasher(salt)
    return build_block(
        height=height,
        previous=previous,
        time_ms=1_700_000_000_000 + height,
        proposer=b"P" * 32,
        transactions=transactions,
        txids=[hasher.txid(raw) for raw in transactions],
        fees=fees,
        salt=salt,
    )


def without_rights() -> None:
    """Give up root's right to read and write everything: modes then count, as for any user."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2): version 3, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def with_a_failing_disk() -> None:
    """Make every fsync and fdatasync of this thread fail with EIO, by a seccomp filter."""
    first, second = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
    instructions = (
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 1, 0, first),
        (0x15, 0, 1, second),
        (0x06, 0, 0, 0x00050000 | errno.EIO),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in instructions))
    program = struct.pack("@HP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, filter_mode = 38, 22, 2
    for arguments in ((no_new_privileges, 1, 0, 0, 0), (seccomp, filter_mode, program, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def apart(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own, with the tests' modules at hand."""
    tests = Path(__file__).parents[1]
    path = [str(tests / "support"), str(tests.parent), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_apart(program: str, *arguments: object) -> str:
    """Run a program in a process of its own and return what it printed; it must end well."""
    with apart(program, *arguments) as process:
        told, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    return told
