"""``timed resume-signing``: a validator that lost its record of what it signed signs again.

For an operator who restored a data directory from a backup: backups leave the signer's state out,
because an old copy of it would let the validator contradict itself. A validator without a state
begins by itself when the others have decided two heights; where they cannot, somebody has to say
from which height on nothing was signed. Reads the key, the store's tip and the genesis, says what
is at stake, and writes a new state, if told ``--yes``. It never replaces a state that is there.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from node import datadir
from node.commands.loading import load
from node.consensus.wire import MAX_HEIGHT
from node.datadir import Layout
from node.durable import Directory
from node.errors import DatadirError, UsageError
from node.genesis import Genesis, validator_set
from node.keys import hold_key_file, validator_index
from node.settings import NodeSettings
from node.signer import STATE_NAME, closed_up_to, read_state, write_state
from node.storage.chain import ChainStore

_DANGER = """\
There is no record of what this validator signed. If it signs again at a height where it signed
before, it may contradict itself: others prove it, and where much power does so, the chain forks.

  last block here       {tip:,}
  signs from height     {first:,}
  others decide alone   {alone}

Do it only if all of this is so:
  - no other node runs with a copy of this key, anywhere, or ever will again;
  - this node knows the newest block that the network has decided;
  - this validator has not signed at height {first:,} or above.
"""


def resume(where: Layout, from_height: int | None, *, confirmed: bool) -> None:
    """Write a new signer's state that permits signing from a height on: two above the store's tip
    if none is given.

    Raises ``NodeRunning``, ``KeyInUse``, ``UsageError`` without confirmation or for a height that
    is decided, ``DatadirError`` if there is a state, and what loading raises.
    """
    settings = load(where, terminal=False).settings
    path = Path(settings.validator_key_path)
    with datadir.locked(where), hold_key_file(path, wait_s=0) as key:
        public_key = bytes(key.verify_key)
        validator = validator_index(public_key, settings.genesis, path)
        files = Directory(where.signer)
        state = read_state(files, settings.salt, public_key)
        if state is not None:
            raise DatadirError(
                f"{files.path(STATE_NAME)} is there ({state.describe()})",
                "start the node, there is nothing to resume",
            )
        tip = _tip_height(where, settings)
        first = tip + 2 if from_height is None else from_height
        if first <= tip:
            raise UsageError(
                f"height {first:,} is decided already", f"give --from-height {tip + 1} or more"
            )
        if first > MAX_HEIGHT:
            raise UsageError(f"no chain gets there: height {first:,}", "give a lower --from-height")
        alone = decides_without(settings.genesis, validator)
        print(_DANGER.format(tip=tip, first=first, alone="yes" if alone else "no"))
        if first > tip + 1 and not alone:
            print(
                f"The others cannot decide height {tip + 1:,} without this validator: unless they "
                f"have\ndone so already, it has to sign there too (--from-height {tip + 1}).\n"
            )
        if not confirmed:
            raise UsageError("nothing was changed", "give --yes if you are certain")
        datadir.ensure_directory(where.signer)
        write_state(files, closed_up_to(first - 1), settings.salt, public_key)
    print(f"from height {first:,} on this validator signs again")


def decides_without(genesis: Genesis, validator: int) -> bool:
    """Whether the others have a quorum without this validator."""
    validators = validator_set(genesis)
    return validators.quorum(validators.total - validators.power(validator))


def _tip_height(where: Layout, settings: NodeSettings) -> int:
    store = ChainStore(where.store, settings.genesis_id, cache_mb=8, write_buffer_mb=8)
    with closing(store):
        return store.tip.height
