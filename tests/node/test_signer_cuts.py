"""The signer's promise at every crash point: never two signatures that conflict, none goes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import signer_cuts
from signer_cuts import SALT, Contradiction
from signing_child import RECORD, key

from node.durable import Directory, Files, FixedFile
from node.signer import SLOT_BYTES, SignerStateError, closed_up_to, write_state

KILLS = 20
SUPPORT = Path(signer_cuts.__file__).parent


def test_no_cut_of_the_power_makes_the_validator_contradict_itself() -> None:
    assert signer_cuts.hunt() == signer_cuts.count_cut_points() >= 5_000


class Sabotaged:
    """A disk whose files, written in place, do not do what the signer relies on."""

    def __init__(self, disk: Files) -> None:
        self._disk = disk
        self.file: FixedFile

    def __getattr__(self, name: str) -> object:
        return getattr(self._disk, name)

    def update(self, name: str) -> Sabotaged:
        self.file = self._disk.update(name)
        return self

    def write(self, at: int | str, data: bytes) -> None:
        if isinstance(at, int):
            self.put(at, data)
        else:
            self._disk.write(at, data)

    def sync(self, name: str | None = None) -> None:
        if name is None:
            self.sync_file()
        else:
            self._disk.sync(name)

    def put(self, offset: int, data: bytes) -> None:
        self.file.write(offset, data)

    def sync_file(self) -> None:
        self.file.sync()

    def close(self) -> None:
        self.file.close()


class WithoutSync(Sabotaged):
    def sync_file(self) -> None:
        pass


class OneSlot(Sabotaged):
    """The only good state is overwritten."""

    def put(self, offset: int, data: bytes) -> None:
        super().put(0, data)
        super().put(SLOT_BYTES, data)


class SyncedOneLate(Sabotaged):
    """A signature leaves before its state is durable: that waits for the next request."""

    _writes_until_sync = 0

    def put(self, offset: int, data: bytes) -> None:
        if self._writes_until_sync == 1:
            self.file.sync()
        self._writes_until_sync -= 1
        super().put(offset, data)

    def sync_file(self) -> None:
        self._writes_until_sync = 2  # that of the other slot comes at once


class AsItWasFound(Sabotaged):
    """A starting signer trusts what it reads, although it need not be durable."""

    _starting = True

    def sync_file(self) -> None:
        if not self._starting:
            super().sync_file()
        self._starting = False


@pytest.mark.parametrize("sabotage", [WithoutSync, OneSlot, SyncedOneLate, AsItWasFound])
def test_the_hunt_finds_what_it_hunts_for(sabotage: type[Sabotaged]) -> None:
    with pytest.raises((Contradiction, SignerStateError)):
        signer_cuts.hunt(wrap=sabotage)


def test_a_process_that_is_killed_while_it_signs(tmp_path: Path) -> None:
    """Twenty lives on one real directory; each wants to say something else than the one before."""
    public_key = key().verify_key
    write_state(Directory(tmp_path), closed_up_to(0), SALT, bytes(public_key))
    rng = Random(1)
    released: dict[tuple[int, int, int], bytes] = {}
    last = (0, 0, 0)
    for life in range(KILLS):
        for place, content, signature in _killed_after(rng.randint(1, 60), tmp_path, 1 + 2 * life):
            assert public_key.verify(content, signature) == content
            assert released.setdefault(place, content) == content
            assert place >= last
            last = place
    assert len(released) >= KILLS


Release = tuple[tuple[int, int, int], bytes, bytes]


def _killed_after(records: int, directory: Path, life: int) -> list[Release]:
    """What a signing process released until it was killed, at least so many records."""
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "signing_child.py"), str(directory), str(life)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{SUPPORT}:{SUPPORT.parents[1]}"},
    )
    assert process.stdout is not None
    with process, process.stdout as pipe:
        data = pipe.read(records * RECORD.size)
        process.send_signal(signal.SIGKILL)
        data += pipe.read()
    assert process.returncode == -signal.SIGKILL
    assert len(data) >= records * RECORD.size
    found = RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])
    return [((height, round_, step), signed, by) for height, round_, step, signed, by in found]
