"""Backends: chosen by preference, unavailable with cause and remedy, probed at start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nacl.signing import SigningKey

from node.verification.mb8 import library_directories, load_library
from node.verification.nacl import NaclBackend
from node.verification.rule import PROBES, check_rule
from node.verification.select import measure, select_backend
from node.verification.signatures import (
    LANES,
    Backend,
    BackendUnavailable,
    Flags,
    SignatureTable,
)


def test_preferences(backend: Backend) -> None:
    automatic = select_backend("auto")
    assert automatic.name in ("nacl", "avx512")
    if backend.name == "avx512":
        assert automatic.name == "avx512"
    assert ("avx512 is not used" in automatic.advice) == (automatic.name == "nacl")
    assert select_backend("nacl").name == "nacl"


def test_rate_is_measured(backend: Backend) -> None:
    assert measure(backend, 0.0) > 100


def test_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="not installed") as caught:
        load_library([tmp_path])
    assert "avx512" in caught.value.remedy
    assert "\n" not in caught.value.message


def test_library_that_is_broken(tmp_path: Path) -> None:
    for name in ("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so", "libcrypto_mb.so.13"):
        (tmp_path / name).write_bytes(b"no library")
    with pytest.raises(BackendUnavailable, match="cannot be used") as caught:
        load_library([tmp_path])
    assert "reinstall" in caught.value.remedy


def test_directories_are_searched_once_each() -> None:
    directories = library_directories()
    assert directories
    assert len(set(directories)) == len(directories)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 15, 16, 17, 40])
def test_every_row_has_its_own_verdict(backend: Backend, count: int) -> None:
    table = SignatureTable(count, count, slot_bytes=100)
    owner = SigningKey(b"k" * 32)
    good = np.random.default_rng(count).random(count) < 0.6
    for row in range(count):
        message = bytes([row]) * (row % 100)
        signature = owner.sign(message if good[row] else message + b"!").signature
        table.put(row, bytes(owner.verify_key), signature, message)
    assert backend.verify(table, count).tolist() == good.tolist()
    assert backend.verify(table, count - 1).tolist() == good[:-1].tolist()
    for first in range(0, count, LANES):
        assert backend.verify(table, count - first, first).tolist() == good[first:].tolist()


class Credulous:
    """A library with another rule: takes what the network refuses, or refuses what it takes."""

    name, at_once, advice = "credulous", 1, ""

    def __init__(self, misjudged: str) -> None:
        self.misjudged = misjudged

    def verify(self, table: SignatureTable, count: int, first: int = 0) -> Flags:
        valid = NaclBackend().verify(table, count, first)
        names = [PROBES[row % len(PROBES)].name for row in range(first, first + count)]
        valid ^= np.array([name == self.misjudged for name in names])
        return valid


@pytest.mark.parametrize("probe", [probe.name for probe in PROBES])
def test_a_library_with_another_rule_is_refused(probe: str) -> None:
    with pytest.raises(BackendUnavailable, match="another rule") as caught:
        check_rule(Credulous(probe))
    assert probe in caught.value.cause
    check_rule(Credulous("none"))


def test_table_refuses_fields_of_another_length() -> None:
    table = SignatureTable(1, 1)
    with pytest.raises(ValueError, match="key of 31"):
        table.put(0, bytes(31), bytes(64), b"")
    with pytest.raises(ValueError, match="broadcast"):
        table.put(0, bytes(32), bytes(64), bytes(65))
    with pytest.raises(ValueError, match="47 needed"):
        SignatureTable(1, 1, slot_bytes=46)
