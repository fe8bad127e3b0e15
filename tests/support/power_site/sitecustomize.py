"""Cuts the power of a node that has just precommitted: its directory goes first on PYTHONPATH.

Python imports it in every process of the node. It notes how long each file was when it was last
synced. As soon as an own precommit for a block has left, of the height that the file "height" in
the directory TIMED_CUT_NOTES names, the process that decides writes these sizes and the block's id
into a file beside it, waits until TIMED_CUT_ALL nodes have done so (what it said is on its way
meanwhile, what others say comes too late), and ends the whole node by SIGKILL. That keeps what only
the kernel had; `power_cut` then takes from the files what no sync has made durable. Names of files
and what RocksDB and the signer wrote are left as they are.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

from node.consensus.messages import Vote, VoteType
from node.host import NodeHost

NOTES = Path(os.environ["TIMED_CUT_NOTES"])
HEIGHT = NOTES / "height"
ALL = int(os.environ["TIMED_CUT_ALL"])
PATIENCE_S = 10.0  # for the others; a quorum has locked long before

_synced: dict[int, int] = {}  # inode -> size that is durable
_fsync, _fdatasync = os.fsync, os.fdatasync
_broadcast = NodeHost.broadcast


def _note(fd: int) -> None:
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        _synced[found.st_ino] = found.st_size


def _noting_fsync(fd: int) -> None:
    _fsync(fd)
    _note(fd)


def _noting_fdatasync(fd: int) -> None:
    _fdatasync(fd)
    _note(fd)


def _say_and_die(self: Any, message: Any) -> None:
    _broadcast(self, message)
    if not isinstance(message, Vote) or message.type is not VoteType.PRECOMMIT:
        return
    if message.value is None or message.validator != self._me:
        return
    if not HEIGHT.exists() or message.height != int(HEIGHT.read_text()):
        return
    note = NOTES / f"{message.validator}.note"
    new = note.with_suffix(".new")
    new.write_text(json.dumps({"block": message.value.hex(), "synced": _synced}))
    new.rename(note)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(list(NOTES.glob("*.note"))) < ALL and time.monotonic() < deadline_s:
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGKILL)  # the supervisor, with which the others die
    os.kill(os.getpid(), signal.SIGKILL)


os.fsync, os.fdatasync = _noting_fsync, _noting_fdatasync  # type: ignore[assignment]
NodeHost.broadcast = _say_and_die  # type: ignore[method-assign]
