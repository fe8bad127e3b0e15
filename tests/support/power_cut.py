"""A power cut of a whole network, at the worst moment: right after the precommits of a height.

`power_site` kills the nodes and notes what was durable; here the rest is taken from their files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from devnet import Devnet, wait_until
from sites import site

from node.block import block_id
from node.datadir import Layout
from node.genesis import genesis_id, salt_of
from node.storage.blockfile import BlockFiles

AHEAD = 10  # blocks: every node has heard of the height long before it is there


def start_to_be_cut(net: Devnet, notes: Path) -> None:
    """Start all nodes of a network so that `cut` can take their power away."""
    notes.mkdir()
    with site("power_site", TIMED_CUT_NOTES=str(notes), TIMED_CUT_ALL=str(len(net.places))):
        net.start()


def cut(net: Devnet, notes: Path) -> tuple[int, dict[int, bytes]]:
    """Cut the power some blocks from now, end whoever still runs, and take away what was not
    durable; returns the height, and the validators that had precommitted, with the block.
    """
    height = max(net.height(place.number) for place in net.places) + AHEAD
    new = notes / "height.new"
    new.write_text(str(height))
    new.rename(notes / "height")
    quorum = len(net.places) * 2 // 3 + 1
    wait_until(
        lambda: sum(not node.running for node in net.nodes) >= quorum, what="the power is cut"
    )
    net.kill(*range(len(net.places)))
    precommitted = {}
    for place in net.places:
        note = notes / f"{place.number}.note"
        if not note.exists():
            continue
        found = json.loads(note.read_bytes())
        precommitted[place.number] = bytes.fromhex(found["block"])
        synced = {int(inode): size for inode, size in found["synced"].items()}
        where = Layout(place.datadir)
        files = [*where.blocks.glob("blocks-*.dat"), where.wal / "wal.log"]
        assert len(files) > 1, f"{place.name} has no block file"
        for path in files:
            before = path.stat()
            os.truncate(path, min(before.st_size, synced.get(before.st_ino, 0)))
    return height, precommitted


def bodies(net: Devnet, number: int) -> set[bytes]:
    """The ids of the whole blocks in the block files of a node that does not run."""
    identity = genesis_id(net.genesis)
    files = BlockFiles(Layout(net.places[number].datadir).blocks, identity)
    try:
        return {block_id(header.encode(), salt_of(identity)) for _, header in files.scan()}
    finally:
        files.close()
