"""What can be wrong with a network on one machine that whoever started it can put right."""

from __future__ import annotations

from node.errors import NodeError


class DevnetError(NodeError):
    """The network cannot be made or started: what is wrong, and what to do about it."""
