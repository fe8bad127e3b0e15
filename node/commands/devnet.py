"""``timed devnet``: the one command that lives with the tools, which the node never imports.

Whatever is installed under the name ``devnet`` in the group of entry points ``timed.commands`` is
called with the words of the command line, and its status is ours. That it is one of our own tools
is written in pyproject.toml alone.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from node.errors import UsageError

GROUP: Final = "timed.commands"
NAME: Final = "devnet"


def run(arguments: list[str]) -> int:
    """Run it; returns its exit status. Raises ``UsageError`` if it is not installed."""
    for found in entry_points(group=GROUP, name=NAME):
        return int(found.load()(arguments))
    raise UsageError(
        "timed devnet is not part of this installation", "install timed again, with its tools"
    )
